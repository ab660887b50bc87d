"""Pseudonyms: the keyed hash that stands for an address, a name or a company where these may not appear in plain."""

from __future__ import annotations

import fcntl
import hmac
import os
import secrets
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

from caseyos_otel import diagnostics

PREFIX: Final = "h_"
_HEX_DIGITS: Final = 32
_CACHED: Final = 4096
_LONGEST_CACHED: Final = 320
"""The longest e-mail address (RFC 3696, errata 1690)."""


class Pseudonyms:
    """Makes pseudonyms: `h_` and 32 hexadecimal digits of HMAC-SHA256 over the normalised value.

    The same value has the same pseudonym wherever the key is the same; without the key it cannot be guessed by trying
    addresses. Case, surrounding blanks and Unicode's way of writing do not matter.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cached = lru_cache(maxsize=_CACHED)(self._pseudonym)

    def of(self, value: str) -> str:
        """The pseudonym of a value."""
        return self._cached(value) if len(value) <= _LONGEST_CACHED else self._pseudonym(value)

    def _pseudonym(self, value: str) -> str:
        message = normalise(value).encode(errors="surrogatepass")
        return PREFIX + hmac.digest(self._key, message, "sha256").hex()[:_HEX_DIGITS]


def normalise(value: str) -> str:
    """The form in which two spellings of one address or name are equal."""
    stripped = value.strip()
    return stripped.lower() if stripped.isascii() else unicodedata.normalize("NFC", stripped.casefold())


def load_key(settings_key: str | None, path: Path, on_problem: Callable[[str], None] = diagnostics.warn) -> bytes:
    """The key of the keyed hash: the setting, else the content of `path`, else a new one written there (mode 0600).

    Processes that start at the same time get the same key. Where the file can be neither read nor made, a random key
    serves this process alone, and `on_problem` gets a sentence that says what follows from it and how to mend it.
    """
    if settings_key:
        return settings_key.encode(errors="surrogatepass")
    try:
        return _read(path) or _create(path)
    except OSError as error:
        on_problem(
            f"the key of the keyed hash cannot be kept in {path} ({error.strerror or error}): hashes of this process "
            "will match those of no other; set CASEYOS_OTEL_PII_KEY, or CASEYOS_OTEL_STATE_DIR to a writable directory"
        )
        return secrets.token_bytes(32)


def _read(path: Path) -> bytes:
    """The key in the file; empty where there is no file yet, or nobody finished writing one."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return file.read().strip()
    except FileNotFoundError:
        return b""


def _create(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # another process may have been first between our reading and our lock
        if key := file.read().strip():
            return key
        key = secrets.token_hex(32).encode()
        file.write(key + b"\n")
        file.flush()
        os.fsync(file.fileno())
        return key
