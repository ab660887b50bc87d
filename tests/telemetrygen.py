"""`telemetrygen`, the load generator of the OpenTelemetry Collector: built by Go once, in the user's cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.missing import missing

VERSION = "0.161.0"
MODULE = "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"


@cache
def telemetrygen() -> Path:
    """The program: TELEMETRYGEN names it, or it was built before, or Go builds it (half a minute)."""
    if named := os.environ.get("TELEMETRYGEN"):
        return Path(named)
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caseyos-otel"
    program = cached / f"telemetrygen-{VERSION}" / "telemetrygen"
    if program.exists():
        return program
    if shutil.which("go") is None:
        missing("no telemetrygen: with Go on PATH it is built, or TELEMETRYGEN names it")
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as building:  # two builds at once do not meet
        env = {**os.environ, "GOBIN": building}
        command = ["go", "install", "-trimpath", "-ldflags=-s -w", f"{MODULE}@v{VERSION}"]
        subprocess.run(command, env=env, check=True)
        Path(building, program.name).replace(program)
    return program


class Generating:
    """A running telemetrygen: `amount` log records or traces (of two spans) from each of three workers, unthrottled."""

    WORKERS = 3

    def __init__(self, signal: str, amount: int, endpoint: str, token: str, *arguments: str, http: bool) -> None:
        command = [
            str(telemetrygen()), signal, f"--{signal}", str(amount), "--workers", str(self.WORKERS), "--rate", "0",
            "--otlp-insecure", "--otlp-endpoint", endpoint, "--otlp-header", f'authorization="Bearer {token}"',
            *(["--otlp-http"] if http else []), *arguments,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait(self) -> str:
        """Its output, once it has ended well."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, output[-3000:]
        return output

    def fails(self) -> str:
        """Its output, once it has ended with an error."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode != 0, output[-3000:]
        return output


def sent(output: str) -> int:
    """How many log records it says that it has exported."""
    return sum(map(int, re.findall(r'exported batched logs\t.*"count": (\d+)', output)))
