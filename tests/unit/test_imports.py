"""What `import caseyos_otel` brings into a service, and what it offers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import caseyos_otel

ALLOWED = {"opentelemetry", "typing_extensions", "uuid_utils", "wrapt", "caseyos_otel"}
"""Third parties that may come with us: OpenTelemetry's API and what it needs, our clock's ids, wrapt."""
EXPENSIVE = {
    "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.instrumentation", "opentelemetry.proto", "google",
    "sentry_sdk", "sqlalchemy", "alembic", "typer", "click", "rich", "pytest", "grpc", "requests", "urllib3",
    "platformdirs", "asyncio", "sqlite3", "ssl", "http.client", "multiprocessing",
}  # fmt: skip

DOCUMENTED = ("track", "track_event", "bind", "configure", "flush", "Event", "Fields", "required", "optional", "group")


def imported(statement: str) -> set[str]:
    """Modules that a fresh interpreter has after a statement and did not have before."""
    told = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    program = f"import sys; before = set(sys.modules)\n{statement}\n{told}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def with_us() -> set[str]:
    return imported("import caseyos_otel")


def test_importing_us_imports_nothing_expensive(with_us: set[str]) -> None:
    assert "opentelemetry.trace" in with_us
    found = {name for name in with_us for expensive in EXPENSIVE if f"{name}.".startswith(f"{expensive}.")}
    assert found - imported("import opentelemetry.trace, opentelemetry._logs, opentelemetry.metrics") == set()


def test_third_parties_that_come_with_us_are_named_here(with_us: set[str]) -> None:
    tops = {name.partition(".")[0] for name in with_us}
    ours = {top for top in tops if top not in sys.stdlib_module_names and not top.startswith("_")}
    of_the_api = {
        n.partition(".")[0] for n in imported("import opentelemetry.trace, opentelemetry._logs, opentelemetry.metrics")
    }
    assert ours - of_the_api - ALLOWED == set()


def test_importing_us_starts_no_thread_opens_no_file_and_says_nothing(tmp_path: Path) -> None:
    program = (
        "import threading, os, logging\n"
        "import caseyos_otel\n"
        "print(threading.active_count(), len(logging.getLogger().handlers), sorted(os.listdir('.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
        env={"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1 0 []\n", "")


def test_the_public_names_are_sorted_there_and_documented() -> None:
    names = caseyos_otel.__all__
    assert names == sorted(names)
    assert set(DOCUMENTED) <= set(names)
    assert [name for name in names if not (getattr(caseyos_otel, name).__doc__ or "").strip()] == []


def test_a_star_import_brings_the_public_names_and_no_other() -> None:
    brought: dict[str, object] = {}
    exec("from caseyos_otel import *", brought)
    assert set(brought) - {"__builtins__"} == set(caseyos_otel.__all__)
