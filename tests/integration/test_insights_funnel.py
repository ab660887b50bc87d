"""The funnel gives the same answer on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.insights.funnel import Funnel, funnel
from caseyos_otel.storage import engine as engines
from caseyos_otel.storage import schema
from caseyos_otel.storage.writer import Writer

OCCURRED = datetime(2026, 1, 23, 14, 30, tzinfo=UTC)


def test_funnel(database_url: str, record_of: Callable[..., EventRecord]) -> None:
    engine = engines.create(engines.parse_url(database_url))
    schema.upgrade(engine)
    writer = Writer(engine, event_store="all", disclose=lambda record: record.values, pseudonym=lambda text: text)

    def store(name: str, **fields: object) -> None:
        writer.write([record_of(registry.require(name), **fields)])

    for number in range(4):
        store("recommendation_generated", recommendation_id=f"r{number}")
    store("recommendation_generated", recommendation_id=None)
    for number in range(3):
        store("recommendation_accepted", recommendation_id=f"r{number}")
        store("action_executed", action_id=f"a{number}")
    store("action_executed", action_id="a3", execution_mode="dry_run")
    store("action_executed", action_id="a4", success=False)
    for _ in range(2):
        store("outcome_reply_received", recommendation_id="r0")
    store("outcome_meeting_booked", recommendation_id="r0")
    store("outcome_deal_advanced", recommendation_id=None, deal_id=None)

    everything = Funnel(recommendations=5, accepted=3, executed=3, replied=1, booked=1, advanced=1)
    assert funnel(engine) == everything
    assert funnel(engine, since=OCCURRED, until=OCCURRED + timedelta(seconds=1)) == everything
    assert funnel(engine, until=OCCURRED) == funnel(engine, since=OCCURRED + timedelta(seconds=1)) == Funnel()
    engine.dispose()
