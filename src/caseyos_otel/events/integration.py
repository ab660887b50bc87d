"""Integration events: call succeeded, failed, circuit breaker opened (specification, *Integration Health Events*)."""

from __future__ import annotations

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required


class IntegrationCallSuccess(
    Event, name="integration_call_success", otel="caseyos.integration.call_success", twin="integration_call_failed"
):
    """API call to an integration succeeds."""

    integration: str = required(doc="hubspot, gmail, calendar, or a name of the service's own.", dimension=True)
    endpoint: str = required(privacy=Privacy.FREE_TEXT, doc="Path that was called, without query.")
    method: str = required(doc="HTTP method.", dimension=True)
    status_code: int | None = optional(doc="HTTP status.", dimension=True)
    duration_ms: float | None = optional(unit="ms", doc="Time it took.")


class IntegrationCallFailed(
    Event, name="integration_call_failed", otel="caseyos.integration.call_failed", failure=True
):
    """API call to an integration fails."""

    integration: str = required(doc="hubspot, gmail, calendar, or a name of the service's own.", dimension=True)
    endpoint: str = required(privacy=Privacy.FREE_TEXT, doc="Path that was called, without query.")
    method: str = required(doc="HTTP method.", dimension=True)
    status_code: int | None = optional(doc="HTTP status; null when there was no answer.", dimension=True)
    error_type: str | None = optional(doc="Class of the exception, or the status.", dimension=True)
    error_message: str | None = optional(privacy=Privacy.FREE_TEXT, doc="What went wrong.")
    retryable: bool | None = optional(doc="Whether it will be tried again.", dimension=True)
    duration_ms: float | None = optional(unit="ms", doc="Time until it failed.")


class CircuitBreakerOpened(Event, name="circuit_breaker_opened", otel="caseyos.circuit_breaker.opened", failure=True):
    """Circuit breaker opens due to failures."""

    service: str = required(doc="Whose breaker, like hubspot.", dimension=True)
    failure_count: int = required(unit="{failure}", doc="Failures in a row.")
    threshold: int = required(unit="{failure}", doc="At how many it opens.")
