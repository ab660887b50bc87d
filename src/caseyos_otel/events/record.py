"""An event as OpenTelemetry sees it: a LogRecord that also carries its declaration and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import TraceFlags
from opentelemetry.util.types import AnyValue

from caseyos_otel.events.failure import severity_of
from caseyos_otel.events.field import FieldType
from caseyos_otel.events.model import Declaration

NOT_SAMPLED: Final = TraceFlags(TraceFlags.DEFAULT)
EVENT_ID: Final = "caseyos.event.id"
INVALID_FIELDS: Final = "caseyos.event.invalid_fields"
DELIVERY: Final = "caseyos.event.delivery"
SAMPLING_KEPT: Final = "caseyos.sampling.kept"
SAMPLING_THRESHOLD: Final = "sampling.threshold"
EXCEPTION_ATTRIBUTES: Final = ("exception.type", "exception.message", "exception.stacktrace")


class Delivery(StrEnum):
    """What is promised about an event once `track()` has returned."""

    TRANSACTION = "transaction"
    DURABLE = "durable"
    BEST_EFFORT = "best_effort"


_DURABLE: Final = Delivery.DURABLE
_BEST_EFFORT: Final = Delivery.BEST_EFFORT
_INFO: Final = SeverityNumber.INFO
_SEVERITY_TEXT: Final = {severity: severity.name for severity in SeverityNumber}
"""Looking a member or its name up in its enum costs 0.1 µs each time."""


Disclose = Callable[["EventRecord"], Mapping[str, Any]]
DiscloseException = Callable[["EventRecord"], Mapping[str, str]]


class EventRecord(LogRecord):
    """One event.

    `values` holds every declared field in plain, None where missing; who reads a record for a destination goes through
    disclosure. `attributes` are the OpenTelemetry attributes, already disclosed, made when first read. `timestamp` and
    `observed_timestamp` are nanoseconds since 1970. `resource` is set on records that were decoded; `exception` texts
    are in `exception_attributes` (the object itself stays None, so that the SDK does not expand it again). `spooled` says
    that the spool feeds its destinations, so that memory must not; None where nobody has asked the spool yet.
    """

    # What nearly every record has is on the class: setting it on each costs the worker a third of the constructor.
    spooled: bool | None = None
    body: AnyValue = None
    exception = None
    disclose: Disclose | None = None
    disclose_exception: DiscloseException | None = None
    _attributes: Any = None
    sampling: Mapping[str, Any] | None = None
    """What was decided about its trace when it left for OTLP: `caseyos.sampling.kept`, `sampling.threshold`."""

    def __init__(
        self,
        declaration: Declaration,
        values: dict[str, Any],
        *,
        event_id: str,
        timestamp: int,
        observed_timestamp: int,
        invalid_fields: tuple[str, ...] = (),
        context: Context | None = None,
        trace_id: int = 0,
        span_id: int = 0,
        trace_flags: TraceFlags = NOT_SAMPLED,
        delivery: Delivery | None = None,
        exception_attributes: Mapping[str, str] | None = None,
        resource: Mapping[str, Any] | None = None,
    ) -> None:
        # LogRecord's own constructor looks up the current context and span (2 µs); everything it sets is set here.
        self.declaration = declaration
        self.values = values
        self.event_id = event_id
        self.invalid_fields = invalid_fields
        self.failure = declaration.failed(values)
        self.outcome = declaration.outcome
        self.delivery = delivery or default_delivery(self.outcome, self.failure)
        self.exception_attributes = exception_attributes or {}
        self.resource = resource
        self.timestamp = timestamp
        self.observed_timestamp = observed_timestamp
        self.context = context  # type: ignore[assignment]  # decoded records have none
        self.trace_id = trace_id
        self.span_id = span_id
        self.trace_flags = trace_flags
        self.severity_number = severity_of(True, values.get("retryable")) if self.failure else _INFO
        self.severity_text = _SEVERITY_TEXT[self.severity_number]
        self.event_name = declaration.otel_name

    @property
    def durable(self) -> bool:
        """Whether this event is in the spool (or in the caller's transaction)."""
        return self.delivery is not _BEST_EFFORT

    @property
    def attributes(self) -> Any:
        """OpenTelemetry attributes, disclosed as `disclose` says; foreign processors and exporters read these.

        Empty until the redact step has decided: `Logger.emit` reads them before any processor runs.
        """
        if self._attributes is None:
            if self.disclose is None or self.disclose_exception is None:
                return {}
            self._attributes = otel_attributes(self, self.disclose(self), self.disclose_exception(self))
        return self._attributes

    @attributes.setter
    def attributes(self, attributes: Any) -> None:
        self._attributes = attributes

    def __repr__(self) -> str:
        return f"<EventRecord {self.declaration.name} {self.event_id}>"


def default_delivery(outcome: bool, failure: bool) -> Delivery:
    """Outcomes and failures are durable, the rest best effort (DESIGN section 2)."""
    return _DURABLE if outcome or failure else _BEST_EFFORT


def otel_attributes(record: EventRecord, values: Mapping[str, Any], exception: Mapping[str, str]) -> dict[str, Any]:
    """`values` under their OpenTelemetry names, with the event's id and what else belongs to it; null ones are left out."""
    attributes: dict[str, Any] = {EVENT_ID: record.event_id}
    for field in record.declaration.fields:
        value = values[field.name]
        if value is not None:
            attributes[field.attribute] = _TO_ATTRIBUTE[field.type](value) if field.type in _TO_ATTRIBUTE else value
    if record.invalid_fields:
        attributes[INVALID_FIELDS] = list(record.invalid_fields)
    if record.delivery is not default_delivery(record.outcome, record.failure):
        attributes[DELIVERY] = record.delivery.value
    if record.sampling:
        attributes.update(record.sampling)
    attributes.update(exception)
    return attributes


def rfc3339(moment: Any) -> str:
    """An aware datetime as the specification writes it: UTC, ending in Z, fractions only where there are any."""
    return moment.isoformat().replace("+00:00", "Z")  # type: ignore[no-any-return]


_TO_ATTRIBUTE: Final[Mapping[FieldType, Callable[[Any], Any]]] = {FieldType.TIMESTAMP: rfc3339, FieldType.DOUBLE: float}
"""One attribute, one type: a whole number in a field of type double is a double too."""
