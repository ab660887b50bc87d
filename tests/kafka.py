"""A real Kafka broker: its jars by Maven into the user's cache, one process in KRaft mode."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from tests.ports import free_ports, listens

VERSION = "4.1.1"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>caseyos.tests</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""
PROPERTIES = """process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
log.dirs={data}
num.partitions=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
"""


def wanted() -> None:
    """Skip the test unless it is asked for: it costs a second Collector, and a broker's download."""
    if "1" not in (os.environ.get("CASEYOS_OTEL_KAFKA"), os.environ.get("CASEYOS_OTEL_REQUIRE_ALL")):
        pytest.skip("Kafka is tried with CASEYOS_OTEL_KAFKA=1 (needs Go, Maven and Java 17)")


@cache
def jars() -> Path:
    """The folder that holds the broker and what it needs."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caseyos-otel" / f"kafka-{VERSION}"
    if not folder.exists():
        making = folder.with_suffix(f".{os.getpid()}")
        making.mkdir(parents=True)
        (making / "pom.xml").write_text(POM)
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=."]
        try:
            subprocess.run(command, cwd=making, check=True)
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


class Broker:
    """One broker. `with` starts it; `kill` and `start` may follow each other, its port and data stay."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._port, controller = free_ports(2)
        self._log = directory / "log"
        self._properties = directory / "server.properties"
        self._properties.write_text(PROPERTIES.format(port=self._port, controller=controller, data=directory / "data"))
        self._java = ["java", "-Xmx512m", "-cp", f"{jars()}/*"]
        format_ = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(self._properties)]
        subprocess.run([*self._java, *format_], check=True, capture_output=True)

    @property
    def addresses(self) -> str:
        """For COLLECTOR_KAFKA_BROKERS."""
        return f"[127.0.0.1:{self._port}]"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with self._log.open("ab") as log:
            command = [*self._java, "kafka.Kafka", str(self._properties)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not listens(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the broker does not run: {self._log.read_text()[-4000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """By a signal that it cannot handle."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
