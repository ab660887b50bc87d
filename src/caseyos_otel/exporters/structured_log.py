"""Every event as one JSON line: the specification's flat property names plus event_id, trace_id, span_id and service."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TextIO

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops
from caseyos_otel.events.record import EventRecord, rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_quoted = json.encoder.encode_basestring_ascii
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=rfc3339).encode


def rfc3339_of(nanoseconds: int) -> str:
    """Nanoseconds since 1970 as a UTC timestamp with microseconds, ending in Z."""
    seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z" if rest else f"{_second(seconds)}Z"


@lru_cache(maxsize=16)  # events of one batch are of one second or two
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


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
    declaration = record.declaration
    shaped = nested(values, declaration.groups) if declaration.groups else values
    members = "".join([_key(name) + _json(value) for name, value in shaped.items()])
    trace_id = f'"{record.trace_id:032x}"' if record.trace_id else "null"
    span_id = f'"{record.span_id:016x}"' if record.span_id else "null"
    invalid = f',"invalid_fields":{_encode(record.invalid_fields)}' if record.invalid_fields else ""
    return (
        f'{{"event":{_quoted(declaration.name)}{members},"timestamp":"{rfc3339_of(record.timestamp or 0)}"'
        f',"event_id":{_quoted(record.event_id)},"trace_id":{trace_id},"span_id":{span_id}'
        f',"{"service_name" if "service" in declaration.by_name else "service"}":{_quoted(service)}{invalid}}}'
    )


@cache  # declared names
def _key(name: str) -> str:
    return f",{_quoted(name)}:"


def _json(value: Any) -> str:
    # json.JSONEncoder builds its C encoder anew for each call, which costs more than to encode an event's values
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if value is None:
        return "null"
    if kind is float and value - value == 0.0:
        return float.__repr__(value)
    if kind is bool:
        return "true" if value else "false"
    return int.__repr__(value) if kind is int else _encode(value)


def _service_of(resource: Mapping[str, Any], own: str) -> str:
    """The service that a record came from over the wire."""
    name = resource.get("service.name")
    return name if isinstance(name, str) and name else own


class StructuredLog:
    """Collects lines and writes them in one piece, on the worker: `stdout`, `stderr` or a path."""

    def __init__(
        self, target: str, service: Callable[[], str], disclose: Callable[[EventRecord], Mapping[str, Any]]
    ) -> None:
        self._target = target
        self._service = service
        self._disclose = disclose
        self._lines: deque[tuple[str, str]] = deque()
        self._service_now = ""
        self._torn = False
        """Whether the last write to a file ended within a line."""

    def __call__(self, record: EventRecord) -> None:
        """Render one event; it is written by `flush`."""
        if not self._lines:
            self._service_now = self._service()
        service = self._service_now if record.resource is None else _service_of(record.resource, self._service_now)
        self._lines.append((record.declaration.name, line(record, self._disclose(record), service)))

    def flush(self) -> None:
        """Write what was rendered. What cannot be written is counted and said once a minute."""
        lines = list(self._rendered())  # other threads may render and flush meanwhile
        if not lines:
            return
        text = "".join(f"{rendered}\n" for _, rendered in lines)
        try:
            self._write(text)
        except Exception as error:  # a service may have put anything in the place of stdout
            whole = error.lines if isinstance(error, _CutShortError) else 0
            for event, _ in lines[whole:]:
                drops.count("rejected", destination="log", event=event)
            diagnostics.warn(f"the structured log cannot be written to {self._target!r}: {error}", key="log")

    def after_fork(self) -> None:
        """What the parent has rendered, the parent writes."""
        self._lines = deque()

    def _rendered(self) -> Iterator[tuple[str, str]]:
        with suppress(IndexError):
            while True:
                yield self._lines.popleft()

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
            # After half a line, the next one is not to become a part of it.
            self._torn = self._torn and not os.write(descriptor, b"\n")
            self._append(descriptor, text.encode("ascii"))
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError as error:
            self._torn = written > 0 and data[written - 1 : written] != b"\n"
            raise _CutShortError(error, data[:written].count(b"\n")) from error


class _CutShortError(OSError):
    """A log file took only the first `lines` of a batch, and perhaps a part of the next."""

    def __init__(self, error: OSError, lines: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.lines = lines
