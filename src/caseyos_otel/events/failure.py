"""What counts as a failure: one answer for events, other log records and spans (DESIGN section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import StatusCode

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

ERROR_TYPE: Final = "error.type"


def severity_of(failure: bool, retryable: object) -> SeverityNumber:
    """INFO; WARN for a failure that will be retried; ERROR for a final one."""
    if not failure:
        return SeverityNumber.INFO
    return SeverityNumber.WARN if retryable is True else SeverityNumber.ERROR


def record_failed(record: LogRecord) -> bool:
    """Whether a log record of anybody says that something failed: our own failure events, and severity ERROR or above."""
    if getattr(record, "failure", False):
        return True
    severity: Any = record.severity_number
    return severity is not None and severity.value >= SeverityNumber.ERROR.value


def span_failed(span: ReadableSpan) -> bool:
    """Whether a span says that something failed: status ERROR, `error.type`, or a recorded exception."""
    if span.status.status_code is StatusCode.ERROR:
        return True
    if span.attributes and ERROR_TYPE in span.attributes:
        return True
    return any(event.name == "exception" for event in span.events)
