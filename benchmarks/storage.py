"""`python -m benchmarks.storage`: rows a second into both databases, beside the fastest that each database itself can do.

The yardstick has its rows ready and makes nothing of them: SQLite's is the standard library's `executemany`, PostgreSQL's
an `INSERT … SELECT` from a table inside the server. Ours is shown twice: the statement alone with its parameters ready, and
all of it, from records to commit, the pauses for the service's threads included. Same tables, same indexes, same batches.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import uuid_utils
from sqlalchemy import Engine, Table
from sqlalchemy.dialects.postgresql import insert

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.forms import COPY, SQLITE, Form
from caseyos_otel.storage.insert import Maker, copy_statement, skip_stored, sqlite_insert, transaction, written
from caseyos_otel.storage.rows import projection
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer

BATCH: Final = 512
EVENTS_OF_A_REQUEST: Final = 3
EVENT: Final = "recommendation_accepted"
OUTCOME: Final = "outcome_deal_advanced"
FIELDS: Final[dict[str, dict[str, Any]]] = {
    EVENT: {
        "recommendation_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10",
        "queue_item_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a11",
        "aps_score": 87.5,
        "action_type": "send_email",
        "user_id": "casey",
        "time_to_decision_seconds": 15.0,
    },
    OUTCOME: {
        "deal_id": "hs_deal_123",
        "recommendation_id": "0190a5d2-6c1e-7b3a-9f51-2f6d1c8e4a10",
        "old_stage": "SQL",
        "new_stage": "Opportunity",
        "pipeline_value": 50000.0,
    },
}
YARDSTICKS: Final = ("sqlite: executemany of ready tuples", "postgresql: INSERT … SELECT inside the server")
RESOURCE: Final = {"service.name": "api", "service.version": "1.2", "deployment.environment.name": "production"}
_MAKER: Final = Maker(lambda record: record.values, lambda address: address, datetime.now(UTC))
Write = Callable[[Any], None]


def main() -> int:
    """Print microseconds a row and the ratios, each way in turn, round after round."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory, _postgresql() as postgresql_url:
        ways = _sqlite(Path(directory)) | _postgresql_ways(postgresql_url)
        ways = {name: way for name, way in ways.items() if asked.only in name or name in YARDSTICKS}
        rounds = {name: _rounds(ways, name, asked.rounds, asked.batches) for name in (EVENT, OUTCOME)}
    report = {name: _report(measured) for name, measured in rounds.items()}
    print(json.dumps(report) if asked.json else "\n\n".join(_text(name, of) for name, of in report.items()))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="how often every way has its turn (default: 60)")
    parser.add_argument("--batches", type=int, default=1, help=f"batches of {BATCH} a turn (default: 1)")
    parser.add_argument("--only", default="", help="ways whose name has this in it, beside the yardsticks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def records_of(name: str, n: int) -> list[EventRecord]:
    """Records as the spool or memory hands them on, each with an id of its own."""
    declaration = registry.require(name)
    return [
        EventRecord(
            declaration,
            declaration.bind({**FIELDS[name], "timestamp": None}).values,
            event_id=str(uuid_utils.uuid7()),
            timestamp=time.time_ns(),
            observed_timestamp=time.time_ns(),
            trace_id=0x0AF7651916CD43DD8448EB211C80319C + number // EVENTS_OF_A_REQUEST,
            span_id=0xB7AD6B7169203331 + number // EVENTS_OF_A_REQUEST,
            resource=RESOURCE,
        )
        for number in range(n)
    ]


def _writer(engine: Engine) -> Writer:
    return Writer(
        engine,
        event_store="all",
        disclose=lambda record: record.values,
        pseudonym=lambda address: address,
        prepare=schema.upgrade,
    )


def _sqlite(directory: Path) -> dict[str, tuple[Callable[..., Any], Write]]:
    """Each way: what it may make ready before the clock runs, and what is measured."""
    ours = create(parse_url(f"sqlite:///{directory / 'ours.db'}"))
    return {
        "sqlite: executemany of ready tuples": (_ready_tuples, _raw_executemany(directory / "all.db")),
        "sqlite: the same, filled columns only": (_filled_tuples, _raw_executemany(directory / "filled.db")),
        "sqlite: ours, of records": (lambda records: records, _writer(ours).write),
    }


def _raw_executemany(path: Path) -> Write:
    schema.upgrade(create(parse_url(f"sqlite:///{path}")))
    raw = sqlite3.connect(path, isolation_level=None)

    def executemany(ready: Any) -> None:
        raw.execute("BEGIN")
        raw.executemany(*ready)
        raw.execute("COMMIT")

    return executemany


def _ready_tuples(records: Sequence[EventRecord]) -> tuple[str, list[tuple[Any, ...]]]:
    table = _table(records)
    names = written(table)
    marks = ", ".join("?" * len(names))
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
    filled, tuples = projection(records[0].declaration, SQLITE).columns, _made(records, SQLITE)
    constant = {"event": records[0].declaration.name}
    rows = [constant | dict(zip(filled, made, strict=True)) for made in tuples]
    return statement, [tuple(row.get(name) for name in names) for row in rows]


def _filled_tuples(records: Sequence[EventRecord]) -> tuple[str, list[tuple[Any, ...]]]:
    return sqlite_insert(records[0].declaration), _made(records, SQLITE)


def _table(records: Sequence[EventRecord]) -> Table:
    return outcome_events if records[0].outcome else events


def _made(records: Sequence[EventRecord], form: Form) -> list[tuple[Any, ...]]:
    return list(_MAKER.tuples(records[0].declaration, records, form))


def _postgresql_ways(url: str) -> dict[str, tuple[Callable[..., Any], Write]]:
    engine = create(parse_url(url))
    writer = _writer(engine)
    schema.upgrade(engine)
    connection = psycopg.connect(url, prepare_threshold=None)
    for table in (events, outcome_events):
        connection.execute(f"CREATE UNLOGGED TABLE staged_{table.name} (LIKE {table.name})")
    connection.commit()

    def copy(statement: str, text: str) -> None:
        with connection.cursor() as cursor, cursor.copy(statement) as into:
            into.write(text)
        connection.commit()

    def ready_lines(records: Sequence[EventRecord]) -> tuple[str, str]:
        return copy_statement(_table(records)), "\n".join([*map("\t".join, _made(records, COPY)), ""])

    def stage(records: Sequence[EventRecord]) -> Table:
        statement, text = ready_lines(records)
        connection.execute(f"TRUNCATE staged_{_table(records).name}")
        copy(statement.replace("COPY ", "COPY staged_"), text)
        return _table(records)

    def insert_select(table: Table) -> None:
        connection.execute(f"INSERT INTO {table.name} SELECT * FROM staged_{table.name} ON CONFLICT DO NOTHING")
        connection.commit()

    def insert_new(records: Sequence[EventRecord]) -> None:
        with transaction(engine) as driver:
            skip_stored(driver, records, _MAKER)

    def executemany(records: Sequence[EventRecord]) -> None:
        names = written(_table(records))
        marks = ", ".join(["%s"] * len(names))
        into = f"INSERT INTO {_table(records).name} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        rows = [(*row.values(),) for row in _MAKER.rows(records)]
        with connection.cursor() as cursor:
            cursor.executemany(into, [(*row[:-1], json.dumps(row[-1])) for row in rows])
        connection.commit()

    def core(records: Sequence[EventRecord]) -> None:
        with engine.begin() as open_:
            open_.execute(insert(_table(records)).on_conflict_do_nothing(), list(_MAKER.rows(records)))

    return {
        "postgresql: INSERT … SELECT inside the server": (stage, insert_select),
        "postgresql: COPY of ready lines": (ready_lines, lambda ready: copy(*ready)),
        "postgresql: ours, of records": (lambda records: records, writer.write),
        "postgresql: ours, where some may be stored": (lambda records: records, insert_new),
        "postgresql: psycopg executemany": (lambda records: records, executemany),
        "postgresql: SQLAlchemy executemany": (lambda records: records, core),
    }


def _rounds(ways: dict[str, Any], event: str, rounds: int, batches: int) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        print(f"{event}: round {number} of {rounds}", file=sys.stderr, flush=True)
        for name, (prepare, write) in ways.items():
            took = _turn(event, batches, prepare, write)
            if number:  # the first one warms up
                measured[name].append(took)
    return measured


def _turn(event: str, batches: int, prepare: Callable[..., Any], write: Write) -> float:
    """Microseconds a row."""
    spent = 0
    for _ in range(batches):
        ready = prepare(records_of(event, BATCH))
        before = time.perf_counter_ns()
        write(ready)
        spent += time.perf_counter_ns() - before
    return spent / 1000 / BATCH / batches


def _report(measured: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    report = {}
    for name, each in measured.items():
        database = name.partition(":")[0]
        yardstick = next(of for other, of in measured.items() if other.startswith(database))
        ratios = sorted(best / own for best, own in zip(yardstick, each, strict=True))
        report[name] = {
            "us_a_row": statistics.median(each),
            "rows_a_second": 1e6 / statistics.median(each),
            "of_yardstick": statistics.median(ratios),
            "of_yardstick_undisturbed": _undisturbed(yardstick) / _undisturbed(each),
        }
    return report


def _undisturbed(each: list[float]) -> float:
    """The tenth percentile: turns in which nobody else wanted the processor or the disk."""
    return sorted(each)[len(each) // 10]


def _text(event: str, report: dict[str, dict[str, float]]) -> str:
    lines = [f"{event:<48}{'µs a row':>9}{'rows/s':>10}   of yardstick: median, undisturbed"]
    for name, of in report.items():
        ratio = f"{of['of_yardstick']:.2f}   {of['of_yardstick_undisturbed']:.2f}"
        lines.append(f"  {name:<46}{of['us_a_row']:>9.2f}{of['rows_a_second']:>10,.0f}   {ratio}")
    return "\n".join(lines)


@contextmanager
def _postgresql() -> Iterator[str]:
    from tests.integration.conftest import running_postgresql

    with running_postgresql("benchmarks-postgresql") as server:
        yield server.url(server.create_database())


if __name__ == "__main__":
    sys.exit(main())
