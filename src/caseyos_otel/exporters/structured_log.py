"""Every event as one JSON line: the specification's flat property names plus event_id, trace_id, span_id and service."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from opentelemetry.trace import format_span_id, format_trace_id

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import EventRecord, rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=rfc3339).encode


def rfc3339_of(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as a UTC timestamp with microseconds, ending in Z."""
    return rfc3339(_EPOCH + timedelta(microseconds=nanoseconds // 1000))


def nested(values: Mapping[str, Any], groups: frozenset[str]) -> dict[str, Any]:
    """Flat values in the specification's shape: `metadata.recipient` inside `metadata`, which is null when empty."""
    if not groups:
        return dict(values)
    shaped: dict[str, Any] = dict.fromkeys(groups)
    for name, value in values.items():
        group, _, inner = name.partition(".")
        if not inner:
            shaped[name] = value
        elif value is not None:
            shaped[group] = {**(shaped[group] or {}), inner: value}
    return shaped


def line(record: EventRecord, values: Mapping[str, Any], service: str) -> str:
    """The JSON object of one event, without a newline. A declared field wins over a name of the envelope.

    circuit_breaker.opened declares `service` itself; the emitting service is `service_name` there.
    """
    shaped: dict[str, Any] = {"event": record.declaration.name, **nested(values, record.declaration.groups)}
    shaped["timestamp"] = rfc3339_of(record.timestamp or 0)
    shaped["event_id"] = record.event_id
    shaped["trace_id"] = format_trace_id(record.trace_id) if record.trace_id else None
    shaped["span_id"] = format_span_id(record.span_id) if record.span_id else None
    shaped["service_name" if "service" in record.declaration.by_name else "service"] = service
    if record.invalid_fields:
        shaped["invalid_fields"] = record.invalid_fields
    return _encode(shaped)


class StructuredLog:
    """Collects lines and writes them in one piece, on the worker: `stdout`, `stderr` or a path."""

    def __init__(
        self, target: str, service: Callable[[], str], disclose: Callable[[EventRecord], Mapping[str, Any]]
    ) -> None:
        self._target = target
        self._service = service
        self._disclose = disclose
        self._lines: list[tuple[str, str]] = []

    def __call__(self, record: EventRecord) -> None:
        """Render one event; it is written by `flush`."""
        self._lines.append((record.declaration.name, line(record, self._disclose(record), self._service())))

    def flush(self) -> None:
        """Write what was rendered. What cannot be written is counted and said once a minute."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        text = "".join(f"{rendered}\n" for _, rendered in lines)
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            for event, _ in lines:
                drops.count("rejected", destination="log", event=event)
            diagnostics.warn(f"the structured log cannot be written to {self._target!r}: {error}", key="log")

    def after_fork(self) -> None:
        """What the parent has rendered, the parent writes."""
        self._lines = []

    def _write(self, text: str) -> None:
        if self._target in ("stdout", "stderr"):
            stream: TextIO = sys.stdout if self._target == "stdout" else sys.stderr
            stream.write(text)
            stream.flush()
            return
        # Opened for each batch: a log file may be rotated away between two. One write: processes may share it.
        path = Path(self._target)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            data = text.encode("ascii")
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
