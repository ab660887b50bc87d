"""The wire format, against protobuf's own reader."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from caseyos_otel.otlp import wire
from caseyos_otel.otlp.decode import python_value


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (-1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
    ],
)
def test_varint(number: int, encoded: bytes) -> None:
    assert wire.varint(number) == encoded


@pytest.mark.parametrize(
    "value",
    [
        None, "", "text", "ä€😀", True, False, 0, 1, -1, 2**63 - 1, -(2**63), 0.0, -2.5, float("inf"), b"", b"\x00\xff",
        [], ["a", 1, [True, None]], {}, {"a": {"b": [1.5]}, "c": None},
    ],
)  # fmt: skip
def test_any_value_is_what_protobuf_reads(value: Any) -> None:
    read = python_value(AnyValue.FromString(wire.any_value(value)))
    assert (read, type(read)) == (value, type(value))


def test_tuples_are_arrays() -> None:
    assert python_value(AnyValue.FromString(wire.any_value(("a", "b")))) == ["a", "b"]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 3 + 4j])
def test_what_has_no_form_is_text(value: Any) -> None:
    assert AnyValue.FromString(wire.any_value(value)).string_value == str(value)


def test_lone_surrogates_become_replacement_characters() -> None:
    pair = KeyValue.FromString(wire.key_value("k\udc00", "a\ud800b"))
    assert (pair.key, pair.value.string_value) == ("k\ufffd", "a\ufffdb")
