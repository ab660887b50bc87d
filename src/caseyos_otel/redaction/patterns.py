"""Secrets and e-mail addresses in free text, and text that every destination can take.

Every pattern runs in time linear in the text: repetitions are bounded or possessive, and a match can only begin where
the text before it could not have belonged to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import unquote

SECRET: Final = "[secret]"  # noqa: S105  # what is shown instead of one
LIMIT: Final = 16 * 1024
"""Bytes of UTF-8 that one text may have."""
_MARK: Final = "…[cut]"
_ROOM: Final = LIMIT - len(_MARK.encode())
_SCANNED: Final = LIMIT + 4 * 1024
"""Characters that are looked at, so that a secret across the cut is masked before it is cut."""

_START: Final = r"(?<![\w-])"
_AFTER_NO_WORD: Final = r"(?<![^\W_])"  # for patterns that end where their run ends, so that `key-sk-…` is found too
_UNPRINTABLE: Final = re.compile("[\x00\ud800-\udfff]")


class _Rule(NamedTuple):
    """Texts without any of the `hints` (lower case) cannot match."""

    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str


_QUOTED_OR_BARE: Final = r"""(?:
    (\\")(?:(?!\\")[^"\n])*+                     # inside JSON that is itself inside a string
  | (")(?:[^"\\\n]|\\.)*+
  | (')(?:[^'\\\n]|\\.)*+
  | (?:(?:bearer|basic|digest|token|negotiate)[ \t]{1,3})?[^\s"'&<>]++
)"""
_RULES: Final = (
    _Rule(
        ("private key",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r".*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
            re.DOTALL,
        ),
        SECRET,
    ),
    _Rule(
        ("://",),
        # the password of user:password@host; a port with a path is none
        re.compile(r"""(://[^\s/:@"']{0,128}:)(?!\d{1,5}[/?\#])(?:[^\s/?\#"'<>]{1,256}|[^\s@"'<>]{1,256})(?=@)"""),
        rf"\g<1>{SECRET}",
    ),
    _Rule(("://",), re.compile(r"(://)[\w.~%-]{20,256}(?=@)"), rf"\g<1>{SECRET}"),
    _Rule(
        ("bearer",),
        re.compile(
            _START + r"(bearer[ \t]{1,3})(?!(?:auth\w*|tokens?|credentials?|scheme)\b)[\w.~+/=-]{8,}+", re.IGNORECASE
        ),
        rf"\g<1>{SECRET}",
    ),
    _Rule(
        ("basic",),
        re.compile(
            _START + r"((?i:basic)[ \t]{1,3})(?=[A-Za-z]{0,128}(?:[0-9+/=]|[a-z][A-Z]))[A-Za-z0-9+/]{8,}+={0,2}"
        ),
        rf"\g<1>{SECRET}",
    ),
    _Rule(("eyj",), re.compile(_START + r"eyJ[\w-]{6,}+\.[\w-]{6,}+(?:\.[\w-]*+){0,3}"), SECRET),
    _Rule(
        ("akia", "asia", "aroa", "aida"),
        re.compile(_AFTER_NO_WORD + r"(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?![\w-])"),
        SECRET,
    ),
    _Rule(
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "npm_"),
        re.compile(_AFTER_NO_WORD + r"(?:gh[pousr]_|github_pat_|glpat-|npm_)[\w-]{16,}+"),
        SECRET,
    ),
    _Rule(("xox", "xapp-"), re.compile(_AFTER_NO_WORD + r"(?:xox[a-z]|xapp)-[\w-]{8,}+"), SECRET),
    _Rule(("hooks.slack.com",), re.compile(r"(hooks\.slack\.com/[a-z]{1,20}/)[\w/-]{8,}+"), rf"\g<1>{SECRET}"),
    _Rule(
        ("sk-", "k_live_", "k_test_", "whsec_"),
        re.compile(_AFTER_NO_WORD + r"(?:sk-|[spr]k_(?:live|test)_|whsec_)[\w-]{12,}+"),
        SECRET,
    ),
    _Rule(
        ("aiza", "ya29.", "gocspx-", "pat-", "sg."),
        re.compile(
            _START + r"(?:AIza[\w-]{30,}+|ya29\.[\w-]{16,}+|GOCSPX-[\w-]{16,}+|pat-[a-z]{2}\d-[0-9a-f-]{32,}+"
            r"|SG\.[\w-]{16,}+\.[\w-]{16,}+)"
        ),
        SECRET,
    ),
    _Rule(
        ("cookie",),
        re.compile(
            r"""((?:set-)?cookie\\{0,2}["']?[ \t]{0,3}[:=][ \t]{0,3}\\{0,2}["']?)[^\s"'][^\n"']*+""", re.IGNORECASE
        ),
        rf"\g<1>{SECRET}",
    ),
    _Rule(
        ("pass", "pwd", "secret", "token", "key", "authoriz", "credential", "session", "signature", "sig=", "code="),
        re.compile(
            r"""((?:passw(?:or)?d|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization
                  |credentials?|session[_-]?id|signature|(?<=[?&])(?:sig|key|code))
                 (?:[_-]?(?:access|key|id|value|hash)){0,2}\d{0,3}
                 \\{0,2}["']?[ \t]{0,3}(?:=>|[:=])[ \t]{0,3})"""
            + _QUOTED_OR_BARE,
            re.IGNORECASE | re.VERBOSE,
        ),
        rf"\g<1>\g<2>\g<3>\g<4>{SECRET}",
    ),
)  # fmt: skip

_DOMAIN: Final = r"(?:@|%40)[\w-]++(?:\.[\w-]++)++(?:(?:@|%40)[\w.-]++)*+"
EMAIL: Final = re.compile(
    r"(?:(?<![\w.+%-])(?<!\w'(?=\w))|(?<=%40))"
    rf"(?:[\w.+-]|(?<=\w)'(?=\w)|%(?!40))++{_DOMAIN}"
    # RFC 5322's other characters delimit an address in most texts, but not one that ends in them
    rf"|(?<![\w.+%!\#$&'*/=?^`{{|}}~-])[\w.+%!\#$&'*/=?^`{{|}}~-]++(?<=[!\#$&'*/=?^`{{|}}~]){_DOMAIN}"
)
"""An e-mail address in running text, international ones and those in URLs (`%40`) included."""


def mask_secrets(text: str) -> str:
    """`text` with tokens, keys and passwords replaced by `[secret]`; where a key names the secret, the key stays.

    Example:
        >>> mask_secrets("401 for Bearer abc123def456, password=hunter2")
        '401 for Bearer [secret], password=[secret]'
    """
    lower = text.lower()
    for hints, pattern, replacement in _RULES:
        for hint in hints:
            if hint in lower:
                text = pattern.sub(replacement, text)
                break
    return text


def replace_emails(text: str, replacement: Callable[[str], str]) -> str:
    """`text` with every e-mail address replaced by what `replacement` makes of it (`%40` decoded before)."""
    if "@" not in text and "%40" not in text:
        return text
    return EMAIL.sub(lambda match: replacement(_decoded(match.group())), text)


def clean(text: str, *, keep_end: bool = False) -> str:
    """`text` as every destination can store it: NUL and lone surrogates become U+FFFD, and at most `LIMIT` bytes.

    A cut is marked; `keep_end` cuts at the beginning (a traceback says at its end what happened).
    """
    if text.isascii() and len(text) <= LIMIT and "\0" not in text:
        return text
    if len(text) > LIMIT:
        text = text[-LIMIT - 1 :] if keep_end else text[: LIMIT + 1]
    text = _UNPRINTABLE.sub("\ufffd", text)
    encoded = text.encode()
    if len(encoded) <= LIMIT:
        return text
    if keep_end:
        return _MARK + encoded[-_ROOM:].decode(errors="ignore")
    return encoded[:_ROOM].decode(errors="ignore") + _MARK


def clean_free_text(text: str, *, keep_end: bool = False) -> str:
    """`clean` and `mask_secrets` in one: secrets are masked before the cut could halve them."""
    if len(text) <= _SCANNED:
        return clean(mask_secrets(text), keep_end=keep_end)
    if keep_end:
        return clean(_MARK + mask_secrets(_whole_words(text[-_SCANNED:])), keep_end=True)
    return clean(mask_secrets(text[:_SCANNED]) + _MARK)


def _whole_words(text: str) -> str:
    """Without the rest of a line or word, which may begin inside a secret, where no pattern would know it."""
    margin = _SCANNED - LIMIT
    ends = (text.find(separator, 0, margin) for separator in "\n ")
    return text[next((end for end in ends if end >= 0), margin) + 1 :]


def _decoded(address: str) -> str:
    return unquote(address) if "%" in address else address
