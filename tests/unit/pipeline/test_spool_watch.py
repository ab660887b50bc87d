"""What an operator sees of the spool: gauges, start-up notes, one warning when it goes and one word when it comes back."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.pipeline import spooling as spoolings
from caseyos_otel.pipeline.gauges import observe_spool
from caseyos_otel.pipeline.spooling import Spooling
from caseyos_otel.spool.segment import HEADER_SIZE, encode_record, intact
from tests.e2e.service import wait_for
from tests.records import event
from tests.unit.pipeline.conftest import MakePipeline

GONE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(diagnostics.logger, "propagate", True)
    caplog.set_level(logging.INFO)


def observed(spooling: Spooling) -> dict[str, float]:
    """The gauges by short name; those of a destination by its name."""
    reader = InMemoryMetricReader()
    observe_spool(MeterProvider([reader]).get_meter("test"), spooling.health)
    found = {}
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            name = metric.name.removeprefix("caseyos.otel.spool.")
            found[f"{name} {(point.attributes or {}).get('destination', '')}".strip()] = point.value
    return found


def test_gauges_show_what_waits_and_what_may(make_pipeline: MakePipeline) -> None:
    spooling = make_pipeline(
        CASEYOS_OTEL_DATABASE_URL=GONE, CASEYOS_OTEL_SPOOL_MAX_BYTES="2000000"
    ).destinations.spooling
    assert observed(spooling) == {"bytes": 0, "bound": 2_000_000, "unsynced_age": 0.0, "oldest_age outcomes": 0.0}
    tracking.track("outcome_deal_advanced", deal_id="d1")
    seen = observed(spooling)
    assert seen["bytes"] > 100
    assert seen["oldest_age outcomes"] > 0.0
    spooling.sync()
    assert observed(spooling)["unsynced_age"] == 0.0


@pytest.mark.parametrize("mode", ["interval", "none"])
def test_a_record_tells_the_time_of_the_last_tick(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The clock is not looked at for each: an outcome that comes after a quiet hour in the room of one before is not old."""
    spooling = make_pipeline(CASEYOS_OTEL_DATABASE_URL=GONE, CASEYOS_OTEL_SPOOL_SYNC=mode).destinations.spooling
    hour = 3600 * 10**9
    with monkeypatch.context() as patched:
        patched.setattr("caseyos_otel.spool.writer.time_ns", lambda: time.time_ns() - hour)
        tracking.track("outcome_deal_advanced", deal_id="d1")
    spooling.sync()
    tracking.track("outcome_deal_advanced", deal_id="d2")
    [segment] = spooling.spool.directory.glob("*/outcomes-*.seg")
    old, new = (time.time() - r.appended_at / 1e9 for r in intact(segment.read_bytes(), HEADER_SIZE))
    assert 3600 <= old < 3630
    assert 0 <= new < 30


def test_a_disk_that_does_not_last_is_announced_with_the_remedy(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolings, "type_of", lambda directory: "overlay")
    [note] = make_pipeline().notes
    assert "overlay, which does not outlive its container" in note
    assert "volume" in note
    assert "session=" in note
    monkeypatch.setattr(spoolings, "type_of", lambda directory: "ext4")
    assert make_pipeline().notes == []


def test_what_lies_there_is_delivered_at_once_however_long_the_flush_interval(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolings, "type_of", lambda directory: "overlay")
    [delivery] = make_pipeline(CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000").destinations.deliveries
    tracking.track("outcome_deal_advanced", deal_id="d1")
    wait_for(lambda: delivery.health.delivered == 1, "not delivered:", lambda: delivery.health.error)


def test_a_directory_that_goes_is_said_once_and_when_it_is_back_as_well(
    make_pipeline: MakePipeline, state: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolings, "AGAIN_AFTER_S", 0.0)
    spooling = make_pipeline(CASEYOS_OTEL_DATABASE_URL=GONE).destinations.spooling
    (state / "spool").mkdir(parents=True)
    (state / "spool" / "unknown_service").write_text("a file in the way")
    before = drops.by_reason().get("spool_unavailable", 0)
    assert [spooling.keep(event("outcome_deal_advanced", deal_id=f"d{n}")) for n in range(3)] == [False] * 3
    assert drops.by_reason()["spool_unavailable"] == before + 3
    (state / "spool" / "unknown_service").unlink()
    assert spooling.keep(event("outcome_deal_advanced", deal_id="d3"))
    told = [record.message for record in caplog.records if "spool" in record.message]
    assert len(told) == 2, told
    assert "durable events stay in memory until then" in told[0]
    assert told[1] == "the spool takes durable events again"


def test_a_full_spool_is_an_error_and_the_outcome_stays_in_memory(
    make_pipeline: MakePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    spooling = make_pipeline(
        CASEYOS_OTEL_DATABASE_URL=GONE, CASEYOS_OTEL_SPOOL_MAX_BYTES=str(2**20)
    ).destinations.spooling
    before = drops.snapshot().get(("spool_full", "", "outcome_deal_advanced"), 0)
    taken = [spooling.keep(event("outcome_deal_advanced", deal_id="d" * 10_000)) for _ in range(120)]
    assert taken == sorted(taken, reverse=True), "refused from a point on"
    assert drops.snapshot()["spool_full", "", "outcome_deal_advanced"] == before + taken.count(False) > before
    [error] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "CASEYOS_OTEL_SPOOL_MAX_BYTES" in error.getMessage()


def test_a_sound_frame_that_is_no_request_is_set_aside_and_the_next_one_delivered(
    make_pipeline: MakePipeline, state: Path
) -> None:
    pipeline = make_pipeline()
    folder = state / "spool" / "unknown_service"
    pipeline.destinations.spooling.keep(event("outcome_deal_advanced", deal_id="d1"))
    [segment] = folder.glob("*/*.seg")
    writer = pipeline.destinations.spooling.spool.writer
    writer.append("outcomes", b"\xff\xff\xff no request")
    pipeline.destinations.spooling.keep(event("outcome_deal_advanced", deal_id="d2"))
    assert encode_record(b"\xff\xff\xff no request", 1)[-10:] in segment.read_bytes()
    assert pipeline.flush(10)
    assert "are not an OTLP ExportLogsServiceRequest" in (folder / "set-aside.jsonl").read_text()
    assert pipeline.destinations.deliveries[0].health.delivered == 2
