"""The process of one subject, seen from the one that compares them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
_FOREIGN: Final = ("OTEL_", "SENTRY_", "CASEYOS_OTEL_", "LOGFIRE_")
"""Variables that would set a subject up differently than its peers."""


class Measured:
    """A subject that runs beside the others and works only while it is measured."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        state.mkdir(parents=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", name, str(state)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def measure(self, **asked: float) -> dict[str, float]:
        """One turn: CPU of `batches`, or wall times of `seconds` at a `rate`; what comes back is in µs."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                f"the process of {self.name!r} ended with status {self._process.wait()}; its error is above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
