"""A request that is larger than what a later tier takes is cut on its way, not refused."""

from __future__ import annotations

from pathlib import Path

from tests.collector import Collector
from tests.e2e.gateway import REPLY, request_of, serving
from tests.e2e.service import rows, wait_for
from tests.e2e.tiers import TOKEN
from tests.integration.test_collector import send

EVENTS, LETTERS = 1500, 8000


def test_a_request_beyond_the_limits_of_serve_is_stored_whole(tmp_path: Path) -> None:
    long = {"caseyos.outcome.client": "x" * LETTERS}
    request = request_of(*({"event_name": REPLY, "caseyos.draft.id": str(n), **long} for n in range(EVENTS)))
    assert 10 << 20 < request.ByteSize() < 20 << 20
    with (
        serving(tmp_path / "serve", CASEYOS_OTEL_INGEST_TOKEN=TOKEN) as serve,
        Collector(
            "gateway.yaml", tmp_path / "gateway", COLLECTOR_SERVE=serve.http, CASEYOS_OTEL_INGEST_TOKEN=TOKEN
        ) as gateway,
        Collector("loadbalancer.yaml", tmp_path / "balancer", COLLECTOR_GATEWAYS=f"[{gateway.grpc}]") as balancer,
        Collector("agent.yaml", tmp_path / "agent", COLLECTOR_NEXT=f"http://{balancer.grpc}") as agent,
    ):
        for entry in (agent, balancer, gateway):
            send(entry, request)

        def stored() -> int:
            return int(dict(rows(serve.state, "SELECT 1, count(DISTINCT draft_id) FROM outcome_events")).get(1, 0))

        def arrived() -> bool:
            taken = gateway.metric("otelcol_receiver_accepted_log_records") == 3 * EVENTS
            return taken and stored() == EVENTS and settled(agent, balancer, gateway)

        wait_for(arrived, "not stored:", stored, timeout_s=60)
        failed = "otelcol_exporter_send_failed_log_records"
        assert [tier.metric(failed) for tier in (agent, balancer, gateway)] == [0, 0, 0]


def settled(*tiers: Collector) -> bool:
    """Nothing waits in any of them."""
    return not any(tier.metric("otelcol_exporter_queue_size") for tier in tiers)
