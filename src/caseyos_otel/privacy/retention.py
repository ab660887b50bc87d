"""How long what is kept: old events and outcomes go, addresses in outcomes become hashes. In small steps, any number of times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, column, delete, event, exc, func, select, text, update
from sqlalchemy import table as named

from caseyos_otel.errors import StorageError
from caseyos_otel.events.registry import registry
from caseyos_otel.privacy import batches, months
from caseyos_otel.privacy.anonymise import READ, Pseudonym, anonymised
from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import translate
from caseyos_otel.storage.health import Health
from caseyos_otel.storage.tables import events, outcome_events, retention_runs

PLAIN_FOR: Final = timedelta(days=90)
"""How long an address or a name may stay as it is."""
LATE_AFTER: Final = timedelta(days=2)
_RUNS_KEPT: Final = timedelta(days=365)
_UTC: Final = text("SET LOCAL TimeZone = 'UTC'")
"""For one transaction: behind PgBouncer the session is somebody else's next."""

_ANOTHER_KEY: Final = (
    "hashes made now differ from those made when the events were stored: set CASEYOS_OTEL_PII_KEY (or "
    "CASEYOS_OTEL_STATE_DIR) here as in the service; contact_email became contact_hash all the same"
)

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Policy:
    """What goes before which moment; None keeps it for ever."""

    events_before: datetime | None
    outcomes_before: datetime | None
    plain_before: datetime

    @classmethod
    def of(cls, event_days: int, outcome_days: int, now: datetime) -> Policy:
        """`CASEYOS_OTEL_EVENT_RETENTION_DAYS`, `CASEYOS_OTEL_OUTCOME_RETENTION_DAYS` (0: keep), from `now` back."""
        return cls(
            now - timedelta(days=event_days) if event_days else None,
            now - timedelta(days=outcome_days) if outcome_days else None,
            now - PLAIN_FOR,
        )


@dataclass(slots=True)
class Report:
    """What a run did, or would do."""

    events_deleted: int = 0
    outcomes_deleted: int = 0
    outcomes_anonymised: int = 0
    undeclared: dict[str, int] = field(default_factory=dict)
    """Of those made anonymous, how many of each event that nobody declares here: every text in them became a hash."""
    set_aside_deleted: int = 0
    """Entries of this host's spool directory."""
    partitions_dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that went or changed."""
        return self.events_deleted + self.outcomes_deleted + self.outcomes_anonymised

    @property
    def remarks(self) -> list[str]:
        """What somebody should know, one sentence each."""
        return [*self.notes, *self._about_undeclared()]

    def _about_undeclared(self) -> Iterator[str]:
        if self.undeclared:
            yield (
                f"{sum(self.undeclared.values())} of these outcomes are of events that nobody declares here "
                f"({', '.join(sorted(self.undeclared))}): every text in them counts as a name and becomes a hash; to keep "
                "what is not personal, name their YAML in CASEYOS_OTEL_HOOKS, or install the service's package, where this runs"
            )


def due(engine: Engine, policy: Policy) -> Report:
    """What a run would do now. Changes nothing.

    Raises:
        StorageUnavailable: the database cannot be reached, or lacks our tables.
    """
    report = Report()
    try:
        with engine.connect() as connection:
            report.partitions_dropped = months.past(connection, policy.events_before)
            # a month that goes whole may hold rows whose own time is later than that of their id
            for name in report.partitions_dropped:
                report.events_deleted += _count(connection, name) - _count(connection, name, policy.events_before)
            if policy.events_before is not None:
                report.events_deleted += _count(connection, events.name, policy.events_before)
            if policy.outcomes_before is not None:
                report.outcomes_deleted = _count(connection, outcome_events.name, policy.outcomes_before)
            for name, rows in _plain(connection, policy):
                _count_anonymised(report, name, rows)
    except exc.DBAPIError as error:
        raise translate(error) from None
    return report


def run(engine: Engine, policy: Policy, pseudonym: Pseudonym, progress: Progress = lambda rows: None) -> Report:
    """Do what is due. Each batch is a transaction of its own, and writers get as much time as it took.

    `progress` gets the number of rows after each. What is interrupted goes on with the next run. A step that fails is
    one of the report's `failures`; the others are done all the same, and the run is not remembered as one.
    """
    report = Report()
    steps: dict[str, Callable[[], Iterator[int]]] = {
        "months of events that are over": lambda: _drop_past(engine, policy, report),
        "old events": lambda: _delete_events(engine, policy, report),
        "old outcomes": lambda: _delete_outcomes(engine, policy, report),
        "addresses in outcomes": lambda: _anonymise_old(engine, policy, pseudonym, report),
        "the partitions of this month and the next": lambda: _make_partitions(engine),
    }
    for what, step in steps.items():
        _try(what, step, report, progress)
    if not report.failures:
        _try("the memory of this run", lambda: _remember(engine, report), report, progress)
    return report


def in_utc(engine: Engine) -> Engine:
    """The same, with moments that PostgreSQL writes in UTC, whatever role and database are set to.

    In another zone some moments of the years 1 and 9999 have no datetime.
    """
    if engine.dialect.name == "postgresql":
        event.listen(engine, "begin", lambda connection: connection.execute(_UTC))
    return engine


def late(engine: Engine, policy: Policy, health: Health, now: datetime) -> timedelta | None:
    """For how long a run has been due that did not happen, if that is more than two days; None otherwise.

    Raises:
        StorageUnavailable: the database cannot be reached, or lacks our tables.
    """
    if health.last_retention is not None and now - health.last_retention <= LATE_AFTER:
        return None
    try:
        with engine.connect() as connection:
            waiting = max(_overdue(connection, policy), default=timedelta(0))
    except exc.DBAPIError as error:
        raise translate(error) from None
    return waiting if waiting > LATE_AFTER else None


# -- steps -------------------------------------------------------------------------------------------------------


def _try(what: str, step: Callable[[], Iterator[int]], report: Report, progress: Progress) -> None:
    """One step; whatever stops it, the next one comes."""
    try:
        for rows in step():
            progress(rows)
    except Exception as error:
        # the text of an error that is not the database's may repeat a value
        why = translate(error) if isinstance(error, exc.SQLAlchemyError | StorageError) else type(error).__name__
        report.failures.append(f"{what}: {why}")


def _drop_past(engine: Engine, policy: Policy, report: Report) -> Iterator[int]:
    with engine.connect() as connection:
        past = {name: _count(connection, name) for name in months.past(connection, policy.events_before)}
    for name, rows in past.items():
        if refusal := months.drop(engine, name):
            report.notes.append(f"{name} is not dropped ({refusal}): its rows are deleted one by one")
            continue
        report.partitions_dropped.append(name)
        report.events_deleted += rows
        yield rows


def _delete_events(engine: Engine, policy: Policy, report: Report) -> Iterator[int]:
    for rows in batches.delete_old(engine, events, policy.events_before):
        report.events_deleted += rows
        yield rows


def _delete_outcomes(engine: Engine, policy: Policy, report: Report) -> Iterator[int]:
    for rows in batches.delete_old(engine, outcome_events, policy.outcomes_before):
        report.outcomes_deleted += rows
        yield rows


def _make_partitions(engine: Engine) -> Iterator[int]:
    if engine.dialect.name == "postgresql":
        partitions.ensure(engine, partitions.wanted((), datetime.now(UTC).date()))
    return iter(())


def _count(connection: Connection, name: str, before: datetime | None = None) -> int:
    counted = named(name, column("occurred_at", events.c.occurred_at.type))
    rows = select(func.count()).select_from(counted)
    return connection.scalar(rows if before is None else rows.where(counted.c.occurred_at < before)) or 0


# -- outcomes that stay ------------------------------------------------------------------------------------------


def _not_anonymised(policy: Policy) -> tuple[Any, ...]:
    """What is to be made anonymous and does not go altogether."""
    moment = outcome_events.c.occurred_at
    stays = () if policy.outcomes_before is None else (moment >= policy.outcomes_before,)
    return (outcome_events.c.anonymised_at.is_(None), moment < policy.plain_before, *stays)


def _plain(connection: Connection, policy: Policy) -> list[tuple[str, int]]:
    """How many outcomes of which event are to be made anonymous."""
    by_name = outcome_events.c.event
    counted = select(by_name, func.count()).where(*_not_anonymised(policy)).group_by(by_name)
    return [(name, rows) for name, rows in connection.execute(counted)]


def _count_anonymised(report: Report, name: str, rows: int = 1) -> None:
    report.outcomes_anonymised += rows
    if registry.get(name) is None:
        report.undeclared[name] = report.undeclared.get(name, 0) + rows


def _anonymise_old(engine: Engine, policy: Policy, pseudonym: Pseudonym, report: Report) -> Iterator[int]:
    read = (outcome_events.c[name] for name in READ)
    old = select(*read).where(*_not_anonymised(policy)).limit(batches.BATCH)
    more = True
    while more:
        with batches.batch(engine) as connection:
            rows = connection.execute(old).mappings().all()
            for row in rows:
                _anonymise(connection, dict(row), pseudonym, report)
        for row in rows:
            _count_anonymised(report, row["event"])
        yield len(rows)
        more = bool(rows)


def _anonymise(connection: Connection, row: Mapping[str, Any], pseudonym: Pseudonym, report: Report) -> None:
    address = row["contact_email"]
    another_key = address is not None and pseudonym(address) != row["contact_hash"]
    if another_key and _ANOTHER_KEY not in report.notes:
        report.notes.append(_ANOTHER_KEY)
    changed = anonymised(registry.get(row["event"]), row, pseudonym)
    of_row = outcome_events.c.event_id == row["event_id"]
    connection.execute(update(outcome_events).where(of_row).values(**changed, anonymised_at=datetime.now(UTC)))


# -- what is remembered ------------------------------------------------------------------------------------------


def _remember(engine: Engine, report: Report) -> Iterator[int]:
    now = datetime.now(UTC)
    row = {
        "finished_at": now,
        "events_deleted": report.events_deleted,
        "outcomes_anonymised": report.outcomes_anonymised,
        "outcomes_deleted": report.outcomes_deleted,
    }
    with engine.begin() as connection:
        connection.execute(delete(retention_runs).where(retention_runs.c.finished_at < now - _RUNS_KEPT))
        connection.execute(retention_runs.insert().values(row))
    return iter(())


def _overdue(connection: Connection, policy: Policy) -> Iterator[timedelta]:
    """For how long the oldest row of each kind has been due."""
    for table, before in ((events, policy.events_before), (outcome_events, policy.outcomes_before)):
        if before is None:
            continue
        for name in list(batches.names(connection, table)):
            oldest = connection.scalar(select(func.min(table.c.occurred_at)).where(table.c.event == name))
            if oldest is not None:
                yield before - oldest
    plain = outcome_events.c.anonymised_at.is_(None)
    oldest = connection.scalar(select(func.min(outcome_events.c.occurred_at)).where(plain))
    if oldest is not None:
        yield policy.plain_before - oldest
