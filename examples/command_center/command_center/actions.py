"""Actions: what an accepted move does in the world, and how it is undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update

from . import telemetry
from .breaker import CircuitOpenError
from .database import Sessions
from .integrations import IntegrationError, Integrations
from .models import Action, Deal, QueueItem, Recommendation, new_id, now
from .queue import ConflictError, NotFoundError, claim

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SUBJECTS = {
    "send_email": "Follow up: next steps for {company}",
    "create_task": "Review the deal with {company}",
    "book_meeting": "Meeting with {company}",
}
MESSAGE_ID_FIELD = {
    "send_email": "gmail_message_id",
    "create_task": "hubspot_task_id",
    "book_meeting": "calendar_event_id",
}


class ActionError(Exception):
    """The action was not performed. `error_type` is api_error, validation_error or rate_limit."""

    def __init__(self, action_id: str, action_type: str, error_type: str, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.action_id = action_id
        self.action_type = action_type
        self.error_type = error_type
        self.error_message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Execution:
    """An action that was performed (or, in a dry run, would have been)."""

    action_id: str
    action_type: str
    execution_mode: str
    success: bool
    error: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rollback:
    """An attempt to undo an action."""

    action_id: str
    action_type: str
    rollback_reason: str
    rollback_success: bool


async def execute(
    sessions: Sessions, integrations: Integrations, queue_item_id: str, execution_mode: str, subject: str | None
) -> Execution:
    """Perform an accepted move once; raise `NotFoundError`, `ConflictError` or `ActionError` (then retry it)."""
    action = _begin(sessions, queue_item_id, execution_mode, subject)
    with telemetry.about(action_id=action.action_id, action_type=action.action_type):
        try:
            execution = await perform(integrations, action)
        except ActionError as failure:
            _settle(sessions, action, status="failed", error_type=failure.error_type, error_message=str(failure))
            raise
        except BaseException:
            _settle(sessions, action, status="failed")
            raise
    _settle(sessions, action, status="executed", external_id=_external_id(execution), executed_at=now())
    return execution


def _begin(sessions: Sessions, queue_item_id: str, execution_mode: str, subject: str | None) -> Action:
    with sessions.begin() as session:
        item = session.get(QueueItem, queue_item_id)
        if item is None:
            raise NotFoundError(f"no queue item {queue_item_id}")
        if not claim(session, queue_item_id, "accepted", "executing"):
            raise ConflictError(f"queue item {queue_item_id} is {item.status}; only an accepted one can be executed")
        recommendation = session.get_one(Recommendation, item.recommendation_id)
        default_subject = SUBJECTS[recommendation.action_type].format(company=recommendation.company)
        action = Action(
            action_id=new_id(),
            queue_item_id=queue_item_id,
            recommendation_id=item.recommendation_id,
            draft_id=item.draft_id,
            action_type=recommendation.action_type,
            execution_mode=execution_mode,
            recipient=recommendation.contact_email,
            subject=default_subject if subject is None else subject,
        )
        session.add(action)
        return action


@telemetry.action_executed
async def perform(integrations: Integrations, action: Action) -> Execution:
    """Call the integration that the action needs; manual actions and dry runs need none."""
    if not action.subject.strip():
        raise _failed(action, "validation_error", "the subject is empty", retryable=False)
    metadata = {"recipient": action.recipient, "subject": action.subject}
    if action.execution_mode == "automated":
        metadata[MESSAGE_ID_FIELD[action.action_type]] = await _call(integrations, action)
    return Execution(action.action_id, action.action_type, action.execution_mode, True, None, metadata)


async def _call(integrations: Integrations, action: Action) -> str:
    try:
        match action.action_type:
            case "send_email":
                text = f"Hello,\n\nshall we talk about {action.subject!r}?\n\nCasey"
                return await integrations.gmail.send(action.recipient, action.subject, text)
            case "book_meeting":
                return await integrations.calendar.invite(action.recipient, action.subject)
            case _:
                return await integrations.hubspot.create_task(action.recipient, action.subject)
    except IntegrationError as error:
        kind = "rate_limit" if error.status_code == 429 else "api_error"
        raise _failed(action, kind, error.error_message, error.retryable) from error
    except CircuitOpenError as error:
        raise _failed(action, "api_error", str(error), retryable=True) from error


def _failed(action: Action, error_type: str, message: str, retryable: bool) -> ActionError:
    return ActionError(action.action_id, action.action_type, error_type, message, retryable)


def _external_id(execution: Execution) -> str | None:
    return execution.metadata.get(MESSAGE_ID_FIELD[execution.action_type])


def _settle(sessions: Sessions, action: Action, *, status: str, **values: object) -> None:
    """Write down how the action ended. After a failure or a dry run the move can be executed again."""
    again = status == "failed" or action.execution_mode == "dry_run"
    with sessions.begin() as session:
        session.execute(update(Action).where(Action.action_id == action.action_id).values(status=status, **values))
        claim(session, action.queue_item_id, "executing", "accepted" if again else "done")
        if not again:
            _attribute_deal(session, action)


def _attribute_deal(session: Session, action: Action) -> None:
    deal_id = session.get_one(Recommendation, action.recommendation_id).deal_id
    if deal_id is not None:
        values = {"recommendation_id": action.recommendation_id}
        session.execute(update(Deal).where(Deal.deal_id == deal_id).values(values))


async def roll_back(sessions: Sessions, integrations: Integrations, action_id: str, rollback_reason: str) -> Rollback:
    """Undo an executed action; raise `NotFoundError` or `ConflictError`. Where undoing fails it stays executed."""
    with sessions.begin() as session:
        action = session.get(Action, action_id)
        if action is None:
            raise NotFoundError(f"no action {action_id}")
        if action.status != "executed":
            raise ConflictError(f"action {action_id} is {action.status}; only an executed one can be rolled back")
        action.status = "rolling_back"
    rollback = await undo(integrations, action, rollback_reason)
    status = "rolled_back" if rollback.rollback_success else "executed"
    with sessions.begin() as session:
        attempts = Action.rollback_attempts + 1
        change = update(Action).where(Action.action_id == action_id)
        session.execute(change.values(status=status, rollback_attempts=attempts))
    return rollback


@telemetry.action_rolled_back
async def undo(integrations: Integrations, action: Action, rollback_reason: str) -> Rollback:
    """Take back what the integration was told, where it was told anything."""
    try:
        if action.external_id is not None:
            await _undo_call(integrations, action.action_type, action.external_id)
    except (IntegrationError, CircuitOpenError):
        return Rollback(action.action_id, action.action_type, rollback_reason, rollback_success=False)
    return Rollback(action.action_id, action.action_type, rollback_reason, rollback_success=True)


async def _undo_call(integrations: Integrations, action_type: str, external_id: str) -> None:
    match action_type:
        case "send_email":
            await integrations.gmail.trash(external_id)
        case "book_meeting":
            await integrations.calendar.cancel(external_id)
        case _:
            await integrations.hubspot.delete_task(external_id)
