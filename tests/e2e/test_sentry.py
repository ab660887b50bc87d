"""Sentry, end to end: a FastAPI service under `opentelemetry-instrument`, a running Bugsink, a loopback receiver."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from caseyos_otel.sampling import probability
from tests.e2e.receiver import OtlpReceiver, Sentry
from tests.e2e.service import Server, environment, run, wait_for
from tests.integration.bugsink import Bugsink, Stored
from tests.ports import free_port

FAILURES = (
    "action_failed",
    "integration_call_failed",
    "circuit_breaker_opened",
    "action_executed",
    "action_rolled_back",
    "recommendation_generated_failed",
)
REQUESTS_A_KIND = 4
ACTION = {"action_id": "a1", "action_type": "send_email"}
SERVICE = f"""
import asyncio, os
from opentelemetry import trace
from fastapi import FastAPI
from caseyos_otel import track, track_event

app = FastAPI()
ACTION = {ACTION!r}
DOMAIN, BODY = "@acme" "corp.com", "never" " leaves"  # in parts: lines of this file are in stack traces


@track_event("recommendation_generated")
async def score(recommendation_id):
    address = recommendation_id + DOMAIN
    await asyncio.sleep(0.01)
    raise ValueError(f"no score for {{address}}")


async def fail(kind, request):
    address = request + DOMAIN
    if kind == "action_failed":
        track(kind, **ACTION, error_type="api_error", error_message=f"Gmail refused {{address}}", retryable=False)
    elif kind == "integration_call_failed":
        track(kind, integration="gmail", endpoint=f"/users/{{address}}/send", method="POST", status_code=429,
              error_message=f"rate limit of {{address}}")
    elif kind == "circuit_breaker_opened":
        track(kind, service="hubspot", failure_count=5, threshold=5, last_error=f"timeout for {{address}}")
    elif kind == "action_executed":
        track(kind, **ACTION, execution_mode="automated", success=False, error=f"bounced: {{address}}",
              metadata={{"recipient": address, "subject": f"Hello {{address}}", "body": BODY}})
    elif kind == "action_rolled_back":
        track(kind, **ACTION, rollback_reason="user_requested", rollback_success=False)
    elif kind == "recommendation_generated_failed":
        await score(request)


@app.get("/{{kind}}/{{request}}")
async def handle(kind, request):
    track("signal_received", signal_id=request, source="gmail", signal_type="in the handler")
    await asyncio.sleep(0.01)  # others begin
    await asyncio.to_thread(track, "signal_received", signal_id=request, source="gmail", signal_type="in a thread")
    await asyncio.create_task(fail(kind, request))
    track("signal_processed", signal_id=request, source="gmail", signal_type="after", processing_duration_ms=1.0)
    return {{"trace_id": format(trace.get_current_span().get_span_context().trace_id, "032x")}}


@app.get("/kill/{{request}}/now")
async def kill(request):
    track("signal_received", signal_id=request, source="gmail", signal_type="before the end")
    track("action_failed", **ACTION, error_type="killed", error_message=request + DOMAIN)
    os.kill(os.getpid(), 9)
"""


class Day(NamedTuple):
    """What the service logged, and what Bugsink stored of it."""

    lines: list[dict[str, Any]]
    stored: list[Stored]

    def failures(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == kind and line["trace_id"]]

    def of(self, kind: str) -> list[Stored]:
        ids = {line["event_id"].replace("-", "") for line in self.failures(kind)}
        return [stored for stored in self.stored if stored.data["event_id"] in ids]


@pytest.fixture(scope="module")
def bugsink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bugsink]:
    with Bugsink(tmp_path_factory.mktemp("bugsink")) as running:
        yield running


@pytest.fixture(scope="module")
def day(bugsink: Bugsink, tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Concurrent requests over few connections; each kind of failure among requests that succeed."""
    here = tmp_path_factory.mktemp("service")
    with serving(here, SERVICE, SENTRY_DSN=bugsink.dsn) as (server, client), ThreadPoolExecutor(8) as pool:
        asked = [(kind, n) for n in range(REQUESTS_A_KIND) for kind in (*FAILURES, "nothing")]
        statuses = Counter(pool.map(lambda request: ask(client, *request), asked))
        assert statuses == {200: REQUESTS_A_KIND * len(FAILURES), 500: REQUESTS_A_KIND}
        all_failures = REQUESTS_A_KIND * len(FAILURES)  # stored while the service runs: an exit does not wait for ever
        wait_for(lambda: len(bugsink.stored()) >= all_failures, "Bugsink has not every issue", server.output, 60)
        server.stop()
        return Day(server.lines, bugsink.stored())


@contextmanager
def serving(here: Path, service: str, **settings: str) -> Iterator[tuple[Server, httpx.Client]]:
    """A service under `opentelemetry-instrument uvicorn`, and few kept-alive connections that many requests share."""
    (here / "service.py").write_text(service)
    port = free_port()
    command = ["uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    limits = httpx.Limits(max_connections=3)
    with (
        Server(command, environment(here / "state", **settings), here, port, here / "log") as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits, trust_env=False, timeout=30) as client,
    ):
        yield server, client


def ask(client: httpx.Client, kind: str, n: int) -> int:
    # uvicorn closes the connection after an exception, under the feet of who has just sent the next request on it
    headers = {"Connection": "close"} if kind == "recommendation_generated_failed" else {}
    return client.get(
        f"/{kind}/{kind}-{n}?contact=john%40acmecorp.com&too=ann@acmecorp.com", headers=headers
    ).status_code


def trail_of(stored: Stored) -> list[dict[str, Any]]:
    crumbs = stored.data["breadcrumbs"]["values"]
    return [crumb for crumb in crumbs if crumb["category"] == "telemetry"]


def test_every_failure_is_stored_once_and_nothing_else_is(day: Day) -> None:
    failed = [line["event_id"].replace("-", "") for kind in FAILURES for line in day.failures(kind)]
    assert len(failed) == REQUESTS_A_KIND * len(FAILURES)
    # among them the exception that Sentry's own FastAPI integration and uvicorn's error log saw too
    assert Counter(stored.data["event_id"] for stored in day.stored) == Counter(failed)


@pytest.mark.parametrize("kind", FAILURES)
def test_each_kind_of_failure_is_one_issue(day: Day, kind: str) -> None:
    assert len(day.of(kind)) == REQUESTS_A_KIND
    assert len({stored.issue for stored in day.of(kind)}) == 1
    assert all(
        stored.issue not in {s.issue for s in day.of(kind)} for k in FAILURES if k != kind for stored in day.of(k)
    )


@pytest.mark.parametrize("kind", FAILURES)
def test_breadcrumbs_are_the_earlier_events_of_the_same_request(day: Day, kind: str) -> None:
    requests = []
    for stored in day.of(kind):
        trail = trail_of(stored)
        assert [(crumb["message"], crumb["data"]["signal_type"]) for crumb in trail] == [
            ("signal_received", "in the handler"),
            ("signal_received", "in a thread"),
        ]
        (request,) = {crumb["data"]["signal_id"] for crumb in trail}
        requests.append(request)
    assert sorted(requests) == [f"{kind}-{n}" for n in range(REQUESTS_A_KIND)]


@pytest.mark.parametrize("kind", FAILURES)
def test_an_issue_links_to_the_trace_of_its_log_line(day: Day, kind: str) -> None:
    told = {line["event_id"].replace("-", ""): (line["trace_id"], line["span_id"]) for line in day.failures(kind)}
    for stored in day.of(kind):
        trace = stored.data["contexts"]["trace"]
        assert (trace["trace_id"], trace["span_id"]) == told[stored.data["event_id"]]
    assert len({trace_id for trace_id, _ in told.values()}) == REQUESTS_A_KIND


def test_a_raised_failure_has_the_frames_of_the_service(day: Day) -> None:
    for stored in day.of("recommendation_generated_failed"):
        (exception,) = stored.data["exception"]["values"]
        assert exception["type"] == "ValueError"
        assert "score" in [frame["function"] for frame in exception["stacktrace"]["frames"]]


def test_no_address_is_in_plain(day: Day) -> None:
    everything = json.dumps([stored.data for stored in day.stored])
    assert "@acmecorp" not in everything
    assert "never leaves" not in everything
    hashed = [line["metadata"]["recipient"] for line in day.failures("action_executed")]
    assert len(hashed) == REQUESTS_A_KIND
    assert all(value.startswith("h_") and value in everything for value in hashed)


def test_a_failure_right_before_a_kill_is_an_issue_after_the_next_start(bugsink: Bugsink, tmp_path: Path) -> None:
    away = bugsink.dsn.rpartition(":")[0] + f":{free_port()}/1"
    with serving(tmp_path, SERVICE, SENTRY_DSN=away) as (server, client):
        with pytest.raises(httpx.TransportError):
            client.get("/kill/victim/now")
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    program = tmp_path / "next.py"
    program.write_text("import caseyos_otel\nprint(caseyos_otel.flush(10))\n")
    for _ in range(2):  # the second start finds nothing to deliver
        again = run(program, environment(tmp_path / "state", SENTRY_DSN=bugsink.dsn))
        assert again.stdout == "True\n", again.stderr
        (stored,) = (s for s in bugsink.stored() if s.data["contexts"]["caseyos.event"].get("error_type") == "killed")
        assert "@acmecorp" not in json.dumps(stored.data)


LOGS = """
import asyncio, os
import sentry_sdk
from fastapi import Body, FastAPI
from caseyos_otel import track

sentry_sdk.init(os.environ["SENTRY_DSN"], send_default_pii=True, release="its own")
app = FastAPI()


@app.post("/{number}")
async def handle(number: int, sent: dict = Body()):
    for name in ("first", "second", "third"):
        track("signal_received", signal_id=f"{number}-{name}", source="gmail", signal_type=name)
        await asyncio.sleep(0)
    if number % 40 == 0:
        track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5, last_error="timeout")
"""
LOGS_REQUESTS = 200
COOKIES = {"Cookie": "session=never leaves"}


def test_logs_are_those_of_kept_traces_all_of_one_or_none(tmp_path: Path) -> None:
    with Sentry() as sentry, OtlpReceiver() as receiver:
        sent_traces, lines = traffic(tmp_path, sentry, receiver)
    assert len(sent_traces) == LOGS_REQUESTS
    failed = {line["trace_id"] for line in lines if line["event"] == "circuit_breaker_opened"}
    assert len(failed) == LOGS_REQUESTS / 40
    threshold = probability.threshold(0.1)
    by_id = {
        trace_id for trace_id in sent_traces if probability.keep(probability.randomness(int(trace_id, 16)), threshold)
    }
    kept = by_id | failed
    assert set(receiver.traces) == kept
    assert {span.trace_id for span in sentry.spans} == kept
    assert Counter(log["trace_id"] for log in sentry.logs) == dict.fromkeys(kept, 3)
    assert {log["attributes"]["event"] for log in sentry.logs} == {"signal_received"}
    told = {log["trace_id"]: log["attributes"]["sampling.threshold"] for log in sentry.logs}
    assert told == dict.fromkeys(by_id, probability.encode_threshold(threshold)) | dict.fromkeys(failed, "0")
    assert {log["attributes"]["caseyos.sampling.kept"] for log in sentry.logs} == {True}
    assert {event["contexts"]["trace"]["trace_id"] for event in sentry.events} == failed
    assert len(sentry.events) == len(failed)
    assert {event["release"] for event in sentry.events} == {"its own"}
    assert "never leaves" not in json.dumps([sentry.events, sentry.logs])  # though the service's own options ask for it


def traffic(here: Path, sentry: Sentry, receiver: OtlpReceiver) -> tuple[set[str], list[dict[str, Any]]]:
    """Many requests; the traces that were made, and the log lines."""
    settings = {"SENTRY_DSN": sentry.dsn, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    with serving(here, LOGS, **settings) as (server, client), ThreadPoolExecutor(3) as pool:
        paths = [f"/{number}" for number in range(LOGS_REQUESTS)]
        answers = pool.map(lambda path: client.post(path, json={"body": "never leaves"}, headers=COOKIES), paths)
        assert {answer.status_code for answer in answers} == {200}
        server.stop()
        lines = server.lines
    return {line["trace_id"] for line in lines}, lines


OWN_WORK = """
import logging, threading
import sentry_sdk
from sqlalchemy import Engine, event
from caseyos_otel import flush, track

@event.listens_for(Engine, "connect")
def watch(*_):
    if threading.current_thread() is not threading.main_thread():
        logging.error("in our thread")

with sentry_sdk.isolation_scope() as scope:
    scope.set_tag("request", "r1")
    track("outcome_deal_advanced", deal_id="d1")
    assert flush(10)
    sentry_sdk.capture_message("in the request")
"""


def test_our_threads_belong_to_no_request_of_the_service(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(OWN_WORK)
    with Sentry() as sentry, OtlpReceiver() as receiver:
        # without a release sentry-sdk asks git, which is a breadcrumb
        settings = {"SENTRY_DSN": sentry.dsn, "SENTRY_RELEASE": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
        done = run(program, environment(tmp_path / "state", **settings))
        assert done.returncode == 0, done.stderr
    events = {event.get("message") or event["logentry"]["message"]: event for event in sentry.events}
    assert "request" not in events["in our thread"].get("tags", {})
    in_the_request = events["in the request"]
    assert in_the_request["tags"]["request"] == "r1"
    # neither the rows that were written nor the requests that were made for this event
    assert [crumb["message"] for crumb in in_the_request["breadcrumbs"]["values"]] == ["outcome_deal_advanced"]
