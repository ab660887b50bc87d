"""One delivery thread a destination: frames from the spool and records from memory, exported, then the cursor advances."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from caseyos_otel import _otel, diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import Rejected, Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.owed import Owed

BATCH: Final = 512
IDLE_AFTER_S: Final = 10.0
"""A destination that has had nothing to do for so long is told, and told again as often: it lets go of its connection."""
MISTAKES: Final = 3
"""Unexpected exceptions in a row after which a batch is halved like a rejected one, so that it cannot stop the others."""
PATIENCE_S: Final = 0.4
"""Seconds that the end of a process waits for one answer of a destination."""
IMPATIENCE_S: Final = 0.1
"""The same, where the last thing that is known of it is that it was away."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_ASKED_S: Final = 3600.0
"""A destination that asks for a longer pause is tried again all the same: a wrong clock there is no reason to wait for ever."""


class Frames(Protocol):
    """A batch of frames that was read from the spool."""

    @property
    def frames(self) -> Sequence[bytes]: ...


class Reader(Protocol):
    """What a delivery thread wants of the spool."""

    def read(self, max_records: int = ..., max_bytes: int = ...) -> Frames: ...

    def commit(self, batch: Any) -> None: ...

    def wait(self, timeout: float) -> bool: ...


@dataclass(slots=True)
class Health:
    """What `doctor` shows of a destination. Times are seconds since 1970."""

    delivered: int = 0
    last_success: float | None = None
    last_error: float | None = None
    error: str = ""


def _nothing() -> None:
    pass


class Delivery:
    """Exports to one destination in its own thread; one that is down delays only itself.

    `export(records)` returns when they have arrived; it raises Unavailable (they are kept, after a pause with jitter) or
    Rejected (the batch is halved until the poisonous record is alone, which is set aside with its reason; where that is
    Unavailable, it waits, and what is behind it). `wants(record)` says which durable records are this destination's. A
    crash between export and commit repeats a batch: event_id absorbs it.
    """

    def __init__(
        self,
        name: str,
        export: Callable[[Sequence[EventRecord]], None],
        *,
        reader: Reader | None,
        decode: Callable[[bytes], list[EventRecord]],
        wants: Callable[[EventRecord], bool],
        set_aside: Callable[[EventRecord, str], None],
        interval_s: float,
        on_idle: Callable[[], None] | None = None,
        prepare: Callable[[], None] = _nothing,
        on_ask: Callable[[], None] = _nothing,
        local: bool = False,
    ) -> None:
        """`prepare` imports what the first export needs; `on_ask` delivers what somebody else buffers, when a flush asks;
        `local`: no network stands between, so a long export is slow and not hopeless."""
        self.name = name
        self.health = Health()
        self.answered_at = -math.inf
        """When it last took something (`time.monotonic`)."""
        self._export = export
        self._reader = reader
        self._decode = decode
        self._wants = wants
        self._set_aside = set_aside
        self._interval_s = interval_s
        self._on_idle = on_idle
        self._prepare = prepare
        self._on_ask = on_ask
        self._local = local
        self._owed = Owed(name)
        self._pause_s = 0.0
        self._mistakes = 0
        self._reset()

    def _reset(self) -> None:
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._passed = threading.Condition()
        self._spool_due = True
        self._asked = 0
        self._served = 0
        self._clean = True
        self._settled: set[str] = set()
        self._busy_at = time.monotonic()
        self._attempt_at: float | None = None
        self._exporting = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Records in memory."""
        return len(self._owed)

    @property
    def away(self) -> bool:
        """Whether the last export failed, or one has been going on for longer than an exit waits."""
        return self._pause_s > 0.0 or self._silent(PATIENCE_S)

    def offer(self, record: EventRecord) -> None:
        """Hand on a best-effort record. Bounded: the oldest goes first."""
        self._owed.offer(record)

    def start(self) -> None:
        """Start the thread if it does not run."""
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name=f"caseyos-otel-{self.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is finalising: flush delivers in its own thread
                    return
                self._thread = thread

    def ask(self) -> int:
        """Ask the thread to deliver what is waiting, now; `answered` waits for it."""
        with self._passed:
            self._asked += 1
            asked = self._asked
        self._hurry.set()
        return asked

    def answered(self, asked: int, timeout_s: float) -> bool:
        """Whether everything that waited when `ask` was called has been delivered within the deadline.

        Where no thread runs (a fork, the end of the interpreter), it is delivered here, in the calling thread.
        """
        if self._thread is None or not self._thread.is_alive():
            return self._pass(asked)
        with self._passed:
            self._passed.wait_for(lambda: self._served >= asked, timeout_s)
            return self._served >= asked and self._clean

    def answered_at_exit(self, asked: int, timeout_s: float) -> bool:
        """`answered`, but without waiting for what cannot be had: see `_hopeless`. May be asked again."""
        if self._served < asked and (self._thread is None or not self._thread.is_alive()):
            return self._pass(asked)
        deadline = time.monotonic() + timeout_s
        with self._passed:
            while self._served < asked and time.monotonic() < deadline and not self._hopeless():
                self._passed.wait(0.02)
            return self._served >= asked and self._clean

    def _hopeless(self) -> bool:
        """Whether an exit has nothing to wait for: an export goes on and on, and what is durable is in the spool."""
        return not self._local and self._silent(IMPATIENCE_S if self._pause_s > 0.0 else PATIENCE_S)

    def _silent(self, patience_s: float) -> bool:
        began = self._attempt_at
        return began is not None and time.monotonic() - began >= patience_s

    def flush(self, timeout_s: float) -> bool:
        """`ask` and `answered`."""
        return self.answered(self.ask(), timeout_s)

    def stop(self) -> None:
        """End the thread after its current batch; what is in memory then is lost, and counted by `lose`."""
        self._stop.set()
        self._hurry.set()
        self._owed.lose()

    def lose(self) -> None:
        """After `stop`, when nobody waits any more: count as `shutdown` what is on its way without an answer."""
        self._owed.lose_all()

    def after_fork(self) -> None:
        """A child has no thread, and what is in memory is the parent's."""
        self._owed.after_fork()
        self._reset()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._hurry.wait(self._pause_s or self._interval_s)
            self._hurry.clear()
            self._pass(self._asked)
            if self._on_idle is not None and time.monotonic() - self._busy_at >= IDLE_AFTER_S:
                self._rest(self._on_idle)

    def _rest(self, on_idle: Callable[[], None]) -> None:
        self._busy_at = time.monotonic()
        with diagnostics.guard(f"resting {self.name}"), self._exporting, _otel.suppressed_instrumentation():
            on_idle()

    def _pass(self, asked: int) -> bool:
        """Deliver until nothing is left or the destination is away; whether nothing is left."""
        clean = False
        try:
            with self._exporting, _otel.suppressed_instrumentation():
                if asked > self._served:
                    self._attempt(lambda: diagnostics.guarded(f"flushing {self.name}", self._on_ask))
                while self._deliver_one():
                    pass
            clean, self._pause_s, self._mistakes = True, 0.0, 0
        except Unavailable as away:
            self._back_off(away)
        except Exception as error:
            self._pause_s = _FIRST_PAUSE_S
            self._mistakes += 1
            drops.count("internal_error", destination=self.name)
            diagnostics.fault(f"delivery to {self.name} failed", error, key=self.name)
        with self._passed:
            self._served, self._clean = max(self._served, asked), clean
            self._passed.notify_all()
        return clean

    def _deliver_one(self) -> bool:
        """Deliver one batch from memory and one from the spool; whether there was anything."""
        return self._deliver_memory() | self._deliver_spool()

    def _deliver_memory(self) -> bool:
        if not (records := self._owed.take(BATCH)):
            return False
        try:
            self._send(records)
        except Unavailable:
            self._owed.give_back(self._unsettled(self._owed.claim()))
            if self._stop.is_set():  # `stop` has looked already
                self._owed.lose()
            raise
        except Exception:
            for record in self._unsettled(self._owed.claim()):
                drops.count("internal_error", destination=self.name, event=record.declaration.name)
            raise
        finally:
            self._owed.claim()
            self._settled.difference_update(record.event_id for record in records)
        return True

    def _deliver_spool(self) -> bool:
        if self._reader is None or not (self._reader.wait(0) or self._spool_due):
            return False
        self._spool_due = True
        batch = self._reader.read(BATCH)
        if not batch.frames:
            self._spool_due = False
            return False
        records = [record for frame in batch.frames for record in self._decode(frame)]
        if mine := self._unsettled([record for record in records if self._wants(record)]):
            self._send(mine)
        self._reader.commit(batch)
        self._settled.clear()
        return True

    def _unsettled(self, records: Sequence[EventRecord]) -> Sequence[EventRecord]:
        """Those of a batch that was halved before the destination went away which neither arrived nor were set aside."""
        if not self._settled:
            return records
        return [record for record in records if record.event_id not in self._settled]

    def _send(self, records: Sequence[EventRecord]) -> None:
        self._busy_at = time.monotonic()
        try:
            self._prepare()
            self._attempt(lambda: self._export(records))
            self.health.delivered += len(records)
            self.health.last_success, self.answered_at = time.time(), time.monotonic()
        except Unavailable as away:
            self._note(away)
            raise
        except Rejected as reason:
            self._bisect(records, reason)
        except Exception as mistake:
            # A mistake of ours, or of a driver, that comes again and again with the same records is one about them.
            if self._mistakes < MISTAKES:
                raise
            self._bisect(records, Rejected(f"{type(mistake).__name__}: {mistake}"))

    def _attempt(self, call: Callable[[], None]) -> None:
        self._attempt_at = time.monotonic()
        try:
            call()
        finally:
            self._attempt_at = None

    def _bisect(self, records: Sequence[EventRecord], reason: Rejected) -> None:
        self._note(reason)
        if len(records) > 1:
            half = len(records) // 2
            for part in (records[:half], records[half:]):
                self._send(part)
                self._settled.update(record.event_id for record in part)
            return
        self._set_aside(records[0], f"{self.name}: {reason}")
        drops.count("rejected", destination=self.name, event=records[0].declaration.name)

    def _note(self, error: Exception) -> None:
        self.health.last_error = time.time()
        self.health.error = str(error)[:500]

    def _back_off(self, away: Unavailable) -> None:
        longest = min(max(self._pause_s, _FIRST_PAUSE_S) * 2, _LONGEST_PAUSE_S)
        jittered = random.uniform(longest / 2, longest)  # noqa: S311  # not a secret
        asked = away.retry_after_s or 0.0
        self._pause_s = min(asked, _LONGEST_ASKED_S) if asked > 0.0 else jittered  # a comparison that NaN fails too
        diagnostics.warn(f"{self.name} is away, trying again in {self._pause_s:.1f} s: {away}", key=self.name)
