"""The service's one door to caseyos-otel: a decorator a happening, named after what happened.

Nothing else in the service imports `caseyos_otel`. Without the package every name here does nothing and the service
runs as before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    from caseyos_otel import bind, track, track_event
except ImportError:

    def track(event: str, /, **fields: Any) -> None:
        """Do nothing: caseyos-otel is not installed."""

    def track_event(event: str, /) -> Callable[[F], F]:
        """Return the function as it is: caseyos-otel is not installed."""
        return lambda function: function

    def bind(**fields: Any) -> AbstractContextManager[None]:
        """Bind nothing: caseyos-otel is not installed."""
        return nullcontext()


# A decorated function's fields come from its parameters and from the attributes of its result; where it raises,
# the failure twin (action_failed, integration_call_failed) takes them from the attributes of the exception.
signal_received = track_event("signal_received")
signal_processed = track_event("signal_processed")
recommendation_generated = track_event("recommendation_generated")
recommendation_viewed = track_event("recommendation_viewed")
recommendation_accepted = track_event("recommendation_accepted")
recommendation_dismissed = track_event("recommendation_dismissed")
action_executed = track_event("action_executed")
action_rolled_back = track_event("action_rolled_back")
integration_call = track_event("integration_call_success")
outcome_reply_received = track_event("outcome_reply_received")
outcome_meeting_booked = track_event("outcome_meeting_booked")
outcome_deal_advanced = track_event("outcome_deal_advanced")
outcome_deliverable_shipped = track_event("outcome_deliverable_shipped")


def circuit_breaker_opened(service: str, failure_count: int, threshold: int) -> None:
    """A circuit breaker went from closed or half-open to open."""
    track("circuit_breaker_opened", service=service, failure_count=failure_count, threshold=threshold)
