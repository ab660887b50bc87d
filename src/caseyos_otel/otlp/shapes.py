"""Log records whose structure was seen before, read in one step.

A sender writes the records of an event in the same order, with ids of the same lengths: but for the values their bytes
are equal. Of a structure that was seen, a `struct` format takes the values out of the record, and what stands between them
is compared whole. That is a quarter of the time that protobuf's messages take to be walked through. What is unusual in
any way (a value that a field refuses, a nested attribute, a field that logs do not have) is left to the messages.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.trace import TraceFlags

from caseyos_otel.events.field import Field, FieldType, parse_timestamp
from caseyos_otel.events.identity import derived_event_id
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EVENT_ID, EventRecord
from caseyos_otel.otlp import wire
from caseyos_otel.otlp.structure import FLAGS, OBSERVED, SPAN_ID, TIME, TRACE_ID, Structure, take_apart

MOST_KEPT: Final = 512
MOST_OF_A_LENGTH: Final = 8
LARGEST_LEARNED: Final = 4096
"""Bytes of a record: with the others a bound of what is remembered, some megabytes."""
_LATEST: Final = (1 << 63) - 1
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FLAG_VALUES: Final = tuple(TraceFlags(n) for n in range(256))

_OF_ONE: Final = frozenset(
    {"values", "event_id", "timestamp", "observed_timestamp", "trace_id", "span_id", "trace_flags", "resource"}
)
"""What one event does not share with others of its structure."""

Read = Callable[[tuple[Any, ...], Any, bytes, int], EventRecord | None]


class Shape(NamedTuple):
    """One structure: the format, what must stand between the values, and what is made of the values."""

    unpack: Callable[[bytes, int], tuple[Any, ...]]
    literals: tuple[Any, ...]
    read: Read


class Shapes:
    """The structures that were seen in the records of one registry. Reading takes no lock."""

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[Shape, ...]] = {}
        self._declared: dict[str, Declaration] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._kept = 0
        self._learning = threading.Lock()

    def read(
        self, data: bytes, places: Sequence[tuple[int, int]], resource: Any, get: Callable[[str], Any]
    ) -> list[EventRecord | None]:
        """The events of the records that stand in `data` at (start, end); None where one must be read by its message.

        `get` looks declarations up; a structure of one that was replaced is forgotten.
        """
        if any(get(name) is not declaration for name, declaration in self._declared.items()):
            self._forget()
        by_length = self._by_length
        found: list[EventRecord | None] = []
        for start, end in places:
            event = None
            for unpack, literals, read in by_length.get(end - start, ()):
                parts = unpack(data, start)
                if parts[::2] == literals:
                    try:
                        event = read(parts[1::2], resource, data, start)
                    except UnicodeDecodeError:
                        event = None  # its message says what is wrong with it
                    break
            found.append(event)
        return found

    def _forget(self) -> None:
        with self._learning:
            self._by_length, self._declared, self._kept = {}, {}, 0

    def learn(self, record: bytes, event: EventRecord) -> None:
        """Remember the structure of a record that its message has read as `event`, the second time that it comes."""
        if len(record) > LARGEST_LEARNED or event.invalid_fields or (structure := take_apart(record)) is None:
            return
        with self._learning:
            known = self._by_length.get(len(record), ())
            if structure.literals not in self._seen:
                if len(self._seen) >= 4 * MOST_KEPT:
                    self._seen.clear()
                self._seen.add(structure.literals)
            elif len(known) < MOST_OF_A_LENGTH and (shape := _compile(structure, record, event)) is not None:
                if self._kept >= MOST_KEPT:  # what comes often is soon back
                    self._by_length, self._kept, known = {}, 0, ()
                self._declared = {**self._declared, event.declaration.otel_name: event.declaration}
                self._by_length[len(record)] = (*known, shape)
                self._kept += 1


def _compile(structure: Structure, record: bytes, event: EventRecord) -> Shape | None:
    """The shape, if it makes of the record what its message made."""
    source = _source(structure, record, event.declaration)
    if source is None:
        return None
    scope: dict[str, Any] = {
        "Event": EventRecord,
        "declaration": event.declaration,
        "derived": derived_event_id,
        "flags": _FLAG_VALUES,
        "from_bytes": int.from_bytes,
        "is_id": _UUID.fullmatch,
        "latest": _LATEST,
        "signed": _signed,
        "moment": parse_timestamp,
        "new": object.__new__,
        "rest": {key: value for key, value in vars(event).items() if key not in _OF_ONE},
        **{f"allowed{n}": frozenset(f.allowed) for n, f in enumerate(event.declaration.fields)},
    }
    exec(compile(source, f"<record of {event.declaration.name}>", "exec"), scope)  # noqa: S102  # the lines of _source
    format_ = struct.Struct(structure.format)
    read: Read = scope["read"]
    shape = Shape(format_.unpack_from, structure.literals, read)
    made = read(format_.unpack(record)[1::2], event.resource, record, 0)
    return shape if made is not None and vars(made) == vars(event) else None


def _source(structure: Structure, record: bytes, declaration: Declaration) -> str | None:
    """Source of what makes an event of the values; it holds nothing but numbers and the reprs of declared names."""
    roles = [role for role, _ in structure.roles]
    if TIME not in roles:
        return None
    names = {role: f"v{n}" for n, role in enumerate(roles)}
    lines = [
        "def read(values, resource, data, start):",
        f"    {', '.join(f'v{n}' for n in range(len(roles)))}, = values",
    ]
    lines.append(f"    if not 0 < {names[TIME]} <= latest: return None")
    fields: dict[str, str] = {}
    for n, (role, kind) in enumerate(structure.roles):
        declared = declaration.by_attribute.get(role) if isinstance(role, str) else None
        if declared is None:
            lines += [f"    {line}" for line in _checked(f"v{n}", kind)] if role != EVENT_ID else []
            continue
        converted = _converted(f"v{n}", kind, declared, declaration.fields.index(declared))
        if converted is None:
            return None
        lines += [f"    {line}" for line in converted]
        fields[declared.name] = f"v{n}"
    event_id = _event_id(structure, record, names)
    if event_id is None or not set(declaration.required) <= fields.keys():
        return None
    lines += [f"    {line}" for line in event_id]
    observed = names.get(OBSERVED, names[TIME])
    lines += [f"    if not 0 < {observed} <= latest: return None"]
    values = ", ".join(f"{f.name!r}: {fields.get(f.name, 'None')}" for f in declaration.fields)
    facts = {
        "event_id": "event_id",
        "timestamp": names[TIME],
        "observed_timestamp": observed,
        "trace_id": f"from_bytes({names[TRACE_ID]})" if TRACE_ID in names else "0",
        "span_id": f"from_bytes({names[SPAN_ID]})" if SPAN_ID in names else "0",
        "trace_flags": f"flags[{names[FLAGS]} & 255]" if FLAGS in names else "flags[0]",
        "resource": "resource",
    }
    if declaration.failure or declaration.failed_when:
        lines.append(f"    return Event(declaration, {{{values}}}, {', '.join(f'{k}={v}' for k, v in facts.items())})")
    else:  # all of them have the same of the rest
        inside = ", ".join(f"{key!r}: {source}" for key, source in facts.items())
        lines += [
            "    event = new(Event)",
            f"    event.__dict__ = {{**rest, 'values': {{{values}}}, {inside}}}",
            "    return event",
        ]
    return "\n".join(lines)


def _event_id(structure: Structure, record: bytes, names: Mapping[object, str]) -> list[str] | None:
    """The id as it was sent, or the hash of a record that is written as protobuf writes it."""
    if EVENT_ID in names:
        if dict(structure.roles)[EVENT_ID] != "string":
            return None
        return [f"event_id = {names[EVENT_ID]}.decode()", "if is_id(event_id) is None: return None"]
    if LogRecord.FromString(record).SerializeToString(deterministic=True) != record:
        return None
    whole = f"data[start:start + {len(record)}]"
    at = structure.observed_at
    if at is not None:
        whole = f"data[start:start + {at}] + data[start + {at + 9}:start + {len(record)}]"
    lines = [f"event_id = derived({names[TIME]}, {whole})"]
    # protobuf leaves out a number that is 0: such a record would not be written like that
    zero = [names[role] for role in (FLAGS, OBSERVED) if role in names]
    return [*(f"if not {name}: return None" for name in zero), *lines]


def _converted(v: str, kind: str, declared: Field, number: int) -> list[str] | None:
    """Lines that leave the field's value in `v`, or return None where the field does not take it as it is."""
    match declared.type, kind:
        case ((FieldType.ID | FieldType.STRING), "string"):
            lines = [f"{v} = {v}.decode()"]
        case FieldType.TIMESTAMP, "string":
            lines = [f"{v} = moment({v}.decode())", f"if {v} is None: return None"]
        case FieldType.BOOLEAN, "bool":
            lines = [f"if {v} > 1: return None", f"{v} = {v} == 1"]
        case ((FieldType.INT | FieldType.DOUBLE), "int"):
            lines = [f"{v} = signed({v})", f"if {v} is None: return None"]
        case FieldType.DOUBLE, "double":
            lines = [f"if {v} - {v} != 0.0: return None"]
        case _:
            return None
    return [*lines, f"if {v} not in allowed{number}: return None"] if declared.allowed else lines


def _checked(v: str, kind: str) -> list[str]:
    """Lines that return None where protobuf would refuse a value that is no field, or write it in another way."""
    match kind:
        case "string":
            return [f"{v}.decode()"]
        case "bool":
            return [f"if {v} > 1: return None"]
        case "int":
            return [f"if signed({v}) is None: return None"]
    return []


@lru_cache(maxsize=4096)
def _signed(raw: bytes) -> int | None:
    """A varint as a signed number of 64 bits; None where protobuf would not write it in exactly these bytes.

    A longer form means the same, but an id that is derived from the record's bytes would be another one.
    """
    number = sum((byte & 127) << 7 * n for n, byte in enumerate(raw)) & ((1 << 64) - 1)
    if wire.varint(number) != raw:
        return None
    return number - (1 << 64) if number >> 63 else number
