"""The real OpenTelemetry Collector: where its program is, and one of its processes with a file of collector-config/."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Self

from tests.missing import missing
from tests.ports import free_ports

CONFIG = Path(__file__).parent.parent / "collector-config"


@cache
def otelcol(manifest: str = "builder.yaml") -> Path:
    """The program that a manifest describes: OTELCOL names it, or it was built before, or Go builds it (minutes).

    The test is skipped, or fails, where neither is there: see `missing`.
    """
    if named := os.environ.get("OTELCOL" if manifest == "builder.yaml" else "OTELCOL_KAFKA"):
        return Path(named)
    done = subprocess.run([CONFIG / "build.sh", CONFIG / manifest], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        missing(f"no OpenTelemetry Collector: run `collector-config/build.sh collector-config/{manifest}` (needs Go)")
    return Path(done.stdout.splitlines()[-1])


class Collector:
    """One Collector process. `with` starts it; `kill` and `start` may follow each other, ports and disk stay its own."""

    def __init__(self, config: str, directory: Path, program: Callable[[], Path] = otelcol, **env: str) -> None:
        grpc, http, health, metrics = free_ports(4)
        self.grpc, self.http = f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        self._health, self._metrics = f"http://127.0.0.1:{health}", f"http://127.0.0.1:{metrics}/metrics"
        self._log = directory / "log"
        directory.mkdir(parents=True, exist_ok=True)
        self._command = [str(program()), "--config", str(CONFIG / config)]
        self._env = {
            **_inherited(os.environ),
            "COLLECTOR_GRPC": self.grpc,
            "COLLECTOR_HTTP": f"127.0.0.1:{http}",
            "COLLECTOR_HEALTH": f"127.0.0.1:{health}",
            "COLLECTOR_METRICS_PORT": str(metrics),
            "COLLECTOR_STORAGE_DIR": str(directory / "storage"),
            **env,
        }

    def start(self) -> None:
        """Start it and wait until it says that it is healthy."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, env=self._env, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not _answers(self._health):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self._command} does not run: {self.log()[-4000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; after SIGTERM everything that it had is in its queue on disk."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(60)

    def kill(self) -> None:
        """As the kernel does when memory ends."""
        self.stop(signal.SIGKILL)

    def log(self) -> str:
        """What it wrote to stdout and stderr."""
        return self._log.read_text()

    def metric(self, name: str, label: str = "") -> float:
        """The sum of one of its own metrics over the series that have this label (`sampled="true"`)."""
        with urllib.request.urlopen(self._metrics, timeout=10) as response:
            lines = response.read().decode().splitlines()
        series = [line for line in lines if line.startswith((f"{name}{{", f"{name} ")) and label in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in series)

    @property
    def undecided(self) -> float:
        """Traces that its tail sampling still waits for."""
        seen = self.metric("otelcol_processor_tail_sampling_new_trace_id_received")
        return seen - self.metric("otelcol_processor_tail_sampling_global_count_traces_sampled")

    @property
    def kept(self) -> float:
        """Traces that its tail sampling has kept."""
        return self.metric("otelcol_processor_tail_sampling_global_count_traces_sampled", 'sampled="true"')

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("COLLECTOR_", "CASEYOS_", "OTEL_"))}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False
