"""Action events: executed, failed, rolled back (specification, *Action Execution Events*)."""

from __future__ import annotations

from collections.abc import Mapping

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, Fields, group, optional, required

EXECUTION_MODES = ("automated", "manual", "dry_run")
ROLLBACK_REASONS = ("user_requested", "failed_validation", "duplicate_detected")


class ActionMetadata(Fields):
    """The keys of `metadata` that may leave; a message body never does (DESIGN 8.4)."""

    recipient: str | None = optional(privacy=Privacy.EMAIL, doc="Who receives it.")
    subject: str | None = optional(privacy=Privacy.FREE_TEXT, doc="Subject line.")
    gmail_message_id: str | None = optional(doc="The message in Gmail.")


class ActionExecuted(
    Event, name="action_executed", otel="caseyos.action.executed", failed_when="success", twin="action_failed"
):
    """Automated action performed: e-mail sent, task created."""

    action_id: str = required(doc="The action.")
    action_type: str = required(doc="What was done, like send_email.", dimension=True)
    execution_mode: str = required(allowed=EXECUTION_MODES, doc="How it was done.", dimension=True)
    success: bool = required(doc="Whether it worked.", dimension=True)
    error: str | None = optional(privacy=Privacy.FREE_TEXT, doc="What went wrong.")
    duration_ms: float | None = optional(unit="ms", doc="Time it took.")
    metadata: ActionMetadata | Mapping[str, object] | None = group(ActionMetadata, doc="What was sent, to whom.")


class ActionFailed(Event, name="action_failed", otel="caseyos.action.failed", failure=True):
    """Automated action fails: API error, validation error, rate limit."""

    action_id: str = required(doc="The action.")
    action_type: str = required(doc="What was tried, like send_email.", dimension=True)
    error_type: str = required(doc="api_error, validation_error, rate_limit, or a class of exception.", dimension=True)
    error_message: str | None = optional(privacy=Privacy.FREE_TEXT, doc="What went wrong.")
    retryable: bool | None = optional(doc="Whether it will be tried again.", dimension=True)
    duration_ms: float | None = optional(unit="ms", doc="Time until it failed.")


class ActionRolledBack(
    Event, name="action_rolled_back", otel="caseyos.action.rolled_back", failed_when="rollback_success"
):
    """Action is undone: draft deleted, task cancelled."""

    action_id: str = required(doc="The action.")
    action_type: str = required(doc="What is undone, like send_email.", dimension=True)
    rollback_reason: str = required(allowed=ROLLBACK_REASONS, doc="Why.", dimension=True)
    rollback_success: bool = required(doc="Whether undoing worked.", dimension=True)
