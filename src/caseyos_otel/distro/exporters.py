"""Log exporters by name, for `OTEL_LOGS_EXPORTER` and declarative configuration.

Our own events pass the pipeline and are skipped here; a declared event of another logger reaches it through these where
the pipeline is not attached to its provider.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from caseyos_otel.pipeline import lifecycle


class _Adapter(LogRecordExporter):
    """Hands records to the pipeline, which knows which of its destinations are on."""

    def __init__(self, **_: Any) -> None:
        """Declarative configuration may pass anything; our settings come from our variables."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Hand over what the pipeline has not seen."""
        pipeline = lifecycle.start()
        if pipeline is not None:
            for record in batch:
                if _first_time(record.log_record):
                    pipeline.accept(record.log_record)
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """The pipeline owns its own life."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the pipeline."""
        return lifecycle.flush(timeout_millis / 1000)


_MOST_REMEMBERED: Final = 10_000
_handed_over: OrderedDict[tuple[Any, ...], None] = OrderedDict()
_remembering = threading.Lock()


def _first_time(record: LogRecord) -> bool:
    """False for a record that another one of our exporters has handed over: each knows all destinations.

    Batch processors copy a record, but not its attributes.
    """
    identity = (record.event_name, record.timestamp, record.observed_timestamp, id(record.attributes))
    with _remembering:
        if identity in _handed_over:
            return False
        _handed_over[identity] = None
        if len(_handed_over) > _MOST_REMEMBERED:
            _handed_over.popitem(last=False)
        return True


class StructuredLogExporter(_Adapter):
    """`caseyos_log`."""


class SentryLogExporter(_Adapter):
    """`caseyos_sentry` of the logs group."""


class OutcomesExporter(_Adapter):
    """`caseyos_outcomes`."""
