"""A watch on an exporter of OpenTelemetry's: what it loses is counted, and an attempt that goes on and on can be seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from caseyos_otel import _otel, diagnostics
from caseyos_otel.diagnostics import drops

_OTLP: Final = ("opentelemetry.exporter.otlp.", "caseyos_otel.exporters.sentry.")


class ExportWatch:
    """Watches the exporter behind a processor (or a metric reader) of the SDK, from its making on.

    An exporter that answers FAILURE, or raises, has given a batch up for good: its records are counted as `undelivered`
    under `destination`; under none where that is empty, as for metrics, whose next totals hold what the last lacked.
    """

    def __init__(self, processor: object, destination: str) -> None:
        self._processor = processor
        self._destination = destination
        exporter: Any = _otel.exporter_of(processor)
        self._exporter = exporter
        self._export: Callable[..., Any] = exporter.export
        self._began: float | None = None
        self._in_hand = 0
        self._given_up = False
        exporter.export = self._watched

    @staticmethod
    def concerns(processor: object) -> bool:
        """Whether the exporter sends over OTLP, the stock ones and ours: it is known what they do when nobody answers."""
        return type(_otel.exporter_of(processor)).__module__.startswith(_OTLP)

    def silent_for(self) -> float:
        """Seconds that the attempt under way has been without an answer; 0 where there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def after_fork(self) -> None:
        """A child has no attempt under way."""
        self._began, self._in_hand = None, 0

    def let_retry(self, allowed: bool) -> None:
        """Whether the exporter tries a batch again after a failure."""
        _otel.let_retry(getattr(self._exporter, "otlp", self._exporter), allowed)

    def give_up(self) -> None:
        """Nobody waits for the exporter any more: it stops retrying, and what it still had is counted as `shutdown`."""
        if self._given_up:
            return
        self._given_up = True
        self._lose("shutdown", self._in_hand + _otel.queued(self._processor))
        diagnostics.guarded("giving up an exporter", self._exporter.shutdown)

    def _watched(self, batch: Any, *arguments: Any, **more: Any) -> Any:
        size = len(batch) if hasattr(batch, "__len__") else 0
        self._began, self._in_hand = time.monotonic(), size
        arrived = False
        try:
            result = self._export(batch, *arguments, **more)
            arrived = getattr(result, "name", "") != "FAILURE"
            return result
        finally:
            self._began, self._in_hand = None, 0
            if not arrived and not self._given_up:
                self._lose("undelivered", size)

    def _lose(self, reason: str, records: int) -> None:
        if records and self._destination:
            drops.count(reason, records, destination=self._destination)
