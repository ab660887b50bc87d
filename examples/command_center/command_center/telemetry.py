"""The service's one door to caseyos-otel: one name a happening.

Nothing else in the service imports `caseyos_otel`. Without the package every name here does nothing and the service
runs as before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

try:
    from caseyos_otel import bind, track, track_event
except ImportError:

    def track(event: str, /, **fields: Any) -> None:  # type: ignore[misc]  # only the part in use here
        """Do nothing: caseyos-otel is not installed."""

    def track_event(event: str, /) -> Callable[[F], F]:  # type: ignore[misc]  # only the part in use here
        """Return the function as it is: caseyos-otel is not installed."""
        return lambda function: function

    def bind(**fields: Any) -> AbstractContextManager[object]:  # type: ignore[no-redef]  # there it is a class
        """Bind nothing: caseyos-otel is not installed."""
        return nullcontext()


# Decorators, for work that takes time or can fail. Fields come from the function's parameters and from the attributes
# of its result; where it raises, the failure twin (action_failed, integration_call_failed) takes them from the
# attributes of the exception.
signal_received = track_event("signal_received")
signal_processed = track_event("signal_processed")
recommendation_generated = track_event("recommendation_generated")
recommendation_viewed = track_event("recommendation_viewed")
action_executed = track_event("action_executed")
action_rolled_back = track_event("action_rolled_back")
integration_call = track_event("integration_call_success")

# Calls, for what is a fact once it has been stored.
recommendation_accepted = partial(track, "recommendation_accepted")
recommendation_dismissed = partial(track, "recommendation_dismissed")
circuit_breaker_opened = partial(track, "circuit_breaker_opened")
outcome_reply_received = partial(track, "outcome_reply_received")
outcome_meeting_booked = partial(track, "outcome_meeting_booked")
outcome_deal_advanced = partial(track, "outcome_deal_advanced")
outcome_deliverable_shipped = partial(track, "outcome_deliverable_shipped")

# Fields of every event within: `with about(action_id=…):`.
about = bind
Bound = AbstractContextManager[object]
