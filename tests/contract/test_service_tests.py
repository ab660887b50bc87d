"""A service's own tests pass with caseyos-otel installed and without it, and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "examples" / "command_center"
NOT_INSTALLED = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

class WithoutUs:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "caseyos_otel" else find_spec(name, path, target)

PathFinder.find_spec = WithoutUs.find_spec
"""
PROBE = """
import sys

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"caseyos_otel imported: {'caseyos_otel' in sys.modules}")
"""


@pytest.mark.parametrize("installed", [True, False], ids=["with", "without"])
def test_the_services_tests_pass(tmp_path: Path, installed: bool) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "sitecustomize.py").write_text("" if installed else NOT_INSTALLED)
    (tmp_path / "probe.py").write_text(PROBE)
    without_plugin = [] if installed else ["-p", "no:caseyos_otel"]  # its entry point is still there
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "probe", *without_plugin],
        cwd=SERVICE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"= \d+ passed(, \d+ warnings?)? in ", ran.stdout), ran.stdout
    assert f"caseyos_otel imported: {installed}" in ran.stdout
    assert "test_service.py" in ran.stdout
    assert '{"event"' not in ran.stdout
    assert "caseyos-otel:" not in ran.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
