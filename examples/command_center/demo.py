"""A service's working day, its events in three places, counted. Run by `make demo`.

    python demo.py [--json] [--recommendations 1000] [--seed 7] [--event-store all|outcomes] [--directory DIRECTORY]

Starts the stand-in integrations, a receiver for Sentry and OTLP on loopback, and the service under
`opentelemetry-instrument`; drives a day of traffic, ends the service by SIGTERM, and holds what the driver caused
against what arrived. Exit status: 0 where everything adds up, 1 where it does not, 2 where the demo could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import working_day
from demo_parts import account, arrived, progress
from demo_parts.processes import DemoError, free_port, running
from demo_parts.receiver import Receiver
from demo_parts.report import Report
from sqlalchemy import create_engine

from caseyos_otel.insights.funnel import funnel

Json = dict[str, Any]
EXAMPLE = Path(__file__).resolve().parent
DEFAULT_DIRECTORY = EXAMPLE.parents[1] / ".demo"
OURS = ("OTEL_", "CASEYOS_OTEL_", "SENTRY_", "COMMAND_CENTER_", "UVICORN_")
LOOPBACK = "127.0.0.1"
OWN_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Files:
    """Where everything is."""

    directory: Path

    @property
    def log(self) -> Path:
        """The structured log."""
        return self.directory / "events.jsonl"

    @property
    def state(self) -> Path:
        """State directory of caseyos-otel."""
        return self.directory / "state"

    @property
    def database(self) -> Path:
        """Outcomes and events."""
        return self.state / "caseyos.db"

    def shown(self) -> dict[str, Path]:
        """What a person may want to look into."""
        return {
            "structured log": self.log,
            "database": self.database,
            "state directory": self.state,
            "service's own database": self.directory / "service.db",
            "service's output": self.directory / "service.log",
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and print what it found."""
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are stopped
    try:
        report = run(
            Files(_fresh(chosen.directory)),
            recommendations=chosen.recommendations,
            seed=chosen.seed,
            event_store=chosen.event_store,
            bar=not chosen.json and sys.stderr.isatty(),
        )
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(report.as_dict()) if chosen.json else report.as_text())
    return 1 if report.problems() else 0


def run(files: Files, *, recommendations: int, seed: int, event_store: str, bar: bool) -> Report:
    """Run one day and account for it; raise `DemoError` if something does not start or the day cannot be driven."""
    begin = time.perf_counter()
    with Receiver() as receiver, progress.shown(bar=bar) as show:
        telling = {**_telling(files, receiver), "CASEYOS_OTEL_EVENT_STORE": event_store}
        caused, own = _day(files, telling, recommendations, seed, show)
    if missing := [str(path) for path in (files.log, files.database) if not path.exists()]:
        raise DemoError(f"the service has not written {' and '.join(missing)}; what it said is in {files.directory}.")
    log = arrived.read_log(files.log)
    stored = arrived.read_database(files.database)
    received = arrived.read_requests(receiver.requests)
    status = _status(files)
    traces = account.trace_counts(caused.requests, log, received.traces, own, status["traces"])
    return Report(
        rows=account.rows(caused.events, log, stored, received, status["dropped"]),
        traces=traces,
        funnel=funnel(create_engine(f"sqlite:///{files.database}")),
        checks=account.checks(caused.events, caused.failed_requests, log, stored, received, traces, status),
        log_problems=log.problems,
        received=received,
        requests=caused.requests,
        seconds=time.perf_counter() - begin,
        files=files.shown(),
    )


def _day(
    files: Files, telling: dict[str, str], recommendations: int, seed: int, show: progress.Report
) -> tuple[working_day.Caused, list[Json]]:
    """Drive the day with a service that is told so; what it caused, and the decisions about traces of its own start."""
    service_port, stand_ins_port = free_port(), free_port()
    service_url, stand_ins_url = f"http://127.0.0.1:{service_port}", f"http://127.0.0.1:{stand_ins_port}"
    stand_ins = [sys.executable, "-m", "command_center.stand_ins", "--port", str(stand_ins_port), "--seed", str(seed)]
    instrument = str(Path(sys.executable).parent / "opentelemetry-instrument")
    uvicorn = ["uvicorn", "command_center.app:app", "--port", str(service_port), "--log-level", "warning"]
    service_command = [instrument, *uvicorn]
    environ = _environ()
    stand_ins_log, service_log = files.directory / "stand_ins.log", files.directory / "service.log"
    telling = telling | {f"COMMAND_CENTER_{name}_URL": stand_ins_url for name in ("HUBSPOT", "GMAIL", "CALENDAR")}
    with (
        running("stand-ins", stand_ins, EXAMPLE, environ, stand_ins_log, stand_ins_port) as others,
        running("the service", service_command, EXAMPLE, environ | telling, service_log, service_port) as service,
    ):
        own = _decisions_of_the_start(files)
        try:
            caused = working_day.drive(
                service_url, stand_ins_url, recommendations=recommendations, seed=seed, progress=show
            )
        except (httpx.HTTPError, working_day.UnexpectedAnswerError) as error:
            raise (others if others.ended else service).explain(error) from error
        show(recommendations, recommendations, "ending the service")
    return caused, own


def _environ() -> dict[str, str]:
    """This environment without settings that would change what is shown, with this Python's programs first, no proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}


def _telling(files: Files, receiver: Receiver) -> dict[str, str]:
    """What the service is told: where its data are, and where its telemetry goes."""
    return {
        "COMMAND_CENTER_DATABASE_URL": f"sqlite:///{files.directory / 'service.db'}",
        "COMMAND_CENTER_BREAKER_RESET_SECONDS": "1",
        "OTEL_SERVICE_NAME": "command-center",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "SENTRY_DSN": receiver.dsn,
        "CASEYOS_OTEL_STATE_DIR": str(files.state),
        "CASEYOS_OTEL_LOG": str(files.log),
    }


def _decisions_of_the_start(files: Files) -> list[Json]:
    """The decisions about traces that no request has begun: the service makes its tables when it starts.

    Waits until the service, which writes every second, has written them twice alike since its port was open.
    """
    began, last = time.time(), None
    while time.time() < began + OWN_START_SECONDS:
        time.sleep(0.2)
        for now in _statuses(files):
            if now["written_at"] <= (last["written_at"] if last else began):
                continue
            if last and now["traces"] == last["traces"]:
                return list(now["traces"])
            last = now
    return last["traces"] if last else []


def _statuses(files: Files) -> list[Json]:
    return [json.loads(path.read_text("utf-8")) for path in (files.state / "status").glob("*.json")]


def _status(files: Files) -> Json:
    """What the service said of itself at its end."""
    written = _statuses(files)
    if len(written) != 1:
        raise DemoError(f"the service left {len(written)} status files in {files.state / 'status'}, not one.")
    return written[0]


def _fresh(directory: Path) -> Path:
    """An empty directory. Only the demo's own is emptied."""
    if directory == DEFAULT_DIRECTORY:
        shutil.rmtree(directory, ignore_errors=True)
    elif directory.exists() and any(directory.iterdir()):
        raise DemoError(f"--directory {directory} is not empty; name one that does not exist.")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo.py", description="A service's working day, its events counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--recommendations", type=_enough, default=1000, help="how many there are (default: 1000)")
    parser.add_argument("--seed", type=int, default=7, help="decides what happens on the day (default: 7)")
    parser.add_argument(
        "--event-store", choices=("all", "outcomes"), default="all", help="what the database gets (default: all)"
    )
    parser.add_argument(
        "--directory",
        type=_absolute,
        default=DEFAULT_DIRECTORY,
        help="where files go (default: .demo)",
    )
    return parser


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def _enough(text: str) -> int:
    number = int(text)
    if number < working_day.MINIMUM:
        raise argparse.ArgumentTypeError(f"{number}: a day with every event needs at least {working_day.MINIMUM}")
    return number


if __name__ == "__main__":
    sys.exit(main())
