"""Who may send and who may look: two bearer tokens, where a gateway without them may listen, and whether it has a purpose."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Final

from caseyos_otel.errors import ConfigurationError
from caseyos_otel.gateway.refusal import UNAUTHENTICATED, Refused
from caseyos_otel.settings import GOING_ON, Settings

TOKENS: Final = ("CASEYOS_OTEL_INGEST_TOKEN", "CASEYOS_OTEL_ADMIN_TOKEN")


class Bearer:
    """The one token that opens something; without a token it is open."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else token.encode("ascii")

    def check(self, authorization: str | bytes | None) -> None:
        """Compare an `Authorization` header in constant time.

        Raises:
            Refused: the token is missing or another one.
        """
        if self._expected is None:
            return
        given = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization or b""
        scheme, _, token = given.partition(b" ")
        same = hmac.compare_digest(token.strip(), self._expected)
        if not same or scheme.lower() != b"bearer":
            raise Refused(UNAUTHENTICATED, "send the header `Authorization: Bearer <token>` with the token for this")


def check_tokens(in_force: Settings) -> None:
    """Refuse tokens that protect nothing.

    Raises:
        ConfigurationError: a token was given and not accepted, or both are the same.
    """
    for problem in in_force.problems:
        if any(token in problem for token in TOKENS):  # going on without it would open what it was to close
            refused = problem.partition(GOING_ON)[0]
            raise ConfigurationError(f"the gateway does not start: {refused}")
    if in_force.ingest_token and in_force.ingest_token == in_force.admin_token:
        raise ConfigurationError(
            f"{' and '.join(TOKENS)} are the same: every sender could look at everything; make two tokens"
        )


def check_destinations(in_force: Settings) -> None:
    """Refuse to acknowledge what would go nowhere.

    Raises:
        ConfigurationError: no destination is on.
    """
    if not any(destination.on for destination in in_force.destinations()):
        why = "; ".join(f"{destination.name}: {destination.why}" for destination in in_force.destinations())
        raise ConfigurationError(f"the gateway takes nothing while no destination is on ({why})")


def check_listening(host: str, in_force: Settings) -> None:
    """Refuse to listen where others can reach it without tokens.

    Raises:
        ConfigurationError: the sentence says what to set.
    """
    missing = [
        name for name, token in zip(TOKENS, (in_force.ingest_token, in_force.admin_token), strict=True) if token is None
    ]
    if missing and not is_loopback(host):
        raise ConfigurationError(
            f"the gateway does not listen on {host} without tokens: set {' and '.join(missing)} (or the same with _FILE),"
            " or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. A name other than `localhost` may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
