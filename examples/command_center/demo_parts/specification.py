"""The events and their fields, copied by hand from the specification: what each line of the log must have."""

from __future__ import annotations

EVERY_LINE = frozenset({"event", "timestamp", "event_id", "trace_id", "span_id"})

FIELDS: dict[str, tuple[str, ...]] = {
    "recommendation_generated": (
        "recommendation_id", "aps_score", "action_type", "revenue_impact", "urgency_days", "effort_minutes",
        "icp_score", "reasoning", "signal_source", "signal_type",
    ),
    "recommendation_viewed": ("user_id", "recommendations_shown", "top_score", "bottom_score"),
    "recommendation_accepted": (
        "recommendation_id", "queue_item_id", "aps_score", "action_type", "user_id", "time_to_decision_seconds",
    ),
    "recommendation_dismissed": (
        "recommendation_id", "queue_item_id", "aps_score", "action_type", "user_id", "dismiss_reason",
    ),
    "action_executed": (
        "action_id", "action_type", "execution_mode", "success", "error", "duration_ms", "metadata",
    ),
    "action_failed": ("action_id", "action_type", "error_type", "error_message", "retryable"),
    "action_rolled_back": ("action_id", "action_type", "rollback_reason", "rollback_success"),
    "outcome_reply_received": (
        "draft_id", "action_id", "recommendation_id", "recipient", "time_to_reply_hours", "reply_sentiment",
    ),
    "outcome_meeting_booked": (
        "draft_id", "action_id", "recommendation_id", "attendee", "meeting_time", "time_to_book_hours",
    ),
    "outcome_deal_advanced": ("deal_id", "recommendation_id", "old_stage", "new_stage", "pipeline_value"),
    "outcome_deliverable_shipped": ("deliverable_id", "client", "deliverable_type", "on_time"),
    "signal_received": ("signal_id", "source", "signal_type", "processed"),
    "signal_processed": (
        "signal_id", "source", "signal_type", "recommendation_generated", "processing_duration_ms",
    ),
    "integration_call_success": ("integration", "endpoint", "method", "status_code", "duration_ms"),
    "integration_call_failed": ("integration", "endpoint", "method", "status_code", "error_message", "retryable"),
    "circuit_breaker_opened": ("service", "failure_count", "threshold"),
}  # fmt: skip

MAY_BE_NULL = frozenset(
    {"error", "dismiss_reason", "reply_sentiment", "status_code", "top_score", "bottom_score", "retryable"}
)
"""Fields that the specification calls optional or shows as null, and those of which there may be nothing to say."""
