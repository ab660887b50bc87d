"""Stand-in HubSpot, Gmail and Calendar: real HTTP on loopback, with trouble that the seed alone decides.

    python -m command_center.stand_ins --port 9100 --seed 7

The specification of the trouble. Every call but a listing concerns somebody (an address) or something (an id): its
*subject*. `trouble(seed, integration, subject)` says what happens to a subject's calls, whatever their order:

- 4 of 100 are limited: the first call about them answers 429, later ones succeed,
- 2 of 100 are broken: every call about them answers 500,
- all others succeed.

The calendar is dead when the stand-ins start: it answers 503 to everything until `POST /_revive/calendar`.
`GET /_counts` tells the calls of each integration by status: `{"hubspot": {"200": 12, "429": 1}, …}`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Trouble = Literal["limited", "broken"]
INTEGRATIONS = ("hubspot", "gmail", "calendar")
DEAD_AT_START = ("calendar",)
LIMITED_SHARE, BROKEN_SHARE = 0.04, 0.02
STAGES = ("Lead", "MQL", "SQL", "Opportunity")


def chance(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def trouble(seed: int, integration: str, subject: str) -> Trouble | None:
    """What happens to the calls about a subject; None where they succeed."""
    drawn = chance(seed, integration, subject)
    if drawn < BROKEN_SHARE:
        return "broken"
    return "limited" if drawn < BROKEN_SHARE + LIMITED_SHARE else None


class StandIns:
    """The three integrations' state: who was called how often, which meetings there are, who is dead."""

    def __init__(self, seed: int, dead: Sequence[str] = DEAD_AT_START) -> None:
        self.seed = seed
        self.dead = set(dead)
        self.counts: dict[str, Counter[str]] = {integration: Counter() for integration in INTEGRATIONS}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.meetings: dict[str, dict[str, Any]] = {}

    def refuse(self, integration: str, subject: str | None) -> tuple[int, str] | None:
        """The status and the message of a call that fails; None for one that succeeds."""
        if integration in self.dead:
            return 503, "Service unavailable"
        if subject is None:
            return None
        self.asked[integration, subject] += 1
        kind = trouble(self.seed, integration, subject)
        if kind == "broken":
            return 500, "Backend error"
        if kind == "limited" and self.asked[integration, subject] == 1:
            return 429, "Daily sending limit exceeded" if integration == "gmail" else "Rate limit exceeded"
        return None

    def contact(self, email: str) -> dict[str, Any]:
        """What the CRM knows of a person; two of three have an open deal."""
        company = email.rpartition("@")[2].partition(".")[0]
        drawn = chance("contact", email)
        return {
            "company": company.removesuffix("corp").title() + " Corp",
            "icp_score": round(0.3 + 0.69 * chance("icp", email), 2),
            "deal_id": None if drawn < 1 / 3 else f"hs_deal_{int(drawn * 10**9)}",
            "deal_stage": STAGES[int(chance("stage", email) * len(STAGES))],
            "pipeline_value": 5_000 + 1_000 * int(chance("value", email) * 116),
        }

    def invite(self, event_id: str, attendee: str) -> None:
        """Note a meeting; two of three attendees accept, some hours later."""
        accepted_at = datetime.now(UTC) + timedelta(hours=1 + 47 * chance("hours", attendee))
        self.meetings[event_id] = {
            "id": event_id,
            "attendee": attendee,
            "start": (accepted_at + timedelta(days=1)).isoformat(),
            "accepted_at": accepted_at.isoformat(),
            "response_status": "accepted" if chance("accept", attendee) < 2 / 3 else "needsAction",
        }


Handler = Callable[[Request], Awaitable[Response]]
Reply = tuple[int, Any]


class Routes:
    """The paths of the three APIs, and those with an underscore that only a test or a demo asks."""

    def __init__(self, state: StandIns) -> None:
        self.state = state

    def table(self) -> list[Route]:
        """Every path of the stand-ins."""
        mail, events = "/gmail/v1/users/me/messages", "/calendar/v3/calendars/primary/events"
        answers = self._answers
        return [
            answers("hubspot", "POST", "/crm/v3/objects/contacts/search", "email", self.find_contact),
            answers("hubspot", "POST", "/crm/v3/objects/tasks", "email", self.create("task")),
            answers("hubspot", "DELETE", "/crm/v3/objects/tasks/{id}", "id", self.remove),
            answers("gmail", "POST", f"{mail}/send", "to", self.create("msg")),
            answers("gmail", "POST", f"{mail}/{{id}}/trash", "id", self.trash),
            answers("calendar", "POST", events, "attendee", self.invite),
            answers("calendar", "GET", events, None, self.meetings),
            answers("calendar", "DELETE", f"{events}/{{id}}", "id", self.remove),
            Route("/_counts", self.counts, methods=["GET"]),
            Route("/_revive/{integration}", self.revive, methods=["POST"]),
        ]

    def _answers(
        self, integration: str, method: str, path: str, subject: str | None, reply: Callable[[dict[str, Any]], Reply]
    ) -> Route:
        async def answer(request: Request) -> Response:
            asked = await request.json() if await request.body() else {}
            asked |= request.path_params
            refusal = self.state.refuse(integration, asked[subject] if subject else None)
            status, body = (refusal[0], {"error": {"message": refusal[1]}}) if refusal else reply(asked)
            self.state.counts[integration][str(status)] += 1
            return Response(status_code=status) if body is None else JSONResponse(body, status)

        return Route(path, answer, methods=[method])

    def find_contact(self, asked: dict[str, Any]) -> Reply:
        """A person."""
        return 200, self.state.contact(asked["email"])

    def create(self, prefix: str) -> Callable[[dict[str, Any]], Reply]:
        """A task or a message: its id."""
        return lambda asked: (200, {"id": self._new_id(prefix, asked.get("to") or asked["email"])})

    def invite(self, asked: dict[str, Any]) -> Reply:
        """A meeting: its id."""
        event_id = self._new_id("event", asked["attendee"])
        self.state.invite(event_id, asked["attendee"])
        return 200, {"id": event_id}

    def trash(self, asked: dict[str, Any]) -> Reply:
        """A message goes to the trash."""
        return 200, {"id": asked["id"]}

    def remove(self, asked: dict[str, Any]) -> Reply:
        """A task or a meeting is no more."""
        self.state.meetings.pop(asked["id"], None)
        return 204, None

    def meetings(self, asked: dict[str, Any]) -> Reply:
        """All meetings."""
        return 200, {"items": list(self.state.meetings.values())}

    async def counts(self, request: Request) -> Response:
        """Calls by integration and status."""
        return JSONResponse(self.state.counts)

    async def revive(self, request: Request) -> Response:
        """End an integration's outage."""
        self.state.dead.discard(request.path_params["integration"])
        return JSONResponse({"dead": sorted(self.state.dead)})

    def _new_id(self, prefix: str, subject: str) -> str:
        # Ids depend on the subject and on how often it was asked for, so that a day can be repeated call by call.
        times = sum(self.state.asked[integration, subject] for integration in INTEGRATIONS)
        return f"{prefix}_{int(chance(self.state.seed, prefix, subject, times) * 16**12):012x}"


def create_app(seed: int, dead: Sequence[str] = DEAD_AT_START) -> Starlette:
    """All three stand-ins as one ASGI application: their paths do not overlap."""
    return Starlette(routes=Routes(StandIns(seed, dead)).table())


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m command_center.stand_ins", description="Stand-in integrations")
    parser.add_argument("--port", type=int, action="append", help="may be given several times (default: 9100)")
    parser.add_argument("--seed", type=int, default=7, help="decides which calls fail (default: 7)")
    parser.add_argument("--alive", action="store_true", help="no integration is dead at the start")
    options = parser.parse_args(arguments)
    app = create_app(options.seed, () if options.alive else DEAD_AT_START)
    sockets = [socket.create_server(("127.0.0.1", port)) for port in options.port or [9100]]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    asyncio.run(server.serve(sockets))


if __name__ == "__main__":
    main()
