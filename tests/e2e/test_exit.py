"""Every way a process ends: what is in memory leaves, what is durable is stored once (DESIGN 8.2 and 9.4)."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.service import SAYS_WHEN_WORKERS_HEAR, Server, cli, environment, rows, run, wait_for
from tests.ports import free_port

APP = """
from caseyos_otel import track

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    for number in range(10):
        track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")
    track("outcome_deal_advanced", deal_id="d1")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def app_at(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def counts(state: Path) -> tuple[int, int]:
    return (
        len(rows(state, "select 1 from events where event = 'recommendation_dismissed'")),
        len(rows(state, "select 1 from outcome_events")),
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_ended_by_a_signal_loses_nothing(how: signal.Signals, tmp_path: Path, state: Path) -> None:
    port = free_port()
    command = ["uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    # a flush interval longer than the test: nothing leaves but by the exit
    env = environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000")
    with Server(command, env, app_at(tmp_path), port, tmp_path / "log") as server:
        assert server.get("/") == "ok"
        server.stop(how)
        assert len([line for line in server.lines if line["event"] == "recommendation_dismissed"]) == 10, (
            server.output()
        )
    assert counts(state) == (10, 1)


@pytest.mark.parametrize("preload", [False, True])
def test_gunicorn_with_uvicorn_workers_loses_nothing(preload: bool, tmp_path: Path, state: Path) -> None:
    port = free_port()
    command = ["gunicorn", "app:app", "-k", "uvicorn.workers.UvicornWorker", "-w", "2", "-b", f"127.0.0.1:{port}"]
    env = environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000")
    arguments = [*command, "--preload"] if preload else command
    with Server(arguments, env, app_at(tmp_path), port, tmp_path / "log") as server:
        # a worker that is told to stop before it listens to signals goes on
        wait_for(lambda: server.output().count("Application startup complete") == 2, "not there:", server.output)
        for _ in range(4):
            assert server.get("/") == "ok"
        assert server.stop() == 0, server.output()
        assert len([line for line in server.lines if line["event"] == "recommendation_dismissed"]) == 40, (
            server.output()
        )
    assert counts(state) == (40, 4)


WSGI = """
from caseyos_otel import track

def app(environ, start_response):
    for number in range(10):
        track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")
    track("outcome_deal_advanced", deal_id="d1")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize("kind", ["sync", "gthread", "uvicorn.workers.UvicornWorker"])
def test_gunicorn_recycles_its_workers_and_loses_nothing(kind: str, tmp_path: Path, state: Path) -> None:
    port = free_port()
    command = ["gunicorn", "app:app", "-k", kind, "-w", "2", "--max-requests", "2", "-b", f"127.0.0.1:{port}"]
    (tmp_path / "app.py").write_text(APP if "uvicorn" in kind else WSGI)
    (tmp_path / "gunicorn.conf.py").write_text(SAYS_WHEN_WORKERS_HEAR)
    env = environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000")
    with Server(command, env, tmp_path, port, tmp_path / "log") as server:
        answered = []

        def recycled_thrice() -> bool:
            answered.append(server.get("/"))
            return server.output().count("Booting worker") >= 2 + 3

        def all_hear() -> bool:
            return server.output().count("hears signals") == server.output().count("Booting worker")

        wait_for(recycled_thrice, "not recycled:", server.output)
        wait_for(all_hear, "not there:", server.output)
        assert server.stop() == 0, server.output()
    assert set(answered) == {"ok"}
    assert counts(state) == (10 * len(answered), len(answered)), server.output()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child_loses_nothing(method: str, tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, sys\nfrom caseyos_otel import track\n"
        "def work(number):\n"
        "    track('recommendation_dismissed', recommendation_id=str(number), action_type='x', user_id='casey')\n"
        "    track('outcome_deal_advanced', deal_id=f'd{number}')\n"
        "if __name__ == '__main__':\n"
        "    work(0)\n"
        "    context = multiprocessing.get_context(sys.argv[1])\n"
        "    children = [context.Process(target=work, args=(n,)) for n in (1, 2)]\n"
        "    [child.start() for child in children]\n"
        "    [child.join() for child in children]\n"
    )
    done = run(program, environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000"), method)
    assert done.returncode == 0, done.stderr
    assert sorted(line["deal_id"] for line in done.lines if line["event"] == "outcome_deal_advanced") == [
        "d0",
        "d1",
        "d2",
    ]
    assert counts(state) == (3, 3), done.stderr


def test_a_forked_child_emits_its_own_events_once_and_none_of_its_parent_s(tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os\nfrom caseyos_otel import track, flush\n"
        "track('outcome_deal_advanced', deal_id='parent')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    track('outcome_deal_advanced', deal_id='child')\n"
        "    flush(5)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    done = run(program, environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000"))
    assert sorted(line["deal_id"] for line in done.lines) == ["child", "parent"], done.stderr
    assert sorted(rows(state, "select deal_id from outcome_events")) == [("child",), ("parent",)]


def test_what_a_killed_process_tracked_is_stored_after_the_next_start(tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom caseyos_otel import track\n"
        "track('outcome_deal_advanced', deal_id='d1', pipeline_value=50000)\n"
        "track('action_failed', action_id='a1', action_type='x', error_type='api_error')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = run(program, environment(state))
    assert killed.returncode == -signal.SIGKILL
    assert counts(state) == (0, 0)
    quiet = tmp_path / "quiet.py"
    quiet.write_text("import time\ntime.sleep(1.5)\n")
    assert run(quiet, environment(state)).returncode == 0
    assert rows(state, "select deal_id, pipeline_value from outcome_events") == [("d1", 50000.0)]
    assert rows(state, "select event from events") == [("action_failed",)]


def test_a_running_process_adopts_what_another_one_left(tmp_path: Path, state: Path) -> None:
    port = free_port()
    command = ["uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    with Server(command, environment(state), app_at(tmp_path), port, tmp_path / "log") as server:
        server.get("/")
        wait_for(lambda: counts(state) == (10, 1), "not stored:", server.output)
        program = tmp_path / "program.py"
        program.write_text(
            "import os, signal\nfrom caseyos_otel import track\n"
            "track('outcome_deal_advanced', deal_id='left')\nos.kill(os.getpid(), signal.SIGKILL)\n"
        )
        run(program, environment(state))
        wait_for(lambda: counts(state) == (10, 2), "not adopted:", server.output)


def test_an_exit_with_every_destination_down_keeps_what_is_durable(tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("from caseyos_otel import track\ntrack('outcome_deal_advanced', deal_id='d1')\n")
    closed = free_port()
    env = environment(
        state,
        SENTRY_DSN=f"http://key@127.0.0.1:{closed}/1",
        CASEYOS_OTEL_DATABASE_URL=f"postgresql://nobody@127.0.0.1:{closed}/nothing",
        OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"http://127.0.0.1:{closed}/v1/logs",
    )
    done = run(program, env)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr, done.stderr
    kept = list((state / "spool" / "under-test").glob("*/outcomes-*"))
    assert len(kept) == 1
    env = environment(state)
    quiet = tmp_path / "quiet.py"
    quiet.write_text("import time\ntime.sleep(1.5)\n")
    run(quiet, env)
    assert rows(state, "select deal_id from outcome_events") == [("d1",)]


def test_a_sqlite_file_that_somebody_keeps_locked_is_away_and_no_exit_waits_for_it(tmp_path: Path, state: Path) -> None:
    """As a tool does that has it open in the middle of a transaction."""
    program = tmp_path / "program.py"
    program.write_text("from caseyos_otel import track\ntrack('outcome_deal_advanced', deal_id='d1')\n")
    assert run(program, environment(state)).returncode == 0
    with closing(sqlite3.connect(state / "caseyos.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = run(program, environment(state))
        assert done.returncode == 0
        assert "outcomes is away" in done.stderr, "it gave up, and did not wait for the end of the transaction"
        other.execute("ROLLBACK")
    cli(environment(state), "spool", "drain")
    assert rows(state, "select count(*) from outcome_events") == [(2,)]


def test_an_application_that_exits_at_once_still_logs_everything(tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from caseyos_otel import track\nimport sys\n"
        "for n in range(1000):\n"
        "    track('signal_received', signal_id=str(n), source='gmail', signal_type='x')\n"
        "sys.exit(3)\n"
    )
    done = run(program, environment(state))
    assert done.returncode == 3
    assert [line["signal_id"] for line in done.lines] == [str(n) for n in range(1000)]
    assert len(rows(state, "select 1 from events")) == 1000


# the kernel's out-of-memory killer sends SIGKILL: to a process they are the same
@pytest.mark.parametrize("end", ["os._exit(3)", *(f"os.kill(os.getpid(), signal.{s})" for s in ("SIGTERM", "SIGKILL"))])
def test_an_end_without_atexit_is_a_kill_to_what_is_durable(end: str, tmp_path: Path, state: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\nfrom caseyos_otel import track\n"
        f"for n in range(10):\n    track('outcome_deal_advanced', deal_id=f'd{{n}}')\n{end}\n"
    )
    ended = run(program, environment(state, CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000"))
    assert ended.returncode in (3, -signal.SIGTERM, -signal.SIGKILL), ended.stderr
    quiet = tmp_path / "quiet.py"
    quiet.write_text("import time\ntime.sleep(1.5)\n")
    assert run(quiet, environment(state)).returncode == 0
    assert sorted(rows(state, "select deal_id from outcome_events")) == [(f"d{n}",) for n in range(10)]
