"""Envelopes to Sentry over HTTP, each with a known result: an issue arrived, will be tried again, or never will."""

from __future__ import annotations

import gzip
import ssl
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from opentelemetry.instrumentation.utils import suppress_instrumentation
from sentry_sdk.consts import EndpointType
from sentry_sdk.transport import Transport
from sentry_sdk.utils import BadDsn, Dsn

from caseyos_otel import diagnostics
from caseyos_otel.errors import ConfigurationError, Rejected, Unavailable

if TYPE_CHECKING:
    from sentry_sdk.envelope import Envelope, Item

DESTINATION: Final = "sentry"
TIMEOUT_S: Final = 10.0
RATE_LIMITED_S: Final = 60.0
"""The pause after a 429 that names none; sentry-sdk takes the same."""

_POISON: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
_MISTAKEN: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


def parse_dsn(text: str) -> Dsn:
    """A DSN, parsed.

    Raises:
        ConfigurationError: it is not one.
    """
    try:
        return Dsn(text)
    except (BadDsn, ValueError) as error:
        raise ConfigurationError(
            f"SENTRY_DSN: it is not a DSN ({error}); copy it from the project's settings, Client Keys (DSN)"
        ) from None


class SynchronousTransport(Transport):
    """A sentry-sdk transport that has delivered when it returns.

    An envelope with an issue raises `Unavailable` or `Rejected`, which sentry-sdk's client hands through to who
    captured it. One with logs, which sentry-sdk's own thread hands over, is best effort: what is lost is counted by
    event. Proxy and certificate options are those of sentry-sdk, under their names.
    """

    def __init__(self, dsn: Dsn, options: Mapping[str, Any]) -> None:
        super().__init__({"dsn": dsn})
        auth = dsn.to_auth("caseyos-otel")
        self._url = auth.get_api_url(EndpointType.ENVELOPE)
        self._headers = {
            "X-Sentry-Auth": auth.to_header(),
            "User-Agent": "caseyos-otel",
            "Content-Type": "application/x-sentry-envelope",
            "Content-Encoding": "gzip",
        }
        self._dsn = dsn
        self._pool_options = options
        self._in_hand: dict[int, list[Item]] = {}
        self._given_up = False
        self.reconnect()

    def reconnect(self) -> None:
        """Use new connections; a forked child must not write to its parent's."""
        self._in_hand = {}
        self._pool = _pool(self._dsn, self._pool_options)

    def give_up(self) -> None:
        """Nobody waits for logs any more: those on their way and those that are still handed over count as `shutdown`."""
        self._given_up = True
        for key in list(self._in_hand):
            self._lost("shutdown", self._claim(key))

    def capture_envelope(self, envelope: Envelope) -> None:
        """Post it. See the class for what is raised."""
        # An empty context: no span and no scope of the service sees our own request.
        if envelope.get_event() is not None:
            Context().run(self._post, envelope)
        else:
            Context().run(self._post_logs, envelope)

    def _post_logs(self, envelope: Envelope) -> None:
        key = id(envelope)
        self._in_hand[key] = envelope.items
        if self._given_up:
            self._lost("shutdown", self._claim(key))
            return
        try:
            self._post(envelope)
        except Unavailable as away:
            self._lost("destination_full", self._claim(key))
            diagnostics.warn(f"Sentry logs were lost: {away}", key="sentry-logs")
        except Rejected as reason:
            self._lost("rejected", self._claim(key))
            diagnostics.warn(f"Sentry refuses logs: {reason}", key="sentry-logs")
        finally:
            self._claim(key)

    def _claim(self, key: int) -> list[Item]:
        """What is on its way, for the one who asks first: the thread that sends it, or the end of the process."""
        return self._in_hand.pop(key, [])

    def record_lost_event(
        self, reason: str, data_category: Any = None, item: Item | None = None, *, quantity: int = 1
    ) -> None:
        """Count logs that did not fit into sentry-sdk's buffer; what hooks refuse is counted there."""
        if item is not None and reason == "queue_overflow":
            self._lost("destination_full", [item])

    def _post(self, envelope: Envelope) -> None:
        body = gzip.compress(envelope.serialize(), compresslevel=5)
        try:
            with suppress_instrumentation():
                response = self._pool.request("POST", self._url, body=body, headers=self._headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"Sentry at {self._dsn.netloc} cannot be reached: {_said(error)}") from error
        _raise_for(response, self._dsn.netloc)

    def _lost(self, reason: str, items: list[Item]) -> None:
        for event, n in Counter(name for item in items for name in _events_in(item)).items():
            diagnostics.drops.count(reason, n, destination=DESTINATION, event=event)


def _raise_for(response: urllib3.BaseHTTPResponse, host: str) -> None:
    if 200 <= response.status < 300:
        return
    text = " ".join(response.data[:300].decode("utf-8", "replace").split())
    said = f"Sentry at {host} answered {response.status}: {text or 'nothing more'}"
    if response.status in _POISON:
        raise Rejected(said)
    if response.status in _MISTAKEN:
        said += "; check SENTRY_DSN: its key or project is not known there"
    pause = retry_after_s(response.headers) if response.status == HTTPStatus.TOO_MANY_REQUESTS else None
    raise Unavailable(said, pause)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait after a 429: the longest that `X-Sentry-Rate-Limits` (for errors) or `Retry-After` says."""
    limits = (limit.strip().split(":") for limit in headers.get("X-Sentry-Rate-Limits", "").split(","))
    seconds = [_seconds(limit[0]) for limit in limits if _concerns_errors(limit)]
    known = [value for value in (*seconds, _seconds(headers.get("Retry-After", ""))) if value is not None]
    return max(known, default=RATE_LIMITED_S)


def _concerns_errors(limit: list[str]) -> bool:
    categories = limit[1] if len(limit) > 1 else ""
    return not categories or "error" in categories.split(";")


def _seconds(text: str) -> float | None:
    try:
        return float(urllib3.Retry().parse_retry_after(text.strip()))
    except (urllib3.exceptions.HTTPError, ValueError):
        return None


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"


def _events_in(item: Item) -> list[str]:
    payload = item.payload.json if isinstance(item.payload.json, dict) else {}
    return [log.get("attributes", {}).get("event", {}).get("value", "") for log in payload.get("items", ())]


def _pool(dsn: Dsn, options: Mapping[str, Any]) -> urllib3.PoolManager:
    arguments: dict[str, Any] = {
        "num_pools": 2,
        "retries": False,
        "timeout": urllib3.Timeout(total=TIMEOUT_S),
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": options.get("ca_certs") or certifi.where(),
        "cert_file": options.get("cert_file"),
        "key_file": options.get("key_file"),
    }
    if proxy := _proxy(dsn, options):
        return urllib3.ProxyManager(proxy, proxy_headers=options.get("proxy_headers"), **arguments)
    return urllib3.PoolManager(**arguments)


def _proxy(dsn: Dsn, options: Mapping[str, Any]) -> str | None:
    """The proxy that sentry-sdk would take: its option ('' forbids one), else the environment's, if any."""
    schemes = ("https", "http") if dsn.scheme == "https" else ("http",)
    environment = {} if proxy_bypass(dsn.host) else getproxies()
    for scheme in schemes:
        chosen = options.get(f"{scheme}_proxy")
        if chosen != "" and (proxy := chosen or environment.get(scheme)):
            return str(proxy)
    return None
