"""The end of a process: what leaves beside what, and how long an answer is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from caseyos_otel.exporters.delivery import IMPATIENCE_S, PATIENCE_S
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.providers import Errand, Providers

HEAD_START_S: Final = 0.3
"""Seconds that destinations are given before providers begin, whose metrics count what happened there. Then both go on at
once: who does not answer costs the process one patience, not two."""


def leave(destinations: Destinations, providers: Providers, begin: Callable[[], Errand], timeout_s: float) -> bool:
    """Deliver what waits at the destinations, then do what `begin` begins with the providers; whether they are done.

    Nobody tries again what failed: it stays in the spool, or is counted, and a retry would come too late.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    asked = destinations.ask()
    destinations.answered(asked, min(deadline, began + HEAD_START_S), exiting=True)
    errand = begin()
    destinations.answered(asked, deadline, exiting=True)
    return providers.finished(errand, *_last_words(destinations, began, deadline))


def _last_words(destinations: Destinations, began: float, deadline: float) -> tuple[float, float]:
    """Until when, and how long for one answer, providers are waited for.

    They send to where our events go: if that has just answered it is trusted; if it is away they get a moment; if it was
    not asked, they and our destinations share one patience.
    """
    now = time.monotonic()
    if destinations.is_away("otlp"):
        return now + IMPATIENCE_S, IMPATIENCE_S
    asked = destinations.has_answered("otlp", since=began)
    return deadline, PATIENCE_S if asked else max(IMPATIENCE_S, PATIENCE_S - (now - began))
