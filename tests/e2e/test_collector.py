"""Two services → agent → load balancer → two gateways, the real Collector: every event once, traces whole and sampled.

Who decides about a trace is tried in the three modes: each process, the Collector, or some of both. All of them ask the
same of a trace without failure (R ≥ T), so what is expected is a set of traces, not only a share.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from caseyos_otel.sampling import probability
from tests.collector import Collector
from tests.e2e.receiver import OtlpReceiver, Span
from tests.e2e.service import Server, environment, free_port, wait_for

SERVICE = """
import os
import httpx
from fastapi import FastAPI
from opentelemetry import trace
from caseyos_otel import track

app = FastAPI()
tracer = trace.get_tracer("service")
client = httpx.AsyncClient(trust_env=False, timeout=30)
behind = os.environ.get("BEHIND")


@app.get("/{how}/{number}")
async def handle(how: str, number: str):
    with tracer.start_as_current_span("work") as span:
        if behind is None:
            track("outcome_meeting_booked", meeting_id=number)
            if how == "behind-fails":
                track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
        else:
            track("outcome_reply_received", draft_id=number, recipient="john@acme.example")
            await client.get(f"{behind}/{how}/{number}")
            if how == "front-fails":
                span.set_status(trace.Status(trace.StatusCode.ERROR))
    return format(span.get_span_context().trace_id, "032x")
"""
FINE, FAILING = 300, 15
THRESHOLD = probability.threshold(0.1)
FRONT, BEHIND = "front", "behind"


class Tiers(NamedTuple):
    """The Collectors between the services and the receiver."""

    agent: Collector
    load_balancer: Collector
    gateways: tuple[Collector, Collector]


@contextmanager
def tiers(here: Path, receiver: OtlpReceiver) -> Iterator[Tiers]:
    """Agent, load balancer and two gateways; what leaves goes to `receiver`, events and traces alike."""
    settings = {
        "COLLECTOR_SERVE": receiver.endpoint,
        "CASEYOS_OTEL_INGEST_TOKEN": "a-token",
        "COLLECTOR_BACKEND": receiver.endpoint,
        "COLLECTOR_TRACES_TO": "[otlp_http/backend]",
        "COLLECTOR_DECISION_WAIT": "4s",
    }
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(Collector("gateway.yaml", here / f"gateway-{number}", **settings)) for number in (1, 2)
        ]
        addresses = f"[{', '.join(gateway.grpc for gateway in gateways)}]"
        load_balancer = stack.enter_context(
            Collector("loadbalancer.yaml", here / "load-balancer", COLLECTOR_GATEWAYS=addresses)
        )
        agent = stack.enter_context(
            Collector("agent.yaml", here / "agent", COLLECTOR_NEXT=f"http://{load_balancer.grpc}")
        )
        yield Tiers(agent, load_balancer, (gateways[0], gateways[1]))


@contextmanager
def services(here: Path, agent: Collector, modes: dict[str, str]) -> Iterator[httpx.Client]:
    """Two services, one calling the other; each samples as `modes` says. The client leads to the first."""
    (here / "service.py").write_text(SERVICE)
    ports = {name: free_port() for name in (FRONT, BEHIND)}

    def server(name: str, **more: str) -> Server:
        env = environment(
            here / name, OTEL_EXPORTER_OTLP_ENDPOINT=agent.http, OTEL_METRICS_EXPORTER="none",
            CASEYOS_OTEL_SAMPLING=modes[name], **{"OTEL_SERVICE_NAME": name, **more},
        )  # fmt: skip
        command = ["uvicorn", "service:app", "--port", str(ports[name]), "--log-level", "warning"]
        return Server(command, env, here, ports[name], here / f"{name}.log")

    with (
        server(BEHIND) as behind,
        server(FRONT, BEHIND=f"http://127.0.0.1:{ports[BEHIND]}") as front,
        httpx.Client(base_url=f"http://127.0.0.1:{ports[FRONT]}", trust_env=False, timeout=60) as client,
    ):
        yield client
        front.stop()
        behind.stop()


def traffic(client: httpx.Client, wished: list[str]) -> dict[str, str]:
    """What each request was to do, by its trace id."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda ask: client.get(f"/{ask[1]}/{ask[0]}"), enumerate(wished)))
    assert {answer.status_code for answer in answers} == {200}
    return dict(zip((answer.json() for answer in answers), wished, strict=True))


MODES = {
    "process": {FRONT: "process", BEHIND: "process"},
    "collector": {FRONT: "collector", BEHIND: "collector"},
    "both": {FRONT: "process", BEHIND: "collector"},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_event_once_and_whole_traces(mode: str, tmp_path: Path) -> None:
    modes = MODES[mode]
    wished = ["fine"] * FINE + ["behind-fails"] * FAILING + ["front-fails"] * FAILING
    with OtlpReceiver() as receiver, tiers(tmp_path, receiver) as collectors:
        with services(tmp_path, collectors.agent, modes) as client:
            asked = traffic(client, wished)
        wait_for(
            lambda: len(receiver.records) >= 2 * len(wished) + FAILING,
            "events do not arrive:",
            lambda: len(receiver.records),
        )
        expected = {(trace_id, name) for trace_id, how in asked.items() for name in parts(trace_id, how, modes)}
        wait_for(lambda: {(s.trace_id, s.resource["service.name"]) for s in receiver.spans} >= expected, "traces lack")
        for gateway in collectors.gateways:
            gateway.stop()  # judges what it still holds, so nothing that should not arrive is merely late
        assert {(span.trace_id, span.resource["service.name"]) for span in receiver.spans} == expected
    assert_events_once(receiver, len(wished))
    assert_whole(receiver.spans)
    kept = {trace_id for trace_id, _ in expected if asked[trace_id] == "fine"}
    assert 0.1 * FINE - 4 * (FINE * 0.09) ** 0.5 < len(kept) < 0.1 * FINE + 4 * (FINE * 0.09) ** 0.5


def parts(trace_id: str, how: str, modes: dict[str, str]) -> set[str]:
    """Which services' parts of a trace are kept."""
    if probability.keep(probability.randomness(int(trace_id, 16)), THRESHOLD):
        return {FRONT, BEHIND}
    if how == "fine":
        return set()
    failed = FRONT if how == "front-fails" else BEHIND
    # a process that decides alone knows its own failures only; what it left to the Collector joins a failed trace
    return {failed} | {name for name, decided_by in modes.items() if decided_by == "collector"}


def assert_events_once(receiver: OtlpReceiver, requests: int) -> None:
    ids = [record.attributes["caseyos.event.id"] for record in receiver.records]
    assert len(set(ids)) == len(ids) == 2 * requests + FAILING
    names = [record.event_name for record in receiver.records]
    assert names.count("caseyos.outcome.reply_received") == names.count("caseyos.outcome.meeting_booked") == requests
    assert names.count("caseyos.circuit_breaker.opened") == FAILING


def assert_whole(spans: list[Span]) -> None:
    """Of each service, a trace has all the spans that any other one has; none is there twice."""
    assert len({span.span_id for span in spans}) == len(spans)
    shapes: dict[str, set[tuple[str, ...]]] = {FRONT: set(), BEHIND: set()}
    found: dict[tuple[str, str], list[str]] = {}
    for span in spans:
        found.setdefault((span.trace_id, span.resource["service.name"]), []).append(span.name)
    for (_, service), names in found.items():
        shapes[service].add(tuple(sorted(names)))
    assert {service: len(kinds) for service, kinds in shapes.items()} == {FRONT: 1, BEHIND: 1}
