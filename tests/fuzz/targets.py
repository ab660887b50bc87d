"""What is fuzzed: each target takes any bytes, and raises where a property does not hold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from caseyos_otel.gateway.inflate import inflate
from caseyos_otel.gateway.otlp_json import parse
from caseyos_otel.gateway.reading import REQUESTS, parse_logs, parse_traces, read_logs, read_traces, spans_in
from caseyos_otel.gateway.reading import Request as Read
from caseyos_otel.gateway.refusal import Refused
from caseyos_otel.otlp.decode import decode
from tests.fuzz import seeds
from tests.properties.test_otlp import REGISTRY
from tests.properties.test_otlp_shapes import same

LIMIT = 4096
ENCODINGS = ("gzip", "deflate", "zstd", "identity", "br")


class Target(NamedTuple):
    """A property, and what to begin with."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def decoding(data: bytes) -> None:
    """The decoder by shapes says what the one by messages says, or both that it is no request."""
    same(data)


def logs(data: bytes) -> None:
    """A request of logs is refused, or every declared event of its frame can be read again."""
    with contextlib.suppress(Refused):
        _read_again(read_logs(parse_logs(data), data, True, lambda name: _is_declared(name) or len(name) < 8))


def traces(data: bytes) -> None:
    """A request of spans is refused, or its events can be read again, and its spans are what was sent."""
    with contextlib.suppress(Refused):
        read = read_traces(parse_traces(data), data, _is_declared, True)
        _read_again(read)
        assert [spans_in(frame) for series, frame in read.frames if series != REQUESTS] == [data] * bool(read.others)


def json(data: bytes) -> None:
    """OTLP/JSON is refused, or becomes a request that is read like one in protobuf."""
    with contextlib.suppress(Refused):
        logs(parse(data, ExportLogsServiceRequest()).SerializeToString())


def inflating(data: bytes) -> None:
    """A compressed body is refused, or within the limit."""
    encoding = ENCODINGS[data[0] % len(ENCODINGS)] if data else ""
    with contextlib.suppress(Refused):
        inflated = inflate(data[1:], encoding, LIMIT)
        assert len(inflated) <= LIMIT or encoding == "identity"


def _is_declared(name: str) -> bool:
    return REGISTRY.get(name) is not None


def _read_again(read: Read) -> None:
    """The declared events of the frames are those that were counted, by name."""
    found = [
        event.declaration for series, frame in read.frames if series == REQUESTS for event in decode(frame, REGISTRY)
    ]
    counted = [declaration for name in read.names.elements() if (declaration := REGISTRY.get(name)) is not None]
    assert sorted(d.name for d in found) == sorted(d.name for d in counted)


TARGETS = {
    "decoding": Target(decoding, seeds.logs),
    "logs": Target(logs, seeds.logs),
    "traces": Target(traces, seeds.traces),
    "json": Target(json, seeds.json_logs),
    "inflating": Target(inflating, seeds.compressed),
}
