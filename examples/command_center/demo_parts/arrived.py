"""What has arrived at the four places, read after the service has ended."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .receiver import Request
from .specification import EVERY_LINE, FIELDS, MAY_BE_NULL

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

Json = dict[str, Any]


@dataclass(slots=True)
class Events:
    """The events that one place got: how often it got each event id, by event."""

    by_event: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, event: str, event_id: str) -> None:
        """Write down one arrival."""
        self.by_event[event][event_id.replace("-", "")] += 1

    def count(self, event: str) -> int:
        """How many different ones of an event there are."""
        return len(self.by_event[event])

    def repeated(self, event: str) -> int:
        """How many arrivals were of one that was there already."""
        return self.by_event[event].total() - len(self.by_event[event])

    def ids(self) -> set[str]:
        """The ids of all."""
        return {event_id for ids in self.by_event.values() for event_id in ids}


@dataclass(frozen=True, slots=True)
class Log:
    """The structured log: its events, what is wrong with its lines, and the traces in which something failed."""

    events: Events
    problems: list[str]
    failed_traces: set[str]


def read_log(path: Path) -> Log:
    """Read every line of the structured log; one that does not parse or lacks a field is a problem."""
    log = Log(Events(), [], set())
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            if problem := _read_line(text, log):
                log.problems.append(f"{path.name}:{number}: {problem}")
    return log


def _read_line(text: bytes, log: Log) -> str:
    try:
        line = json.loads(text, parse_constant=_no_json)
    except ValueError as error:
        return f"is no JSON: {error}"
    if not isinstance(line, dict):
        return "is no JSON object"
    event = line.get("event")
    if event not in FIELDS:
        return f"has the event {event!r}, which the specification does not have"
    log.events.add(event, str(line.get("event_id")))
    if _failed(line):
        log.failed_traces.add(str(line.get("trace_id")))
    service = "service_name" if "service" in FIELDS[event] else "service"
    if missing := ({*EVERY_LINE, *FIELDS[event], service} - line.keys()):
        return f"{event} lacks {', '.join(sorted(missing))}"
    if empty := {name for name in (*EVERY_LINE, *FIELDS[event]) if line[name] is None} - MAY_BE_NULL:
        return f"{event} has null for {', '.join(sorted(empty))}"
    return f"{event} has invalid fields: {line['invalid_fields']}" if "invalid_fields" in line else ""


def _no_json(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _failed(line: Mapping[str, Any]) -> bool:
    if line["event"] in ("action_failed", "integration_call_failed", "circuit_breaker_opened"):
        return True
    return line.get("success") is False or line.get("rollback_success") is False


@dataclass(frozen=True, slots=True)
class Stored:
    """The database: its events, and which of them are in the table of outcomes."""

    events: Events
    outcomes: Events


def read_database(path: Path) -> Stored:
    """Read both tables of the SQLite file."""
    stored = Stored(Events(), Events())
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        for event, event_id in connection.execute("SELECT event, event_id FROM outcome_events"):
            stored.outcomes.add(event, event_id)
            stored.events.add(event, event_id)
        for event, event_id in connection.execute("SELECT event, event_id FROM events"):
            stored.events.add(event, event_id)
    return stored


@dataclass(slots=True)
class Traces:
    """The traces that one place got: why each was kept, and the HTTP status of each request that was served."""

    reasons: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    served: dict[str, int] = field(default_factory=dict)

    def add(self, span: Span) -> None:
        """Write down one span."""
        attributes = _plain(span.attributes)
        trace_id = span.trace_id.hex()
        self.reasons[trace_id].add(str(attributes.get("caseyos.sampling.reason", "")))
        if span.kind == Span.SPAN_KIND_SERVER:
            # the attribute's name before and after semantic conventions 1.23
            self.served[trace_id] = attributes.get("http.response.status_code") or attributes["http.status_code"]


@dataclass(slots=True)
class Received:
    """What the receiver got: events, by Sentry's two kinds and OTLP, traces by both ways, the last of the metrics."""

    sentry: Events = field(default_factory=Events)
    sentry_logs: Events = field(default_factory=Events)
    issues: Events = field(default_factory=Events)
    other_items: Counter[str] = field(default_factory=Counter)
    sentry_traces: Traces = field(default_factory=Traces)
    otlp: Events = field(default_factory=Events)
    traces: Traces = field(default_factory=Traces)
    measured: Counter[str] = field(default_factory=Counter)


def read_requests(requests: Sequence[Request]) -> Received:
    """Read everything that the receiver got."""
    received = Received()
    for request in requests:
        path = request.path.rstrip("/")
        if path.endswith("/envelope"):
            _read_envelope(request.body, received)
        elif path.endswith("/integration/otlp/v1/traces"):
            _read_traces(request.body, received.sentry_traces)
        elif path == "/v1/traces":
            _read_traces(request.body, received.traces)
        elif path == "/v1/logs":
            _read_logs(request.body, received.otlp)
        elif path == "/v1/metrics":
            _read_metrics(request.body, received)
        else:
            received.other_items[path] += 1
    return received


def _read_envelope(body: bytes, received: Received) -> None:
    for kind, payload in _items(body):
        if kind == "event" and (event := payload.get("contexts", {}).get("caseyos.event")):
            received.issues.add(event["event"], payload["event_id"])
            received.sentry.add(event["event"], payload["event_id"])
        elif kind == "log":
            for log in payload["items"]:
                event, event_id = (log["attributes"][name]["value"] for name in ("event", "event_id"))
                received.sentry_logs.add(event, event_id)
                received.sentry.add(event, event_id)
        else:
            received.other_items[kind] += 1


def _items(body: bytes) -> Iterable[tuple[str, Json]]:
    """The items of an envelope: a line of headers each, then a payload of the length given there or one line long."""
    _, _, rest = body.partition(b"\n")
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        yield header["type"], json.loads(rest[:length])
        rest = rest[length:].lstrip(b"\n")


def _read_logs(body: bytes, events: Events) -> None:
    names = {name.replace("_", "."): name for name in FIELDS}
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                event_id = _plain(record.attributes).get("caseyos.event.id")
                if event_id is not None:
                    events.add(_flat_name(record.event_name, names), str(event_id))


def _flat_name(otel_name: str, names: Mapping[str, str]) -> str:
    """`caseyos.outcome.reply_received` → `outcome_reply_received`."""
    dotted = otel_name.removeprefix("caseyos.").replace("_", ".")
    return names.get(dotted, otel_name)


def _read_traces(body: bytes, traces: Traces) -> None:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                traces.add(span)


def _read_metrics(body: bytes, received: Received) -> None:
    """The counter of events. It is cumulative: the last export says it all."""
    names = {name.replace("_", "."): name for name in FIELDS}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "caseyos.events":
                    received.measured = Counter()
                    for point in metric.sum.data_points:
                        name = str(_plain(point.attributes).get("event.name"))
                        received.measured[_flat_name(name, names)] += point.as_int


def _plain(attributes: Iterable[KeyValue]) -> Json:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in attributes}
