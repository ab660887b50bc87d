"""From an event to its row: pure, and safe for both databases whatever the values are.

One function a declaration and database makes the rows, generated: straight-line code costs half of a loop over fields
and columns, and what a database can do at most leaves 1 to 2 µs a row for us. What a value is in nearly every row is
checked in line; everything else goes through `columns.fitted` and `columns.clean`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple, Protocol

from caseyos_otel.events.field import Field, FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage.columns import (
    BOOLEANS,
    EVENT_COLUMNS,
    EVENT_FIELDS,
    MAX_INDEXED,
    MOMENTS,
    OUTCOME_COLUMNS,
    OUTCOME_FIELDS,
    clean,
    fitted,
    moment,
    second,
)
from caseyos_otel.storage.failure import RowsRejected
from caseyos_otel.storage.forms import SQLITE, STORABLE, Form

Row = dict[str, Any]
"""Column → value: strings, numbers, booleans, aware datetimes, None; `properties` a dict that JSON can hold."""

Disclose = Callable[[EventRecord], Mapping[str, Any]]
Pseudonym = Callable[[str], str]
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Make(Protocol):
    """Makes the rows of records, one by one, each with its values in the order of the projection's columns.

    `disclose` says what of a record the database may see; `received_at` is as `columns.moment` writes it.

    Raises:
        RowsRejected: a record cannot be made a row.
    """

    def __call__(
        self, records: Iterable[EventRecord], disclose: Disclose, received_at: str, pseudonym: Pseudonym
    ) -> Iterator[tuple[Any, ...]]: ...


class Projection(NamedTuple):
    """Makes the rows of one declaration for one database."""

    columns: tuple[str, ...]
    make: Make


def row(record: EventRecord, values: Mapping[str, Any], received_at: datetime, pseudonym: Pseudonym) -> Row:
    """The row of the table that holds `record` (`outcome_events` for an outcome, else `events`), by name of the column.

    `values` are the record's fields as this database may see them. `contact_email` is the first field of privacy class
    `email`, if it may be seen in plain; `contact_hash` its pseudonym, always. Fields without a column are `properties`.
    """
    columns, make = projection(record.declaration, SQLITE)
    (parameters,) = make((record,), lambda _: values, moment(received_at), pseudonym)
    made = dict(zip(columns, parameters, strict=True))
    for name in MOMENTS:
        if made.get(name) is not None:
            made[name] = datetime.fromisoformat(made[name]).replace(tzinfo=UTC)
    for name in BOOLEANS:
        if made.get(name) is not None:
            made[name] = bool(made[name])
    made["properties"] = json.loads(made["properties"])
    return dict.fromkeys(columns_of(record.declaration)) | {"event": record.declaration.name} | made


def columns_of(declaration: Declaration) -> tuple[str, ...]:
    """All columns that rows of its table fill."""
    return OUTCOME_COLUMNS if declaration.outcome else EVENT_COLUMNS


@lru_cache(maxsize=2048)
def projection(declaration: Declaration, form: Form) -> Projection:
    """Compiled once. Its source holds nothing but the templates of the form, numbers, and the reprs of declared names."""
    source = _Source(declaration, form)
    expressions = source.expressions()
    columns = tuple(name for name in columns_of(declaration) if form.every_column or name in expressions)
    returned = ", ".join(expressions.get(name, form.null) for name in columns)
    lines = [
        "def make(records, disclose, received_at, pseudonym):",
        *(f"    {line}" for line in source.before()),
        "    for record in records:",
        "        try:",
        *(f"            {line}" for line in source.lines()),
        f"            yield ({returned},)",
        "        except Exception as error:",
        "            raise rejected(record, error) from error",
    ]
    scope: dict[str, Any] = {
        "contact": partial(_contact, source.addresses, declaration.outcome, form.driver),
        "driver": lambda value: form.driver(clean(value)),
        "encode": lambda value: _encode(clean(value)),
        "fit": partial(_fit, form.driver),
        "labels": partial(_labels, form.driver),
        "second": second,
        "rejected": _rejected,
        "quote": encode_basestring,
    }
    exec(compile("\n".join(lines), f"<row of {declaration.name}>", "exec"), scope)  # noqa: S102  # the lines above
    return Projection(columns, scope["make"])


class _Source:
    """Source code that makes the rows of one declaration."""

    def __init__(self, declaration: Declaration, form: Form) -> None:
        self._form = form
        self._declaration = declaration
        own = OUTCOME_FIELDS if declaration.outcome else EVENT_FIELDS
        self._fields = {f"v{number}": field for number, field in enumerate(declaration.fields)}
        self._typed = {v: field for v, field in self._fields.items() if field.type in own.get(field.name, ())}
        self.addresses = tuple(field.name for field in declaration.fields if field.privacy is Privacy.EMAIL)

    def expressions(self) -> dict[str, str]:
        """What fills a column, of those that this event can fill."""
        form = self._form
        made = {
            "event_id": form.text.format(v="event_id"),
            "occurred_at": form.moment.format(v="whole_second + '%06d' % (since - low)"),
            "received_at": "received_at",
            "trace_id": "trace",
            "span_id": "span",
            "service_name": "service_name",
            "service_version": "service_version",
            "environment": "environment",
            "properties": form.json.format(v="'{' + properties[:-1] + '}'"),
            **{field.name: v for v, field in self._typed.items()},
        }
        if form.every_column:
            made["event"] = repr(form.driver(self._declaration.name))
        if self.addresses:
            made["contact_hash"] = "contact_hash"
        if self.addresses and self._declaration.outcome:
            made["contact_email"] = "contact_email"
        if not self._declaration.outcome:
            made["failure"] = form.boolean.format(v="record.failure")
        return made

    def before(self) -> Iterator[str]:
        """What is kept from one record to the next: those of one second, request and resource stand together."""
        yield "low = high = 0; trace_id = span_id = None"
        yield f"received_at = {self._form.moment.format(v='received_at')}"
        yield f"resource = None; service_name = service_version = environment = {self._form.null}"

    def lines(self) -> Iterator[str]:
        """What is settled for each record: `v0` and so on are fields, `pv0` and so on the properties they become."""
        yield from self._origin()
        if self.addresses:
            yield "contact_hash, contact_email, shown = contact(record, values, pseudonym)"
        yield " = ".join([*(f"p{v}" for v in self._fields), "''"])
        for v, field in self._fields.items():
            yield f"{v} = values[{field.name!r}]"
            yield from self._column(v, field) if v in self._typed else self._property(v, field)
        yield from self._properties()

    def _origin(self) -> Iterator[str]:
        yield "values = disclose(record)"
        yield "event_id = record.event_id"
        yield "since = (record.timestamp or 0) // 1000"
        yield "if not low <= since < high:"
        yield "    low = since - since % 1000000; high = low + 1000000; whole_second = second(low // 1000000) + '.'"
        yield "if record.span_id != span_id or record.trace_id != trace_id:"
        yield "    trace_id = record.trace_id; span_id = record.span_id"
        yield f"    trace = trace_id.to_bytes(16, 'big').hex() if trace_id else {self._form.null}"
        yield f"    span = span_id.to_bytes(8, 'big').hex() if span_id else {self._form.null}"
        yield "if record.resource is not resource:"
        yield "    resource = record.resource; service_name, service_version, environment = labels(resource)"

    def _column(self, v: str, field: Field) -> Iterator[str]:
        form = self._form
        usual = {
            FieldType.DOUBLE: (_FINITE.format(v=v), form.number.format(v=v)),
            FieldType.BOOLEAN: (f"{v} is True or {v} is False", form.boolean.format(v=v)),
            FieldType.STRING: (f"{form.plain.format(v=v)} and len({v}) <= {MAX_INDEXED}", v),
        }
        usual[FieldType.ID] = usual[FieldType.STRING]
        yield f"if {v} is None: {v} = {form.null}"
        if field.type in usual:
            test, written = usual[field.type]
            yield f"elif {test}: {v} = {written}"
        yield f"else: {v}, p{v} = fit({v}, {_key(field.name)!r})"

    def _property(self, v: str, field: Field) -> Iterator[str]:
        key = _key(field.name.partition(".")[2] or field.name)
        yield f"if {v} is None: pass"
        if field.name in self.addresses:
            yield f"elif shown == {field.name!r}: pass"
        if field.type in _USUAL_JSON:
            test, written = _USUAL_JSON[field.type]
            yield f"elif {test.format(v=v)}: p{v} = {key!r} + {written.format(v=v)} + ','"
        yield f"else: p{v} = {key!r} + encode({v}) + ','"

    def _properties(self) -> Iterator[str]:
        """All of them behind one another, each with a comma behind; those of a group in braces."""
        parts: dict[str, list[str]] = {}
        for v, field in self._fields.items():
            group, dot, _ = field.name.partition(".")
            parts.setdefault(group if dot else "", []).append(f"{{p{v}}}")
        grouped = {group: members for group, members in parts.items() if group}
        for number, (group, members) in enumerate(grouped.items()):
            yield f"g{number} = f'{''.join(members)}'"
            yield f"if g{number}: g{number} = {_key(group)!r} + '{{' + g{number}[:-1] + '}},'"
        every = [*parts.get("", ()), *(f"{{g{number}}}" for number in range(len(grouped)))]
        yield f"properties = f'{''.join(every)}'"


_FINITE: Final = "type({v}) is float and {v} - {v} == 0.0"
_USUAL_JSON: Final[Mapping[FieldType, tuple[str, str]]] = {
    FieldType.DOUBLE: (_FINITE, "repr({v})"),
    FieldType.INT: ("type({v}) is int", "repr({v})"),
    FieldType.BOOLEAN: ("{v} is True or {v} is False", "('true' if {v} else 'false')"),
    FieldType.STRING: (STORABLE, "quote({v})"),
    FieldType.ID: (STORABLE, "quote({v})"),
}
"""Source: whether a value is as it usually is, and its JSON text then."""


def _key(name: str) -> str:
    return f"{encode_basestring(name)}:"


def _fit(driver: Callable[[Any], Any], value: Any, key: str) -> tuple[Any, str]:
    """What goes to the column, and the property that it is as well where the column does not hold all of it."""
    column, whole = fitted(value)
    return driver(column), "" if whole else f"{key}{_encode(clean(value))},"


def _rejected(record: EventRecord, error: Exception) -> RowsRejected:
    return RowsRejected(f"{record!r} cannot be made a row: {type(error).__name__}")


def _contact(
    addresses: tuple[str, ...],
    outcome: bool,
    driver: Callable[[Any], Any],
    record: EventRecord,
    values: Mapping[str, Any],
    pseudonym: Pseudonym,
) -> tuple[Any, Any, str | None]:
    """`contact_hash`, `contact_email`, and the field that they show."""
    for name in addresses:
        address = record.values[name]
        if isinstance(address, str):
            hashed = driver(clean(pseudonym(address)))
            plain = outcome and values[name] == address
            return hashed, driver(clean(address) if plain else None), name if outcome else None
    return driver(None), driver(None), None


def _labels(driver: Callable[[Any], Any], resource: Mapping[str, Any] | None) -> tuple[Any, ...]:
    """Name, version and environment of a service."""
    of = resource or {}
    environment = of.get("deployment.environment.name") or of.get("deployment.environment")
    found = (of.get("service.name"), of.get("service.version"), environment)
    return tuple(driver(None if label is None else clean(str(label))) for label in found)
