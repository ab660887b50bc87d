"""The HTTP interface. `uvicorn command_center.app:app` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel

from . import actions, outcomes, queue, signals
from .breaker import CircuitOpenError
from .database import open_database
from .integrations import IntegrationError, Integrations
from .settings import Settings

UserId = Annotated[str, Header(alias="X-User-Id")]
Source = Literal["hubspot", "gmail", "calendar", "webhook"]


class SignalIn(BaseModel):
    source: Source
    signal_type: str
    contact_email: str


class Dismissal(BaseModel):
    dismiss_reason: str | None = None


class ExecutionOrder(BaseModel):
    execution_mode: Literal["automated", "manual", "dry_run"] = "automated"
    subject: str | None = None


class RollbackOrder(BaseModel):
    rollback_reason: Literal["user_requested", "failed_validation", "duplicate_detected"] = "user_requested"


class Reply(BaseModel):
    message_id: str
    received_at: AwareDatetime
    reply_sentiment: Literal["positive", "neutral", "negative"] | None = None


class DealChange(BaseModel):
    deal_id: str
    new_stage: Literal["Lead", "MQL", "SQL", "Opportunity", "Proposal", "Closed Won"]


class DeliverableIn(BaseModel):
    client: str
    deliverable_type: str
    due_at: AwareDatetime


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service; its database and its clients are opened when it starts and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        chosen = settings or Settings.from_environ()
        engine, app.state.sessions = open_database(chosen.database_url)
        async with Integrations(chosen) as app.state.integrations:
            yield
        engine.dispose()

    app = FastAPI(title="Command center", lifespan=lifespan)
    _add_routes(app)
    _add_error_answers(app)
    return app


def _add_routes(app: FastAPI) -> None:
    app.get("/health")(health)
    app.get("/api/integrations")(integrations)
    app.post("/api/signals", status_code=201)(post_signal)
    app.get("/api/command-queue/today")(today)
    app.post("/api/command-queue/{queue_item_id}/accept")(accept)
    app.post("/api/command-queue/{queue_item_id}/dismiss")(dismiss)
    app.post("/api/command-queue/{queue_item_id}/execute")(execute)
    app.post("/api/actions/{action_id}/rollback")(roll_back)
    app.post("/api/webhooks/gmail")(gmail_webhook)
    app.post("/api/webhooks/hubspot")(hubspot_webhook)
    app.post("/api/outcomes/poll")(poll_outcomes)
    app.post("/api/deliverables", status_code=201)(post_deliverable)
    app.post("/api/deliverables/{deliverable_id}/ship")(ship_deliverable)


async def health() -> dict[str, str]:
    return {"status": "ok"}


async def integrations(request: Request) -> dict[str, Any]:
    states = [
        {
            "integration": each.name,
            "calls": each.calls,
            "failures": each.failures,
            "breaker": each.breaker.state,
            "openings": each.breaker.openings,
        }
        for each in request.app.state.integrations
    ]
    return {"integrations": states}


async def post_signal(request: Request, body: SignalIn) -> dict[str, Any]:
    state = request.app.state
    received = signals.receive_signal(state.sessions, body.source, body.signal_type, body.contact_email)
    return asdict(await signals.process_signal(state.sessions, state.integrations.hubspot, received))


async def today(
    request: Request, user_id: UserId = "casey", limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> dict[str, Any]:
    return asdict(queue.todays_moves(request.app.state.sessions, user_id, limit))


async def accept(request: Request, queue_item_id: str, user_id: UserId = "casey") -> dict[str, Any]:
    return asdict(queue.accept(request.app.state.sessions, queue_item_id, user_id))


async def dismiss(request: Request, queue_item_id: str, body: Dismissal, user_id: UserId = "casey") -> dict[str, Any]:
    return asdict(queue.dismiss(request.app.state.sessions, queue_item_id, user_id, body.dismiss_reason))


async def execute(request: Request, queue_item_id: str, body: ExecutionOrder) -> dict[str, Any]:
    state = request.app.state
    mode, subject = body.execution_mode, body.subject
    return asdict(await actions.execute(state.sessions, state.integrations, queue_item_id, mode, subject))


async def roll_back(request: Request, action_id: str, body: RollbackOrder) -> dict[str, Any]:
    state = request.app.state
    return asdict(await actions.roll_back(state.sessions, state.integrations, action_id, body.rollback_reason))


async def gmail_webhook(request: Request, body: Reply) -> dict[str, Any]:
    sessions = request.app.state.sessions
    outcome = outcomes.reply_received(sessions, body.message_id, body.received_at, body.reply_sentiment)
    return {"recorded": outcome is not None}


async def hubspot_webhook(request: Request, body: DealChange) -> dict[str, Any]:
    outcome = outcomes.deal_advanced(request.app.state.sessions, body.deal_id, body.new_stage)
    return {"recorded": outcome is not None}


async def poll_outcomes(request: Request) -> dict[str, Any]:
    state = request.app.state
    found = await outcomes.poll_meetings(state.sessions, state.integrations.calendar)
    return {"meetings_booked": len(found)}


async def post_deliverable(request: Request, body: DeliverableIn) -> dict[str, Any]:
    sessions = request.app.state.sessions
    deliverable = outcomes.promise_deliverable(sessions, body.client, body.deliverable_type, body.due_at)
    return {"deliverable_id": deliverable.deliverable_id}


async def ship_deliverable(request: Request, deliverable_id: str) -> dict[str, Any]:
    deliverable = outcomes.ship_deliverable(request.app.state.sessions, deliverable_id)
    return {"deliverable_id": deliverable_id, "shipped_at": deliverable.shipped_at}


def _add_error_answers(app: FastAPI) -> None:
    app.add_exception_handler(queue.NotFoundError, _answer(404))
    app.add_exception_handler(queue.ConflictError, _answer(409))
    app.add_exception_handler(IntegrationError, _answer(502))
    app.add_exception_handler(CircuitOpenError, _answer(503))
    app.add_exception_handler(actions.ActionError, _action_failed)


def _answer(status_code: int) -> Any:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code)

    return answer


async def _action_failed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, actions.ActionError)
    cause = error.__cause__
    status_code = {"validation_error": 422, "rate_limit": 429}.get(error.error_type, 502)
    detail = {
        "action_id": error.action_id,
        "error_type": error.error_type,
        "error_message": error.error_message,
        "retryable": error.retryable,
        "integration_status_code": getattr(cause, "status_code", None),
        "circuit_open": isinstance(cause, CircuitOpenError),
    }
    return JSONResponse(detail, status_code)


app = create_app()
