"""A service's own test-suite, run by a pytest of its own in a home that is empty."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")
Ran = subprocess.CompletedProcess[str]


class Suite:
    """Files of a service and its tests. `home` is where our package would leave what it writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "suite"
        self.home = directory / "home"
        self.directory.mkdir()
        self.home.mkdir()

    def write(self, **modules: str) -> None:
        """Python files by name: `write(service="…", test_service="…", conftest="…")`."""
        for name, source in modules.items():
            (self.directory / f"{name}.py").write_text(dedent(source))

    def ini(self, text: str) -> None:
        """The suite's pytest.ini."""
        (self.directory / "pytest.ini").write_text(f"[pytest]\n{dedent(text)}")

    def run(self, *arguments: str, program: tuple[str, ...] = PYTEST, under: tuple[str, ...] = (), **env: str) -> Ran:
        """Run its tests, or another `program` in their place."""
        return subprocess.run(
            [*under, sys.executable, *program, *arguments],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1", **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def left(self) -> list[str]:
        """Files that are neither the suite's own nor pytest's."""
        found = [path for path in (*self.home.rglob("*"), *self.directory.rglob("*")) if path.is_file()]
        return sorted(path.name for path in found if path.suffix not in (".py", ".ini"))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """An empty one."""
    return Suite(tmp_path)


@pytest.fixture
def passing(suite: Suite) -> Callable[..., Ran]:
    """`passing(test_source, …)`: write and run one test module, all of whose tests pass."""

    def run(source: str, *arguments: str, **env: str) -> Ran:
        suite.write(test_service=source)
        ran = suite.run(*arguments, **env)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran

    return run
