"""Redaction: whatever the text, nothing secret or personal is left, it ends soon, and twice changes nothing."""

from __future__ import annotations

import string

from hypothesis import example, given, settings
from hypothesis import strategies as st

from caseyos_otel.redaction.patterns import LIMIT, clean, clean_free_text, mask_secrets, replace_emails
from caseyos_otel.redaction.pseudonyms import Pseudonyms

WORDS = ["password", "token", "Bearer", "Basic", "cookie", "secret", "api_key", "Authorization", "eyJ", "sk-", "AKIA",
         "ghp_", "xoxb-", "://", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "SG.", "[secret]",
         "john@acme.com", "john%40acme.com", "%40", "h_0"]  # fmt: skip
PUNCTUATION = list("""=:@"'\\/,;& \n.-_{}[]%?#""")
ANY_TEXT = st.text(alphabet=st.characters())  # lone surrogates and NUL included
FRAGMENTS = st.lists(
    st.sampled_from(WORDS + PUNCTUATION) | st.text(string.ascii_letters + string.digits, max_size=24), max_size=16
).map("".join)
TOKEN = st.text(string.ascii_letters + string.digits, min_size=16, max_size=60).map(lambda t: t + "9aZ")
AROUND = st.text(string.ascii_lowercase + " ", max_size=20)
PSEUDONYMS = Pseudonyms(b"key")

FORMS = [
    *("Bearer {}", "sk-{}", "ghp_{}", "xoxb-{}", "password={}", "token: {}", "Authorization: Basic {}"),
    *('"api_key": "{}"', "'secret': '{}'", "https://user:{}@host/x", "eyJ{0}.eyJ{0}.{0}", "Set-Cookie: id={}; Path=/"),
]
HOSTILE = (
    *("a'", "a.", "a@", "a.a@", "%40a", "a%", "@a.a.a.", "a@a.", ".", "-", "\u00e4@"),
    *("://a:", "://", "://a:a@", "password", "password=", 'password="', "password='", 'password=\\"', "secret_key"),
    *("bearer ", "bearer aaaaaaaa ", "basic aaaaaaaa", "-eyJ", "-eyJaaaaaa.", "-SG.aaaaaaaaaaaaaaaaa.", "sk-", "xoxb-"),
    *("-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "cookie=", "key key_id_", "token: ", "hooks.slack.com/a/", "AKIA"),
    *("\\", '"', " ", "\n", "\x00", "\ud800"),
)


@given(FRAGMENTS)
@example('token="[secret]",')
@example("password=[secret],")
def test_masking_twice_changes_nothing(text: str) -> None:
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)


@given(AROUND, st.sampled_from(FORMS), TOKEN, AROUND)
def test_a_secret_is_not_left_whatever_stands_around_it(before: str, form: str, token: str, after: str) -> None:
    masked = mask_secrets(f"{before} {form.format(token)} {after}")
    assert token not in masked
    assert "[secret]" in masked


@given(AROUND, st.emails(), AROUND)
def test_no_address_is_left(before: str, address: str, after: str) -> None:
    shown = replace_emails(f"{before} <{address}> {after}", PSEUDONYMS.of)
    assert address not in shown
    assert address.partition("@")[2] not in shown


@given(FRAGMENTS)
def test_an_address_is_found_whatever_stands_around_it(text: str) -> None:
    shown = replace_emails(text, PSEUDONYMS.of)
    assert "john@acme.com" not in shown
    assert "john%40acme.com" not in shown


@given(
    st.one_of(ANY_TEXT, ANY_TEXT.map(lambda t: t * 400), st.text("aä😀", min_size=1).map(lambda t: t * 9000)),
    st.booleans(),
)
def test_clean_text_is_storable_and_short(text: str, keep_end: bool) -> None:
    cleaned = clean(text, keep_end=keep_end)
    assert len(cleaned.encode()) <= LIMIT  # encode() refuses surrogates
    assert "\0" not in cleaned
    assert clean(cleaned, keep_end=keep_end) == cleaned


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_clean_text_stays_as_it_is(text: str) -> None:
    assert clean(text) is text or clean(text) == text


@given(st.one_of(FRAGMENTS, ANY_TEXT), st.booleans())
def test_redacting_free_text_twice_changes_nothing(text: str, keep_end: bool) -> None:
    once = clean_free_text(text, keep_end=keep_end)
    assert clean_free_text(once, keep_end=keep_end) == once


@settings(deadline=None)
@given(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE), st.integers(1, 40))
def test_hostile_text_of_any_length_ends(piece: str, other: str, times: int) -> None:
    # a pattern that backtracks more than a little would never end here
    text = (piece * times + other) * (100_000 // (len(piece) * times + len(other)))
    assert len(clean_free_text(text).encode()) <= LIMIT
    assert len(replace_emails(text, lambda _: "")) <= len(text)


@given(ANY_TEXT, ANY_TEXT)
def test_pseudonyms_are_equal_where_spellings_are(value: str, other: str) -> None:
    assert PSEUDONYMS.of(f"  {value.strip()}\t") == PSEUDONYMS.of(value)
    assert len(PSEUDONYMS.of(value)) == 34
    if value.strip().casefold() != other.strip().casefold():
        assert Pseudonyms(b"other").of(value) != PSEUDONYMS.of(other)
