"""OpenTelemetry's three providers as this process has them: flushed, and ended, within deadlines that hold."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from caseyos_otel import _otel, diagnostics
from caseyos_otel.diagnostics import guarded
from caseyos_otel.emit.worker import Worker
from caseyos_otel.exporters.watch import ExportWatch

PATIENCE_S: Final = 0.4
"""Seconds that the end of a process waits for one answer to a provider's exporter."""
IMPATIENCE_S: Final = 0.1
"""The same, where others have used the time up; and in all, where the receiver is known to be away."""


class Providers:
    """The providers by signal (`traces`, `logs`, `metrics`), and a watch on each of their exporters that sends over OTLP.

    Some processors of the SDK take longer than they are given, some wait thirty seconds: what they do is done in the
    worker's thread, and waited for as long as it is worth it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._by_signal: Mapping[str, Any] = {}
        self._watches: tuple[ExportWatch, ...] = ()

    def take(self, by_signal: Mapping[str, Any]) -> None:
        """These are the process's providers."""
        self._by_signal = by_signal
        metrics = by_signal["metrics"]
        if _otel.is_sdk(metrics):
            with diagnostics.guard("watching the exporters of metrics"):
                self.watch(_otel.metric_readers(metrics), "")

    def watch(self, processors: Iterable[object], destination: str) -> None:
        """Count what the exporters behind `processors` lose as lost to `destination`."""
        watched = [ExportWatch(each, destination) for each in processors if ExportWatch.concerns(each)]
        self._watches = (*self._watches, *watched)

    def __getitem__(self, signal: str) -> Any:
        return self._by_signal.get(signal)

    def flush(self, others: Sequence[Any], deadline: float, patience_s: float | None) -> bool:
        """Flush traces, metrics and `others` until `deadline`; whether all of it was. With a patience an attempt that
        has no answer for so many seconds is not waited for.
        """
        flushed = [False]

        def work() -> None:
            each = (self["traces"], self["metrics"], *others)
            flushes = [flush for other in each if (flush := getattr(other, "force_flush", None)) is not None]
            results = [_flushed(flush, deadline) for flush in flushes]
            flushed[0] = all(results)

        return self._worker.run_for(work, deadline - time.monotonic(), self._hopeless(patience_s)) and flushed[0]

    def end(self, deadline: float, patience_s: float) -> None:
        """End the providers in the place of their own atexit, which would wait up to thirty seconds for each receiver.

        Where none of their exporters is known to us, their own atexit ends them, as without us.
        """
        if not self._watches:
            return
        ends = [*self._ends(deadline, patience_s)]
        done = self._worker.run_for(lambda: _all(ends), deadline - time.monotonic(), self._hopeless(patience_s))
        if not done:
            for watch in self._watches:
                watch.give_up()

    def after_fork(self) -> None:
        """What the parent was sending, the child is not."""
        for watch in self._watches:
            watch.after_fork()

    def _ends(self, deadline: float, patience_s: float) -> Iterable[Callable[[], object]]:
        """Metrics first: their shutdown keeps to a time, and they are the exact counts."""
        for signal in ("metrics", "traces", "logs"):
            provider = self[signal]
            if not _otel.is_sdk(provider):
                continue
            atexit.unregister(provider.shutdown)
            if signal == "metrics":
                millis = min(patience_s * 1000, _millis_until(deadline))
                yield lambda provider=provider, millis=millis: provider.shutdown(timeout_millis=millis)  # type: ignore[misc]
            else:
                yield provider.shutdown

    def _hopeless(self, patience_s: float | None) -> Callable[[], bool] | None:
        if patience_s is None:
            return None
        return lambda: any(watch.silent_for() >= patience_s for watch in self._watches)


def _millis_until(deadline: float) -> int:
    return max(0, int((deadline - time.monotonic()) * 1000))


def _flushed(flush: Callable[[int], object], deadline: float) -> bool:
    """The SDK's meter provider raises where its receiver is away; others return False."""
    try:
        return flush(_millis_until(deadline)) is not False
    except Exception as error:
        diagnostics.warn(f"a provider could not be flushed: {error}", key="flushing a provider")
        return False


def _all(ends: Sequence[Callable[[], object]]) -> None:
    for end in ends:
        guarded("ending a provider", end)
