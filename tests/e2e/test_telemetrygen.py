"""The gateway under the Collector's own load generator: whatever that reports as sent is accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from caseyos_otel.pipeline import set_aside
from tests.collector import Collector
from tests.e2e.gateway import serving
from tests.e2e.receiver import OtlpReceiver
from tests.e2e.service import rows, wait_for
from tests.telemetrygen import Generating, sent

TOKEN, ADMIN = "ingest-0123456789abcdef", "admin-0123456789abcdef"
TOKENS = {"CASEYOS_OTEL_INGEST_TOKEN": TOKEN, "CASEYOS_OTEL_ADMIN_TOKEN": ADMIN}
EACH = 2000
SYNCHRONOUS = "--batch=false"
"""Of spans that it batches, telemetrygen drops those for which its own queue is full."""
BECOMING_EVENTS = """
receivers:
  otlp:
    protocols:
      grpc: {endpoint: "${env:COLLECTOR_GRPC}"}
      http: {endpoint: "${env:COLLECTOR_HTTP}"}
processors:
  transform:
    log_statements:
      - set(log.attributes["caseyos.recommendation.id"], UUID())
      - set(log.event_name, log.attributes["name"])
exporters:
  otlp_grpc:
    endpoint: ${env:SERVE}
    tls: {insecure: true}
    headers: {Authorization: "Bearer ${env:TOKEN}"}
    retry_on_failure: {initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0}
    sending_queue: {num_consumers: 4, queue_size: 10000, block_on_overflow: true}
extensions:
  health_check: {endpoint: "${env:COLLECTOR_HEALTH}"}
service:
  extensions: [health_check]
  telemetry:
    metrics:
      readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: "${env:COLLECTOR_METRICS_PORT}"}}}}]
  pipelines:
    logs: {receivers: [otlp], processors: [transform], exporters: [otlp_grpc]}
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_no_event_goes_on(tmp_path: Path, workers: str) -> None:
    state = tmp_path / "state"
    with (
        OtlpReceiver() as receiver,
        serving(state, "--workers", workers, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **TOKENS) as gateway,
    ):
        addresses = {True: f"127.0.0.1:{gateway.port}", False: f"127.0.0.1:{gateway.grpc_port}"}
        logs = [Generating("logs", EACH, at, TOKEN, http=http) for http, at in addresses.items()]
        traces = [Generating("traces", 100, at, TOKEN, SYNCHRONOUS, http=http) for http, at in addresses.items()]
        records = sum(sent(each.wait()) for each in logs)
        for each in traces:
            each.wait()
        spans = len(traces) * 100 * 2 * Generating.WORKERS
        assert records == len(logs) * EACH * Generating.WORKERS

        def arrived() -> bool:
            return len(receiver.records) >= records and len(receiver.spans) >= spans

        wait_for(arrived, "did not go on:", lambda: (len(receiver.records), len(receiver.spans)))
        assert len(receiver.records) == records
        assert len({(span.trace_id, span.span_id) for span in receiver.spans}) == len(receiver.spans) == spans


@pytest.mark.parametrize("http", [True, False])
def test_what_goes_nowhere_is_counted_and_without_the_token_nothing_is_taken(tmp_path: Path, http: bool) -> None:
    with serving(tmp_path / "state", CASEYOS_OTEL_INGEST_TOKEN=TOKEN) as gateway:
        at = f"127.0.0.1:{gateway.port if http else gateway.grpc_port}"
        assert sent(Generating("logs", EACH, at, "of somebody else", http=http).fails()) == 0
        records = sent(Generating("logs", EACH, at, TOKEN, http=http).wait())
        metrics = gateway.metrics()
    dropped = 'caseyos_otel_dropped_total{reason="not_forwarded",destination="",event_name="logs"}'
    taken = 'caseyos_otel_gateway_records_total{signal="logs",kind="other"}'
    assert metrics[dropped] == metrics[taken] == records == EACH * Generating.WORKERS


def test_events_through_kills_are_stored_or_set_aside_once_each(tmp_path: Path) -> None:
    """telemetrygen writes no event names: a Collector gives its records one, declared for some and not for others."""
    (tmp_path / "collector.yaml").write_text(BECOMING_EVENTS)
    with serving(tmp_path / "state", CASEYOS_OTEL_INGEST_TOKEN=TOKEN) as gateway:
        to_serve = {"SERVE": f"127.0.0.1:{gateway.grpc_port}", "TOKEN": TOKEN}

        def stored() -> int:
            found = rows(gateway.state, "SELECT count(*), count(DISTINCT recommendation_id) FROM outcome_events")
            assert not found or found[0][0] == found[0][1]
            return int(found[0][0]) if found else 0

        with Collector(str(tmp_path / "collector.yaml"), tmp_path / "collector", **to_serve) as collector:
            declared, unknown = (
                Generating("logs", EACH, collector.grpc, "", "--telemetry-attributes", f'name="{name}"', http=False)
                for name in ("caseyos.outcome.reply_received", "acme.unknown")
            )
            for few in (1, EACH):
                wait_for(lambda few=few: stored() >= few, "nothing is stored:", gateway.log.read_text)
                gateway.kill()
                gateway.start()
            records = sent(declared.wait())
            assert sent(unknown.wait()) == records == EACH * Generating.WORKERS

            def arrived() -> bool:
                return stored() >= records and not collector.metric("otelcol_exporter_queue_size")

            wait_for(arrived, "not stored:", stored, timeout_s=40)
        assert gateway.stop() == 0
        assert stored() == records
        spool = gateway.state / "spool" / "gateway"
        aside = [entry for path in set_aside.files(spool) for entry in set_aside.entries(path)]
        assert {entry["event"] for entry in aside} == {"acme.unknown"}
        assert len({entry["otlp"] for entry in aside}) == records
