"""The gateway as a process of its own: stock exporters, both databases, kill -9, restart."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

from tests.e2e.gateway import REPLY, Gateway, emit, reply, request_of, serving
from tests.e2e.receiver import OtlpReceiver
from tests.e2e.service import rows, wait_for


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with serving(tmp_path / "state") as running:
        yield running


def stored(state: Path) -> list[str]:
    return sorted(str(row[0]) for row in rows(state, "SELECT recommendation_id FROM outcome_events"))


def test_stock_exporters_of_both_protocols_reach_table_and_log(gateway: Gateway) -> None:
    http = HttpExporter(endpoint=f"{gateway.http}/v1/logs", compression=Compression.Gzip)
    grpc = GrpcExporter(endpoint=gateway.grpc, insecure=True)
    for name, exporter in (("http", http), ("grpc", grpc)):
        assert emit(exporter, [(REPLY, {"caseyos.recommendation.id": name, "caseyos.draft.id": "d1"})])

    wait_for(lambda: stored(gateway.state) == ["grpc", "http"], "not stored:", gateway.log.read_text)
    lines = [json.loads(line) for line in wait_for(lambda: len(gateway.lines()) == 2 and gateway.lines(), "no lines")]
    assert sorted(line["recommendation_id"] for line in lines) == ["grpc", "http"]
    assert {line["service"] for line in lines} == {"billing"}


def test_the_documented_request_by_hand_is_stored(gateway: Gateway) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text("utf-8")
    found = re.search(r"-d '\n(\{.*?\})'\n```", page, re.DOTALL)
    assert found
    body = found[1].replace("'$(date +%s)'", str(int(time.time())))
    answer = gateway.post("/v1/logs", body.encode(), "application/json")
    assert (answer.status, answer.body) == (200, b"{}")
    query = "SELECT event, draft_id, service_name FROM outcome_events"
    expected = [("outcome_reply_received", "d1", "billing")]
    wait_for(lambda: rows(gateway.state, query) == expected, "not stored:", gateway.log.read_text)


def test_what_was_acknowledged_before_a_kill_is_stored_once(gateway: Gateway) -> None:
    expected = []
    for turn in range(5):
        for n in range(20):
            body = request_of(reply(f"{turn}-{n}")).SerializeToString()
            assert gateway.post("/v1/logs", body).status == 200
            expected.append(f"r{turn}-{n}")
        gateway.kill()
        gateway.start()
    wait_for(lambda: len(stored(gateway.state)) >= len(expected), "not stored:", gateway.log.read_text)
    assert stored(gateway.state) == sorted(expected)


def test_a_request_that_is_sent_again_is_stored_logged_and_counted_once(gateway: Gateway) -> None:
    body = request_of(reply(1), reply(2)).SerializeToString()
    for _ in range(3):
        assert gateway.post("/v1/logs", body).status == 200
    assert gateway.post("/v1/logs", request_of(reply(3)).SerializeToString()).status == 200
    wait_for(lambda: "r3" in stored(gateway.state), "not stored:", gateway.log.read_text)
    assert stored(gateway.state) == ["r1", "r2", "r3"]
    wait_for(lambda: any('"r3"' in line for line in gateway.lines()), "not logged:", gateway.log.read_text)
    assert sorted(json.loads(line)["recommendation_id"] for line in gateway.lines()) == ["r1", "r2", "r3"]
    metrics = gateway.metrics()
    assert sum(n for name, n in metrics.items() if name.startswith("caseyos_events_total")) == 3
    again = 'caseyos_otel_dropped_total{reason="duplicate",destination="intake",event_name="outcome_reply_received"}'
    assert metrics[again] == 4


def test_it_ends_by_itself_with_everything_delivered(gateway: Gateway) -> None:
    assert gateway.post("/v1/logs", request_of(*(reply(n) for n in range(500))).SerializeToString()).status == 200
    assert gateway.stop() == 0
    assert len(stored(gateway.state)) == 500
    assert list((gateway.state / "spool").rglob("*.seg")) == []


def test_it_ends_although_a_sender_does_not_and_a_destination_is_silent(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket() as slow:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # accepts, and never says anything
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as gateway:
            assert gateway.post("/v1/logs", request_of(reply(1)).SerializeToString()).status == 200
            slow.connect(("127.0.0.1", gateway.port))
            head = "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 999\r\n\r\nab"
            slow.sendall(head.encode())
            assert gateway.stop() == 0
            assert stored(gateway.state) == ["r1"]
    with (
        OtlpReceiver() as receiver,
        serving(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as gateway,
    ):
        wait_for(lambda: receiver.records, "what was left is not delivered:", gateway.log.read_text)
        assert [record.event_name for record in receiver.records] == [REPLY]


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "state", "--workers", "2") as gateway:
        assert gateway.process is not None
        gateway.process.kill()
        gateway.process.wait()
        wait_for(lambda: not gateway.listens(), "the workers still hold the port:", gateway.log.read_text)
        gateway.start()
        assert gateway.post("/v1/logs", request_of(reply(1)).SerializeToString()).status == 200


def test_workers_share_port_spool_and_metrics(tmp_path: Path) -> None:
    with serving(tmp_path / "state", "--workers", "2") as gateway:
        for n in range(200):
            assert gateway.post("/v1/logs", request_of(reply(n)).SerializeToString()).status == 200
        wait_for(lambda: len(stored(gateway.state)) == 200, "not stored:", gateway.log.read_text)
        accepted = 'caseyos_otel_gateway_requests_total{signal="logs",result="accepted"}'
        wait_for(lambda: gateway.metrics().get(accepted) == 200, "not counted:", lambda: gateway.metrics())
        assert gateway.stop() == 0
    assert stored(gateway.state) == sorted(f"r{n}" for n in range(200))
