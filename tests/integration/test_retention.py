"""What retention does to both databases: what goes, what stays, what becomes a hash, and how it is remembered."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uuid_utils
from sqlalchemy import Engine, Table, event, select, text
from typer.testing import CliRunner

from caseyos_otel.cli import checkup
from caseyos_otel.cli.app import app
from caseyos_otel.errors import StorageError
from caseyos_otel.events.declared import parse
from caseyos_otel.events.field import Privacy, parse_timestamp
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.outcome import OutcomeMeetingBooked, OutcomeReplyReceived
from caseyos_otel.events.recommendation import RecommendationDismissed
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.privacy import batches, months, retention
from caseyos_otel.privacy.retention import Policy
from caseyos_otel.redaction.pseudonyms import Pseudonyms
from caseyos_otel.storage import health, partitions, schema
from caseyos_otel.storage.engine import create, parse_url
from caseyos_otel.storage.tables import events, outcome_events
from caseyos_otel.storage.writer import Writer

Make = Callable[..., EventRecord]
NOW = datetime.now(UTC)
_DUE = NOW - timedelta(days=90)
JUST_DUE = 90 + min(timedelta(days=1), (_DUE - datetime(_DUE.year, _DUE.month, 1, tzinfo=UTC)) / 2) / timedelta(days=1)
"""An age in days, of an event that is due and whose month is not over: a month that is over goes whole."""
REPLY = OutcomeReplyReceived.declaration
MEETING = OutcomeMeetingBooked.declaration
DISMISSED = RecommendationDismissed.declaration
pseudonym = Pseudonyms(b"the key of these tests").of


class ContractWitnessed(Event, name="contract_witnessed", otel="acme.contract.witnessed", outcome=True):
    """An outcome of a service's own with personal fields that have no column."""

    contract_id: str = required(doc="Contract in the CRM.")
    signer: str | None = optional(privacy=Privacy.EMAIL, doc="Who signed.")
    witness: str | None = optional(privacy=Privacy.EMAIL, doc="Who saw it.")
    notary: str | None = optional(privacy=Privacy.PERSON, doc="By name.")
    user_id: str | None = optional(privacy=Privacy.USER, doc="Who entered it.")
    remark: str | None = optional(privacy=Privacy.FREE_TEXT, doc="In words.")
    company: str | None = optional(privacy=Privacy.COMPANY, doc="The other side.")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.get
    own = ContractWitnessed.declaration
    monkeypatch.setattr(registry, "get", lambda name: own if name == own.name else known(name))


def policy(event_days: int = 90, outcome_days: int = 365) -> Policy:
    return Policy.of(event_days, outcome_days, NOW)


def aged(make: Make, declaration: Any, days: float, **fields: Any) -> EventRecord:
    """A record that happened so many days ago, with an id of that time."""
    moment = int((NOW - timedelta(days=days)).timestamp() * 1000)
    digits = f"{moment:012x}"
    record = make(declaration, event_id=f"{digits[:8]}-{digits[8:]}-{str(uuid_utils.uuid7())[14:]}", **fields)
    record.timestamp = moment * 1_000_000
    return record


def store(engine: Engine, records: list[EventRecord]) -> None:
    Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=pseudonym).write(records)


def ids(engine: Engine, table: Table) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(table.c.event_id)))


def row_of(engine: Engine, event_id: str) -> dict[str, Any]:
    with engine.connect() as connection:
        return dict(
            connection.execute(select(outcome_events).where(outcome_events.c.event_id == event_id)).mappings().one()
        )


def test_what_is_older_than_it_may_get_goes_and_the_rest_stays(engine: Engine, record_of: Make) -> None:
    old = [aged(record_of, DISMISSED, days) for days in (91, 120, 400)]
    young = [aged(record_of, DISMISSED, days) for days in (0, 60, 89)]
    old_outcomes = [aged(record_of, REPLY, 366)]
    kept_outcomes = [aged(record_of, REPLY, days) for days in (0, 89, 91, 364)]
    store(engine, [*old, *young, *old_outcomes, *kept_outcomes])
    seen: list[int] = []
    foreseen = retention.due(engine, policy())
    report = retention.run(engine, policy(), pseudonym, seen.append)
    assert ids(engine, events) == {record.event_id for record in young}
    assert ids(engine, outcome_events) == {record.event_id for record in kept_outcomes}
    assert (report.events_deleted, report.outcomes_deleted, report.outcomes_anonymised) == (3, 1, 2)
    assert (foreseen.events_deleted, foreseen.outcomes_deleted, foreseen.outcomes_anonymised) == (3, 1, 2)
    assert sum(seen) == report.rows == foreseen.rows


def test_a_second_run_finds_nothing_to_do(engine: Engine, record_of: Make) -> None:
    store(engine, [aged(record_of, DISMISSED, 100), aged(record_of, REPLY, 100)])
    assert retention.run(engine, policy(), pseudonym).rows == 2
    with engine.connect() as connection:
        before = connection.execute(select(outcome_events)).all()
    assert retention.due(engine, policy()).rows == 0
    assert retention.run(engine, policy(), pseudonym).rows == 0
    with engine.connect() as connection:
        assert connection.execute(select(outcome_events)).all() == before


def test_a_dry_run_changes_nothing(engine: Engine, record_of: Make) -> None:
    records = [aged(record_of, DISMISSED, 100), aged(record_of, REPLY, 100), aged(record_of, REPLY, 400)]
    store(engine, records)
    before = row_of(engine, records[1].event_id)
    assert retention.due(engine, policy()).rows == 3
    assert (len(ids(engine, events)), len(ids(engine, outcome_events))) == (1, 2)
    assert row_of(engine, records[1].event_id) == before
    assert health.read(engine).last_retention is None


def test_zero_days_keep_for_ever_but_addresses_become_hashes_all_the_same(engine: Engine, record_of: Make) -> None:
    records = [aged(record_of, DISMISSED, 1000), aged(record_of, REPLY, 1000, recipient="john@acme.example")]
    store(engine, records)
    report = retention.run(engine, policy(0, 0), pseudonym)
    assert (report.events_deleted, report.outcomes_deleted, report.outcomes_anonymised) == (0, 0, 1)
    assert row_of(engine, records[1].event_id)["contact_email"] == pseudonym("john@acme.example")


def test_every_address_and_name_becomes_its_keyed_hash(engine: Engine, record_of: Make) -> None:
    fields = {
        "contract_id": "c1",
        "signer": "ann@acme.example",
        "witness": "bob@acme.example",
        "notary": "Carl Notary",
        "user_id": "casey@caseyos.example",
        "remark": "ann@acme.example called",
        "company": "Acme",
    }
    record = aged(record_of, ContractWitnessed.declaration, 91, **fields)
    young = aged(record_of, ContractWitnessed.declaration, 89, **fields)
    store(engine, [record, young])
    retention.run(engine, policy(), pseudonym)
    row = row_of(engine, record.event_id)
    assert row["contact_email"] == row["contact_hash"] == pseudonym("ann@acme.example")
    assert row["user_id"] == pseudonym("casey@caseyos.example")
    assert row["properties"] == {
        "contract_id": "c1",
        "witness": pseudonym("bob@acme.example"),
        "notary": pseudonym("Carl Notary"),
        "remark": f"{pseudonym('ann@acme.example')} called",
        "company": "Acme",
    }
    assert row["anonymised_at"] >= NOW
    assert row_of(engine, young.event_id)["contact_email"] == "ann@acme.example"


def test_hashes_are_not_hashed_again(engine: Engine, record_of: Make) -> None:
    """Where the database is none of PII_PLAIN, hashes are what is stored."""
    witness = pseudonym("bob@acme.example")
    record = aged(record_of, ContractWitnessed.declaration, 91, signer=None, witness=None, notary=witness)
    store(engine, [record])
    retention.run(engine, policy(), pseudonym)
    assert row_of(engine, record.event_id)["properties"]["notary"] == witness


def test_of_an_event_that_nobody_declares_here_every_text_becomes_a_hash_and_the_report_names_it(
    engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"signer": "ann@acme.example", "witness": "bob@acme.example", "notary": "Carl Notary", "user_id": "casey"}
    record = aged(record_of, ContractWitnessed.declaration, 91, **fields)
    store(engine, [record, aged(record_of, REPLY, 91)])
    monkeypatch.setattr(registry, "get", lambda name: REPLY if name == REPLY.name else None)
    foreseen = retention.due(engine, policy())
    report = retention.run(engine, policy(), pseudonym)
    assert report.undeclared == foreseen.undeclared == {"contract_witnessed": 1}
    assert (report.outcomes_anonymised, report.failures) == (2, [])
    assert "(contract_witnessed)" in report.remarks[0]
    row = row_of(engine, record.event_id)
    assert (row["contact_email"], row["user_id"]) == (pseudonym("ann@acme.example"), "casey")
    assert row["properties"]["notary"] == pseudonym("Carl Notary")
    assert row["anonymised_at"] >= NOW


def test_another_key_than_the_services_is_noticed(engine: Engine, record_of: Make) -> None:
    record = aged(record_of, REPLY, 91, recipient="john@acme.example")
    store(engine, [record])
    report = retention.run(engine, policy(), Pseudonyms(b"another key").of)
    assert "CASEYOS_OTEL_PII_KEY" in report.notes[0]
    assert row_of(engine, record.event_id)["contact_email"] == pseudonym("john@acme.example")


def test_more_rows_than_a_batch_all_go(engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 7)
    store(engine, [aged(record_of, declaration, 95) for declaration in (DISMISSED, REPLY) for _ in range(30)])
    seen: list[int] = []
    report = retention.run(engine, policy(), pseudonym, seen.append)
    assert (report.events_deleted, report.outcomes_anonymised) == (30, 30)
    assert max(seen) <= 30 if report.partitions_dropped else max(seen) <= 7


def test_writers_go_on_while_it_runs(engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 50)
    store(
        engine, [aged(record_of, declaration, 91 + n % 200) for declaration in (DISMISSED, REPLY) for n in range(1500)]
    )
    other = create(engine.url)
    fresh = [record_of(DISMISSED if n % 2 else REPLY) for n in range(300)]
    for record in fresh:
        record.timestamp = int(NOW.timestamp()) * 1_000_000_000
    failures: list[Exception] = []

    def write() -> None:
        try:
            for start in range(0, len(fresh), 5):
                store(other, fresh[start : start + 5])
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    retention.run(engine, policy(), pseudonym)
    thread.join()
    assert failures == []
    assert {record.event_id for record in fresh} <= ids(engine, events) | ids(engine, outcome_events)
    assert len(ids(engine, events)) == 150
    other.dispose()


@pytest.mark.parametrize("statement", ["DELETE FROM events", "DELETE FROM outcome_events", "UPDATE outcome_events"])
def test_on_postgresql_no_batch_makes_a_writer_wait(postgresql_url: str, record_of: Make, statement: str) -> None:
    """While its transaction is open, another one commits; it would not get the lock within its timeout."""
    engine, other = (
        create(parse_url(postgresql_url)),
        create(parse_url(f"{postgresql_url}?options=-clock_timeout%3D1s")),
    )
    schema.upgrade(engine)
    store(engine, [aged(record_of, DISMISSED, JUST_DUE), aged(record_of, REPLY, 91), aged(record_of, REPLY, 366)])
    written: list[EventRecord] = []

    def write(_connection: object, _cursor: object, executed: str, *_: object) -> None:
        if executed.startswith(statement) and not written:
            fresh = [aged(record_of, DISMISSED, 0), aged(record_of, REPLY, 0)]
            store(other, fresh)
            written.extend(fresh)

    event.listen(engine, "after_cursor_execute", write)
    retention.run(engine, policy(), pseudonym)
    assert len(written) == 2
    assert {record.event_id for record in written} <= ids(engine, events) | ids(engine, outcome_events)
    engine.dispose()
    other.dispose()


def test_two_runs_at_once_do_no_harm(engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH", 20)
    store(engine, [aged(record_of, declaration, 95) for declaration in (DISMISSED, REPLY) for _ in range(200)])
    failures: list[Exception] = []

    def run() -> None:
        own = create(engine.url)
        try:
            retention.run(own, policy(), pseudonym)
        except Exception as error:
            failures.append(error)
        own.dispose()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert retention.due(engine, policy()).rows == 0


def make_partition(engine: Engine, record: EventRecord) -> str:
    """The month of a record as it was made when that month was now."""
    month = partitions.month_of(record.event_id)
    assert month is not None
    assert partitions.ensure(engine, [month])
    return partitions.name_of(month)


def test_on_postgresql_a_month_that_is_over_goes_whole(postgresql_url: str, record_of: Make) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    old, borderline = aged(record_of, DISMISSED, 130), aged(record_of, DISMISSED, JUST_DUE)
    names = [make_partition(engine, record) for record in (old, borderline)]
    once = record_of(DISMISSED, event_id="00000000-0000-8123-8123-0123456789ab")
    once.timestamp = old.timestamp
    store(engine, [old, borderline, once])
    report = retention.run(engine, policy(), pseudonym)
    assert report.partitions_dropped == [names[0]]
    assert report.events_deleted == 3
    with engine.connect() as connection:
        left = partitions.names(connection)
    assert names[0] not in left
    assert {names[1], partitions.ONCE_PER, partitions.DEFAULT} <= left
    assert ids(engine, events) == set()
    engine.dispose()


def test_a_month_that_is_in_use_is_emptied_row_by_row(
    postgresql_url: str, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "_TRIES_TO_DROP", 1)
    engine, reader = create(parse_url(postgresql_url)), create(parse_url(postgresql_url))
    schema.upgrade(engine)
    old = aged(record_of, DISMISSED, 130)
    name = make_partition(engine, old)
    store(engine, [old])
    with reader.connect() as connection:
        connection.execute(text(f"SELECT * FROM {name}"))
        report = retention.run(engine, policy(), pseudonym)
    assert (report.events_deleted, report.partitions_dropped) == (1, [])
    assert report.notes == [f"{name} is not dropped (it is in use): its rows are deleted one by one"]
    assert retention.run(engine, policy(), pseudonym).partitions_dropped == [name]
    engine.dispose()
    reader.dispose()


def test_a_month_that_a_view_depends_on_is_emptied_row_by_row_and_the_rest_is_done(
    postgresql_url: str, record_of: Make
) -> None:
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    old, older = aged(record_of, DISMISSED, 130), aged(record_of, DISMISSED, 200)
    name, other = (make_partition(engine, record) for record in (old, older))
    reply = aged(record_of, REPLY, 91, recipient="john@acme.example")
    store(engine, [old, older, reply])
    with engine.begin() as connection:
        connection.execute(text(f"CREATE VIEW month AS SELECT * FROM {name}"))
    report = retention.run(engine, policy(), pseudonym)
    assert (report.events_deleted, report.partitions_dropped, report.outcomes_anonymised) == (2, [other], 1)
    [note] = report.notes
    assert note.startswith(f"{name} is not dropped (DependentObjectsStillExist: ")
    assert report.failures == []
    assert health.read(engine).last_retention is not None
    engine.dispose()


STEPS = {
    "old events": "DELETE FROM events",
    "old outcomes": "DELETE FROM outcome_events",
    "addresses in outcomes": "UPDATE outcome_events",
    "the memory of this run": "INSERT INTO caseyos_otel_retention",
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_stops_no_other_one_and_the_run_counts_as_missing(
    engine: Engine, record_of: Make, step: str
) -> None:
    store(engine, [aged(record_of, DISMISSED, JUST_DUE), aged(record_of, REPLY, 91), aged(record_of, REPLY, 366)])

    def fail(_connection: object, _cursor: object, executed: str, *_: object) -> None:
        if executed.startswith(STEPS[step]):
            raise StorageError("this one not")

    event.listen(engine, "before_cursor_execute", fail)
    report = retention.run(engine, policy(), pseudonym)
    assert report.failures == [f"{step}: this one not"]
    assert report.rows == (3 if step == "the memory of this run" else 2)
    assert health.read(engine).last_retention is None
    event.remove(engine, "before_cursor_execute", fail)
    assert retention.run(engine, policy(), pseudonym).failures == []
    assert retention.due(engine, policy()).rows == 0


def test_what_a_failure_says_repeats_no_value(engine: Engine, record_of: Make) -> None:
    store(engine, [aged(record_of, REPLY, 91, recipient="john@acme.example")])

    def fails(value: str) -> str:
        raise ValueError(value)

    assert retention.run(engine, policy(), fails).failures == ["addresses in outcomes: ValueError"]


def test_a_run_is_remembered_and_a_missing_one_is_late_two_days_after_it_was_due(
    engine: Engine, record_of: Make
) -> None:
    def late(now: datetime) -> timedelta | None:
        return retention.late(engine, Policy.of(90, 365, now), health.read(engine), now)

    store(engine, [aged(record_of, DISMISSED, 91), aged(record_of, REPLY, 91)])
    assert late(NOW) is None
    assert late(NOW + timedelta(days=0.9)) is None
    overdue = late(NOW + timedelta(days=1.1))
    assert overdue is not None
    assert overdue.days == 2
    retention.run(engine, policy(), pseudonym)
    assert late(NOW + timedelta(days=1.1)) is None
    last = health.read(engine).last_retention
    assert last is not None
    assert last >= NOW
    assert late(NOW + timedelta(days=80)) is None  # nothing is due


@pytest.fixture
def environment(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = engine.url.set(drivername=engine.url.get_backend_name())
    monkeypatch.setenv("CASEYOS_OTEL_DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("CASEYOS_OTEL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CASEYOS_OTEL_PII_KEY", "the key of these tests")


def doctor() -> dict[str, Any]:
    return {d["name"]: d["result"] for d in checkup.examine()["destinations"]}


@pytest.mark.usefixtures("environment")
def test_the_command_reports_what_it_does_and_doctor_sees_that_it_was_late(engine: Engine, record_of: Make) -> None:
    store(engine, [aged(record_of, DISMISSED, JUST_DUE), aged(record_of, REPLY, 95), aged(record_of, REPLY, 370)])
    assert doctor()["retention"]["state"] == "broken"
    assert "last run: never; rows are 280 days over their time" in doctor()["retention"]["detail"]
    command = CliRunner()
    dry = json.loads(command.invoke(app, ["retention", "run", "--dry-run", "--json"]).stdout)
    assert {key: dry[key] for key in ("dry_run", "events_deleted", "outcomes_deleted", "outcomes_anonymised")} == {
        "dry_run": True,
        "events_deleted": 1,
        "outcomes_deleted": 1,
        "outcomes_anonymised": 1,
    }
    done = command.invoke(app, ["retention", "run"])
    assert done.exit_code == 0
    assert "Outcomes: 1 deleted, 1 anonymised." in done.stdout
    assert doctor()["retention"] == {"state": "ok", "detail": "last run: 0 h ago", "mend": ""}


HOOKS = """
events:
  garage_rented:
    otel: acme.garage.rented
    outcome: true
    fields:
      garage_id: {level: required}
      tenant: {privacy: person}
"""


@pytest.mark.usefixtures("environment")
def test_the_command_knows_the_events_that_are_declared_in_yaml(
    engine: Engine, record_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [garage] = parse(HOOKS, "here")
    record = aged(record_of, garage.declaration, 95, garage_id="g1", tenant="Carl Tenant")
    store(engine, [record])
    (tmp_path / "events.yaml").write_text(HOOKS)
    monkeypatch.setenv("CASEYOS_OTEL_HOOKS", str(tmp_path / "events.yaml"))
    _forget(monkeypatch)
    done = CliRunner().invoke(app, ["retention", "run", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["undeclared"]) == (0, {})
    assert row_of(engine, record.event_id)["properties"] == {"garage_id": "g1", "tenant": pseudonym("Carl Tenant")}


@pytest.mark.usefixtures("environment")
def test_the_command_removes_what_any_service_set_aside_on_this_host_90_days_ago(tmp_path: Path) -> None:
    spools = [tmp_path / "state" / "spool" / name for name in ("api", "worker")]
    young, old = set_aside_files(spools[0], (89, 91)), set_aside_files(spools[1], (91,))
    command = CliRunner()
    dry = command.invoke(app, ["retention", "run", "--dry-run", "--json"])
    assert json.loads(dry.stdout)["set_aside_deleted"] == 2
    assert (len(young.read_text().splitlines()), old.exists()) == (2, True)
    done = command.invoke(app, ["retention", "run"])
    assert "Set aside on this host: 2 deleted." in done.stdout
    [left] = spools[0].glob("set-aside*.jsonl")
    assert json.loads(left.read_text())["event"] == "89"
    assert not old.exists()


def set_aside_files(spool: Path, ages: tuple[int, ...]) -> Path:
    spool.mkdir(parents=True)
    at = spool / "set-aside.jsonl"
    entries = [
        {"set_aside_at": NOW.timestamp() - age * 86400, "reason": "undeclared", "event": str(age)} for age in ages
    ]
    at.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return at


def test_what_was_set_aside_goes_though_the_database_is_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at = set_aside_files(tmp_path / "spool" / "api", (91,))
    monkeypatch.setenv("CASEYOS_OTEL_STATE_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["retention", "run", "--json", "--url", "postgresql://casey@127.0.0.1:1/app"])
    report = json.loads(done.stdout)
    assert (done.exit_code, report["set_aside_deleted"]) == (1, 1)
    assert "refused" in report["failures"][0]
    assert not at.exists()


@pytest.mark.usefixtures("environment")
def test_the_command_ends_with_status_1_if_a_step_fails_and_says_which(
    engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(engine, [aged(record_of, DISMISSED, 95), aged(record_of, REPLY, 95)])
    monkeypatch.setattr(retention, "_anonymise_old", lambda *_: iter([1 // 0]))
    for form in ([], ["--json"]):
        done = CliRunner().invoke(app, ["retention", "run", *form])
        assert (done.exit_code, "addresses in outcomes: ZeroDivisionError" in done.output) == (1, True)
    assert ids(engine, events) == set()


@pytest.mark.usefixtures("environment")
def test_a_file_of_declarations_that_cannot_be_read_is_told_with_status_1_and_no_text_stays_plain(
    engine: Engine, record_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    [garage] = parse(HOOKS, "here")
    record = aged(record_of, garage.declaration, 95, garage_id="g1", tenant="Carl Tenant")
    store(engine, [record])
    monkeypatch.setenv("CASEYOS_OTEL_HOOKS", "/no/such.yaml")
    done = CliRunner().invoke(app, ["retention", "run"])
    assert done.exit_code == 1
    assert "/no/such.yaml cannot be read" in done.stderr
    assert "(garage_rented)" in done.stdout
    assert "Carl" not in repr(row_of(engine, record.event_id))


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares by a file, the next one does not know."""
    for names in ("_by_name", "_by_otel_name"):
        monkeypatch.setattr(registry, names, dict(getattr(registry, names)))


ELSEWHERE = [
    ("TimeZone", "Asia/Tokyo", "9999-12-31T23:59:59Z"),
    ("TimeZone", "America/Los_Angeles", "0001-01-01T00:00:00Z"),
    ("DateStyle", "SQL, DMY", "2026-01-24T14:00:00Z"),
]


@pytest.mark.parametrize(("setting", "value", "moment"), ELSEWHERE)
def test_no_moment_and_no_setting_of_a_database_stops_it(
    postgresql_url: str, record_of: Make, tmp_path: Path, setting: str, value: str, moment: str
) -> None:
    upgraded(postgresql_url)
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting} = '{value}'")  # type: ignore[arg-type]
    engine = create(parse_url(postgresql_url))
    meeting = aged(record_of, MEETING, 95, meeting_time=parse_timestamp(moment), recipient="ann@acme.example")
    store(engine, [meeting, aged(record_of, REPLY, 370), aged(record_of, DISMISSED, JUST_DUE)])
    environ = {"CASEYOS_OTEL_DATABASE_URL": postgresql_url, "CASEYOS_OTEL_STATE_DIR": str(tmp_path)}
    command = CliRunner(env=environ)
    doctor = json.loads(command.invoke(app, ["doctor", "--json"]).stdout)
    assert doctor["broken"] == ["retention: last run: never; rows are 280 days over their time"]
    done = command.invoke(app, ["retention", "run"])
    assert (done.exit_code, done.stdout.splitlines()[1]) == (0, "Outcomes: 1 deleted, 1 anonymised.")
    assert command.invoke(app, ["doctor"]).exit_code == 0
    with psycopg.connect(postgresql_url, options="-c timezone=UTC -c datestyle=ISO") as connection:
        rows = connection.execute("SELECT contact_email, meeting_time::text FROM outcome_events").fetchall()
    assert [(address[:2], text) for address, text in rows] == [("h_", moment.replace("T", " ").replace("Z", "+00"))]
    engine.dispose()


def upgraded(url: str) -> None:
    engine = create(parse_url(url))
    schema.upgrade(engine)
    engine.dispose()


def test_a_database_that_is_away_is_told_with_status_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CASEYOS_OTEL_STATE_DIR", str(tmp_path))
    done = CliRunner().invoke(app, ["retention", "run", "--url", "postgresql://casey:hunter2@127.0.0.1:1/app"])
    assert done.exit_code == 1
    assert "refused" in done.output
    assert "hunter2" not in done.output
    assert "Traceback" not in done.output
