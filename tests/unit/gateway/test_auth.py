"""Where a gateway without tokens may listen."""

from __future__ import annotations

import pytest

from caseyos_otel.errors import ConfigurationError
from caseyos_otel.gateway.auth import Bearer, check_listening, is_loopback
from caseyos_otel.gateway.refusal import Refused
from caseyos_otel.settings import load

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


def test_the_scheme_is_compared_as_http_does() -> None:
    Bearer("t0123456789abcdef").check("bearer t0123456789abcdef")
    Bearer(None).check(None)
    with pytest.raises(Refused):
        Bearer("t0123456789abcdef").check(None)
