"""Tail sampling as an OTLP receiver sees it: whole traces, every failure, the others by R ≥ T; our own requests none."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from opentelemetry.trace import TraceFlags

from caseyos_otel.sampling import probability
from tests.e2e.receiver import OtlpReceiver, Sentry, Span
from tests.e2e.service import INSTRUMENT, SAYS_WHEN_WORKERS_HEAR, STOCK_DISTRO, Server, environment, run, wait_for
from tests.ports import free_port

SERVICE = """
import asyncio, logging, os
import httpx
from fastapi import FastAPI
from opentelemetry import _logs, trace
from sqlalchemy import create_engine, text
from caseyos_otel import track

app = FastAPI()
engine = create_engine("sqlite://")
tracer = trace.get_tracer("service")
elsewhere = os.environ["ELSEWHERE"]
client = httpx.AsyncClient(trust_env=False)


@app.get("/{how}")
async def handle(how: str):
    track("signal_received", signal_id="s1", source="gmail", signal_type="reply")
    with tracer.start_as_current_span("work") as span:
        with engine.connect() as connection:
            connection.execute(text("select 1"))
        await client.get(elsewhere)
        if how == "event":
            track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
        elif how == "record":
            _logs.get_logger("another").emit(_logs.LogRecord(severity_number=_logs.SeverityNumber.ERROR, body="broken"))
        elif how == "span":
            span.set_status(trace.Status(trace.StatusCode.ERROR))
    await asyncio.sleep(0.005)
    with tracer.start_as_current_span("afterwards"):
        pass
    return format(span.get_span_context().trace_id, "032x")
"""
FAILURES = ("event", "record", "span")
THRESHOLD = probability.threshold(0.1)
UNSAMPLED, SAMPLED = "00", "01"
CONFIG_FILE = """
file_format: '1.0'
propagator: {composite: [{tracecontext: {}}]}
tracer_provider:
  processors:
    - batch: {exporter: {otlp_http: {endpoint: "${OTEL_EXPORTER_OTLP_ENDPOINT}/v1/traces"}}}
"""
DISTROS = {
    "ours": {},
    "stock": {"PYTHONPATH": str(STOCK_DISTRO), "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    "file": {"OTEL_CONFIG_FILE": "otel.yaml"},
}


class Asked(NamedTuple):
    """One request, by its trace: how it fails (`fine`: not at all), the flag that came in (empty: no traceparent)."""

    trace_id: str
    how: str
    flag: str


@pytest.mark.parametrize("distro", DISTROS)
def test_traces_are_whole_and_failures_are_kept_whoever_called(distro: str, tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        asked = traffic(tmp_path, receiver, DISTROS[distro])
    assert len({request.trace_id for request in asked}) == len(asked)
    assert set(receiver.traces) == {request.trace_id for request in asked if is_kept(request)}
    by_id = {request.trace_id: request for request in asked}
    fine = {tuple(names(spans)) for trace_id, spans in receiver.traces.items() if by_id[trace_id].how == "fine"}
    assert len(fine) == 1  # each has all the spans that any other one has
    assert {"work", "afterwards", "GET", "connect"} <= set(*fine)
    for trace_id, spans in receiver.traces.items():
        assert tuple(names(spans)) in fine
        assert_linked(spans, has_remote_parent=by_id[trace_id].flag != "")
        assert_explained(spans, by_id[trace_id])
    # the outgoing flag stays what the caller decided, whatever we keep
    sent = [headers["traceparent"].split("-") for headers in receiver.requests]
    flags = {trace_id: int(flags, 16) & TraceFlags.SAMPLED for _, trace_id, _, flags in sent}
    assert flags == {request.trace_id: int(request.flag or SAMPLED, 16) for request in asked}


def traffic(here: Path, receiver: OtlpReceiver, settings: dict[str, str]) -> list[Asked]:
    """Requests of every kind, mixed, over kept-alive connections."""
    (here / "service.py").write_text(SERVICE)
    (here / "otel.yaml").write_text(CONFIG_FILE)
    port = free_port()
    env = environment(
        here / "state", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, ELSEWHERE=receiver.endpoint, **settings
    )
    command = ["uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    wished = [("fine", "")] * 60 + [("fine", SAMPLED)] * 60 + [("fine", UNSAMPLED)] * 15
    wished += [(how, flag) for how in FAILURES for flag in ("", SAMPLED, UNSAMPLED) for _ in range(2)]
    random.Random(1).shuffle(wished)
    with (
        Server(command, env, here, port, here / "log") as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        asked = list(pool.map(lambda request: ask(client, *request), wished))
        server.stop()
    return asked


def ask(client: httpx.Client, how: str, flag: str) -> Asked:
    # -00 with the highest randomness: it is not kept for its id
    trace_id = (
        "f" * 18 + f"{random.getrandbits(56):014x}" if flag == SAMPLED else f"{random.getrandbits(60):018x}" + "f" * 14
    )
    headers = {"traceparent": f"00-{trace_id}-00000000000000a1-{flag}"} if flag else {}
    answer = client.get(f"/{how}", headers=headers)
    assert answer.status_code == 200
    return Asked(answer.json(), how, flag)


def is_kept(request: Asked) -> bool:
    by_probability = probability.keep(probability.randomness(int(request.trace_id, 16)), THRESHOLD)
    return request.how in FAILURES or (by_probability and request.flag != UNSAMPLED)


def names(spans: Iterable[Span]) -> list[str]:
    return sorted(span.name for span in spans)


def assert_linked(spans: list[Span], has_remote_parent: bool) -> None:
    """Every span but the first has its parent in the trace, and none is there twice."""
    ids = [span.span_id for span in spans]
    assert len(set(ids)) == len(ids)
    strangers = [span.parent for span in spans if span.parent not in ids]
    assert strangers == ["00000000000000a1" if has_remote_parent else ""]


def assert_explained(spans: list[Span], request: Asked) -> None:
    """Each span says why it was kept, and with which probability where that is known."""
    failed = request.how in FAILURES
    assert {span.attributes["caseyos.sampling.reason"] for span in spans} == {"error" if failed else "probability"}
    assert {span.attributes.get("sampling.priority") for span in spans} == {1 if failed else None}
    tenth = "" if request.flag else f"ot=th:{probability.encode_threshold(THRESHOLD)}"  # a caller did not say its own
    assert {span.trace_state for span in spans} == {"ot=th:0" if failed else tenth}


OWN_REQUESTS = """
from opentelemetry import trace
from caseyos_otel import flush, track

with trace.get_tracer("service").start_as_current_span("the service's own"):
    for number in range(20):
        track("outcome_deal_advanced", deal_id=str(number))
        track("signal_received", signal_id=str(number), source="gmail", signal_type="reply")
    track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
    assert flush(10)
track("outcome_deal_advanced", deal_id="outside of any span")
assert flush(10)
"""


def test_our_own_requests_and_queries_make_no_spans(tmp_path: Path) -> None:
    instrumented = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
    needed = {"httpx", "requests", "urllib3", "sqlalchemy"}
    assert needed <= instrumented, (
        "pip install opentelemetry-instrumentation-… (what our exporters send and query with)"
    )
    program = tmp_path / "program.py"
    program.write_text(OWN_REQUESTS)
    with OtlpReceiver() as receiver, Sentry() as sentry:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": sentry.dsn}
        done = run(program, environment(tmp_path / "state", CASEYOS_OTEL_SUCCESS_RATIO="1", **settings))
        assert done.returncode == 0, done.stderr
    assert len(receiver.records) == 42
    assert len(sentry.events) == 1
    assert names(receiver.spans) == ["the service's own"]
    assert names(sentry.spans) == ["the service's own"]


FORKS = """
import os
from opentelemetry import trace
from caseyos_otel import flush

tracer = trace.get_tracer("service")
tracer.start_span("the parent's, ended before").end()
waiting = tracer.start_span("the parent's, ended after")
child = os.fork()
if child == 0:
    with tracer.start_as_current_span("the child's") as span:
        span.set_status(trace.StatusCode.ERROR)
    with tracer.start_as_current_span("the child's, fine"):
        pass
    assert flush(10)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
waiting.end()
assert flush(10)
"""


@pytest.mark.parametrize("method", ["ours", "file"])
def test_a_forked_child_has_traces_of_its_own_and_the_parent_keeps_its_own(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKS)
    (tmp_path / "otel.yaml").write_text(CONFIG_FILE)
    with OtlpReceiver() as receiver:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "CASEYOS_OTEL_SUCCESS_RATIO": "1"}
        settings |= {"OTEL_CONFIG_FILE": str(tmp_path / "otel.yaml")} if method == "file" else {}
        done = run(program, environment(tmp_path / "state", **settings))
        assert done.returncode == 0, done.stderr
    expected = ["the child's", "the child's, fine", "the parent's, ended after", "the parent's, ended before"]
    assert names(receiver.spans) == expected
    reasons = {span.name: span.attributes["caseyos.sampling.reason"] for span in receiver.spans}
    assert reasons == dict.fromkeys(expected, "probability") | {"the child's": "error"}


PRELOADED = """
from opentelemetry import trace
from caseyos_otel import track

tracer = trace.get_tracer("service")
waiting = tracer.start_span("loading")
tracer.start_span("loaded", trace.set_span_in_context(waiting)).end()


def app(environ, start_response):
    with tracer.start_as_current_span("request") as root:
        with tracer.start_as_current_span("work"):
            if environ["PATH_INFO"] == "/event":
                track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [format(root.get_span_context().trace_id, "032x").encode()]
"""


def test_workers_of_a_preloading_gunicorn_keep_their_own_failures_and_only_the_parent_what_was_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "service.py").write_text(PRELOADED)
    (tmp_path / "gunicorn.conf.py").write_text(SAYS_WHEN_WORKERS_HEAR)
    port = free_port()
    command = ["gunicorn", "service:app", "--preload", "-w", "2", "--threads", "2", "-b", f"127.0.0.1:{port}"]
    with OtlpReceiver() as receiver:
        env = environment(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        with Server(command, env, tmp_path, port, tmp_path / "log") as server, ThreadPoolExecutor(4) as pool:
            wait_for(lambda: server.output().count("hears signals") == 2, "not there:", server.output)
            answers = list(pool.map(server.get, ["/fine", "/event"] * 40))
            assert server.stop() == 0, server.output()
    asked = [Asked(trace_id, how, "") for trace_id, how in zip(answers, ["fine", "event"] * 40, strict=True)]
    loaded = [span for span in receiver.spans if span.name == "loaded"]
    served = {trace_id: spans for trace_id, spans in receiver.traces.items() if trace_id in answers}
    assert set(served) == {request.trace_id for request in asked if is_kept(request)}
    assert {tuple(names(spans)) for spans in served.values()} == {("request", "work")}
    assert len(loaded) <= 1  # once or, by its randomness, not at all
    assert len(receiver.spans) == 2 * len(served) + len(loaded)


TASKS = """
import os
from celery import Celery
from opentelemetry import trace
from caseyos_otel import track

here = os.environ["BROKER_DIR"]
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": here + "/in", "data_folder_out": here + "/in", "control_folder": here + "/control",
}
tracer = trace.get_tracer("service")

@app.task
def work(number):
    with tracer.start_as_current_span(f"task {number}"):
        with tracer.start_as_current_span("inner"):
            pass
        if number % 2:
            track("circuit_breaker_opened", service="hubspot", failure_count=5, threshold=5)
    (open(f"{here}/done-{number}", "w")).close()

if __name__ == "__main__":
    for number in range(6):
        work.delay(number)
"""


def test_failures_of_celery_s_prefork_processes_are_kept_whole(tmp_path: Path) -> None:
    """Each process does one task and is replaced."""
    for folder in ("in", "control"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS)
    command = ["celery", "-A", "tasks", "worker", "-c", "2", "--max-tasks-per-child", "1", "--without-mingle"]
    with OtlpReceiver() as receiver, (tmp_path / "log").open("w") as log:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "CASEYOS_OTEL_SUCCESS_RATIO": "0"}
        env = environment(tmp_path / "state", BROKER_DIR=str(tmp_path), **settings)
        subprocess.run([sys.executable, "tasks.py"], cwd=tmp_path, env=env, check=True, timeout=60)
        worker = subprocess.Popen([INSTRUMENT, *command], cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            wait_for(lambda: len([*tmp_path.glob("done-*")]) == 6, "not all tasks are done", timeout_s=60)
            worker.terminate()
            worker.wait(timeout=30)
        finally:
            worker.kill()
    assert sorted(tuple(names(spans)) for spans in receiver.traces.values()) == [
        ("inner", "task 1"),
        ("inner", "task 3"),
        ("inner", "task 5"),
    ]
