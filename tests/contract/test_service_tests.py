"""A service's own tests pass with caseyos-otel installed and without it, and leave nothing (issue: *test kit*)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "examples" / "command_center"
BLOCKED = """
import sys

class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "caseyos_otel":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked)
"""


@pytest.mark.parametrize("installed", [True, False], ids=["with", "without"])
def test_the_services_tests_pass(tmp_path: Path, installed: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "sitecustomize.py").write_text("" if installed else BLOCKED)
    plugin = [] if installed else ["-p", "no:caseyos_otel"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *plugin],
        cwd=SERVICE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"= \d+ passed(, \d+ warnings?)? in ", ran.stdout), ran.stdout
    assert "test_service.py" in ran.stdout
    assert '{"event"' not in ran.stdout
    assert "caseyos-otel:" not in ran.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
