"""What a destination is told when there is nothing to deliver."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters import delivery as module
from caseyos_otel.exporters.delivery import Delivery
from tests.records import event


def delivery_to(arrived: list[EventRecord], idle: threading.Event) -> Delivery:
    def export(records: Sequence[EventRecord]) -> None:
        arrived.extend(records)

    return Delivery(
        "test",
        export,
        reader=None,
        decode=lambda frame: [],
        wants=lambda record: True,
        set_aside=lambda record, reason: None,
        interval_s=0.01,
        on_idle=idle.set,
    )


def test_a_destination_with_nothing_to_do_is_told_and_told_again_after_the_next_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_AFTER_S", 0.05)
    arrived: list[EventRecord] = []
    idle = threading.Event()
    delivery = delivery_to(arrived, idle)
    delivery.start()
    for n in (1, 2):
        delivery.offer(event("signal_received"))
        assert delivery.flush(10.0)
        assert len(arrived) == n
        idle.clear()
        assert idle.wait(10.0)
    delivery.stop()


def test_a_destination_that_is_busy_is_not_told() -> None:
    arrived: list[EventRecord] = []
    idle = threading.Event()
    delivery = delivery_to(arrived, idle)
    delivery.start()
    for _ in range(20):
        delivery.offer(event("signal_received"))
        assert delivery.flush(10.0)
    assert not idle.is_set()
    delivery.stop()
