"""A working day of traffic, driven over HTTP, with an exact account of what it caused.

    python working_day.py --base-url http://127.0.0.1:8000 --stand-ins-url http://127.0.0.1:9100

What was caused is taken from the service's answers and, for the calls that the service made, from the counters of the
stand-ins and the service's `GET /api/integrations`; nothing is asked of any telemetry. The day needs the service and
the stand-ins for itself: what others cause meanwhile would be counted too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
from day_plan import Json, Person, deliverables, signals

EVENTS = (
    "recommendation_generated",
    "recommendation_viewed",
    "recommendation_accepted",
    "recommendation_dismissed",
    "action_executed",
    "action_failed",
    "action_rolled_back",
    "outcome_reply_received",
    "outcome_meeting_booked",
    "outcome_deal_advanced",
    "outcome_deliverable_shipped",
    "signal_received",
    "signal_processed",
    "integration_call_success",
    "integration_call_failed",
    "circuit_breaker_opened",
)
HOURS = 8
PARALLEL = 12
SHOWN = 25
MINIMUM = 20
REVIVAL_SECONDS = 60.0

Progress = Callable[[int, int, str], None]
T = TypeVar("T")


class UnexpectedAnswerError(RuntimeError):
    """The service or a stand-in gave an answer that the day has no account for: its counts would be wrong."""


@dataclass(slots=True)
class Caused:
    """What the day caused: events by name, HTTP requests to the service, and how many it refused (4xx, 5xx)."""

    events: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(EVENTS, 0)))
    requests: int = 0
    failed_requests: int = 0
    seconds: float = 0.0

    @property
    def outcomes(self) -> dict[str, int]:
        """The outcome events alone."""
        return {event: count for event, count in self.events.items() if event.startswith("outcome_")}

    def as_dict(self) -> Json:
        """The account as JSON."""
        return {
            "caused": dict(self.events),
            "requests": self.requests,
            "failed_requests": self.failed_requests,
            "outcomes": self.outcomes,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class Calls:
    """How many calls the service has made so far, and how often one of its circuit breakers has opened."""

    succeeded: int
    failed: int
    openings: int


@dataclass(frozen=True, slots=True)
class Done:
    """A move that was executed, for real or by hand."""

    move: Json
    action_id: str
    message_id: str | None


def drive(
    base_url: str,
    stand_ins_url: str,
    *,
    recommendations: int = 1000,
    seed: int = 7,
    progress: Progress = lambda done, total, label: None,
) -> Caused:
    """Drive one day that generates exactly `recommendations` recommendations, and return what it caused.

    `progress(done, total, label)` is called in this thread as recommendations are dealt with. Raises `ValueError` for
    fewer than 20 recommendations (not every event would happen) and `UnexpectedAnswerError` where counts
    would be wrong.
    """
    if recommendations < MINIMUM:
        raise ValueError(f"recommendations={recommendations}: a day with every event needs at least {MINIMUM}")
    return asyncio.run(_drive(base_url, stand_ins_url, recommendations, seed, progress))


async def _drive(base_url: str, stand_ins_url: str, recommendations: int, seed: int, progress: Progress) -> Caused:
    limits = httpx.Limits(max_connections=PARALLEL)
    async with (
        httpx.AsyncClient(base_url=base_url, timeout=60, limits=limits, trust_env=False) as service,
        httpx.AsyncClient(base_url=stand_ins_url, timeout=60, trust_env=False) as stand_ins,
    ):
        return await WorkingDay(service, stand_ins, recommendations, seed, progress).run()


class WorkingDay:
    """One day: eight hours of signals and decisions, then what came of them."""

    def __init__(
        self,
        service: httpx.AsyncClient,
        stand_ins: httpx.AsyncClient,
        recommendations: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.service = service
        self.stand_ins = stand_ins
        self.recommendations = recommendations
        self.seed = seed
        self.progress = progress
        self.caused = Caused()
        self.done: list[Done] = []
        self.again: list[Json] = []
        self.revived = False
        self.decided = 0

    async def run(self) -> Caused:
        """Drive the day from the first signal to the last outcome."""
        begin, before = time.perf_counter(), await self.calls()
        arriving = signals(self.recommendations, self.seed)
        for hour in range(HOURS):
            await self.each(arriving[hour::HOURS], self.send_signal)
            await self.decide_all(f"hour {hour + 1} of {HOURS}")
        await self.execute_again()
        await self.roll_back_some()
        await self.outcomes()
        self.account(before, await self.calls())
        self.caused.seconds = time.perf_counter() - begin
        return self.caused

    def account(self, before: Calls, after: Calls) -> None:
        """What the service did towards its integrations between two looks at the counters."""
        self.count("integration_call_success", after.succeeded - before.succeeded)
        self.count("integration_call_failed", after.failed - before.failed)
        self.count("circuit_breaker_opened", after.openings - before.openings)

    async def send_signal(self, signal: Json) -> None:
        """One signal in; the answer says what it led to."""
        answer = await self.post("/api/signals", signal, expected=(201,))
        self.count("signal_received")
        self.count("signal_processed")
        self.count("recommendation_generated", int(answer["recommendation_generated"]))

    async def decide_all(self, label: str) -> None:
        """Look at today's moves and decide on each, until there are none."""
        while (left := self.caused.events["recommendation_generated"] - self.decided) > 0:
            today = await self.request("GET", f"/api/command-queue/today?limit={SHOWN}", expected=(200,))
            self.count("recommendation_viewed")
            if today["recommendations_shown"] != min(SHOWN, left):
                raise UnexpectedAnswerError(f"{left} moves are pending, {today['recommendations_shown']} were shown")
            await self.each(today["moves"], self.decide)
            self.decided += len(today["moves"])
            self.progress(self.decided, self.recommendations, label)

    async def decide(self, move: Json) -> None:
        """Accept and execute a move, or dismiss it."""
        person, path = self.person(move), f"/api/command-queue/{move['queue_item_id']}"
        if not person.accepts(move["action_type"]):
            await self.post(f"{path}/dismiss", {"dismiss_reason": person.dismiss_reason()}, expected=(200,))
            self.count("recommendation_dismissed")
            return
        await self.post(f"{path}/accept", expected=(200,))
        self.count("recommendation_accepted")
        for order in person.orders():
            await self.execute(move, order)

    async def execute(self, move: Json, order: Json) -> None:
        """One execution; what failed for a passing reason is kept for later."""
        path = f"/api/command-queue/{move['queue_item_id']}/execute"
        answer = await self.post(path, order, expected=(200, 422, 429, 502))
        if answer.get("success"):
            self.count("action_executed")
            if answer["execution_mode"] != "dry_run":
                self.done.append(Done(move, answer["action_id"], answer["metadata"].get("gmail_message_id")))
            return
        self.count("action_failed")
        if answer["circuit_open"]:
            await self.revive_calendar()
        if answer["circuit_open"] or answer["integration_status_code"] in (429, 503):
            self.again.append(move)

    async def revive_calendar(self) -> None:
        """The calendar is dead until the service's circuit breaker has opened."""
        if not self.revived:
            self.revived = True
            (await self.stand_ins.post("/_revive/calendar")).raise_for_status()

    async def execute_again(self) -> None:
        """Try again what failed for a passing reason: one alone first, since a half-open breaker lets one through."""
        until = time.monotonic() + REVIVAL_SECONDS
        while self.again:
            self.progress(self.decided, self.recommendations, f"trying {len(self.again)} again")
            if time.monotonic() > until:
                raise UnexpectedAnswerError(f"{len(self.again)} executions still fail after {REVIVAL_SECONDS} s")
            if self.revived:
                await self.wait_for_breakers()
            moves, self.again = self.again, []
            await self.execute(moves[0], {})
            await self.each(moves[1:], lambda move: self.execute(move, {}))

    async def wait_for_breakers(self) -> None:
        """Return when no circuit breaker is open any more."""
        while any(each["breaker"] == "open" for each in await self.integrations()):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.2)

    async def roll_back_some(self) -> None:
        """Undo one in sixteen, and at least one; a rollback that fails has happened too."""
        chosen = [done for done in self.done if self.person(done.move).rolls_back()] or self.done[:1]
        self.done = [done for done in self.done if done not in chosen]
        await self.each(chosen, self.roll_back)

    async def roll_back(self, done: Done) -> None:
        """Undo one action."""
        order = {"rollback_reason": self.person(done.move).rollback_reason()}
        await self.post(f"/api/actions/{done.action_id}/rollback", order, expected=(200,))
        self.count("action_rolled_back")

    async def outcomes(self) -> None:
        """Replies, meetings, deals and deliverables, as they come in after the actions."""
        self.progress(self.decided, self.recommendations, "outcomes")
        mails = [done for done in self.done if done.message_id is not None]
        await self.each([done for done in mails if self.person(done.move).replies()] or mails[:1], self.reply)
        answer = await self.post("/api/outcomes/poll", expected=(200,))
        self.count("outcome_meeting_booked", answer["meetings_booked"])
        deals = [done.move for done in self.done if done.move["deal_id"] is not None]
        await self.each([move for move in deals if self.person(move).advances()] or deals[:1], self.advance_deal)
        await self.each(deliverables(self.recommendations), self.deliver)

    async def reply(self, done: Done) -> None:
        """Gmail tells of a reply, perhaps twice."""
        assert done.message_id is not None
        for news in self.person(done.move).reply(done.message_id):
            answer = await self.post("/api/webhooks/gmail", news, expected=(200,))
            self.count("outcome_reply_received", int(answer["recorded"]))

    async def advance_deal(self, move: Json) -> None:
        """HubSpot tells of a deal; the service says whether it went forward."""
        news = {"deal_id": move["deal_id"], "new_stage": self.person(move).new_stage()}
        answer = await self.post("/api/webhooks/hubspot", news, expected=(200,))
        self.count("outcome_deal_advanced", int(answer["recorded"]))

    async def deliver(self, promise: Json) -> None:
        """Something is promised and shipped."""
        answer = await self.post("/api/deliverables", promise, expected=(201,))
        await self.post(f"/api/deliverables/{answer['deliverable_id']}/ship", expected=(200,))
        self.count("outcome_deliverable_shipped")

    def person(self, move: Json) -> Person:
        """What the user would do about a move."""
        return Person(self.seed, move["recipient"])

    def count(self, event: str, times: int = 1) -> None:
        """Write down that something happened."""
        self.caused.events[event] += times

    async def each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Do the work for each item, `PARALLEL` at a time."""
        gate = asyncio.Semaphore(PARALLEL)

        async def one(item: T) -> None:
            async with gate:
                await work(item)

        await asyncio.gather(*map(one, items))

    async def post(self, path: str, body: Json | None = None, *, expected: tuple[int, ...]) -> Json:
        """POST to the service."""
        return await self.request("POST", path, body or {}, expected=expected)

    async def request(self, method: str, path: str, body: Json | None = None, *, expected: tuple[int, ...]) -> Json:
        """One request to the service, counted; raise `UnexpectedAnswerError` for a status that is not expected."""
        response = await self.service.request(method, path, json=body)
        self.caused.requests += 1
        self.caused.failed_requests += int(response.is_error)
        if response.status_code not in expected:
            raise UnexpectedAnswerError(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
        answer: Json = response.json()
        return answer

    async def integrations(self) -> list[Json]:
        """The service's own view of its integrations."""
        answer = await self.request("GET", "/api/integrations", expected=(200,))
        found: list[Json] = answer["integrations"]
        return found

    async def calls(self) -> Calls:
        """The stand-ins' counters, and the openings that the service reports."""
        response = await self.stand_ins.get("/_counts")
        by_status = [item for counts in response.raise_for_status().json().values() for item in counts.items()]
        return Calls(
            succeeded=sum(count for status, count in by_status if int(status) < 400),
            failed=sum(count for status, count in by_status if int(status) >= 400),
            openings=sum(each["openings"] for each in await self.integrations()),
        )


def main() -> None:
    """Drive a day and print what it caused as one JSON object."""
    parser = argparse.ArgumentParser(description="Drive a working day of traffic and count what it causes")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    parser.add_argument("--stand-ins-url", default="http://127.0.0.1:9100")
    parser.add_argument("--recommendations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    caused = drive(chosen.base_url, chosen.stand_ins_url, recommendations=chosen.recommendations, seed=chosen.seed)
    print(json.dumps(caused.as_dict(), indent=2))


if __name__ == "__main__":
    main()
