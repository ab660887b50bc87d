"""What is measured: each subject set up as its own documentation says, ending in nothing (a null exporter, /dev/null)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

EVENT: Final = "recommendation_accepted"
FIELDS: Final[Mapping[str, Any]] = {
    "recommendation_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10",
    "queue_item_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a11",
    "aps_score": 87.5,
    "action_type": "send_email",
    "user_id": "casey",
    "time_to_decision_seconds": 15.0,
}
"""A best-effort event with six fields."""

OUTCOME: Final = "outcome_deal_advanced"
OUTCOME_FIELDS: Final[Mapping[str, Any]] = {
    "deal_id": "hs_deal_123",
    "recommendation_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10",
    "old_stage": "SQL",
    "new_stage": "Opportunity",
    "pipeline_value": 50000.0,
}


@dataclass(frozen=True)
class Subject:
    """`emit()` is what is measured; `request()` surrounds a run of events as a request would; `flush()` ends the backlog."""

    emit: Callable[[], object]
    request: Callable[[], AbstractContextManager[Any]] = nullcontext
    flush: Callable[[], object] = lambda: None  # nothing is deferred


def best_effort(state: Path) -> Subject:
    """`track()` of a best-effort event: log to a file, outcomes in SQLite, trail and sampling on."""
    return _track(state, EVENT, FIELDS)


def outcome(state: Path) -> Subject:
    """`track()` of an outcome, which is in the spool before it returns."""
    return _track(state, OUTCOME, OUTCOME_FIELDS)


def _track(state: Path, event: str, fields: Mapping[str, Any]) -> Subject:
    os.environ["CASEYOS_OTEL_STATE_DIR"] = str(state)
    os.environ["CASEYOS_OTEL_LOG"] = str(state / "log.jsonl")
    from opentelemetry import trace

    import caseyos_otel

    caseyos_otel.configure()
    tracer = trace.get_tracer("benchmarks")
    return Subject(
        emit=lambda: caseyos_otel.track(event, **fields),
        request=lambda: tracer.start_as_current_span("request"),
        flush=caseyos_otel.flush,
    )


def specification(state: Path) -> Subject:
    """The decorator of the specification: breadcrumb and JSON log line, sentry-sdk without a network."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from benchmarks.specification import JsonFormatter, logger, track_event

    class NullTransport(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            """Nothing leaves."""

    sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", transport=NullTransport)
    handler = logging.StreamHandler(Path(os.devnull).open("w"))  # noqa: SIM115  # open until the process ends
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

    @track_event(EVENT, FIELDS)
    async def accept() -> None:
        """What is decorated."""

    def emit() -> None:
        try:
            accept().send(None)  # type: ignore[attr-defined]  # a coroutine that never waits needs no event loop
        except StopIteration:
            return

    return Subject(emit)


def stock(state: Path, exporter: Callable[[Any], object] = lambda records: None) -> Subject:
    """OpenTelemetry's own `Logger.emit` in its keyword form, and its batch processor."""
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
    from opentelemetry.sdk.trace import TracerProvider

    class Exporter(LogRecordExporter):
        def export(self, batch: Any) -> LogRecordExportResult:
            exporter(batch)
            return LogRecordExportResult.SUCCESS

        def shutdown(self) -> None:
            """Nothing to close."""

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(Exporter()))
    logger = provider.get_logger("benchmarks")
    tracer = TracerProvider().get_tracer("benchmarks")
    attributes = {f"caseyos.recommendation.{name}": value for name, value in FIELDS.items()}

    def emit() -> None:
        logger.emit(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            event_name="caseyos.recommendation.accepted",
            attributes=attributes,
        )

    return Subject(emit, lambda: tracer.start_as_current_span("request"), provider.force_flush)


def stock_encoding(state: Path) -> Subject:
    """The same, where the exporter encodes the batch as OTLP before it throws it away, as a real one must."""
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    return stock(state, lambda records: encode_logs(records).SerializeToString())


def logfire(state: Path) -> Subject:
    """`logfire.info`, its spans going to a batch processor with a null exporter."""
    import logfire as module
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    module.configure(
        send_to_logfire=False,
        console=False,
        metrics=False,
        config_dir=state,
        additional_span_processors=[BatchSpanProcessor(Exporter())],
    )
    return Subject(lambda: module.info(EVENT, **FIELDS), lambda: module.span("request"), module.force_flush)


def structlog(state: Path) -> Subject:
    """structlog's JSON lines as its documentation advises for production, to /dev/null."""
    import structlog as module

    module.configure(
        processors=[
            module.contextvars.merge_contextvars,
            module.processors.add_log_level,
            module.processors.format_exc_info,
            module.processors.TimeStamper(fmt="iso", utc=True),
            module.processors.JSONRenderer(),
        ],
        logger_factory=module.WriteLoggerFactory(file=Path(os.devnull).open("w")),  # noqa: SIM115  # until the process ends
        cache_logger_on_first_use=True,
    )
    logger = module.get_logger()
    return Subject(lambda: logger.info(EVENT, **FIELDS))


@dataclass(frozen=True)
class Entry:
    """A subject in the list: its name in the table, what makes it, the package that it needs beside ours."""

    name: str
    make: Callable[[Path], Subject]
    package: str = ""


OURS: Final = "caseyos-otel"
STOCK: Final = "opentelemetry"
ENTRIES: Final = (
    Entry(OURS, best_effort),
    Entry("caseyos-otel, outcome", outcome),
    Entry("specification", specification),
    Entry(STOCK, stock),
    Entry("opentelemetry, encoding", stock_encoding),
    Entry("logfire", logfire, "logfire"),
    Entry("structlog", structlog, "structlog"),
)
