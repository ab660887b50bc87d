"""The status file: what `doctor` and the demo read of other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from caseyos_otel.diagnostics import drops
from caseyos_otel.exporters.delivery import Delivery
from caseyos_otel.pipeline import status
from tests.records import event


def delivery() -> Delivery:
    return Delivery(
        "outcomes",
        lambda records: None,
        reader=None,
        decode=lambda frame: [],
        wants=lambda record: True,
        set_aside=lambda record, reason: None,
        interval_s=1,
    )


def test_a_snapshot_is_json_and_tells_destinations_traces_drops_and_notes() -> None:
    made = delivery()
    made.offer(event("signal_received"))
    made.flush(5)
    made.offer(event("signal_received"))
    drops.count("queue_full", 2, destination="status test", event="signal_received")
    told = json.loads(json.dumps(status.snapshot(3, [made], {(True, "error"): 4, (False, "dropped"): 5}, ["a note"])))
    assert (told["pid"], told["queued"], told["notes"]) == (os.getpid(), 3, ["a note"])
    of_outcomes = told["destinations"]["outcomes"]
    assert (of_outcomes["delivered"], of_outcomes["waiting"], of_outcomes["error"]) == (1, 1, "")
    assert of_outcomes["last_success"] > 1_700_000_000
    assert {"kept": True, "reason": "error", "n": 4} in told["traces"]
    wanted = {"reason": "queue_full", "destination": "status test", "event": "signal_received", "n": 2}
    assert wanted in told["dropped"]


def test_one_file_a_process_replaced_in_one_step_and_read_back(tmp_path: Path) -> None:
    status.write(tmp_path, {"role": "", "n": 1})
    status.write(tmp_path, {"role": "", "n": 2})
    assert status.read_all(tmp_path) == [{"role": "", "n": 2}]
    [path] = (tmp_path / status.FOLDER).iterdir()
    assert path.name.startswith(f"{os.getpid()}-")


def test_processes_of_two_containers_that_have_the_same_id_have_a_file_each(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; os.getpid = lambda: 1\n"
        "from caseyos_otel.pipeline import status\n"
        "for n in (1, 2): status.write(pathlib.Path(sys.argv[1]), {'pid': 1, 'role': '', 'n': n})"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    assert status.read_all(tmp_path) == [{"pid": 1, "role": "", "n": 2}] * 2


def test_a_gateway_in_the_same_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    status.write(tmp_path, {"role": "", "n": 1})
    status.write(tmp_path, {"role": "gateway", "n": 2})
    assert [seen["n"] for seen in status.read_all(tmp_path)] == [2, 1]


def test_files_that_nobody_wrote_for_an_hour_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / status.FOLDER
    folder.mkdir()
    for name, age in (("1.json", 3700), ("2.json", 3000), ("3-0a1b2c3d.json", 3700), ("4-0a1b2c3d.new", 3700)):
        (folder / name).write_text(f'{{"pid": {name[0]}}}')
        moment = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (moment, moment))
    status.write(tmp_path, {"pid": os.getpid(), "role": ""})
    assert {seen["pid"] for seen in status.read_all(tmp_path)} == {2, os.getpid()}
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_vanishes_meanwhile_is_nobody_s_error(tmp_path: Path) -> None:
    folder = tmp_path / status.FOLDER
    folder.mkdir()
    (folder / "1.json").symlink_to(folder / "gone")  # listed, but not there when it is looked at
    status.write(tmp_path, {"pid": os.getpid(), "role": ""})
    assert [seen["pid"] for seen in status.read_all(tmp_path)] == [os.getpid()]


def test_what_cannot_be_read_is_passed(tmp_path: Path) -> None:
    folder = tmp_path / status.FOLDER
    folder.mkdir()
    (folder / "1.json").write_text("half a fi")
    (folder / "2.json").write_bytes(b"\xff\xfe")
    (folder / "3.json").write_text('{"pid": 3}')
    assert status.read_all(tmp_path) == [{"pid": 3}]
    assert status.read_all(tmp_path / "nowhere") == []
