"""`caseyos-otel serve` as tests start it, and senders that nobody here wrote."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry._logs import LogRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from tests.e2e.service import environment, wait_for
from tests.ports import free_port

SERVE = str(Path(sys.executable).with_name("caseyos-otel"))
REPLY = "caseyos.outcome.reply_received"


class Answer(NamedTuple):
    """What an HTTP request got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Gateway:
    """A gateway on free ports of loopback with a state directory of its own. `start` and `kill` as often as wanted."""

    before: tuple[str, ...] = ()
    """What its command line begins with."""

    def __init__(self, state: Path, *arguments: str, **variables: str) -> None:
        self.state = state
        self.port, self.grpc_port = free_port(), free_port()
        self._arguments = arguments
        self._env = environment(state, **{"OTEL_SERVICE_NAME": "gateway", **variables})
        self.log = state / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        self.start_unready()
        wait_for(self._ready, "the gateway is not ready:", self.log.read_text)

    def start_unready(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        command = [
            *self.before,
            SERVE,
            "serve",
            "--port",
            str(self.port),
            "--grpc-port",
            str(self.grpc_port),
            *self._arguments,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """The process and its workers, by a signal that nothing can handle."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def get(self, path: str, **headers: str) -> Answer:
        return _answer(urllib.request.Request(self.http + path, headers=headers))

    def post(self, path: str, body: bytes, kind: str = "application/x-protobuf", **headers: str) -> Answer:
        named = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return _answer(urllib.request.Request(self.http + path, body, named, method="POST"))

    def lines(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith('{"event"')]

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics").body.decode().splitlines()
        return {name: float(n) for name, _, n in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def _answer(request: urllib.request.Request) -> Answer:
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return Answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


@contextmanager
def serving(state: Path, *arguments: str, **variables: str) -> Iterator[Gateway]:
    gateway = Gateway(state, *arguments, **variables)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.kill()


def request_of(*records: Mapping[str, Any], service: str = "billing") -> ExportLogsServiceRequest:
    """A request of log records: `event_name=…`, attributes under their names."""
    request = ExportLogsServiceRequest()
    resource_logs = request.resource_logs.add()
    resource_logs.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=service)))
    scope_logs = resource_logs.scope_logs.add()
    for record in records:
        made = scope_logs.log_records.add(time_unix_nano=time.time_ns(), event_name=record.get("event_name", ""))
        for key, value in record.items():
            if key != "event_name":
                made.attributes.append(KeyValue(key=key, value=AnyValue(string_value=value)))
    return request


def reply(n: int | str) -> dict[str, str]:
    """An outcome that can be told from others."""
    return {"event_name": REPLY, "caseyos.recommendation.id": f"r{n}", "caseyos.draft.id": f"d{n}"}


def emit(exporter: Any, names: Mapping[str, Mapping[str, Any]] | list[tuple[str, Mapping[str, Any]]]) -> bool:
    """Send records by the stock SDK and one of its exporters; whether all of them were taken."""
    provider = LoggerProvider(resource=Resource({"service.name": "billing"}), shutdown_on_exit=False)
    processor = BatchLogRecordProcessor(exporter)
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("billing")
    for name, attributes in names.items() if isinstance(names, Mapping) else names:
        logger.emit(LogRecord(timestamp=time.time_ns(), event_name=name, attributes=attributes))
    flushed = provider.force_flush()
    provider.shutdown()
    return flushed
