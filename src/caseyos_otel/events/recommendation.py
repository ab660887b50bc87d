"""Recommendation events: generated, viewed, accepted, dismissed (specification, *Recommendation Events*)."""

from __future__ import annotations

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required


class RecommendationGenerated(Event, name="recommendation_generated", otel="caseyos.recommendation.generated"):
    """APS score calculated for a new action."""

    recommendation_id: str = required(doc="The recommendation.")
    aps_score: float = required(unit="1", doc="Action priority score, 0 to 100.")
    action_type: str = required(doc="What is recommended, like send_email.", dimension=True)
    revenue_impact: float | None = optional(unit="USD", doc="Pipeline value at stake.")
    urgency_days: float | None = optional(unit="d", doc="Days until it is too late.")
    effort_minutes: float | None = optional(unit="min", doc="Effort it takes.")
    icp_score: float | None = optional(unit="1", doc="Fit with the ideal customer profile, 0 to 1.")
    reasoning: str | None = optional(privacy=Privacy.FREE_TEXT, doc="Why it is recommended.")
    signal_source: str | None = optional(doc="What triggered it, like hubspot.", dimension=True)
    signal_type: str | None = optional(doc="Kind of that signal, like form_submitted.", dimension=True)


class RecommendationViewed(Event, name="recommendation_viewed", otel="caseyos.recommendation.viewed"):
    """User views "Today's Moves" or calls `/api/command-queue/today`."""

    user_id: str = required(privacy=Privacy.USER, doc="Who looked.")
    recommendations_shown: int = required(unit="{recommendation}", doc="How many were shown.")
    top_score: float | None = optional(unit="1", doc="Highest APS score shown.")
    bottom_score: float | None = optional(unit="1", doc="Lowest APS score shown.")


class RecommendationAccepted(Event, name="recommendation_accepted", otel="caseyos.recommendation.accepted"):
    """User clicks "Execute" on a recommendation."""

    recommendation_id: str = required(doc="The recommendation.")
    queue_item_id: str | None = optional(doc="Its place in the queue.")
    aps_score: float | None = optional(unit="1", doc="Its APS score, 0 to 100.")
    action_type: str = required(doc="What is recommended, like send_email.", dimension=True)
    user_id: str = required(privacy=Privacy.USER, doc="Who decided.")
    time_to_decision_seconds: float | None = optional(unit="s", doc="Time from view to decision.")


class RecommendationDismissed(Event, name="recommendation_dismissed", otel="caseyos.recommendation.dismissed"):
    """User clicks "Skip" on a recommendation."""

    recommendation_id: str = required(doc="The recommendation.")
    queue_item_id: str | None = optional(doc="Its place in the queue.")
    aps_score: float | None = optional(unit="1", doc="Its APS score, 0 to 100.")
    action_type: str = required(doc="What is recommended, like send_email.", dimension=True)
    user_id: str = required(privacy=Privacy.USER, doc="Who decided.")
    dismiss_reason: str | None = optional(privacy=Privacy.FREE_TEXT, doc="Feedback of the user, like not_relevant.")
