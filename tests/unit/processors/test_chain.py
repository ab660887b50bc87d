"""The chain, and what becomes of records that another OpenTelemetry logger emits by the SDK's own `emit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.trace import TracerProvider

from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import Delivery, EventRecord
from caseyos_otel.processors.chain import EventChain
from tests.records import NOON, event


class Behind(LogRecordProcessor):
    """A processor that a user installed behind ours."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.seen.append(log_record.log_record)

    def shutdown(self) -> None:
        """Nothing to end."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class Bus:
    """A real LoggerProvider with our chain first."""

    def __init__(self) -> None:
        self.events: list[EventRecord] = []
        self.promoted: list[EventRecord] = []
        self.kept: list[int] = []
        self.flushed: list[float] = []
        self.behind = Behind()
        self.chain = EventChain((), [("test", self.events.append)], self.promoted.append, self.kept.append, self._flush)
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(self.chain)
        self.provider.add_log_record_processor(self.behind)
        self.logger: Logger = self.provider.get_logger("another library")

    def _flush(self, timeout_s: float) -> bool:
        self.flushed.append(timeout_s)
        return True

    @property
    def one(self) -> EventRecord:
        assert len(self.events) == 1
        return self.events[0]


@pytest.fixture
def bus() -> Iterator[Bus]:
    made = Bus()
    yield made
    made.provider.shutdown()


def test_a_declared_name_becomes_an_event_and_what_it_does_not_declare_is_gone(bus: Bus) -> None:
    bus.logger.emit(
        timestamp=NOON,
        event_name="caseyos.outcome.deal_advanced",
        body="the whole message",
        attributes={
            "caseyos.deal.id": "d1",
            "caseyos.outcome.new_stage": "won",
            "caseyos.outcome.pipeline_value": 5000,
            "password": "hunter2",
            "caseyos.outcome.unheard_of": 1,
        },
    )
    assert bus.one.declaration.name == "outcome_deal_advanced"
    assert {name: value for name, value in bus.one.values.items() if value is not None} == {
        "deal_id": "d1",
        "new_stage": "won",
        "pipeline_value": 5000,
    }
    assert (bus.one.timestamp, bus.one.body, bus.one.outcome, bus.one.durable) == (NOON, None, True, True)
    assert "hunter2" not in str(vars(bus.one))
    assert bus.promoted == [bus.one]
    assert bus.behind.seen == [bus.one]  # processors behind see the shaped record
    assert UUID(bus.one.event_id).version == 7


def test_flat_names_are_understood_and_groups_too(bus: Bus) -> None:
    bus.logger.emit(
        event_name="action_executed",
        attributes={
            "action_id": "a1",
            "action_type": "send_email",
            "execution_mode": "automated",
            "success": False,
            "metadata.recipient": "john@acmecorp.com",
            "metadata.body": "a message",
        },
    )
    assert bus.one.values["metadata.recipient"] == "john@acmecorp.com"
    assert "a message" not in str(vars(bus.one))
    assert bus.one.failure


def test_without_a_time_of_its_own_an_event_happened_when_it_was_observed(bus: Bus) -> None:
    bus.logger.emit(event_name="signal_received", observed_timestamp=NOON)
    bus.logger.emit(event_name="signal_received")
    assert bus.events[0].timestamp == NOON
    assert bus.events[1].timestamp is not None
    assert bus.events[1].timestamp > NOON


def test_trace_context_and_span_come_along(bus: Bus) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("service").start_as_current_span("request") as span:
        bus.logger.emit(event_name="caseyos.action.failed", attributes={"action_id": "a1"})
    where = span.get_span_context()
    assert (bus.one.trace_id, bus.one.span_id) == (where.trace_id, where.span_id)
    assert bus.kept == [where.trace_id]  # a failure keeps its trace


def test_an_exception_that_the_sdk_expands_comes_along_and_keeps_nothing_alive(bus: Bus) -> None:
    bus.logger.emit(event_name="caseyos.action.failed", exception=ValueError("refused"))
    assert bus.one.exception_attributes["exception.type"] == "ValueError"
    assert bus.one.exception_attributes["exception.message"] == "refused"
    assert bus.one.exception is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("019BEADD-8000-7000-8000-000000000001", True),
        ("019beadd80007000800000000000000a", True),
        ("order-17", False),
        ("", False),
        (17, False),
    ],
)
def test_an_event_id_of_the_sender_is_kept_if_it_is_one(given: Any, kept: bool, bus: Bus) -> None:
    bus.logger.emit(event_name="signal_received", attributes={"caseyos.event.id": given})
    assert UUID(bus.one.event_id).version == 7
    assert (UUID(bus.one.event_id).hex == str(given).replace("-", "").lower()) is kept


@pytest.mark.parametrize(
    ("asked", "granted"),
    [("durable", Delivery.DURABLE), ("best_effort", Delivery.BEST_EFFORT), ("soon", Delivery.BEST_EFFORT)],
)
def test_a_delivery_that_was_asked_for_is_granted_where_it_exists(asked: str, granted: Delivery, bus: Bus) -> None:
    bus.logger.emit(event_name="signal_received", attributes={"caseyos.event.delivery": asked})
    assert bus.one.delivery is granted


def test_a_bad_field_costs_itself_is_named_and_counted(bus: Bus) -> None:
    def invalid() -> int:
        return drops.snapshot().get(("invalid_field", "", "outcome_deal_advanced"), 0)

    before = invalid()
    bus.logger.emit(event_name="outcome_deal_advanced", attributes={"pipeline_value": "much"})
    assert set(bus.one.invalid_fields) == {"deal_id", "pipeline_value"}
    assert bus.one.values["pipeline_value"] is None
    assert invalid() == before + 2


@pytest.mark.parametrize("name", [None, "", "app.user.signed_up"])
def test_other_records_pass_untouched(name: str | None, bus: Bus) -> None:
    bus.logger.emit(event_name=name, body="hello", attributes={"a": 1})
    assert bus.events == []
    [record] = bus.behind.seen
    assert not isinstance(record, EventRecord)
    assert (record.body, dict(record.attributes)) == ("hello", {"a": 1})


@pytest.mark.parametrize(
    ("severity", "keeps"),
    [(None, False), (SeverityNumber.WARN4, False), (SeverityNumber.ERROR, True), (SeverityNumber.FATAL, True)],
)
def test_another_record_keeps_its_trace_from_severity_error_on(
    severity: SeverityNumber | None, keeps: bool, bus: Bus
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("service").start_as_current_span("request") as span:
        bus.logger.emit(body="hello", severity_number=severity)
    assert bus.kept == ([span.get_span_context().trace_id] if keeps else [])
    bus.logger.emit(body="outside of any trace", severity_number=severity)
    assert len(bus.kept) == keeps


def test_an_event_of_ours_is_not_promoted_again(bus: Bus) -> None:
    from caseyos_otel.processors.writable import WritableEvent

    record = event("signal_received")
    bus.logger.emit(WritableEvent(record, bus.provider.resource, bus.logger.instrumentation_scope))  # type: ignore[arg-type,attr-defined]
    assert (bus.events, bus.promoted) == ([record], [])


# -- the chain -------------------------------------------------------------------------------------------------------

Step = Callable[[EventRecord], EventRecord | None]


def chain_of(steps: list[Step], sinks: list[tuple[str, Callable[[EventRecord], None]]]) -> EventChain:
    return EventChain(steps, sinks, lambda _: None, lambda _: None, lambda _: True)


def test_steps_come_in_their_order_then_the_sinks() -> None:
    done: list[str] = []

    def step(name: str) -> Step:
        def run(record: EventRecord) -> EventRecord:
            done.append(name)
            return record

        return run

    chain = chain_of(
        [step("first"), step("second")],
        [("third", lambda _: done.append("third")), ("fourth", lambda _: done.append("fourth"))],
    )
    chain.process(event("signal_received"))
    assert done == ["first", "second", "third", "fourth"]


def test_a_step_may_end_an_event_s_way_or_put_another_in_its_place() -> None:
    seen: list[EventRecord] = []
    other = event("signal_processed")
    chain_of([lambda _: None], [("test", seen.append)]).process(event("signal_received"))
    chain_of([lambda _: other, lambda record: record], [("test", seen.append)]).process(event("signal_received"))
    assert seen == [other]


@pytest.mark.swallows
def test_a_sink_that_fails_does_not_stop_the_others() -> None:
    seen: list[EventRecord] = []

    def fail(_: EventRecord) -> None:
        raise ZeroDivisionError

    before = drops.by_reason().get("internal_error", 0)
    record = event("signal_received")
    chain_of([], [("first", seen.append), ("broken", fail), ("last", seen.append)]).process(record)
    assert seen == [record, record]
    assert drops.by_reason()["internal_error"] == before + 1


@pytest.mark.swallows
def test_a_step_that_fails_reaches_neither_the_caller_nor_processors_behind() -> None:
    bus = Bus()

    def fail(_: EventRecord) -> EventRecord:
        raise ZeroDivisionError

    bus.chain._steps = (fail,)
    before = drops.by_reason().get("internal_error", 0)
    bus.logger.emit(event_name="signal_received")
    assert bus.events == []
    assert len(bus.behind.seen) == 1
    assert drops.by_reason()["internal_error"] == before + 1


def test_the_provider_s_flush_and_shutdown_flush_ours_within_the_time_given(bus: Bus) -> None:
    assert bus.provider.force_flush(2000)
    assert bus.flushed and bus.flushed[0] <= 2.0
    bus.provider.shutdown()
    assert len(bus.flushed) == 2
