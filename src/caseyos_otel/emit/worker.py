"""The worker thread: takes events from the queue, and keeps time for what must happen every tick."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from caseyos_otel.diagnostics import guard, swallowed
from caseyos_otel.emit.emitter import build
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.events.record import EventRecord

_BREATHE_AFTER: Final = 8
_BREATH_S: Final = 0.00005
"""A caller never waits for a whole batch: after these events (some 0.1 ms) the thread sleeps as long as it takes another
one to wake up. Letting go of the GIL alone (`sleep(0)`) would have it back before anybody who waits is awake."""
_BATCH: Final = 512
"""`after_batch` comes after so many events at the latest: a queue that is never empty may not let the log grow in memory."""


class Worker:
    """One daemon thread a process, started at the first event or recorded span.

    `process(record)` sees each event in its caller's context; `after_batch()` follows a run of events, `tick()` every
    interval whether there were events or not. With `deferred=False` the thread leaves events to `drain` in their callers.
    """

    def __init__(
        self,
        queue: EventQueue,
        process: Callable[[EventRecord], None],
        after_batch: Callable[[], None],
        tick: Callable[[], None],
        interval_s: float,
        *,
        deferred: bool = True,
    ) -> None:
        self._queue = queue
        self._process = process
        self._after_batch = after_batch
        self._tick = tick
        self._interval_s = interval_s
        self._deferred = deferred
        self._starting = threading.Lock()
        # re-entrant: what processes an event may emit one, which `inline` drains at once
        self._consuming = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._errands: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._thread: threading.Thread | None = None
        self._paused = False

    def start(self) -> None:
        """Start the thread if it does not run. Cheap once it does."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="caseyos-otel-worker", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is finalising: shutdown drains in its own thread
                    return
                self._thread = thread

    def drain(self, timeout_s: float) -> bool:
        """Process what is queued, in the calling thread. True if the queue was emptied in time."""
        deadline = time.monotonic() + timeout_s
        if not self._consuming.acquire(timeout=max(timeout_s, 0)):
            return False
        try:
            return self._consume(deadline)
        finally:
            self._consuming.release()

    def begin(self, errand: Callable[[], None]) -> threading.Event:
        """Let the thread do something that may take longer than the caller can wait; the event is set when it is done.

        Where no thread runs (a fork, the end of the interpreter), it is done here, in the calling thread.
        """
        done = threading.Event()
        if self._thread is None or not self._thread.is_alive():
            errand()
            done.set()
        else:
            self._errands.append((errand, done))
            self._wake.set()
        return done

    def pause(self, timeout_s: float) -> None:
        """Wait until the thread is between two batches, and keep it there until `resume`: before a fork."""
        self._paused = self._consuming.acquire(timeout=timeout_s)

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._paused:
            self._paused = False
            self._consuming.release()

    def stop(self) -> None:
        """End the thread after its current batch; `drain` still works."""
        self._stop.set()
        self._wake.set()

    def after_fork(self) -> None:
        """The thread does not exist in a child; its locks may be held by nobody."""
        self._starting = threading.Lock()
        self._consuming = threading.RLock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._errands.clear()
        self._thread = None
        self._paused = False

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._interval_s)
            self._wake.clear()
            if self._deferred:
                with self._consuming:
                    self._consume(None)
            with guard("doing the work of a tick"):
                self._tick()
            while self._errands:
                errand, done = self._errands.popleft()
                with guard("flushing"):
                    errand()
                done.set()

    def _consume(self, deadline: float | None) -> bool:
        done = 0
        while (item := self._queue.pop()) is not None:
            try:
                item[0].run(self._process, build(item))
            except Exception as error:  # written out: `guard` costs 1 µs each time
                swallowed("processing an event", error)
            done += 1
            if done % _BREATHE_AFTER == 0:
                if done % _BATCH == 0:
                    self._finish_batch()
                if deadline is None:
                    time.sleep(_BREATH_S)
                elif time.monotonic() > deadline:
                    break
        if done % _BATCH:
            self._finish_batch()
        return len(self._queue) == 0

    def _finish_batch(self) -> None:
        with guard("finishing a batch of events"):
            self._after_batch()
