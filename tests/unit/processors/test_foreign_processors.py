"""What processors and exporters of others get of our events: disclosed attributes, or nothing where ours deliver."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    ConsoleLogRecordExporter,
    InMemoryLogRecordExporter,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource

from caseyos_otel.events.record import EventRecord
from caseyos_otel.processors.chain import EventChain
from caseyos_otel.processors.foreign import ForeignOnly, foreign_only
from caseyos_otel.processors.redact import Redact
from caseyos_otel.processors.writable import WritableEvent
from caseyos_otel.redaction.disclosure import Disclosure
from caseyos_otel.redaction.pseudonyms import Pseudonyms
from tests.records import NOON, event

PSEUDONYMS = Pseudonyms(b"a key")
JOHN = PSEUDONYMS.of("john@acmecorp.com")


def redact(*plain: str) -> Redact:
    return Redact(Disclosure(PSEUDONYMS, frozenset(plain)))


def reply(**more: Any) -> EventRecord:
    return event("outcome_reply_received", recipient="john@acmecorp.com", reply_sentiment="positive", **more)


# -- redact ----------------------------------------------------------------------------------------------------------


def test_values_stay_plain_and_attributes_are_disclosed() -> None:
    record = redact()(reply())
    assert record.values["recipient"] == "john@acmecorp.com"
    assert record.attributes["caseyos.outcome.recipient"] == JOHN
    assert record.attributes["caseyos.outcome.reply_sentiment"] == "positive"


def test_where_otlp_may_see_it_in_plain_attributes_are_plain() -> None:
    assert redact("otlp")(reply()).attributes["caseyos.outcome.recipient"] == "john@acmecorp.com"


def test_an_exception_is_free_text_and_its_secrets_go_for_everybody() -> None:
    texts = {"exception.type": "ApiError", "exception.message": "token=abc123secret for john@acmecorp.com"}
    record = redact()(event("action_failed", action_id="a1", _exception_attributes=texts))
    assert record.exception_attributes["exception.message"] == "token=[secret] for john@acmecorp.com"
    assert record.attributes["exception.message"] == f"token=[secret] for {JOHN}"
    assert record.attributes["exception.type"] == "ApiError"


def test_doing_it_twice_changes_nothing() -> None:
    step = redact()
    message = "Authorization: Bearer abcdefghijklmnop for john@acmecorp.com"
    once = step(event("action_failed", action_id="a1", error_message=message))
    before = (dict(once.values), dict(once.attributes))
    again = step(once)
    assert (again.values, again.attributes) == before
    assert "abcdefghijklmnop" not in str(before)


def test_before_it_was_redacted_a_record_discloses_nothing() -> None:
    record = reply()
    assert record.attributes == {}
    redact()(record)
    assert record.attributes["caseyos.outcome.reply_sentiment"] == "positive"


# -- what is handed to Logger.emit -----------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[LoggerProvider]:
    made = LoggerProvider(resource=Resource({"service.name": "api"}), shutdown_on_exit=False)
    made.add_log_record_processor(EventChain([redact()], [], lambda _: None, lambda _: None, lambda _: True))
    yield made
    made.shutdown()


def emit(provider: LoggerProvider, record: EventRecord) -> None:
    logger: Any = provider.get_logger("caseyos_otel", "1.2", "https://example.test/schema")
    logger.emit(WritableEvent(record, logger.resource, logger.instrumentation_scope))


@pytest.mark.parametrize("make", [BatchLogRecordProcessor, SimpleLogRecordProcessor])
def test_a_foreign_exporter_sees_resource_scope_and_disclosed_attributes_alone(
    make: Callable[..., LogRecordProcessor], provider: LoggerProvider
) -> None:
    exporter = InMemoryLogRecordExporter()
    provider.add_log_record_processor(make(exporter))
    emit(provider, reply(_trace_id=0xABC, _span_id=0xDEF))
    assert provider.force_flush()
    [exported] = exporter.get_finished_logs()
    record = exported.log_record
    assert record.event_name == "caseyos.outcome.reply_received"
    assert dict(record.attributes or {}) == {
        "caseyos.event.id": record.event_id,  # type: ignore[attr-defined]  # an EventRecord
        "caseyos.outcome.recipient": JOHN,
        "caseyos.outcome.reply_sentiment": "positive",
    }
    assert (record.timestamp, record.trace_id, record.span_id) == (NOON, 0xABC, 0xDEF)
    assert exported.resource.attributes == {"service.name": "api"}
    assert exported.instrumentation_scope is not None
    assert exported.instrumentation_scope.schema_url == "https://example.test/schema"


def test_a_foreign_exporter_can_write_it_as_json(provider: LoggerProvider, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    provider.add_log_record_processor(SimpleLogRecordProcessor(ConsoleLogRecordExporter(out=sys.stdout)))
    emit(provider, reply())
    written = capsys.readouterr().out
    assert JOHN in written
    assert "john@acmecorp.com" not in written


def test_a_copy_is_its_own_and_may_be_changed_by_a_processor(provider: LoggerProvider) -> None:
    record = reply()
    original = WritableEvent(record, provider.resource, None)  # type: ignore[arg-type]
    copied = copy.copy(original)
    assert (copied.log_record, copied.resource, copied.limits) == (record, provider.resource, original.limits)
    copied.log_record = event("signal_received")
    assert original.log_record is record
    assert original.dropped_attributes == 0


def test_attributes_that_a_processor_sets_are_what_the_next_one_sees() -> None:
    record = redact()(reply())
    record.attributes = {**record.attributes, "tenant": "acme"}
    assert record.attributes["tenant"] == "acme"
    assert record.attributes["caseyos.outcome.recipient"] == JOHN


# -- foreign only ----------------------------------------------------------------------------------------------------


class Otlp(InMemoryLogRecordExporter):
    """What stands for a stock OTLP exporter: known by the module that its class is from."""


Otlp.__module__ = OTLPLogExporter.__module__


@pytest.mark.parametrize("make", [BatchLogRecordProcessor, SimpleLogRecordProcessor])
def test_a_stock_otlp_exporter_gets_other_records_alone(
    make: Callable[..., LogRecordProcessor], provider: LoggerProvider
) -> None:
    exporter = Otlp()
    processor = foreign_only(make(exporter))
    assert isinstance(processor, ForeignOnly)
    provider.add_log_record_processor(processor)
    emit(provider, reply())
    provider.get_logger("another").emit(body="hello")
    provider.get_logger("another").emit(event_name="caseyos.signal.received")  # promoted before it came here
    assert provider.force_flush()
    assert [exported.log_record.body for exported in exporter.get_finished_logs()] == ["hello"]
    provider.shutdown()
    assert exporter._stopped


def test_any_other_exporter_or_processor_gets_everything() -> None:
    processor = SimpleLogRecordProcessor(InMemoryLogRecordExporter())
    assert foreign_only(processor) is processor
    for module in (
        "opentelemetry.exporter.otlp.proto.http._log_exporter",
        "opentelemetry.exporter.otlp.proto.grpc._log_exporter",
    ):
        imported = __import__(module, fromlist=["OTLPLogExporter"])
        assert isinstance(foreign_only(SimpleLogRecordProcessor(imported.OTLPLogExporter())), ForeignOnly)
