"""Two services, an agent, a load balancer and two gateways: what the Collector's end-to-end tests start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.collector import Collector, otelcol
from tests.e2e.service import Server, environment
from tests.ports import free_port

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
            track("outcome_meeting_booked", recommendation_id=number)
            if how == "behind-fails":
                track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
        else:
            track("outcome_reply_received", recommendation_id=number, recipient="john@acme.example")
            await client.get(f"{behind}/{how}/{number}")
            if how == "front-fails":
                span.set_status(trace.Status(trace.StatusCode.ERROR))
    return format(span.get_span_context().trace_id, "032x")
"""
FRONT, BEHIND = "front", "behind"
TOKEN = "ingest-0123456789abcdef"


class Tiers(NamedTuple):
    """The Collectors between the services and where events end."""

    agent: Collector
    kafka: Collector | None
    load_balancer: Collector
    gateways: tuple[Collector, Collector]


@contextmanager
def tiers(here: Path, serve: str, brokers: str | None = None, **settings: str) -> Iterator[Tiers]:
    """Agent, Kafka if it has brokers, load balancer, two gateways; events leave for `serve`, `settings` are theirs."""
    settings = {"COLLECTOR_SERVE": serve, "CASEYOS_OTEL_INGEST_TOKEN": TOKEN, **settings}
    with ExitStack() as stack:

        def run(config: str, name: str, program: Callable[[], Path] = otelcol, **env: str) -> Collector:
            return stack.enter_context(Collector(config, here / name, program, **env))

        first = run("gateway.yaml", "gateway-1", **settings)
        second = run("gateway.yaml", "gateway-2", **settings)
        addresses = f"[{first.grpc}, {second.grpc}]"
        entry = load_balancer = run("loadbalancer.yaml", "load-balancer", COLLECTOR_GATEWAYS=addresses)
        kafka = None
        if brokers is not None:
            of_kafka = {"COLLECTOR_KAFKA_BROKERS": brokers, "COLLECTOR_KAFKA_CREATE_TOPICS": "true"}
            next_tier = f"http://{load_balancer.grpc}"
            program = partial(otelcol, "builder-kafka.yaml")
            entry = kafka = run("kafka.yaml", "kafka", program, COLLECTOR_NEXT=next_tier, **of_kafka)
        agent = run("agent.yaml", "agent", COLLECTOR_NEXT=f"http://{entry.grpc}")
        yield Tiers(agent, kafka, load_balancer, (first, second))


@contextmanager
def services(here: Path, agent: Collector, modes: Mapping[str, str]) -> Iterator[httpx.Client]:
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
