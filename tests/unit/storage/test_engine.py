from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from caseyos_otel.errors import StorageError
from caseyos_otel.settings import load
from caseyos_otel.storage.engine import create, file_of, parse_url
from caseyos_otel.storage.failure import StorageUnavailable, translate

HOST = "casey:pa%40ss@db.example:5432/app"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"postgres://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"postgresql://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"postgresql+psycopg://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"postgresql+psycopg2://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"postgresql+asyncpg://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"postgresql+psycopg_async://{HOST}", f"postgresql+psycopg://{HOST}"),
        (f"  'postgres://{HOST}'\n", f"postgresql+psycopg://{HOST}"),
        (f"postgres://{HOST}?sslmode=require", f"postgresql+psycopg://{HOST}?sslmode=require"),
        (f"postgresql+asyncpg://{HOST}?ssl=require", f"postgresql+psycopg://{HOST}?sslmode=require"),
        (f"postgresql+asyncpg://{HOST}?ssl=verify-full", f"postgresql+psycopg://{HOST}?sslmode=verify-full"),
        (f"postgres://{HOST}?ssl=true", f"postgresql+psycopg://{HOST}?sslmode=require"),
        (f"postgres://{HOST}?sslmode=no-verify&supa=x", f"postgresql+psycopg://{HOST}?sslmode=require"),
        (f"postgresql://{HOST}?schema=public&timeout=5", f"postgresql+psycopg://{HOST}"),
        (
            f"postgresql+asyncpg://{HOST}?prepared_statement_cache_size=0&ssl=require",
            f"postgresql+psycopg://{HOST}?sslmode=require",
        ),
        ("postgresql:///app?host=/run/postgresql", "postgresql+psycopg:///app?host=%2Frun%2Fpostgresql"),
        ("sqlite:////data/caseyos.db", "sqlite:////data/caseyos.db"),
        ("sqlite+aiosqlite:///caseyos.db", "sqlite:///caseyos.db"),
        ("sqlite+pysqlite:///caseyos.db", "sqlite:///caseyos.db"),
    ],
)
def test_every_spelling_ends_at_the_driver_we_use(given: str, expected: str) -> None:
    assert parse_url(given).render_as_string(hide_password=False) == expected


@pytest.mark.parametrize("given", ["mysql+pymysql://casey:secret@db/app", "oracle://casey:secret@db/app"])
def test_another_database_is_named_with_what_is_accepted(given: str) -> None:
    with pytest.raises(StorageError, match=r"(mysql|oracle).*accepted are sqlite:.*postgresql:") as raised:
        parse_url(given)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "given", ["", "caseyos.db", "casey:secret@db.example/app", "postgres://casey:secret@db:port/app"]
)
def test_what_is_no_url_is_refused_without_repeating_it(given: str) -> None:
    with pytest.raises(StorageError, match="cannot be read; accepted are") as raised:
        parse_url(given)
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "password", ["hush@S3cretTail", "hush@S3cret/Tail", "hush@S3cret@Tail", "hush@S3cret:Tail", "hush@S3cret?Tail"]
)
def test_an_at_sign_that_is_not_quoted_in_a_password_is_refused_without_repeating_any_of_it(password: str) -> None:
    with pytest.raises(StorageError, match="as %40") as raised:
        parse_url(f"postgresql://casey:{password}@db.example/app")
    assert not any(part in str(raised.value) for part in ("hush", "S3cret", "Tail", "casey", "db.example"))


def test_an_at_sign_is_taken_where_it_is_no_part_of_a_password(tmp_path: Path) -> None:
    azure = parse_url("postgresql://casey@db:secret@db.example/app?application_name=a@b")
    assert (azure.username, azure.password, azure.host) == ("casey@db", "secret", "db.example")
    assert parse_url(f"sqlite:///{tmp_path}/a@b@c.db").database == f"{tmp_path}/a@b@c.db"


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'caseyos-otel\[postgresql\]'"):
        create(parse_url("postgres://casey@db.example/app"))


def test_nothing_is_made_until_the_first_connection(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "caseyos.db"
    engine = create(parse_url(f"sqlite:///{path}"))
    assert not (tmp_path / "state").exists()
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 5000
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41b", "a?uri=true&b", "a%3Fb?c d#\u00e9", "a@b:c", "?"])
def test_the_default_database_lies_in_the_state_directory_whatever_that_is_called(name: str, tmp_path: Path) -> None:
    state = tmp_path / name
    url = parse_url(load({"CASEYOS_OTEL_STATE_DIR": str(state)}).effective_database_url)
    with create(url).begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (state / "caseyos.db").read_bytes().startswith(b"SQLite format 3")
    assert (stat.S_IMODE(state.stat().st_mode), stat.S_IMODE((state / "caseyos.db").stat().st_mode)) == (0o700, 0o600)
    assert file_of(url) == state / "caseyos.db"


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("sqlite:////data/caseyos.db?timeout=3", Path("/data/caseyos.db")),
        ("sqlite:////a%20b.db", Path("/a%20b.db")),
        ("sqlite:///file:/a%20b.db?uri=true", Path("/a b.db")),
        ("sqlite:///file:/a.db?mode=ro&uri=true", None),
        ("sqlite:///file::memory:?cache=shared&uri=true", None),
        ("sqlite:///file:name?uri=true", None),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgres://db.example/app", None),
    ],
)
def test_which_file_a_url_names(given: str, file: Path | None) -> None:
    assert file_of(parse_url(given)) == file


def test_a_file_that_cannot_be_made_says_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    engine = create(parse_url(f"sqlite:///{tmp_path}/state/caseyos.db"))
    with pytest.raises(StorageUnavailable, match=r"cannot be made: .*CASEYOS_OTEL_DATABASE_URL"), engine.connect():
        pass


def test_a_database_in_memory_lives_as_long_as_its_engine() -> None:
    engine = create(parse_url("sqlite://"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x)"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 0


def test_a_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    engine = create(parse_url(f"sqlite:///{tmp_path}/caseyos.db"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (pid)"))
        inherited = connection.connection.dbapi_connection
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO t VALUES (1)"))
                code = 2 if connection.connection.dbapi_connection is inherited else 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with engine.begin() as connection:
        assert connection.connection.dbapi_connection is inherited
        assert connection.execute(text("SELECT count(*) FROM t")).scalar() == 1


def test_a_password_is_in_no_error(tmp_path: Path) -> None:
    engine = create(parse_url("postgres://casey:hunter2@127.0.0.1:1/app"))
    with pytest.raises(Exception, match="refused") as raised, engine.connect():
        pass
    said = translate(raised.value)
    assert isinstance(said, StorageUnavailable)
    assert "hunter2" not in f"{raised.value} {said} {engine!r}"
