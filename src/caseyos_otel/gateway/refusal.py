"""Why a request is not taken, as both protocols say it."""

from __future__ import annotations

from typing import Final, NamedTuple

from caseyos_otel.errors import CaseyosOtelError


class Reason(NamedTuple):
    """One kind of refusal: its name in metrics, HTTP status, `google.rpc.Code`."""

    name: str
    http: int
    code: int


MALFORMED: Final = Reason("malformed", 400, 3)
UNAUTHENTICATED: Final = Reason("unauthenticated", 401, 16)
TOO_LARGE: Final = Reason("too_large", 413, 8)
UNSUPPORTED: Final = Reason("unsupported", 415, 12)
RATE_LIMITED: Final = Reason("rate_limited", 429, 8)
UNAVAILABLE: Final = Reason("unavailable", 503, 14)


class Refused(CaseyosOtelError):
    """A request that is not taken. With `retry_after_s` its sender shall send it again; without, it never helps.

    The message goes to the sender: it repeats nothing of what was sent.
    """

    def __init__(self, reason: Reason, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s
