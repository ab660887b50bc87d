"""Celery with a new process for every task: nothing is lost, however it recycles them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.service import INSTRUMENT, environment, rows, wait_for

TASKS = """
import os, signal
from celery import Celery
from caseyos_otel import track

here = os.environ["BROKER_DIR"]
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": here + "/in", "data_folder_out": here + "/in", "control_folder": here + "/control",
}

@app.task
def advance(number):
    track("outcome_deal_advanced", deal_id=f"d{number}")
    track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")

@app.task
def advance_and_die(number):
    track("outcome_deal_advanced", deal_id=f"d{number}")
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    import sys
    task = {"advance": advance, "advance_and_die": advance_and_die}[sys.argv[1]]
    for number in range(10):
        task.delay(number)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.mark.parametrize("task", ["advance", "advance_and_die"])
def test_ten_tasks_in_ten_processes_leave_ten_outcomes(task: str, tmp_path: Path, state: Path) -> None:
    for folder in ("in", "control"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS)
    # a flush interval longer than the test: nothing leaves but by the exit of a process
    env = environment(state, BROKER_DIR=str(tmp_path), CASEYOS_OTEL_FLUSH_INTERVAL_MS="60000")
    subprocess.run([sys.executable, "tasks.py", task], cwd=tmp_path, env=env, check=True, timeout=60)
    command = [
        "celery",
        "-A",
        "tasks",
        "worker",
        "-c",
        "1",
        "--max-tasks-per-child",
        "1",
        "--without-mingle",
        "-l",
        "INFO",
    ]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen([INSTRUMENT, *command], cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        wait_for(
            lambda: (
                not list((tmp_path / "in").iterdir())
                and ((tmp_path / "log").read_text().count("succeeded in") == 10 or task == "advance_and_die")
            ),
            "the tasks did not run:",
            (tmp_path / "log").read_text,
            timeout_s=60,
        )
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
    finally:
        worker.kill()
        worker.wait()
    drained = [str(Path(sys.executable).with_name("caseyos-otel")), "spool", "drain"]
    subprocess.run(drained, env=env, check=True, timeout=60, capture_output=True)
    deals = sorted(deal for (deal,) in rows(state, "select deal_id from outcome_events"))
    assert deals == [f"d{number}" for number in range(10)], (tmp_path / "log").read_text()
    if task == "advance":
        assert len(rows(state, "select 1 from events where event = 'recommendation_dismissed'")) == 10
