"""Protobuf's wire format, as far as OTLP needs it (https://protobuf.dev/programming-guides/encoding/)."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

_ONE_BYTE: Final = tuple(bytes([n]) for n in range(128))
_UINT64: Final = (1 << 64) - 1
_INT64: Final = range(-(1 << 63), 1 << 63)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

double: Final = struct.Struct("<d").pack


def varint(number: int) -> bytes:
    """A whole number, seven bits a byte. Negative ones are written as 64-bit two's complement (ten bytes)."""
    if 0 <= number < 128:
        return _ONE_BYTE[number]
    number &= _UINT64
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """What stands before a field: its number and how it is written."""
    return varint(number << 3 | wire_type)


def delimited(number: int, payload: bytes) -> bytes:
    """A field with a length: text, bytes or a message."""
    return tag(number, LENGTH) + varint(len(payload)) + payload


def utf8(text: str) -> bytes:
    """Text as protobuf accepts it: lone surrogates, which UTF-8 has no form for, become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def any_value(value: Any) -> bytes:
    """An `AnyValue` message. What it has no form for is written as text."""
    if value is None:
        return b""
    if isinstance(value, str):
        return delimited(1, utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and value in _INT64:
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + double(value)
    if isinstance(value, bytes):
        return delimited(7, value)
    if isinstance(value, Sequence):
        return delimited(5, b"".join(delimited(1, any_value(item)) for item in value))
    if isinstance(value, Mapping):
        return delimited(6, b"".join(delimited(1, key_value(str(k), v)) for k, v in value.items()))
    return delimited(1, utf8(str(value)))


def key_value(key: str, value: Any) -> bytes:
    """A `KeyValue` message."""
    return delimited(1, utf8(key)) + delimited(2, any_value(value))


def attributes(number: int, values: Mapping[str, Any]) -> bytes:
    """A repeated field of `KeyValue` messages."""
    return b"".join(delimited(number, key_value(key, value)) for key, value in values.items())
