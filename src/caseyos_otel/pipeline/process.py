"""Everything of ours in one process: who is attached to what, in which order; fork, flush, shutdown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry._logs import LogRecord

from caseyos_otel import _otel, context, diagnostics
from caseyos_otel.diagnostics import drops, guard
from caseyos_otel.emit.worker import Worker
from caseyos_otel.events.record import Delivery as Promise
from caseyos_otel.events.record import EventRecord
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.pipeline import announcement, seam, status
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.ending import leave
from caseyos_otel.pipeline.gauges import observe_database, observe_spool
from caseyos_otel.pipeline.providers import Providers
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from caseyos_otel.processors.chain import EventChain

SYNC_EVERY_S = 1.0


class Pipeline:
    """Everything of ours in one process. Made once, by `start`; a forked child resets it instead of making another."""

    def __init__(self, in_force: Settings) -> None:
        self.settings = in_force
        self.notes: list[str] = []
        self.attached = False
        self._resource_attributes: Mapping[str, Any] | None = None
        self.destinations = Destinations(in_force, self._resource)
        self.table = self.destinations.table
        self.chain: EventChain = self._chain()
        self._process: Callable[[EventRecord], None] = self.chain.process
        self.worker = Worker(
            tracking.emitter.queue,
            self._emit,
            self.destinations.after_batch,
            self._tick,
            in_force.flush_interval_ms / 1000,
            deferred=in_force.emit != "inline",
        )
        self.providers = Providers(self.worker)
        self._running = False
        self._ended = False
        self._life = threading.Lock()
        self._writing_status = threading.Lock()
        self._last: dict[str, float] = {}

    # -- attaching -----------------------------------------------------------------------------------------------

    def attach(self, tracer_provider: Any, logger_provider: Any, meter_provider: Any) -> None:
        """The one seam to OpenTelemetry: our chain first, span processors that export behind sampling, the rest as it is.

        Serves our configurator, the stock distro and OTEL_CONFIG_FILE alike: all end in finished providers. What this
        version of the SDK keeps elsewhere is done without, and a warning names what does not work then.
        """
        self.providers.take({"traces": tracer_provider, "logs": logger_provider, "metrics": meter_provider})
        self._resource()
        for what, attach in (("events", self._attach_logs), ("traces", self._attach_spans)):
            try:
                attach()
            except AttributeError as error:
                self.note(f"this version of OpenTelemetry's SDK is not known ({error}): {what} are handled without it")

    def _attach_logs(self) -> None:
        if self._works("logs"):
            self._process = seam.attach_logs(self.providers, self.chain)
            self.attached = True

    def _attach_spans(self) -> None:
        if self._works("traces"):
            seam.attach_spans(self.providers, self.settings, self.destinations, self.wake)
            seam.record_every_span(self.providers["traces"], self.settings, self.table, self.note)

    def _works(self, signal: str) -> bool:
        return _otel.is_sdk(self.providers[signal]) and not self.settings.otel_sdk_disabled

    def _chain(self) -> EventChain:
        from caseyos_otel.processors.chain import EventChain
        from caseyos_otel.processors.measure import Measure
        from caseyos_otel.processors.redact import Redact
        from caseyos_otel.sampling.gauges import observe_table

        meter = metrics.get_meter(announcement.SCOPE, announcement.version())
        observe_database(meter, self.destinations.database_health)
        observe_spool(meter, self.destinations.spooling.health)
        observe_table(meter, self.table)
        measure = Measure(meter)
        return EventChain(
            steps=(Redact(self.destinations.disclosure), measure),
            sinks=self.destinations.sinks(),
            on_promoted=self._promoted,
            on_failed_trace=self.table.keep,
            flush=self.flush_ours,
        )

    def _promoted(self, record: EventRecord) -> None:
        self.wake()
        if record.durable:
            record.spooled = self.destinations.spooling.keep(record)

    def connect(self) -> None:
        """Let the emitter hand over what it has, and start what a dead process left to deliver."""
        if self.destinations.deliveries and (disk := self.destinations.spooling.ephemeral_disk):
            self.notes.append(  # the start-up line says it
                f"the spool lies on {disk}, which does not outlive its container: put CASEYOS_OTEL_STATE_DIR on a volume,"
                " or track outcomes with session="
            )
        emitter = tracking.emitter
        emitter.strict = self.settings.strict
        emitter.keep = self.table.keep
        emitter.spool = self.destinations.spooling.keep
        emitter.remember = self.destinations.remember
        emitter.woken = self.wake
        if self.settings.event_mode == "both":
            from caseyos_otel.processors.redact import Redact
            from caseyos_otel.processors.span_events import SpanEvents

            emitter.bridge = SpanEvents(Redact(self.destinations.disclosure))
        if self.settings.emit == "inline":
            emitter.inline = self._drain
        context.propagate = self.settings.propagate
        tracking.insert_through = self.destinations.insert_through
        tracking.set_aside_unknown = self.destinations.spooling.set_aside.undeclared
        if len(emitter.queue) or self.destinations.spooling.left_behind():
            self.wake()

    # -- running -------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start our threads at the first event or recorded span."""
        if self._running:
            return
        with self._life:
            if self._running:
                return
            self._running = True
            announcement.say(self.settings, self.notes)
            # An empty context: sentry-sdk hands a thread the scope of who starts it, and that is some request's.
            Context().run(self._start_threads)

    def _start_threads(self) -> None:
        self.worker.start()  # also with `inline`: the trace table, the spool and the status file wait for its ticks
        for delivery in self.destinations.deliveries:
            delivery.start()

    def _drain(self) -> None:
        self.worker.drain(5.0)

    def _emit(self, record: EventRecord) -> None:
        if record.durable and record.spooled is None and record.delivery is not Promise.TRANSACTION:
            # it was tracked before configuration: the durable promise begins here
            record.spooled = self.destinations.spooling.keep(record)
        self._process(record)

    def accept(self, record: LogRecord) -> None:
        """A record that came by an exporter of ours: an event that the chain has not seen goes through it now."""
        from caseyos_otel.processors.promote import promote

        if isinstance(record, EventRecord) or (event := promote(record)) is None:
            return
        if event.failure:
            self.table.keep(event.trace_id)
        self._promoted(event)
        self.chain.process(event)

    def _tick(self) -> None:
        self.table.tick()
        self.destinations.after_batch()  # of other loggers' events there is no batch
        now = time.monotonic()
        for name, every_s, work in (
            ("sync", SYNC_EVERY_S, self.destinations.spooling.sync),
            ("adopt", SYNC_EVERY_S, self.destinations.spooling.adopt_in_time),
            ("status", SYNC_EVERY_S, self.write_status),
        ):
            if now - self._last.get(name, 0.0) >= every_s:
                self._last[name] = now
                with guard(f"doing {name}"):
                    work()

    def write_status(self) -> None:
        """Leave what `doctor` reads: destinations, queue, drops. Who writes last has looked last."""
        with self._writing_status:
            try:
                status.write(self.settings.state_dir, self.status())
            except OSError as error:
                where = self.settings.state_dir
                diagnostics.warn(f"the status file cannot be written in {where}: {error.strerror}", key="status")

    def status(self) -> dict[str, Any]:
        """What this process has delivered, owes and dropped."""
        return status.snapshot(
            len(tracking.emitter.queue), self.destinations.deliveries, self.table.decisions, self.notes
        )

    # -- flushing and ending -------------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Deliver what was emitted before the call, the providers' own processors included, within a deadline."""
        deadline = time.monotonic() + timeout_s
        done = self.flush_ours(timeout_s)
        return self.providers.flush(self._others(), deadline) and done

    def flush_ours(self, timeout_s: float) -> bool:
        """The queue, the trace table and every destination."""
        if self._ended:  # the providers' own shutdown comes after ours and asks again
            return True
        deadline = time.monotonic() + timeout_s
        emptied = self._settle(timeout_s)
        return self.destinations.flush(deadline - time.monotonic()) and emptied

    def flush_at_exit(self, timeout_s: float) -> None:
        """Flush where a process may end without another word of ours, and leave its last counts in the status file."""
        deadline = time.monotonic() + timeout_s
        self._settle(timeout_s)
        self._let_retry(False)
        try:
            begin = partial(self.providers.begin_flush, self._others(), deadline)
            leave(self.destinations, self.providers, begin, deadline - time.monotonic())
        finally:
            self._let_retry(True)  # it may go on all the same
        with guard("writing the status file"):
            self.write_status()

    def shutdown(self, timeout_s: float) -> None:
        """Flush, and end our threads. Events that are emitted later are still spooled, and delivered by the next process."""
        with guard("shutting down"):
            deadline = time.monotonic() + timeout_s
            self._settle(timeout_s)
            self._ended = True
            self._let_retry(False)
            if not leave(self.destinations, self.providers, self.providers.begin_end, deadline - time.monotonic()):
                self.providers.give_up()
            self.worker.stop()
            self.destinations.close()
            self.write_status()

    def _settle(self, timeout_s: float) -> bool:
        """Empty the queue and decide what is undecided; whether the queue was emptied in time."""
        deadline = time.monotonic() + timeout_s
        emptied = self.worker.drain(timeout_s)
        with guard("deciding pending traces"):
            self.table.flush(deadline - time.monotonic())
        return emptied

    def _others(self) -> list[Any]:
        """Processors of log records that are not ours, or the provider where we are not in it."""
        logs = self.providers["logs"]
        return [p for p in _otel.log_processors(logs) if p is not self.chain] if self.attached else [logs]

    def _let_retry(self, allowed: bool) -> None:
        self.destinations.let_retry(allowed)
        self.providers.let_retry(allowed)

    def before_fork(self) -> None:
        """Let the worker finish what it is writing, so that a child does not inherit half a line."""
        self.worker.pause(0.5)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.worker.resume()

    def after_fork_in_child(self) -> None:
        """A child begins with an empty queue and table, no threads, a spool directory and connections of its own."""
        self._life = threading.Lock()
        self._writing_status = threading.Lock()
        self._running = False
        self._last = {}
        self._resource_attributes = None
        drops.after_fork()
        tracking.emitter.queue.after_fork()
        self.worker.after_fork()
        self.providers.after_fork()
        self.table.after_fork()
        self.destinations.after_fork()

    # -- small things --------------------------------------------------------------------------------------------

    def note(self, sentence: str) -> None:
        """Something an operator should know: in the start-up line, in `doctor`, and a warning now."""
        self.notes.append(sentence)
        diagnostics.warn(sentence)

    def _resource(self) -> Mapping[str, Any]:
        # Asked for as late as at exit, where the SDK cannot detect resources any more: kept until a fork.
        if self._resource_attributes is None:
            self._resource_attributes = self._detect_resource()
        return self._resource_attributes

    def _detect_resource(self) -> Mapping[str, Any]:
        for name in ("logs", "traces"):
            if (resource := getattr(self.providers[name], "resource", None)) is not None:
                return dict(resource.attributes)
        return announcement.resource()
