"""`python -m benchmarks.exits`: how long a process takes to end while every destination of it is away.

The time from the last line of a program to the end of its process, with PostgreSQL, Sentry and OTLP (events, spans and
metrics) behind doors that refuse, take and are silent, are slow, or do not answer a knock. `cold`: nothing was delivered
before. `warm`: each destination had everything, and went away just before more was emitted. `known`: they have been away
for two seconds, while more was emitted. Beside it the same exit with all of them there, and that of a process that has
imported the same and emitted nothing: the interpreter's own end. `--busy 2` lets two processes take what they can get of
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.e2e.door import AWAY, Door, Way
from tests.e2e.receiver import OtlpReceiver, Sentry
from tests.e2e.service import INSTRUMENT, cli, environment
from tests.integration.conftest import running_postgresql
from tests.ports import port_of

PROGRAM: Final = """
import sys, time
from opentelemetry import trace
from caseyos_otel import flush, track

def work():
    with trace.get_tracer("service").start_as_current_span("request"):
        for number in range(10):
            track("recommendation_dismissed", recommendation_id=str(number), action_type="send_email", user_id="casey")
            track("outcome_deal_advanced", deal_id=str(number))
            track("action_failed", action_id=str(number), action_type="send_email", error_type="api_error")

if sys.argv[1] == "idle":
    from caseyos_otel.exporters import outcomes, sentry
    import psycopg, sqlalchemy
    print("ends", flush=True)
    sys.exit()
if sys.argv[1] in ("warm", "known"):
    work()
    assert flush(20)
    print("warm", flush=True)
    sys.stdin.readline()
work()
if sys.argv[1] == "known":
    time.sleep(2)
    work()
print("ends", flush=True)
"""
Life = tuple[str, Way]


def main() -> int:
    """Print seconds, median and longest of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    lives: list[Life] = [(begin, way) for way in ("open", *AWAY) for begin in ("cold", "warm", "known")]
    lives.remove(("known", "open"))
    lives.insert(0, ("idle", "open"))
    with _surroundings() as (doors, env, directory), _busy(asked.busy):
        (directory / "program.py").write_text(PROGRAM)
        measured = {life: [_end(life, doors, env, directory) for _ in range(asked.rounds)] for life in lives}
    if asked.json:
        print(json.dumps({f"{way}, {begin}": each for (begin, way), each in measured.items()}))
        return 0
    print(f"{'seconds from the last line to the end':<44}{'median':>9}{'longest':>9}")
    for (begin, way), each in measured.items():
        print(f"  every destination {way + ', ' + begin:<24}{statistics.median(each):>9.2f}{max(each):>9.2f}")
    return 0


@contextmanager
def _surroundings() -> Iterator[tuple[list[Door], dict[str, str], Path]]:
    """Three servers behind doors, and the environment of a service that has them as destinations."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        server = stack.enter_context(running_postgresql("benchmarks-postgresql"))
        url = server.url(server.create_database())
        sentry, otlp = stack.enter_context(Sentry()), stack.enter_context(OtlpReceiver())
        addresses = (url, sentry.dsn, otlp.endpoint)
        ports = [port_of(address) for address in addresses]
        doors = [stack.enter_context(Door(port)) for port in ports]
        names = ("CASEYOS_OTEL_DATABASE_URL", "SENTRY_DSN", "OTEL_EXPORTER_OTLP_ENDPOINT")
        behind = {
            name: address.replace(f":{port}", f":{door.port}")
            for name, address, port, door in zip(names, addresses, ports, doors, strict=True)
        }
        env = environment(directory / "state", CASEYOS_OTEL_LOG=os.devnull, **behind)
        cli(env, "db", "upgrade")
        yield doors, env, directory


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Processes that compute and do nothing else."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def _end(life: Life, doors: list[Door], env: dict[str, str], directory: Path) -> float:
    begin, way = life
    for door in doors:
        door.become(way if begin == "cold" else "open")
    # a state directory each: what one leaves would be the next one's work
    state = {"CASEYOS_OTEL_STATE_DIR": tempfile.mkdtemp(dir=directory)}
    process = subprocess.Popen(
        [INSTRUMENT, sys.executable, str(directory / "program.py"), begin],
        env=env | state, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    if begin in ("warm", "known"):
        assert process.stdout.readline() == "warm\n"
        for door in doors:
            door.become(way)
        process.stdin.write("\n")
        process.stdin.flush()
    assert process.stdout.readline() == "ends\n"
    began = time.monotonic()
    kill = threading.Timer(60, process.kill)
    kill.start()
    process.wait()  # with a timeout it would look twenty times a second
    kill.cancel()
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
