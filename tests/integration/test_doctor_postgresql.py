"""What `doctor` says of a PostgreSQL database in which nothing can be stored. It asks, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from caseyos_otel.cli.app import app
from caseyos_otel.storage import schema
from caseyos_otel.storage.engine import create, parse_url
from tests.integration.conftest import running_postgresql

Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def sql(postgresql_url: str) -> Callable[..., None]:
    """`sql("…", …)`: as the owner of a database with our tables; `{role}` is a role that may connect."""
    engine = create(parse_url(postgresql_url))
    schema.upgrade(engine)
    engine.dispose()

    def run(*statements: str) -> None:
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.format(role=role_of(postgresql_url), database=connection.info.dbname))  # type: ignore[call-overload]

    run("CREATE ROLE {role} LOGIN", "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {role}")
    return run


def role_of(url: str) -> str:
    return f"service_{url.rpartition('/')[2]}"


@pytest.fixture
def doctor(postgresql_url: str, tmp_path: Path) -> Asked:
    """`doctor()`: what it says of the database to the service's role, with its exit status."""

    def ask(options: str = "") -> dict[str, Any]:
        url = postgresql_url.replace("postgres@", f"{role_of(postgresql_url)}@") + options
        environ = {"CASEYOS_OTEL_DATABASE_URL": url, "CASEYOS_OTEL_STATE_DIR": str(tmp_path)}
        ran = CliRunner(env=environ).invoke(app, ["doctor", "--json"])
        [found] = [d["result"] for d in json.loads(ran.stdout)["destinations"] if d["name"] == "outcomes"]
        return {**found, "exit": ran.exit_code}

    return ask


def test_a_role_that_may_read_and_insert_is_enough(sql: Callable[..., None], doctor: Asked) -> None:
    found = doctor()
    assert (found["exit"], found["state"]) == (0, "ok")


@pytest.mark.parametrize(
    ("right", "table"), [("INSERT", "outcome_events"), ("INSERT", "events"), ("SELECT", "caseyos_otel_alembic_version")]
)
def test_a_right_that_is_missing_is_named_with_the_statement_that_gives_it(
    right: str, table: str, sql: Callable[..., None], doctor: Asked, postgresql_url: str
) -> None:
    sql(f"REVOKE {right} ON {table} FROM {{role}}")
    found = doctor()
    assert (found["exit"], found["state"]) == (1, "broken")
    assert f"lacks the right to {right} on {table}" in found["detail"]
    assert found["mend"] == f"GRANT {right} ON {table} TO {role_of(postgresql_url)}"
    sql(found["mend"])
    assert doctor()["exit"] == 0


def test_a_schema_that_the_role_may_not_use_is_named(
    sql: Callable[..., None], doctor: Asked, postgresql_url: str
) -> None:
    sql("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    found = doctor()
    assert (found["exit"], found["state"]) == (1, "broken")
    assert found["mend"] == f"GRANT USAGE ON SCHEMA public TO {role_of(postgresql_url)}"
    sql(found["mend"])
    assert doctor()["exit"] == 0


def test_transactions_that_may_only_read_are_told(sql: Callable[..., None], doctor: Asked) -> None:
    sql("ALTER DATABASE {database} SET default_transaction_read_only = on")
    found = doctor()
    assert (found["exit"], found["state"]) == (1, "broken")
    assert "read-only" in found["detail"]
    assert "default_transaction_read_only" in found["mend"]


def test_a_standby_is_told(tmp_path: Path) -> None:
    with running_postgresql("caseyos-standby") as server:
        url = server.url(server.create_database())
        engine = create(parse_url(url))
        schema.upgrade(engine)
        engine.dispose()
        server.stop()
        (server.directory / "data" / "standby.signal").touch()
        server.start()
        environ = {"CASEYOS_OTEL_DATABASE_URL": url, "CASEYOS_OTEL_STATE_DIR": str(tmp_path)}
        ran = CliRunner(env=environ).invoke(app, ["doctor"])
    assert ran.exit_code == 1
    assert "the server is a standby" in ran.stdout
    assert "mend: set CASEYOS_OTEL_DATABASE_URL to the primary" in ran.stdout


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE outcome_events DROP COLUMN client", "the column client of outcome_events is missing"),
        ("ALTER TABLE events DROP COLUMN failure", "the column failure of events is missing"),
        ("ALTER TABLE events ADD COLUMN theirs text NOT NULL", "the column theirs of events is not ours"),
        ("DROP TABLE outcome_events", "the table outcome_events is missing"),
    ],
)
def test_what_rows_need_and_what_is_missing_is_told(
    statement: str, said: str, sql: Callable[..., None], doctor: Asked
) -> None:
    sql(statement)
    found = doctor()
    assert (found["exit"], found["state"]) == (1, "broken")
    assert said in found["detail"]


def test_a_foreign_table_of_our_name_is_told(sql: Callable[..., None], doctor: Asked) -> None:
    sql("DROP TABLE caseyos_otel_alembic_version", "REVOKE INSERT ON events FROM {role}")
    found = doctor()
    assert (found["exit"], found["state"]) == (1, "broken")
    assert "that is not ours" in found["detail"]
