"""Every spelling of a PostgreSQL URL, and the roles behind it, from the variable to the row."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from caseyos_otel.storage.engine import create, parse_url

SPELLINGS = [
    "postgres://{where}",
    "postgresql://{where}",
    "postgresql+psycopg://{where}",
    "postgresql+psycopg2://{where}?sslmode=prefer&client_encoding=utf8",
    "postgresql+asyncpg://{where}?ssl=prefer&prepared_statement_cache_size=0",
    "postgres://{where}?sslmode=disable",
    "POSTGRES://{where}?pgbouncer=true&connection_limit=1",
    '"postgresql://{where}"',
]
PROGRAM = """
import caseyos_otel
caseyos_otel.configure(exporters=("outcomes",))
caseyos_otel.track("outcome_deal_advanced", deal_id="d", recommendation_id="r", old_stage="a", new_stage="b")
caseyos_otel.track("recommendation_dismissed", recommendation_id="r", action_type="call", user_id="casey")
assert caseyos_otel.flush(20.0)
"""


def run(arguments: list[str], state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of a service that has nothing of ours in its environment but this."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CASEYOS_OTEL_", "OTEL_", "SENTRY_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**clean, "CASEYOS_OTEL_STATE_DIR": str(state), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def cli(*arguments: str) -> list[str]:
    return ["-c", "from caseyos_otel.cli.app import main; main()", *arguments]


def stored(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        tables = ("outcome_events", "events")
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_events_arrive_however_the_url_is_written(
    postgresql_server: Any, postgresql_url: str, tmp_path: Path, spelling: str
) -> None:
    url = spelling.format(where=postgresql_url.partition("://")[2])
    upgraded = run(cli("db", "upgrade"), tmp_path, CASEYOS_OTEL_DATABASE_URL=url)
    assert (upgraded.returncode, upgraded.stderr) == (0, "")
    done = run(["-c", PROGRAM], tmp_path, CASEYOS_OTEL_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert "is away" not in done.stderr
    assert stored(postgresql_url) == [1, 1]


def test_a_service_that_may_only_write_writes_what_another_role_has_made(
    postgresql_server: Any, postgresql_url: str, tmp_path: Path
) -> None:
    owner = create(parse_url(postgresql_url))
    name = f"service_{owner.url.database}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {name}")
    service = owner.url.set(drivername="postgresql", username=name).render_as_string(hide_password=False)
    environment = {"CASEYOS_OTEL_DATABASE_URL": service}
    refused = run(cli("db", "upgrade"), tmp_path, **environment)
    assert refused.returncode == 1
    assert "may not create tables" in refused.stderr
    owned = {**environment, "CASEYOS_OTEL_MIGRATION_DATABASE_URL": postgresql_url}
    assert run(cli("db", "upgrade"), tmp_path, **owned).returncode == 0
    assert run(cli("db", "check"), tmp_path, **environment).returncode == 0
    done = run(["-c", PROGRAM], tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "is away" not in done.stderr
    assert stored(postgresql_url) == [1, 1]
    assert run(cli("retention", "run"), tmp_path, **owned).returncode == 0
    owner.dispose()


def test_a_row_in_the_default_partition_breaks_doctor_until_its_month_is_made(
    postgresql_server: Any, postgresql_url: str, tmp_path: Path
) -> None:
    environment = {"CASEYOS_OTEL_DATABASE_URL": postgresql_url, "CASEYOS_OTEL_EXPORTERS": "outcomes"}
    assert run(cli("db", "upgrade"), tmp_path, **environment).returncode == 0
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        months = connection.execute(
            "SELECT relname FROM pg_class WHERE relname ~ '^events_[0-9]{4}_[0-9]{2}$'"
        ).fetchall()
        for (month,) in months:
            connection.execute(f"DROP TABLE {month}")
        moment = "lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0')"
        connection.execute(
            "INSERT INTO events (event_id, event, occurred_at, received_at, failure, properties) "
            f"SELECT (substr({moment}, 1, 8) || '-' || substr({moment}, 9) || '-7000-8000-000000000001')::uuid, "
            "'e', now(), now(), false, '{}'"
        )
    examined = run(cli("doctor"), tmp_path, **environment)
    assert examined.returncode == 1
    assert "1 rows of events are in the default partition" in examined.stdout
    assert run(cli("db", "upgrade"), tmp_path, **environment).returncode == 0
    examined = run(cli("doctor"), tmp_path, **environment)
    assert (examined.returncode, "default partition" in examined.stdout) == (0, False)
