"""Where a database differs from what the migrations make: table, column, index or partition, one sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Engine, Index, Inspector, Table, exc, inspect

from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import translate
from caseyos_otel.storage.tables import metadata


def differences(engine: Engine) -> list[str]:
    """What is missing or otherwise than declared; empty where nothing is.

    What somebody added and what does not hinder us (an index, a column that may be null) is no difference.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    try:
        with engine.connect() as connection:
            return list(_differences(connection))
    except exc.DBAPIError as error:
        raise translate(error) from None


def _differences(connection: Connection) -> Iterator[str]:
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        if not inspector.has_table(table.name):
            yield f"{table.name}: the table is missing"
            continue
        yield from _columns(inspector, connection.dialect, table)
        yield from _indexes(inspector, table)
    if connection.dialect.name == "postgresql" and inspector.has_table("events"):
        yield from _partitions(connection)


def _columns(inspector: Inspector, dialect: Dialect, table: Table) -> Iterator[str]:
    found = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        if column.name not in found:
            yield f"{table.name}: column {column.name} is missing"
        else:
            yield from _column(dialect, column, found[column.name])
    for name, column_found in found.items():
        if name not in table.columns and not column_found["nullable"] and column_found["default"] is None:
            yield f"{table.name}: column {name} is not ours, may not be null and has no default: no row can be stored"
    key = inspector.get_pk_constraint(table.name)["constrained_columns"]
    declared = [column.name for column in table.primary_key.columns]
    if key != declared:
        yield f"{table.name}: the primary key is ({', '.join(key)}), should be ({', '.join(declared)})"


def _column(dialect: Dialect, column: Column[Any], found: Mapping[str, Any]) -> Iterator[str]:
    declared, actual = column.type.compile(dialect), found["type"].compile(dialect)
    if declared != actual:
        yield f"{column.table.name}: column {column.name} has type {actual}, should be {declared}"
    if bool(found["nullable"]) != bool(column.nullable):
        yield f"{column.table.name}: column {column.name} {'may' if found['nullable'] else 'may not'} be null"


def _indexes(inspector: Inspector, table: Table) -> Iterator[str]:
    found = {index["name"]: _shape_found(index) for index in inspector.get_indexes(table.name)}
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        shape = _shape(index)
        if index.name not in found:
            yield f"{table.name}: index {index.name} is missing"
        elif found[index.name] != shape:
            yield f"{table.name}: index {index.name} is on {found[index.name]}, should be on {shape}"


def _shape(index: Index) -> str:
    condition = index.dialect_options["sqlite"]["where"]
    columns = ", ".join(column.name for column in index.columns)
    return f"({columns})" + (f" where {_plain(condition)}" if condition is not None else "")


def _shape_found(index: Any) -> str:
    options = index.get("dialect_options", {})
    condition = options.get("postgresql_where", options.get("sqlite_where"))
    columns = ", ".join(str(name) for name in index["column_names"])
    unique = "unique " if index["unique"] else ""
    return f"{unique}({columns})" + (f" where {_plain(condition)}" if condition is not None else "")


def _plain(condition: object) -> str:
    """`(deal_id IS NOT NULL)` and `outcome_events.deal_id IS NOT NULL` as `deal_id is not null`."""
    return re.sub(r"[()\"]|\b\w+\.", "", str(condition)).lower().strip()


def _partitions(connection: Connection) -> Iterator[str]:
    wanted = {partitions.name_of(month) for month in partitions.wanted((), datetime.now(UTC).date())}
    for name in sorted({partitions.DEFAULT, partitions.ONCE_PER} | wanted):
        if name not in partitions.names(connection):
            yield f"events: partition {name} is missing"
