"""A bounded run of each target, the same every time; `make fuzz` runs them as long as one likes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.missing import missing


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_in_so_many_runs(target: str, tmp_path: Path) -> None:
    _installed()
    options = ("-runs=20000", "-seed=1", "-max_len=2048", "-verbosity=0")
    program = [sys.executable, "-m", "tests.fuzz", target, str(tmp_path / target), *options]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr  # the input is in it, in base64
    assert sum(not path.name.startswith("seed-") for path in (tmp_path / target).iterdir()) > 1, "nothing was reached"


def _installed() -> None:
    if importlib.util.find_spec("atheris") is None:
        missing(
            f"no atheris: `{sys.executable} -m pip install atheris` (Linux, CPython 3.11 to 3.13; else from source, clang)"
        )
