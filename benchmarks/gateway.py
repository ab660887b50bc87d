"""`python -m benchmarks.gateway`: the gateway on one core, batches of 512, beside a server that decodes in the request.

Both servers are the same uvicorn and FastAPI, pinned to one core; the sender has another. While acknowledgements are
measured neither delivers anything: what is compared is what stands between a request and its answer. Then ours delivers,
too: records stored a second, beside what the table's writer alone does with records that are ready, and memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uuid_utils

from benchmarks.storage import RESOURCE
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.encode import RequestEncoder

BATCH: Final = 512
CONNECTIONS: Final = 2
USERS: Final = ("casey", "alexandra", "jo", "maximilian", "kim.lee")
ACTIONS: Final = ("send_email", "book_meeting", "update_crm", "create_task", "follow_up")


def main() -> int:
    """Measure each in turn, round after round, and print the tables."""
    asked = _arguments()
    if asked.server:
        return _serve(asked.server, asked.port, Path(asked.state), asked.core)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    bodies = [_request(n) for n in range(24)]
    report: dict[str, Any] = {
        "decode": _decoding(bodies, asked.rounds),
        "acknowledged": _acknowledged(bodies, asked.rounds, asked.seconds, cores[0]),
        "stored": _stored(bodies, asked.batches, cores[0]),
    }
    print(json.dumps(report) if asked.json else _text(report))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each has its turn (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn of acknowledging (default: 1.5)")
    parser.add_argument("--batches", type=int, default=100, help=f"batches of {BATCH} to be stored (default: 100)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name in ("--server", "--state"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    for name in ("--port", "--core"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _records(seed: int) -> list[EventRecord]:
    """A mixture: users and actions of several lengths, numbers, every tenth with a free text, every fifth an outcome."""
    return [_record(seed * BATCH + n) for n in range(BATCH)]


def _record(n: int) -> EventRecord:
    ids = {"recommendation_id": str(uuid_utils.uuid7()), "queue_item_id": str(uuid_utils.uuid7())}
    user, action = USERS[n % 5], ACTIONS[n % 7 % 5]
    shapes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("recommendation_viewed", {"user_id": user, "recommendations_shown": n % 12 + 1, "top_score": n % 100 + 0.5}),
        ("recommendation_accepted", {**ids, "aps_score": n % 100 + 0.5, "action_type": action, "user_id": user}),
        ("integration_call_success", {"integration": "hubspot", "method": "GET", "endpoint": f"/deals/{n % 9}",
                                      "duration_ms": n / 3, "status_code": 200}),
        ("outcome_deal_advanced", {**ids, "deal_id": f"hs_deal_{n % 900 + 100}", "old_stage": "SQL",
                                   "new_stage": "Opportunity", "pipeline_value": 50_000.0 + n}),
    )  # fmt: skip
    name, fields = shapes[n % 4]
    if n % 10 == 0:  # a text that a person wrote, of any length
        reason = "already called them " * (n % 7) + "x" * (n % 90)
        name, fields = (
            "recommendation_dismissed",
            {**ids, "action_type": action, "user_id": user, "dismiss_reason": reason},
        )
    declaration = registry.require(name)
    now = time.time_ns()
    return EventRecord(
        declaration,
        declaration.bind(fields).values,
        event_id=str(uuid_utils.uuid7()),
        timestamp=now,
        observed_timestamp=now,
        trace_id=int.from_bytes(os.urandom(16)),
        span_id=int.from_bytes(os.urandom(8)),
        resource=RESOURCE,
    )


def _request(seed: int) -> bytes:
    return RequestEncoder(RESOURCE, "benchmark", "1", "").encode(_records(seed))


# -- decoding ----------------------------------------------------------------------------------------------------


def _decoding(bodies: Sequence[bytes], rounds: int) -> dict[str, Any]:
    """Microseconds of CPU a record."""
    from caseyos_otel.gateway.reading import parse_logs, read_logs
    from caseyos_otel.otlp.decode import decode

    to_rows = _rows()
    ways: dict[str, Callable[[bytes], object]] = {
        "upb parse and a walk in Python": parse_and_walk,
        "in the request: parse, event names": lambda body: read_logs(parse_logs(body), body, forwarding=False),
        "decode to records": lambda body: decode(body, registry),
        "decode to rows": lambda body: to_rows(decode(body, registry)),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time_ns()
            for body in bodies:
                way(body)
            measured[name].append((time.process_time_ns() - start) / 1000 / len(bodies) / BATCH)
    return {name: {"us": statistics.median(each), "rounds": each} for name, each in measured.items()}


def _rows() -> Callable[[list[EventRecord]], object]:
    """Records as the parameters that SQLite's driver takes, event by event."""
    from caseyos_otel.storage import rows

    if not hasattr(rows, "projection"):
        now = datetime.now(UTC)
        return lambda records: [rows.project(r, r.values, now, str) for r in records]

    def project(records: list[EventRecord]) -> object:
        at, groups = rows.moment(datetime.now(UTC)), {}
        for record in records:
            groups.setdefault(record.declaration, []).append(record)
        return [list(rows.projection(d, rows.SQLITE).make(g, lambda r: r.values, at, str)) for d, g in groups.items()]

    return project


def parse_and_walk(body: bytes) -> list[dict[str, Any]]:
    """Everything in a request as plain Python values, nothing checked: the least that a server which decodes does."""
    from caseyos_otel.gateway.reading import parse_logs

    return walk(parse_logs(body))


def walk(request: Any) -> list[dict[str, Any]]:
    """What was parsed, as plain values."""
    found = []
    for resource_logs in request.resource_logs:
        resource = _attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                found.append(  # noqa: PERF401  # written as one writes it
                    {
                        "time": record.time_unix_nano,
                        "observed": record.observed_time_unix_nano,
                        "severity": record.severity_number,
                        "event": record.event_name,
                        "trace_id": record.trace_id,
                        "span_id": record.span_id,
                        "attributes": _attributes(record.attributes),
                        "resource": resource,
                    }
                )
    return found


def _attributes(attributes: Any) -> dict[str, Any]:
    from caseyos_otel.otlp.decode import python_value

    return {attribute.key: python_value(attribute.value) for attribute in attributes}


# -- servers -----------------------------------------------------------------------------------------------------


def _serve(kind: str, port: int, state: Path, core: int) -> int:
    import uvicorn

    os.sched_setaffinity(0, {core})
    app = {"acknowledging": _acknowledging, "decoding": _decoding_server, "whole": _whole}[kind](state)
    uvicorn.run(app, port=port, log_level="warning", access_log=False)
    return 0


def _settings(state: Path) -> Any:
    from caseyos_otel.settings import load

    return load(
        {
            "CASEYOS_OTEL_STATE_DIR": str(state),
            "CASEYOS_OTEL_LOG": "/dev/null",
            "CASEYOS_OTEL_GATEWAY_RATE": "0",
            "CASEYOS_OTEL_SPOOL_MAX_BYTES": str(4 * 2**30),
        }
    )


def _whole(state: Path) -> Any:
    from caseyos_otel.gateway.app import create_app

    return create_app(_settings(state))


def _acknowledging(state: Path) -> Any:
    """Ours, whose deliveries do not begin."""
    from caseyos_otel.gateway import app
    from caseyos_otel.gateway.destinations import GatewayDestinations
    from caseyos_otel.gateway.gateway import Gateway
    from caseyos_otel.pipeline import announcement

    class Acknowledging(Gateway):
        def start(self) -> GatewayDestinations:
            if self.destinations is None:
                self.destinations = GatewayDestinations(self.settings, announcement.resource, self.instruments.meter)
            return self.destinations

    app.Gateway = Acknowledging  # type: ignore[misc]  # this process has no other
    return app.create_app(_settings(state))


def _decoding_server(state: Path) -> Any:
    """The same, but that it walks through what it parses before it answers."""
    from caseyos_otel.gateway import reading

    def read_logs(request: Any, body: bytes, *_: object) -> reading.Request:
        names = Counter(found["event"] for found in walk(request))
        return reading.Request(((reading.REQUESTS, body),), names, 0)

    import caseyos_otel.gateway.gateway as module

    app = _acknowledging(state)
    module.read_logs = read_logs
    return app


class _Server:
    """One of the servers in a process of its own."""

    def __init__(self, kind: str, state: Path, core: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.state = state
        command = [sys.executable, "-m", "benchmarks.gateway", "--server", kind, "--port", str(self.port)]
        self.process = subprocess.Popen([*command, "--state", str(state), "--core", str(core)])
        self._wait()

    def _wait(self) -> None:
        for _ in range(200):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the server does not answer")

    def send(self, bodies: Iterator[bytes], until: Callable[[], bool]) -> int:
        """Batches that were acknowledged, over a few connections at once."""
        counts = [0] * CONNECTIONS
        lock = threading.Lock()

        def one(n: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            while not until():
                with lock:
                    body = next(bodies, None)
                if body is None:
                    return
                connection.request("POST", "/v1/logs", body, {"Content-Type": "application/x-protobuf"})
                answer = connection.getresponse()
                answer.read()
                counts[n] += answer.status == 200

        threads = [threading.Thread(target=one, args=(n,)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    @property
    def resident(self) -> float:
        """MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    @property
    def cpu_s(self) -> float:
        """What the process has had of its core."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def _server(kind: str, core: int) -> Iterator[_Server]:
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder:
        server = _Server(kind, Path(folder), core)
        try:
            yield server
        finally:
            server.close()


def _acknowledged(bodies: Sequence[bytes], rounds: int, seconds: float, core: int) -> dict[str, Any]:
    """Records a second of the core's time: others may use the same core, and take nothing from these numbers."""
    measured: dict[str, list[float]] = {"acknowledging": [], "decoding": []}
    for _ in range(rounds):
        for kind, found in measured.items():
            with _server(kind, core) as server:
                server.send(iter(bodies), lambda: False)  # warm
                start, spent = time.monotonic(), server.cpu_s
                sent = server.send(_again(bodies), lambda: time.monotonic() - start > seconds)  # noqa: B023  # used here
                found.append(sent * BATCH / (server.cpu_s - spent))
    ratios = [ours / theirs for ours, theirs in zip(*measured.values(), strict=True)]
    return {
        "ours": statistics.median(measured["acknowledging"]),
        "decoding in the request": statistics.median(measured["decoding"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def _again(bodies: Sequence[bytes]) -> Iterator[bytes]:
    while True:
        yield from bodies


def _stored(bodies: Sequence[bytes], batches: int, core: int) -> dict[str, float]:
    """Records a second from the first byte sent to the last row, SQLite, by the clock; and memory."""
    fresh = [_request(n) for n in range(batches)]
    with _server("whole", core) as server:
        server.send(iter([_request(batches)]), lambda: False)
        _await_rows(server.state / "caseyos.db", BATCH)
        before, spent = server.resident, server.cpu_s
        start = time.monotonic()
        server.send(iter(fresh), lambda: False)
        acknowledged = time.monotonic() - start
        peak = _await_rows(server.state / "caseyos.db", BATCH * (batches + 1), lambda: server.resident)
        stored, spent = time.monotonic() - start, server.cpu_s - spent
    return {
        "acknowledged while delivering": batches * BATCH / acknowledged,
        "stored": batches * BATCH / stored,
        "stored, a second of the core's time": batches * BATCH / spent,
        "the writer alone": _writer_alone(batches, core),
        "MiB before": before,
        "MiB at most": peak,
    }


def _await_rows(path: Path, n: int, look: Callable[[], float] = lambda: 0.0) -> float:
    most = 0.0
    while True:
        most = max(most, look())
        with sqlite3.connect(path) as connection:
            try:
                (found,) = connection.execute(
                    "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM outcome_events)"
                ).fetchone()
            except sqlite3.OperationalError:
                found = 0
        if found >= n:
            return most
        time.sleep(0.05)


def _writer_alone(batches: int, core: int) -> float:
    from caseyos_otel.storage import schema
    from caseyos_otel.storage.engine import create, parse_url
    from caseyos_otel.storage.writer import Writer

    ready = [_records(n) for n in range(min(batches, 40))]
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        engine = create(parse_url(f"sqlite:///{folder}/alone.db"))
        writer = Writer(engine, event_store="all", disclose=lambda r: r.values, pseudonym=str, prepare=schema.upgrade)
        writer.write(_records(batches))
        start = time.monotonic()
        for records in ready:
            writer.write(records)
        took = time.monotonic() - start
        writer.release()
    os.sched_setaffinity(0, own)
    return len(ready) * BATCH / took


def _text(report: dict[str, Any]) -> str:
    decode, acknowledged, stored = report["decode"], report["acknowledged"], report["stored"]
    walk = decode["upb parse and a walk in Python"]["us"]
    lines = [f"{'one record of a request of ' + str(BATCH):<42}{'µs':>9}   it / parse and walk"]
    lines += [f"  {name:<40}{of['us']:>9.2f}   {of['us'] / walk:.2f}" for name, of in decode.items()]
    lines += ["", f"{'acknowledged, one core':<42}{'records/s':>9}   ours / it"]
    lines += [f"  {'ours':<40}{acknowledged['ours']:>9,.0f}"]
    theirs = "decoding in the request"
    spread = f"({min(acknowledged['ratios']):.1f} to {max(acknowledged['ratios']):.1f})"
    lines += [f"  {theirs:<40}{acknowledged[theirs]:>9,.0f}   {acknowledged['ratio']:.1f} {spread}"]
    lines += ["", f"{'everything, one core, SQLite':<42}{'records/s':>9}"]
    lines += [f"  {name:<40}{stored[name]:>9,.0f}" for name in stored if not name.startswith("MiB")]
    lines += [f"  memory: {stored['MiB before']:.0f} MiB before, {stored['MiB at most']:.0f} MiB at most"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
