"""Protobuf messages as JSON Schema, by OTLP's JSON mapping (OTLP specification, "JSON Protobuf Encoding")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]  # it has no types

from caseyos_otel.gateway.otlp_json import ID_DIGITS

_32: Final = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_U32: Final = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_64: Final = {
    "anyOf": [
        {"type": "string", "pattern": "^-?[0-9]{1,18}$"},
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    ]
}
_U64: Final = {
    "anyOf": [
        {"type": "string", "pattern": "^[0-9]{1,19}$"},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    ]
}
_DOUBLE: Final = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_TYPES: Final[dict[int, dict[str, Any]]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "pattern": "^([A-Za-z0-9+/]{4})*$"},
    FieldDescriptor.TYPE_DOUBLE: _DOUBLE,
    FieldDescriptor.TYPE_ENUM: _32,
    FieldDescriptor.TYPE_INT32: _32,
    FieldDescriptor.TYPE_UINT32: _U32,
    FieldDescriptor.TYPE_FIXED32: _U32,
    FieldDescriptor.TYPE_INT64: _64,
    FieldDescriptor.TYPE_SFIXED64: _64,
    FieldDescriptor.TYPE_FIXED64: _U64,
}


def schemas(messages: Iterable[Descriptor]) -> dict[str, Any]:
    """The schema of each message, and of those in it, by its name."""
    found: dict[str, Any] = {}
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message.name not in found:
            found[message.name] = _schema(message)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found


def _schema(message: Descriptor) -> dict[str, Any]:
    """Unknown fields are ignored, but where only one of several fields may be set nothing else shall stand beside it."""
    if message.full_name == "google.protobuf.Any":  # `Status.details`: never sent
        return {"type": "object"}
    made = {"type": "object", "properties": {field.json_name: _field(field) for field in message.fields}}
    return {**made, "maxProperties": 1} if message.oneofs else made


def _field(field: FieldDescriptor) -> dict[str, Any]:
    one = _value(field)
    return {"type": "array", "items": one} if field.is_repeated else one


def _value(field: FieldDescriptor) -> dict[str, Any]:
    if field.message_type is not None:
        return {"$ref": f"#/components/schemas/{field.message_type.name}"}
    if field.json_name in ID_DIGITS:
        return {"type": "string", "pattern": f"^([0-9a-fA-F]{{{ID_DIGITS[field.json_name]}}})?$"}
    return _TYPES[field.type]
