"""Which destinations there are in this process, and what each is fed: by memory, by the spool, by the trace's verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from caseyos_otel import context, diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.events.record import SAMPLING_KEPT, EventRecord
from caseyos_otel.events.record import Delivery as Promise
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.exporters.structured_log import StructuredLog
from caseyos_otel.pipeline import announcement, feeding
from caseyos_otel.pipeline.spooling import Spooling
from caseyos_otel.processors.chain import Sink
from caseyos_otel.redaction.disclosure import Disclosure, minimise
from caseyos_otel.redaction.pseudonyms import Pseudonyms, load_key
from caseyos_otel.sampling.own_policies import own_policies
from caseyos_otel.sampling.policy import default_chain
from caseyos_otel.sampling.probability import threshold
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from caseyos_otel.exporters.outcomes import OutcomesDestination
    from caseyos_otel.exporters.sentry.client import SentryDestination
    from caseyos_otel.storage.health import Health

_SENTRY_FLUSH_S: Final = 4.0
_SHORT_TEXT: Final = 256
_AT_ONCE_S: Final = 0.05
"""What lies on a disk that does not last is delivered so soon, however long the flush interval."""
Export = Callable[[Sequence[EventRecord]], None]
Asked = list[tuple[Delivery, int]]
"""Deliveries, and what each was asked: see `Delivery.ask`."""


class Destinations:
    """Makes the destinations that are on. `resource` gives the resource attributes of this process, when asked."""

    role = ""
    """Of this process in the spool: see `Spool`."""

    def __init__(self, settings: Settings, resource: Callable[[], Mapping[str, Any]]) -> None:
        self._settings = settings
        self._resource = resource
        key = load_key(settings.pii_key, settings.state_dir / "pii.key")
        self.disclosure = Disclosure(Pseudonyms(key), frozenset(settings.pii_plain))
        self.spooling = Spooling(settings, resource, self.role)
        ratio = settings.success_ratio if settings.sampling != "off" else 1.0
        self.table = TraceTable(
            ratio,
            policies=default_chain(threshold(ratio), slow_ms=settings.slow_ms, own=own_policies()),
            max_traces=settings.max_traces,
            max_items=settings.max_items,
            max_trace_items=settings.max_trace_items,
            max_age_s=settings.max_age_s,
            on_dropped=lambda reason, n, destination, event: drops.count(
                reason, n, destination=destination, event=event
            ),
        )
        self.log = self._make_log() if settings.is_on("log") else None
        self._sentry = self._make_sentry() if settings.is_on("sentry") else None
        self._outcomes = self._make_outcomes() if settings.is_on("outcomes") else None
        self._otlp = self._make_otlp() if settings.is_on("otlp") else None
        self._resettable: list[Any] = [d for d in (self.log, self._sentry, self._outcomes, self._otlp) if d is not None]
        self.deliveries = tuple(self._deliveries())
        self.spooling.adopt()

    # -- making --------------------------------------------------------------------------------------------------

    def _make_log(self) -> StructuredLog:
        return StructuredLog(
            self._settings.log, lambda: str(self._resource().get("service.name", "unknown_service")), self._shown("log")
        )

    def _make_sentry(self) -> SentryDestination | None:
        from caseyos_otel.exporters.sentry.client import SentryDestination
        from caseyos_otel.exporters.sentry.scope import request_scope

        try:
            made = SentryDestination(
                self._settings.sentry_dsn or "",
                disclose=self._shown("sentry"),
                disclose_text=lambda text: self.disclosure.text(text, "sentry"),
                current_trail=context.current_trail,
                environment=self._settings.sentry_environment,
                release=self._settings.sentry_release,
            )
        except CaseyosOtelError as error:
            diagnostics.logger.error("%s. Going on without Sentry.", error)
            return None
        context.isolation_scope = request_scope()
        return made

    def _make_outcomes(self) -> OutcomesDestination:
        from caseyos_otel.exporters.outcomes import OutcomesDestination

        return OutcomesDestination(
            self._settings.effective_database_url,
            self._settings.event_store,
            self._shown("database"),
            self.disclosure.pseudonyms.of,
        )

    def _make_otlp(self) -> Any:
        from caseyos_otel.exporters.otlp import OtlpDestination

        return OtlpDestination(
            self._settings.logs_protocol,
            self._resource,
            InstrumentationScope(announcement.SCOPE, announcement.version(), announcement.SCHEMA_URL),
            self._shown("otlp"),
            lambda record: self.disclosure.exception(record, "otlp"),
        )

    def _shown(self, destination: str) -> Callable[[EventRecord], Mapping[str, Any]]:
        return lambda record: self.disclosure.values(record, destination)

    def _deliveries(self) -> list[Delivery]:
        made = []
        if self._outcomes is not None:
            local = self._settings.effective_database_url.startswith("sqlite")
            outcomes = self._outcomes
            made.append(
                self._delivery(
                    "outcomes",
                    outcomes.export,
                    wants=self._is_to_be_stored,
                    on_idle=outcomes.idle,
                    prepare=outcomes.prepare,
                    local=local,
                )
            )
        if (sentry := self._sentry) is not None:
            made.append(
                self._delivery(
                    "sentry",
                    sentry.export,
                    wants=lambda record: record.failure,
                    on_ask=lambda: sentry.flush(_SENTRY_FLUSH_S),
                )
            )
        if self._otlp is not None:
            made.append(self._delivery("otlp", self._export_otlp, prepare=self._otlp.prepare))
        return made

    def _is_to_be_stored(self, record: EventRecord) -> bool:
        """What a transaction of the service's stored is in the spool for the others."""
        return record.delivery is not Promise.TRANSACTION

    def _delivery(
        self,
        name: str,
        export: Export,
        wants: Callable[[EventRecord], bool] = lambda record: True,
        *,
        decode: Callable[[bytes], list[EventRecord]] | None = None,
        set_aside: Callable[[EventRecord, str], None] | None = None,
        **more: Any,
    ) -> Delivery:
        return Delivery(
            name,
            export,
            reader=self.spooling.reader(name),
            decode=decode or self._read,
            wants=wants,
            set_aside=set_aside or (lambda record, reason: self.spooling.set_aside.rejected(record, reason, name)),
            interval_s=min(
                self._settings.flush_interval_ms / 1000, _AT_ONCE_S if self.spooling.ephemeral_disk else math.inf
            ),
            **more,
        )

    def _read(self, frame: bytes) -> list[EventRecord]:
        return self.spooling.read(frame)

    def database_health(self) -> Health | None:
        """What the database said when it was last looked at."""
        return None if self._outcomes is None else self._outcomes.health

    def span_processors(self) -> list[SpanProcessor]:
        """Processors that export spans to our destinations."""
        if self._sentry is None or "caseyos_sentry" in self._settings.otel_traces_exporter:
            return []
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from caseyos_otel.exporters.sentry.spans import SentrySpanExporter

        return [BatchSpanProcessor(SentrySpanExporter(self._settings.sentry_dsn or ""))]

    def span_text(self) -> Callable[[str], str]:
        """What may leave of a text in a span: as every destination of spans may see it."""
        destinations = ("otlp", "sentry") if self._sentry is not None else ("otlp",)

        def shown(text: str) -> str:
            for destination in destinations:
                text = self.disclosure.text(text, destination)
            return text

        short = lru_cache(maxsize=4096)(shown)  # methods, routes and statements come again and again
        return lambda text: short(text) if len(text) <= _SHORT_TEXT else shown(text)

    # -- feeding -------------------------------------------------------------------------------------------------

    def sinks(self) -> list[tuple[str, Sink]]:
        """What each event is handed to at the end of the chain."""
        made: list[tuple[str, Sink]] = [] if self.log is None else [("log", self.log)]
        for delivery in self.deliveries:
            if delivery.name == "outcomes":
                sink = feeding.to_database(delivery, outcomes_only=self._settings.event_store == "outcomes")
            elif delivery.name == "sentry" and self._sentry is not None:
                sink = feeding.to_sentry(delivery, self.table, self._sentry)
            elif delivery.name == "otlp":
                sink = feeding.to_otlp(delivery, self.table, everything=self._settings.otlp_events == "all")
            else:  # one that the spool alone feeds
                continue
            made.append((delivery.name, sink))
        if self._settings.emit == "inline":
            made.append(("log", lambda _: self.after_batch()))
        return made

    def _export_otlp(self, records: Sequence[EventRecord]) -> None:
        """Write on each event what is known of its trace now that it leaves; no event waits for it."""
        for record in records:
            if record.sampling is None and record.trace_id:
                decision = self.table.known(record.trace_id)
                if record.failure or decision is not None:
                    record.sampling = {SAMPLING_KEPT: record.failure or (decision is not None and decision.keep)}
                    record.attributes = None  # made anew where the exporter reads them
        if self._otlp is not None:
            self._otlp.export(records)

    def remember(
        self, event_id: str, within: Context, trail: tuple[context.TrailEntry, ...], error: BaseException | None
    ) -> None:
        """Keep what an issue will show of the request in which something failed."""
        if self._sentry is not None:
            self._sentry.failures.remember(event_id, within, trail, error)

    def insert_through(self, session: Any, record: EventRecord, *, on_commit: Any, on_discard: Any) -> None:
        """Put an outcome into the transaction of a caller's SQLAlchemy session."""
        from caseyos_otel.storage.session import insert_through

        minimise(record)
        record.resource = self._resource()
        insert_through(session, record, self._row_of, on_commit=on_commit, on_discard=on_discard)

    def _row_of(self, record: EventRecord) -> Any:
        from datetime import UTC, datetime

        from caseyos_otel.storage.rows import row

        values = self.disclosure.values(record, "database")
        return row(record, values, datetime.now(UTC), self.disclosure.pseudonyms.of)

    # -- ending --------------------------------------------------------------------------------------------------

    def after_batch(self) -> None:
        """Write what the structured log has rendered."""
        if self.log is not None:
            self.log.flush()

    def flush(self, timeout_s: float, *, exiting: bool = False) -> bool:
        """`ask` and `answered`."""
        return self.answered(self.ask(), time.monotonic() + timeout_s, exiting=exiting)

    def ask(self) -> Asked:
        """Ask all destinations to take what waits, now."""
        self.after_batch()
        return [(delivery, delivery.ask()) for delivery in self.deliveries]

    def answered(self, asked: Asked, deadline: float, *, exiting: bool = False) -> bool:
        """Whether all of them have taken it by `deadline` (`time.monotonic`). `exiting`: not waiting where it is hopeless."""
        answers = [
            (each.answered_at_exit if exiting else each.answered)(number, max(deadline - time.monotonic(), 0.0))
            for each, number in asked
        ]
        return all(answers)

    def let_retry(self, allowed: bool) -> None:
        """Whether what failed is tried again at once, or by who comes next."""
        if self._otlp is not None:
            self._otlp.let_retry(allowed)

    def is_away(self, name: str) -> bool:
        """Whether a destination has not answered when it was last tried."""
        return any(delivery.name == name and delivery.away for delivery in self.deliveries)

    def has_answered(self, name: str, since: float) -> bool:
        """Whether a destination has taken something since then (`time.monotonic`), and is not away now."""
        return any(d.name == name and d.answered_at >= since and not d.away for d in self.deliveries)

    def close(self) -> None:
        """End the delivery threads and let the spool go; what is in it, the next process delivers."""
        for delivery in self.deliveries:
            delivery.stop()
        if self._otlp is not None:
            self._otlp.close()
        if self._sentry is not None:
            self._sentry.give_up(away=self.is_away("sentry"))
        for delivery in self.deliveries:
            delivery.lose()
        self.spooling.spool.close()

    def after_fork(self) -> None:
        """A child has connections, a spool directory and delivery threads of its own."""
        self.spooling.after_fork()
        for destination in self._resettable:
            destination.after_fork()
        for delivery in self.deliveries:
            delivery.after_fork()
