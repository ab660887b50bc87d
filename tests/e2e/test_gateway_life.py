"""What happens behind the acknowledgement: every destination, undeclared events, spans, redaction, TLS, mounting."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from caseyos_otel.otlp import wire
from tests.e2e.gateway import REPLY, SERVE, emit, reply, request_of, serving
from tests.e2e.receiver import OtlpReceiver, Sentry
from tests.e2e.service import environment, rows, wait_for
from tests.ports import free_port

SIGNED = {"event_name": "acme.contract.signed", "acme.contract.id": "c1", "acme.contract.signer": "john@acmecorp.com"}
DECLARED = """
events:
  contract_signed:
    otel: acme.contract.signed
    doc: A contract was signed.
    outcome: true
    fields:
      contract_id: {level: required, attribute: acme.contract.id}
      signer: {privacy: email}
"""


def outcomes(state: Path, columns: str = "event") -> list[tuple[Any, ...]]:
    return sorted(rows(state, f"SELECT {columns} FROM outcome_events"))


def events(state: Path, columns: str = "event") -> list[tuple[Any, ...]]:
    return sorted(rows(state, f"SELECT {columns} FROM events"))


class TestUndeclared:
    def test_it_is_set_aside_and_comes_back_once_declared(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        body = request_of(SIGNED, reply(1)).SerializeToString()
        with serving(state) as gateway:
            answers = [gateway.post("/v1/logs", body) for _ in range(2)]
            assert [answer.status for answer in answers] == [200, 200]
            wait_for(lambda: outcomes(state) == [("outcome_reply_received",)], "not stored:", gateway.log.read_text)
            assert gateway.stop() == 0
        aside = (state / "spool" / "gateway" / "set-aside.jsonl").read_text().splitlines()
        assert {json.loads(line)["event"] for line in aside} == {"acme.contract.signed"}

        (tmp_path / "events.yaml").write_text(DECLARED)
        declared = {"CASEYOS_OTEL_HOOKS": str(tmp_path / "events.yaml")}
        env = environment(state, OTEL_SERVICE_NAME="gateway", **declared)
        subprocess.run([SERVE, "spool", "replay"], env=env, check=True, timeout=30)
        with serving(state, **declared) as gateway:
            both = [("contract_signed",), ("outcome_reply_received",)]
            wait_for(lambda: outcomes(state) == both, "not replayed:", gateway.log.read_text)

    def test_declared_in_yaml_it_is_stored_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "events.yaml").write_text(DECLARED)
        with serving(tmp_path / "state", CASEYOS_OTEL_HOOKS=str(tmp_path / "events.yaml")) as gateway:
            assert gateway.post("/v1/logs", request_of(SIGNED).SerializeToString()).status == 200
            expected = [("contract_signed", "john@acmecorp.com", '{"contract_id":"c1"}')]
            columns = "event, contact_email, properties"
            wait_for(lambda: outcomes(gateway.state, columns) == expected, "not stored:", gateway.log.read_text)
            (line,) = wait_for(gateway.lines, "no line")
            assert json.loads(line)["signer"].startswith("h_")

    def test_where_there_is_no_room_it_is_rejected_and_the_others_are_not(self, tmp_path: Path) -> None:
        spool = tmp_path / "state" / "spool" / "gateway"
        spool.mkdir(parents=True)
        (spool / "set-aside.old.jsonl").write_bytes(b"{}\n" * (13 * 2**20 // 3))
        with serving(tmp_path / "state") as gateway:
            answer = gateway.post("/v1/logs", request_of(SIGNED, reply(1), SIGNED).SerializeToString())
            partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
            assert (answer.status, partial.rejected_log_records) == (200, 2)
            assert "declare it" in partial.error_message
            wait_for(
                lambda: outcomes(gateway.state) == [("outcome_reply_received",)], "not stored:", gateway.log.read_text
            )
            rejected = 'caseyos_otel_gateway_records_total{signal="logs",kind="rejected"}'
            assert gateway.metrics()[rejected] == 2


class TestRefused:
    def test_a_record_that_one_destination_refused_goes_back_to_that_one_and_is_logged_once(
        self, tmp_path: Path
    ) -> None:
        """The log told of it when it came; whoever has it out of a replay tells nothing anew."""
        state = tmp_path / "state"
        with serving(state) as gateway:
            assert gateway.post("/v1/logs", request_of(reply(1)).SerializeToString()).status == 200
            wait_for(lambda: outcomes(state), "not stored:", gateway.log.read_text)
            with sqlite3.connect(state / "caseyos.db") as connection:
                connection.execute(
                    "CREATE TRIGGER refuse BEFORE INSERT ON outcome_events BEGIN SELECT RAISE(ABORT, 'no'); END"
                )
            assert gateway.post("/v1/logs", request_of(reply(2)).SerializeToString()).status == 200
            aside = state / "spool" / "gateway" / "set-aside.jsonl"
            wait_for(aside.exists, "not refused:", gateway.log.read_text)
            assert len(wait_for(gateway.lines, "no line")) == 2
            assert gateway.stop() == 0
        with sqlite3.connect(state / "caseyos.db") as connection:
            connection.execute("DROP TRIGGER refuse")
        env = environment(state, OTEL_SERVICE_NAME="gateway")
        subprocess.run([SERVE, "spool", "replay"], env=env, check=True, timeout=30)
        with serving(state) as gateway:
            both = [("outcome_reply_received",)] * 2
            wait_for(lambda: outcomes(state) == both, "not replayed:", gateway.log.read_text)
            wait_for(lambda: not list(aside.parent.rglob("*.seg")), "still read by somebody:", gateway.log.read_text)
            assert len(gateway.lines()) == 2


class TestFlatNames:
    def test_a_stock_sdk_may_write_the_flat_names(self, tmp_path: Path) -> None:
        with serving(tmp_path / "state") as gateway:
            flat = {"event_name": REPLY, "recommendation_id": "flat", "draft_id": "d1", "recipient": "ann@acmecorp.com"}
            both = {**flat, "caseyos.recommendation.id": "dotted"}
            assert gateway.post("/v1/logs", request_of(flat, both).SerializeToString()).status == 200
            expected = [("dotted", "ann@acmecorp.com"), ("flat", "ann@acmecorp.com")]
            columns = "recommendation_id, contact_email"
            wait_for(lambda: outcomes(gateway.state, columns) == expected, "not stored:", gateway.log.read_text)


class TestSpans:
    def test_declared_span_events_become_events_and_spans_go_on(self, tmp_path: Path) -> None:
        with OtlpReceiver() as receiver:
            variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
            with serving(tmp_path / "state", **variables) as gateway:
                provider = TracerProvider(resource=Resource({"service.name": "billing"}), shutdown_on_exit=False)
                exporter = OTLPSpanExporter(endpoint=f"{gateway.http}/v1/traces")
                provider.add_span_processor(SimpleSpanProcessor(exporter))
                with provider.get_tracer("billing").start_as_current_span("request") as span:
                    span.add_event(REPLY, {"caseyos.recommendation.id": "in-span", "caseyos.draft.id": "d1"})
                    span.add_event("retry", {"attempt": 2})
                trace_id = f"{span.get_span_context().trace_id:032x}"
                wait_for(
                    lambda: outcomes(gateway.state, "recommendation_id, trace_id, service_name")
                    == [("in-span", trace_id, "billing")], "not stored:", gateway.log.read_text,
                )  # fmt: skip
                (passed,) = wait_for(lambda: receiver.spans, "the span did not go on:", gateway.log.read_text)
                assert (passed.name, passed.trace_id, passed.resource["service.name"]) == (
                    "request",
                    trace_id,
                    "billing",
                )
                wait_for(lambda: receiver.records, "the event did not go on")
                assert [record.event_name for record in receiver.records] == [REPLY]

    def test_without_a_receiver_they_are_counted(self, tmp_path: Path) -> None:
        with serving(tmp_path / "state") as gateway:
            span = wire.delimited(5, b"request")
            request = wire.delimited(1, wire.delimited(2, wire.delimited(2, span) + wire.delimited(2, span)))
            assert gateway.post("/v1/traces", request).status == 200
            dropped = 'caseyos_otel_dropped_total{reason="not_forwarded",destination="",event_name="traces"}'
            assert gateway.metrics()[dropped] == 2


class TestOtherRecords:
    def test_they_go_on_as_they_came_and_events_disclosed(self, tmp_path: Path) -> None:
        with (
            OtlpReceiver() as receiver,
            serving(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as gateway,
        ):
            plain = {"http.route": "/invoices", "note": "john@acmecorp.com"}
            recipient = {"caseyos.outcome.recipient": "ann@acmecorp.com"}
            body = request_of(plain, {**reply(1), **recipient}, {"event_name": "acme.unknown", "secret": "x"})
            assert gateway.post("/v1/logs", body.SerializeToString()).status == 200
            wait_for(lambda: len(receiver.records) == 2, "did not go on:", gateway.log.read_text)
        by_name = {record.event_name: record for record in receiver.records}
        assert by_name[""].attributes == plain
        assert by_name[""].resource["service.name"] == "billing"
        assert by_name[REPLY].attributes["caseyos.outcome.recipient"].startswith("h_")

    def test_a_receiver_that_comes_late_gets_them(self, tmp_path: Path) -> None:
        port = free_port()
        state = tmp_path / "state"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        with serving(state, **variables) as gateway:
            assert gateway.post("/v1/logs", request_of({"note": "late"}).SerializeToString()).status == 200
            assert gateway.stop() == 0
        with OtlpReceiver() as receiver, serving(state, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as gateway:
            wait_for(lambda: receiver.records, "did not go on:", gateway.log.read_text)
            assert [record.attributes for record in receiver.records] == [{"note": "late"}]


class TestDestinations:
    def test_failures_become_issues_and_secrets_are_masked_everywhere(self, tmp_path: Path) -> None:
        failed = {
            "event_name": "caseyos.action.failed",
            "caseyos.action.id": "a1",
            "caseyos.action.type": "send_email",
            "error.type": "Refused",
            "error.message": "refused with password=hunter2hunter2 for ann@acmecorp.com",
        }
        with Sentry() as sentry, serving(tmp_path / "state", SENTRY_DSN=sentry.dsn, SENTRY_RELEASE="1") as gateway:
            assert gateway.post("/v1/logs", request_of(failed).SerializeToString()).status == 200
            wait_for(lambda: sentry.events, "no issue:", gateway.log.read_text)
            wait_for(lambda: events(gateway.state) == [("action_failed",)], "not stored:", gateway.log.read_text)
            (line,) = wait_for(gateway.lines, "no line")
            (properties,) = events(gateway.state, "properties")[0]
        for place in (json.dumps(sentry.events), line, properties):
            assert "hunter2" not in place
            assert "refused with" in place
        assert "ann@acmecorp.com" not in line
        assert "ann@acmecorp.com" in properties

    def test_successes_become_sentry_logs_by_the_verdict_of_their_trace(self, tmp_path: Path) -> None:
        """Trace ids whose randomness is below and above the threshold of one half, and one low one with a failure."""
        low, high, failed = "0" * 18 + "1" * 14, "0" * 18 + "f" * 14, "a" * 18 + "1" * 14
        viewed = {
            "event_name": "caseyos.recommendation.viewed",
            "caseyos.recommendation.shown": "x",
            "user.id": "casey",
        }
        request = request_of(*[viewed] * 6, {"event_name": "caseyos.integration.call_failed", "error.type": "Refused"})
        records = request.resource_logs[0].scope_logs[0].log_records
        for record, trace_id in zip(records, (low, high) * 2 + (failed,) * 3, strict=True):
            record.trace_id = bytes.fromhex(trace_id)
            record.time_unix_nano += len(records)
        for n, record in enumerate(records):
            record.time_unix_nano += n  # each has an id of its own
        variables = {"SENTRY_RELEASE": "1", "CASEYOS_OTEL_SUCCESS_RATIO": "0.5"}
        with Sentry() as sentry, serving(tmp_path / "state", SENTRY_DSN=sentry.dsn, **variables) as gateway:
            assert gateway.post("/v1/logs", request.SerializeToString()).status == 200
            wait_for(lambda: len(gateway.lines()) == 7, "no lines:", gateway.log.read_text)
            assert gateway.stop() == 0
        assert Counter(log["trace_id"] for log in sentry.logs) == {high: 2, failed: 2}
        assert len(sentry.events) == 1

    def test_every_event_is_measured_with_its_dimensions(self, tmp_path: Path) -> None:
        viewed = {"event_name": "caseyos.recommendation.viewed", "caseyos.recommendation.id": "r1"}
        with serving(tmp_path / "state") as gateway:
            gateway.post("/v1/logs", request_of(*[viewed] * 7).SerializeToString())
            name = 'caseyos_events_total{event_name="caseyos.recommendation.viewed"}'
            wait_for(lambda: gateway.metrics().get(name) == 7, "not measured:", gateway.metrics)


MOUNTED = """
from fastapi import FastAPI

from caseyos_otel.gateway.app import create_app

service = FastAPI()


@service.get("/orders")
def orders() -> list[str]:
    return ["o1"]


service.mount("/telemetry", create_app())
"""


def test_the_documented_example_of_mounting_runs(tmp_path: Path) -> None:
    assert MOUNTED.strip() in (Path(__file__).parents[2] / "docs" / "gateway.md").read_text("utf-8")
    (tmp_path / "service.py").write_text(MOUNTED)
    state, port = tmp_path / "state", free_port()
    command = [sys.executable, "-m", "uvicorn", "service:service", "--port", str(port), "--log-level", "warning"]
    env = environment(state, OTEL_SERVICE_NAME="shop")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: _get(port, "/orders") == '["o1"]', "the service does not answer", (tmp_path / "log").read_text)
        emitted = _mounted_exporter(port)
        assert emit(emitted, [(REPLY, {"caseyos.recommendation.id": "mounted", "caseyos.draft.id": "d1"})])
        wait_for(
            lambda: outcomes(state, "recommendation_id") == [("mounted",)], "not stored", (tmp_path / "log").read_text
        )
        assert _get(port, "/telemetry/healthz") == "ok\n"
        process.terminate()
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _mounted_exporter(port: int) -> Any:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    return OTLPLogExporter(endpoint=f"http://127.0.0.1:{port}/telemetry/v1/logs")


def _get(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""
