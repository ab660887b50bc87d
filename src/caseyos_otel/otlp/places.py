"""Where the log records of a request stand, found without parsing them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types of its own
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope

from caseyos_otel.otlp import wire

_RESOURCE_LOGS = _SCOPE_OR_RESOURCE = 0x0A
_CHILD = 0x12  # scope_logs in resource_logs, log_records in scope_logs
_SCHEMA_URL = 0x1A


class Place(NamedTuple):
    """The records of one scope, as (start, end), and the bytes of what they stand in."""

    resource: bytes
    of_resource: bytes
    scope: bytes
    of_scope: bytes
    records: list[tuple[int, int]]

    def request_of(self, record: bytes) -> bytes:
        """A request that holds one record alone, in the same place."""
        scope_logs = wire.delimited(1, self.scope) + wire.delimited(2, record) + self.of_scope
        resource_logs = wire.delimited(1, self.resource) + wire.delimited(2, scope_logs) + self.of_resource
        return wire.delimited(1, resource_logs)


def find(request: bytes) -> list[Place] | None:
    """The places, in the order of the records; None where the request is written in an unusual way, or is none."""
    try:
        places: list[Place] = []
        for tag, start, end in _fields(request, 0, len(request)):
            if tag != _RESOURCE_LOGS:
                return None
            places += _resource_logs(request, start, end)
        return places
    except (IndexError, ValueError):
        return None


def _resource_logs(request: bytes, start: int, end: int) -> list[Place]:
    resource, of_resource, scopes = _level(request, start, end)
    return [_scope_logs(request, at, stop, resource, of_resource) for at, stop in scopes]


def _scope_logs(request: bytes, start: int, end: int, resource: bytes, of_resource: bytes) -> Place:
    scope, of_scope, records = _level(request, start, end)
    if not _is_scope(scope):
        raise ValueError(scope)
    return Place(resource, of_resource, scope, of_scope, records)


def _level(request: bytes, start: int, end: int) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Of `resource_logs` or `scope_logs`: the resource or scope, the field with the schema URL, where the children stand.

    Raises ValueError, IndexError.
    """
    head: bytes | None = None
    url = b""
    children: list[tuple[int, int]] = []
    for tag, at, stop in _fields(request, start, end):
        if tag == _CHILD:
            children.append((at, stop))
        elif tag == _SCOPE_OR_RESOURCE and head is None:
            head = request[at:stop]
        elif tag == _SCHEMA_URL and not url:
            url = request[at:stop]
        else:
            raise ValueError(tag)
    if not _is_text(url):
        raise ValueError(url)
    return head or b"", wire.delimited(3, url) if url else b"", children


def _fields(request: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """(tag, start, end) of fields with a length. Raises ValueError, IndexError."""
    found = []
    while at < end:
        tag = request[at]
        size = request[at + 1]
        at += 2
        if size > 127:
            size, at = _longer(request, size, at)
        if at + size > end or tag & 7 != wire.LENGTH:
            raise ValueError(tag)
        found.append((tag, at, at + size))
        at += size
    return found


def _longer(request: bytes, size: int, at: int) -> tuple[int, int]:
    """A length of two to four bytes, whose first one was read."""
    size &= 127
    for shift in (7, 14, 21):
        byte = request[at]
        at += 1
        size |= (byte & 127) << shift
        if byte < 128:
            return size, at
    raise ValueError(size)


@lru_cache(maxsize=256)
def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=256)
def _is_scope(scope: bytes) -> bool:
    try:
        InstrumentationScope.FromString(scope)
    except DecodeError:
        return False
    return True
