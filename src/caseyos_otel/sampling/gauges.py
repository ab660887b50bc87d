"""What an operator watches of sampling, as OpenTelemetry metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from caseyos_otel.sampling.table import TraceTable

DECISIONS: Final = "caseyos.otel.sampling.decisions"
TRACES: Final = "caseyos.otel.sampling.traces"
ITEMS: Final = "caseyos.otel.sampling.items"
EVICTIONS: Final = "caseyos.otel.sampling.evictions"
LATE_ITEMS: Final = "caseyos.otel.sampling.late_items"
DECISION_TIME: Final = "caseyos.otel.sampling.decision_time"


def observe_table(meter: Meter, table: TraceTable) -> None:
    """Traces kept and dropped by reason, what is held now, what came late, and how long decisions took."""

    def decisions(options: CallbackOptions) -> Iterable[Observation]:
        for (kept, reason), n in table.decisions.items():
            yield Observation(n, {"caseyos.sampling.kept": kept, "caseyos.sampling.reason": reason})

    def evictions(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(n, {"bound": bound}) for bound, n in table.evictions.items()]

    def late(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(n, {"caseyos.sampling.kept": kept}) for kept, n in table.late_items.items()]

    meter.create_observable_counter(DECISIONS, [decisions], "{trace}", "Traces that were decided, by reason.")
    meter.create_observable_counter(EVICTIONS, [evictions], "{trace}", "Traces decided early, by the bound they met.")
    meter.create_observable_counter(LATE_ITEMS, [late], "{item}", "Spans and records that came after their decision.")
    meter.create_observable_gauge(TRACES, [lambda _: [Observation(table.held_traces)]], "{trace}", "Undecided traces.")
    meter.create_observable_gauge(
        ITEMS, [lambda _: [Observation(table.held_items)]], "{item}", "Spans and records that wait."
    )
    table.on_decided(meter.create_histogram(DECISION_TIME, "s", "From a trace's first span to its decision.").record)
