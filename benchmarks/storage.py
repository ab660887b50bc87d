"""`python -m benchmarks.storage`: rows a second into both databases, beside the fastest that each database itself can do.

The yardstick has its rows ready and makes nothing of them: SQLite's is the standard library's `executemany`, PostgreSQL's
an `INSERT … SELECT` from a table inside the server. Ours is shown twice: the statement alone with its parameters ready, and
all of it, from records to commit, the pauses for the service's threads included. Same tables, same indexes, same batches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import uuid_utils
from sqlalchemy import Engine, Table

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.rows import project
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer, as_sqlite, payload, postgresql_insert, sqlite_insert, written

BATCH: Final = 512
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
RESOURCE: Final = {"service.name": "api", "service.version": "1.2", "deployment.environment.name": "production"}
Write = Callable[[Sequence[EventRecord]], None]


def main() -> int:
    """Print microseconds a row and the ratios, each way in turn, round after round."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory, _postgresql() as postgresql_url:
        ways = _sqlite(Path(directory)) | _postgresql_ways(postgresql_url)
        rounds = {name: _rounds(ways, name, asked.rounds, asked.batches) for name in (EVENT, OUTCOME)}
    report = {name: _report(measured) for name, measured in rounds.items()}
    print(json.dumps(report) if asked.json else "\n\n".join(_text(name, of) for name, of in report.items()))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often every way has its turn (default: 9)")
    parser.add_argument("--batches", type=int, default=8, help=f"batches of {BATCH} a turn (default: 8)")
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
            trace_id=0x0AF7651916CD43DD8448EB211C80319C,
            span_id=0xB7AD6B7169203331,
            resource=RESOURCE,
        )
        for _ in range(n)
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
    theirs = create(parse_url(f"sqlite:///{directory / 'theirs.db'}"))
    for engine in (ours, theirs):
        schema.upgrade(engine)
    raw = sqlite3.connect(directory / "theirs.db", isolation_level=None)

    def executemany(ready: tuple[Table, list[tuple[Any, ...]]]) -> None:
        raw.execute("BEGIN")
        raw.executemany(sqlite_insert(ready[0]), ready[1])
        raw.execute("COMMIT")

    def exec_driver_sql(ready: tuple[Table, list[tuple[Any, ...]]]) -> None:
        with ours.begin() as connection:
            connection.exec_driver_sql(sqlite_insert(ready[0]), ready[1])

    return {
        "sqlite: executemany of ready tuples": (_ready_tuples, executemany),
        "sqlite: ours, of ready tuples": (_ready_tuples, exec_driver_sql),
        "sqlite: ours, of records": (lambda records: records, _writer(ours).write),
    }


def _ready_tuples(records: Sequence[EventRecord]) -> tuple[Table, list[tuple[Any, ...]]]:
    table = outcome_events if records[0].outcome else events
    return table, [as_sqlite(table, _projected(record)) for record in records]


def _projected(record: EventRecord) -> list[Any]:
    from datetime import UTC, datetime

    return project(record, record.values, datetime.now(UTC), lambda address: address)


def _postgresql_ways(url: str) -> dict[str, tuple[Callable[..., Any], Write]]:
    engine = create(parse_url(url))
    writer = _writer(engine)
    schema.upgrade(engine)
    connection = psycopg.connect(url, prepare_threshold=None)
    for table in (events, outcome_events):
        connection.execute(f"CREATE UNLOGGED TABLE staged_{table.name} (LIKE {table.name})")
    connection.commit()

    def stage(records: Sequence[EventRecord]) -> Table:
        table = outcome_events if records[0].outcome else events
        connection.execute(f"TRUNCATE staged_{table.name}")
        with connection.cursor() as cursor:
            _executemany(cursor, f"staged_{table.name}", table, records)
        connection.commit()
        return table

    def insert_select(table: Table) -> None:
        connection.execute(f"INSERT INTO {table.name} SELECT * FROM staged_{table.name} ON CONFLICT DO NOTHING")
        connection.commit()

    def executemany(records: Sequence[EventRecord]) -> None:
        table = outcome_events if records[0].outcome else events
        with connection.cursor() as cursor:
            _executemany(cursor, table.name, table, records)
        connection.commit()

    def ready_json(records: Sequence[EventRecord]) -> tuple[Table, str]:
        table = outcome_events if records[0].outcome else events
        return table, payload(written(table), [_projected(record) for record in records])

    def one_parameter(ready: tuple[Table, str]) -> None:
        with engine.begin() as open_:
            open_.exec_driver_sql(postgresql_insert(ready[0]), (ready[1],))

    def core(records: Sequence[EventRecord]) -> None:
        from sqlalchemy.dialects.postgresql import insert

        table = outcome_events if records[0].outcome else events
        names = [column.name for column in table.columns]
        with engine.begin() as open_:
            rows = [dict(zip(names, _projected(record), strict=False)) for record in records]
            open_.execute(insert(table).on_conflict_do_nothing(), rows)

    return {
        "postgresql: INSERT … SELECT inside the server": (stage, insert_select),
        "postgresql: ours, of ready JSON": (ready_json, one_parameter),
        "postgresql: ours, of records": (lambda records: records, writer.write),
        "postgresql: psycopg executemany": (lambda records: records, executemany),
        "postgresql: SQLAlchemy executemany": (lambda records: records, core),
    }


def _executemany(cursor: Any, into: str, table: Table, records: Sequence[EventRecord]) -> None:
    rows = [_projected(record) for record in records]
    names = [column.name for column in table.columns][: len(rows[0])]
    marks = ", ".join(["%s"] * len(names))
    tuples = [(*row[:-1], json.dumps(row[-1])) for row in rows]
    cursor.executemany(f"INSERT INTO {into} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING", tuples)


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
            "lowest": ratios[0],
            "highest": ratios[-1],
        }
    return report


def _text(event: str, report: dict[str, dict[str, float]]) -> str:
    lines = [f"{event:<48}{'µs a row':>9}{'rows/s':>10}   of yardstick (lowest to highest)"]
    for name, of in report.items():
        ratio = f"{of['of_yardstick']:.2f} ({of['lowest']:.2f} to {of['highest']:.2f})"
        lines.append(f"  {name:<46}{of['us_a_row']:>9.2f}{of['rows_a_second']:>10,.0f}   {ratio}")
    return "\n".join(lines)


@contextmanager
def _postgresql() -> Iterator[str]:
    from tests.integration.conftest import PostgresServer, _free_port, _install

    directory = Path(tempfile.mkdtemp(prefix="benchmarks-postgresql-"))
    server = PostgresServer(directory, _free_port())
    try:
        _install(directory)
        server.start()
        yield server.url(server.create_database())
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
