"""Secrets and addresses in texts as services really log them."""

from __future__ import annotations

import pytest

from caseyos_otel.redaction.patterns import LIMIT, clean, clean_free_text, mask_secrets, replace_emails

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY_BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("401 for Bearer abc123def456", "401 for Bearer [secret]"),
        ("Authorization: Bearer abc.def-123", "Authorization: [secret]"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': '[secret]'}"),
        ("Proxy said: Basic dXNlcjpwYXNz", "Proxy said: Basic [secret]"),
        ("key sk-proj-abcdef123456ABCDEF is invalid", "key [secret] is invalid"),
        ("sk_live_51H8abcdefghijklmnop", "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE denied", "[secret] denied"),
        ("aws_secret_access_key=wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key=[secret]"),
        ("push with ghp_0123456789abcdefghijABCDEFGHIJ012345", "push with [secret]"),
        ("github_pat_11ABCDEFG0123456789_abcdefghij", "[secret]"),
        ("xoxb-123456789012-abcdefABCDEF", "[secret]"),
        ("https://hooks.slack.com/services/T000/B000/XXXXXXXX", "https://hooks.slack.com/services/[secret]"),
        ("pat-na1-12345678-1234-1234-1234-123456789abc", "[secret]"),
        ("ya29.a0AfH6SMBxxxxxxxxxxxxxxxx", "[secret]"),
        (f"cookie jar had {JWT}", "cookie jar had [secret]"),
        ("password=hunter2", "password=[secret]"),
        ("db_password: 'hunter 2'", "db_password: '[secret]'"),
        ('{"password": "hun\\"ter2", "user": "casey"}', '{"password": "[secret]", "user": "casey"}'),
        ('body "{\\"refresh_token\\":\\"abc\\",\\"a\\":1}"', 'body "{\\"refresh_token\\":\\"[secret]\\",\\"a\\":1}"'),
        ("GET /v1?access_token=abc&user=casey", "GET /v1?access_token=[secret]&user=casey"),
        ("https://x.blob.core/f?sv=1&sig=abc%3D", "https://x.blob.core/f?sv=1&sig=[secret]"),
        ("prod_ghp_0123456789abcdefghijABCD", "prod_[secret]"),
        ("apiKey => abc", "apiKey => [secret]"),
        ("Set-Cookie: sid=abc; Path=/\nnext line", "Set-Cookie: [secret]\nnext line"),
        ("postgresql://casey:s3cret@db:5432/app", "postgresql://casey:[secret]@db:5432/app"),
        ("postgresql://casey:p@ss@db/app", "postgresql://casey:[secret]@db/app"),
        ("postgresql://casey:p/w@db/app", "postgresql://casey:[secret]@db/app"),
        ("redis://:s3cret@cache", "redis://:[secret]@cache"),
        ("https://0123456789abcdef0123456789abcdef@o1.ingest.sentry.io/2", "https://[secret]@o1.ingest.sentry.io/2"),
        (f"loaded {KEY_BLOCK} from disk", "loaded [secret] from disk"),
        ("loaded -----BEGIN PRIVATE KEY-----\nMIIE (cut", "loaded [secret]"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "High pipeline value ($50k ARR), demo tomorrow (urgent), strong ICP fit",
        "Gmail API: Daily sending limit exceeded",
        "Basic understanding of the product; bearer authentication failed",
        "exit code=1 of signal_type=form_submitted, key=value",
        "max_tokens: 4096 were asked for",
        "Unexpected token '<' in JSON",
        "password must not be empty",
        "http://localhost:8080/a/b",
        "https://www.example.com:443/users/casey@example.com",
        "task-12345678901234567890, risk-adjusted, key account",
        "postgresql://db:5432/app",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert mask_secrets(text) is text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no such user john@acmecorp.com", "no such user <john@acmecorp.com>"),
        ("to='john@acmecorp.com'", "to='<john@acmecorp.com>'"),
        ("John <john.o'brien+x@mail.acme.co.uk>.", "John <<john.o'brien+x@mail.acme.co.uk>>."),
        ("GET /contacts/john%40acme.com/profile", "GET /contacts/<john@acme.com>/profile"),
        ("GET /?email=john%2Bx%40acme.com&x=1", "GET /?email=<john+x@acme.com>&x=1"),
        ("mailto:jörg@exämple.de", "mailto:<jörg@exämple.de>"),
        ("a@b.de,c@d.de", "<a@b.de>,<c@d.de>"),
        ("strange!@x.de", "<strange!@x.de>"),
        ("@casey at 10 @ 5, a@b, x@", "@casey at 10 @ 5, a@b, x@"),
        ("100%40", "100%40"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert replace_emails(text, lambda address: f"<{address}>") == shown


def test_text_without_address_is_the_same_object() -> None:
    text = "Gmail API: Daily sending limit exceeded"
    assert replace_emails(text, str.upper) is text


def test_clean() -> None:
    assert clean("plain") == "plain"
    assert clean("a\0b\ud800c") == "a\ufffdb\ufffdc"
    assert clean("😀") == "😀"


@pytest.mark.parametrize("piece", ["a", "ä", "😀", "a\0"])
def test_a_long_text_is_cut_where_it_shows(piece: str) -> None:
    text = "first " + piece * LIMIT + " last"
    head, tail = clean(text), clean(text, keep_end=True)
    assert head.startswith("first ")
    assert head.endswith("…[cut]")
    assert tail.startswith("…[cut]")
    assert tail.endswith(" last")
    assert all(LIMIT - 4 <= len(cut.encode()) <= LIMIT for cut in (head, tail))


def test_the_longest_text_is_not_cut() -> None:
    assert clean("a" * LIMIT) == "a" * LIMIT


@pytest.mark.parametrize("keep_end", [False, True])
def test_a_secret_across_the_cut_is_not_halved(keep_end: bool) -> None:
    secret = "sk-" + "S" * 40
    for shift in range(0, 60, 7):
        filler = "x" * (LIMIT - 20 - shift)
        text = f"{secret} {filler}" if keep_end else f"{filler} {secret}"
        text = f"{'y ' * LIMIT}{text}" if keep_end else f"{text}{' y' * LIMIT}"
        assert "SSS" not in clean_free_text(text, keep_end=keep_end)


def test_what_was_cut_is_marked_even_where_masking_made_it_short() -> None:
    text = f"{KEY_BLOCK[:-4]}{'x' * LIMIT * 3}"
    assert clean_free_text(text) == "[secret]…[cut]"


@pytest.mark.parametrize("separator", ["\n", " "])
def test_a_secret_that_begins_before_what_is_looked_at_is_not_left(separator: str) -> None:
    # 20,480 characters are looked at; the first secret begins 100 before them
    looked_at = "S" * 2900 + f"{separator}password=" + "p" * 17_562 + " the end"
    assert len(looked_at) == 20_480
    text = "x" * 5000 + " password=" + "S" * 100 + looked_at
    assert clean_free_text(text, keep_end=True) == "…[cut]password=[secret] the end"
