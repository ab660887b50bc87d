"""The account: what the driver caused, held against what arrived and what was dropped for a reason. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .arrived import Events, Log, Received, Stored, Traces

Json = dict[str, Any]

DESTINATIONS = {"log": "logged", "outcomes": "stored", "sentry": "Sentry", "otlp": "OTLP"}
"""Destinations by the name under which drops are counted, with the heading of their column."""

NO_LOSS = frozenset({"invalid_field", "spool_unavailable"})
"""Reasons that cost a field or a promise, not an event."""

Drops = Mapping[tuple[str, str], Counter[str]]
"""(event, destination) → how many were dropped, by reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event: how many were caused, and by destination how many arrived, arrived again, and were dropped why."""

    event: str
    caused: int
    arrived: Mapping[str, int]
    repeated: Mapping[str, int]
    dropped: Mapping[str, Counter[str]]

    def missing(self, destination: str) -> int:
        """How many have neither arrived nor been dropped for a reason; negative if there are too many."""
        return self.caused - self.arrived[destination] - self.dropped[destination].total()

    def problems(self) -> list[str]:
        """What does not add up, a sentence for each destination."""
        found = []
        for destination, heading in DESTINATIONS.items():
            dropped = self.dropped[destination].total()
            if self.missing(destination):
                sums = f"{self.arrived[destination]} arrived + {dropped} dropped, {self.caused} were caused"
                found.append(f"{self.event}, {heading}: {sums} ({self.missing(destination):+d} missing)")
            if self.repeated[destination]:
                found.append(f"{self.event}, {heading}: {self.repeated[destination]} arrived a second time")
        return found


@dataclass(frozen=True, slots=True)
class Check:
    """Two numbers that must be equal."""

    what: str
    expected: int
    found: int

    @property
    def ok(self) -> bool:
        """Whether they are."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class TraceCounts:
    """Traces: one a request, and those of the service's own start. Kept ones are those that OTLP received."""

    caused: int
    own: int
    kept: int
    kept_by_reason: Mapping[str, int]
    dropped: int
    failed: int
    failed_kept: int


def rows(caused: Mapping[str, int], log: Log, stored: Stored, received: Received, dropped: Sequence[Json]) -> list[Row]:
    """One row an event."""
    places: dict[str, Events] = {
        "log": log.events,
        "outcomes": stored.events,
        "sentry": received.sentry,
        "otlp": received.otlp,
    }
    drops = drops_by_destination(dropped)
    return [
        Row(
            event,
            count,
            {name: place.count(event) for name, place in places.items()},
            {name: place.repeated(event) for name, place in places.items()},
            {name: drops[event, name] for name in places},
        )
        for event, count in caused.items()
    ]


def drops_by_destination(dropped: Iterable[Json]) -> Drops:
    """The drops that the service reports; one without a destination was dropped for all of them."""
    drops: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for entry in dropped:
        if entry["reason"] not in NO_LOSS:
            for destination in [entry["destination"]] if entry["destination"] else DESTINATIONS:
                drops[entry["event"], destination][entry["reason"]] += entry["n"]
    return drops


def trace_counts(requests: int, log: Log, traces: Traces, own: Sequence[Json], decided: Sequence[Json]) -> TraceCounts:
    """`own` are the decisions about traces that no request had begun, `decided` those of the whole day."""
    # A decision that changed (late_error) is counted again: the kept ones are counted as they arrived.
    reasons = Counter(_strongest(kept_for) for kept_for in traces.reasons.values())
    later = sum(entry["n"] for entry in decided if entry["reason"] == "late_error")
    total = sum(entry["n"] for entry in decided) - later
    kept = len(traces.reasons)
    return TraceCounts(
        caused=requests,
        own=sum(entry["n"] for entry in own),
        kept=kept,
        kept_by_reason=dict(sorted(reasons.items())),
        dropped=total - kept,
        failed=len(log.failed_traces),
        failed_kept=len(log.failed_traces & traces.reasons.keys()),
    )


def _strongest(reasons: set[str]) -> str:
    return next((reason for reason in ("error", "late_error") if reason in reasons), min(reasons))


def checks(
    caused: Mapping[str, int],
    failed_requests: int,
    log: Log,
    stored: Stored,
    received: Received,
    traces: TraceCounts,
    status: Json,
) -> list[Check]:
    """What must be equal besides the sums of the rows."""
    outcomes = sum(count for event, count in caused.items() if event.startswith("outcome_"))
    refused = sum(1 for answer in received.traces.served.values() if answer >= 400)
    counted = {(entry["reason"], entry["destination"]) for entry in status["dropped"]}
    waiting = status["queued"] + sum(each["waiting"] for each in status["destinations"].values())
    return [
        Check("outcomes in the database's table of outcomes", outcomes, len(stored.outcomes.ids())),
        Check("events in the database that the log does not have", 0, len(stored.events.ids() - log.events.ids())),
        Check("lines of the log that do not parse or lack a field", 0, len(log.problems)),
        Check("events that the metrics counted", sum(caused.values()), received.measured.total()),
        Check("traces kept or dropped", traces.caused + traces.own, traces.kept + traces.dropped),
        Check("traces with a failure, kept", traces.failed, traces.failed_kept),
        Check("refused requests whose trace was kept", failed_requests, refused),
        Check("traces that reached Sentry", traces.kept, len(received.sentry_traces.reasons)),
        Check("errors inside caseyos-otel", 0, sum(reason == "internal_error" for reason, _ in counted)),
        Check("events that the service still owes after its end", 0, waiting),
    ]
