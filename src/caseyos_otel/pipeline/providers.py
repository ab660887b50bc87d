"""OpenTelemetry's three providers as this process has them: flushed, and ended, within deadlines that hold."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from caseyos_otel import _otel, diagnostics
from caseyos_otel.diagnostics import guarded
from caseyos_otel.emit.worker import Worker
from caseyos_otel.exporters.watch import ExportWatch

METRICS_MS: Final = 400
"""What the provider of metrics may take to end; of the three only its shutdown keeps to a time."""
_LOOK_EVERY_S: Final = 0.02


@dataclass
class Errand:
    """What the worker does with the providers: `done` is set when it is over, `clean` then tells how it went."""

    done: threading.Event = field(default_factory=threading.Event)
    clean: bool = False


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

    def flush(self, others: Sequence[Any], deadline: float) -> bool:
        """Flush traces, metrics and `others` until `deadline`; whether all of it was."""
        errand = self.begin_flush(others, deadline)
        return errand.done.wait(max(0.0, deadline - time.monotonic())) and errand.clean

    def begin_flush(self, others: Sequence[Any], deadline: float) -> Errand:
        """Begin to flush traces, metrics and `others`."""
        flushes = [getattr(each, "force_flush", None) for each in (self["traces"], self["metrics"], *others)]
        return self._begin([partial(_flushed, flush, deadline) for flush in flushes if flush is not None])

    def begin_end(self) -> Errand:
        """Begin to end the providers in the place of their own atexit, which would wait up to thirty seconds for each
        receiver.

        Where none of their exporters is known to us, their own atexit ends them, as without us.
        """
        return self._begin([*self._ends()] if self._watches else [])

    def finished(self, errand: Errand, deadline: float, patience_s: float) -> bool:
        """Whether what was begun is done by `deadline`; an attempt that has no answer for so many seconds is not
        waited for.
        """
        while not errand.done.wait(_LOOK_EVERY_S):
            if time.monotonic() >= deadline or any(watch.silent_for() >= patience_s for watch in self._watches):
                return False
        return True

    def let_retry(self, allowed: bool) -> None:
        """Whether exporters try again what failed."""
        for watch in self._watches:
            watch.let_retry(allowed)

    def give_up(self) -> None:
        """Nobody waits for the exporters any more."""
        for watch in self._watches:
            watch.give_up()

    def after_fork(self) -> None:
        """What the parent was sending, the child is not."""
        for watch in self._watches:
            watch.after_fork()

    def _begin(self, calls: Sequence[Callable[[], bool]]) -> Errand:
        errand = Errand()

        def work() -> None:
            results = [call() for call in calls]
            errand.clean = all(results)

        errand.done = self._worker.begin(work)
        return errand

    def _ends(self) -> Iterator[Callable[[], bool]]:
        """Metrics first: their shutdown keeps to a time, and they are the exact counts."""
        for signal in ("metrics", "traces", "logs"):
            provider = self[signal]
            if not _otel.is_sdk(provider):
                continue
            atexit.unregister(provider.shutdown)
            yield partial(_ended, provider.shutdown, {"timeout_millis": METRICS_MS} if signal == "metrics" else {})


def _flushed(flush: Callable[[int], object], deadline: float) -> bool:
    """The SDK's meter provider raises where its receiver is away; others return False."""
    try:
        return flush(max(0, int((deadline - time.monotonic()) * 1000))) is not False
    except Exception as error:
        diagnostics.warn(f"a provider could not be flushed: {error}", key="flushing a provider")
        return False


def _ended(shutdown: Callable[..., object], arguments: Mapping[str, Any]) -> bool:
    guarded("ending a provider", lambda: shutdown(**arguments))
    return True
