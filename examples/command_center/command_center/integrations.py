"""HubSpot, Gmail and Calendar over HTTP: one call is one request, guarded by its integration's circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from . import telemetry
from .breaker import CircuitBreaker
from .settings import Settings

READ_ATTEMPTS = 3
BACKOFF_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What an integration answered to a call that succeeded."""

    integration: str
    endpoint: str
    method: str
    status_code: int
    body: Any


class IntegrationError(Exception):
    """A call that was made and failed. `status_code` is None where no answer came."""

    def __init__(self, integration: str, endpoint: str, method: str, status_code: int | None, message: str) -> None:
        super().__init__(message)
        self.integration = integration
        self.endpoint = endpoint
        self.method = method
        self.status_code = status_code
        self.error_message = message

    @property
    def outage(self) -> bool:
        """Whether the integration itself is in trouble: no answer or a 5xx. A rate limit is an answer."""
        return self.status_code is None or self.status_code >= 500

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.outage or self.status_code == 429


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, IntegrationError) and error.outage


class Integration:
    """One remote API. `endpoint` is a path whose `{placeholders}` are filled in, so that ids do not name endpoints."""

    def __init__(self, name: str, base_url: str, settings: Settings) -> None:
        self.name = name
        self.breaker = CircuitBreaker(name, settings.breaker_threshold, settings.breaker_reset_seconds, _is_outage)
        self.calls = 0
        self.failures = 0
        self._http = httpx.AsyncClient(base_url=base_url, timeout=settings.http_timeout_seconds, trust_env=False)

    async def call(self, method: str, endpoint: str, json: Any = None, **ids: str) -> Answer:
        """Make the call once; raise `IntegrationError`, or `CircuitOpenError` where it was not made."""
        with self.breaker.attempt():
            return await self._send(method, endpoint, ids, json)

    async def read(self, method: str, endpoint: str, json: Any = None, **ids: str) -> Answer:
        """Make a call that changes nothing, again after a short pause while the integration limits the rate."""
        for attempt in range(1, READ_ATTEMPTS):
            try:
                return await self.call(method, endpoint, json, **ids)
            except IntegrationError as error:
                if error.status_code != 429:
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * attempt)
        return await self.call(method, endpoint, json, **ids)

    @telemetry.integration_call
    async def _send(self, method: str, endpoint: str, ids: Mapping[str, str], json: Any) -> Answer:
        self.calls += 1
        try:
            response = await self._http.request(method, endpoint.format(**ids), json=json)
        except httpx.HTTPError as error:
            self.failures += 1
            message = f"{self.name} API: {type(error).__name__}"
            raise IntegrationError(self.name, endpoint, method, None, message) from error
        if response.is_error:
            self.failures += 1
            message = f"{self.name} API: {_reason(response)}"
            raise IntegrationError(self.name, endpoint, method, response.status_code, message)
        body = response.json() if response.content else None
        return Answer(self.name, endpoint, method, response.status_code, body)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase


@dataclass(frozen=True, slots=True)
class Contact:
    """What HubSpot knows of a person: company, fit (0 to 1) and, where there is one, the open deal (dollars)."""

    company: str
    icp_score: float
    deal_id: str | None
    deal_stage: str
    pipeline_value: int


class HubSpot(Integration):
    """The CRM."""

    async def find_contact(self, email: str) -> Contact:
        """Look a person up by address."""
        answer = await self.read("POST", "/crm/v3/objects/contacts/search", {"email": email})
        return Contact(**answer.body)

    async def create_task(self, email: str, subject: str) -> str:
        """Create a follow-up task; return its id."""
        answer = await self.call("POST", "/crm/v3/objects/tasks", {"email": email, "subject": subject})
        return str(answer.body["id"])

    async def delete_task(self, task_id: str) -> None:
        """Delete a task."""
        await self.call("DELETE", "/crm/v3/objects/tasks/{task_id}", task_id=task_id)


class Gmail(Integration):
    """Mail."""

    async def send(self, recipient: str, subject: str, text: str) -> str:
        """Send a message; return its id."""
        message = {"to": recipient, "subject": subject, "text": text}
        answer = await self.call("POST", "/gmail/v1/users/me/messages/send", message)
        return str(answer.body["id"])

    async def trash(self, message_id: str) -> None:
        """Move a message to the trash."""
        await self.call("POST", "/gmail/v1/users/me/messages/{message_id}/trash", message_id=message_id)


class Calendar(Integration):
    """Meetings."""

    async def invite(self, attendee: str, summary: str) -> str:
        """Invite someone to the next free slot; return the meeting's id."""
        meeting = {"attendee": attendee, "summary": summary}
        answer = await self.call("POST", "/calendar/v3/calendars/primary/events", meeting)
        return str(answer.body["id"])

    async def cancel(self, event_id: str) -> None:
        """Cancel a meeting."""
        await self.call("DELETE", "/calendar/v3/calendars/primary/events/{event_id}", event_id=event_id)

    async def accepted(self) -> list[dict[str, Any]]:
        """The meetings whose attendee has accepted: `id`, `attendee`, `start` and `accepted_at`."""
        answer = await self.read("GET", "/calendar/v3/calendars/primary/events")
        return [meeting for meeting in answer.body["items"] if meeting["response_status"] == "accepted"]


class Integrations:
    """The three of them, closed together."""

    def __init__(self, settings: Settings) -> None:
        self.hubspot = HubSpot("hubspot", settings.hubspot_url, settings)
        self.gmail = Gmail("gmail", settings.gmail_url, settings)
        self.calendar = Calendar("calendar", settings.calendar_url, settings)

    def __iter__(self) -> Iterator[Integration]:
        return iter((self.hubspot, self.gmail, self.calendar))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for integration in self:
            await integration.close()
