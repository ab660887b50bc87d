"""Where a gateway without tokens may listen, and which tokens it does not take."""

from __future__ import annotations

import pytest

from caseyos_otel.errors import ConfigurationError
from caseyos_otel.gateway.auth import Bearer, check_listening, check_tokens, is_loopback
from caseyos_otel.gateway.refusal import Refused
from caseyos_otel.settings import Settings, load

TOKENS = {
    "CASEYOS_OTEL_INGEST_TOKEN": "ingest-0123456789abcdef",
    "CASEYOS_OTEL_ADMIN_TOKEN": "admin-0123456789abcdef",
}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    check_listening(host, load({}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.com", "localhost.example.com", "", "127.1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
    check_listening(host, load(TOKENS))
    for missing in TOKENS:
        others = {name: token for name, token in TOKENS.items() if name != missing}
        with pytest.raises(ConfigurationError, match=missing):
            check_listening(host, load(others))


@pytest.mark.parametrize(
    "in_force",
    [
        load({"CASEYOS_OTEL_INGEST_TOKEN": "short"}),
        load({"CASEYOS_OTEL_ADMIN_TOKEN_FILE": "/nowhere"}),
        load({}, ingest_token="short"),
        load({}, admin_token="short"),
    ],
    ids=["variable", "file", "argument", "argument of the other"],
)
def test_a_token_that_was_not_accepted_opens_nothing(in_force: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"_TOKEN.*(takes at least 16 visible|cannot be read)") as refused:
        check_tokens(in_force)
    assert "oing on without" not in str(refused.value)


def test_the_scheme_is_compared_as_http_does() -> None:
    Bearer("t0123456789abcdef").check("bearer t0123456789abcdef")
    Bearer(None).check(None)
    with pytest.raises(Refused):
        Bearer("t0123456789abcdef").check(None)
