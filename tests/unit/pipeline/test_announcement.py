"""What is said at start: problems once, where outcomes would not last, which destinations are on and why."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from caseyos_otel import settings
from caseyos_otel.diagnostics import logger
from caseyos_otel.pipeline import announcement


@pytest.fixture(autouse=True)
def _as_at_start() -> Iterator[None]:
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers[:] = [logging.NullHandler()]
    yield
    logger.handlers[:], logger.level, logger.propagate = before


class Stderr:
    """What was written to standard error since the test began."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


def test_the_root_logger_is_left_alone_and_ours_speaks_on_stderr(stderr: Stderr) -> None:
    before = list(logging.getLogger().handlers)
    announcement.prepare(settings.load({"CASEYOS_OTEL_SAMPLING": "sometimes"}))
    assert logging.getLogger().handlers == before
    assert not logger.propagate
    [line] = stderr.getvalue().splitlines()
    assert line.startswith("caseyos-otel: CASEYOS_OTEL_SAMPLING: 'sometimes' is not accepted")


def test_a_problem_is_said_once_and_a_second_preparation_adds_no_handler(stderr: Stderr) -> None:
    in_force = settings.load({"CASEYOS_OTEL_SAMPLING": "sometimes"})
    announcement.prepare(in_force)
    announcement.prepare(settings.load({}))
    assert len(stderr.getvalue().splitlines()) == 1
    assert len(logger.handlers) == 2


def test_a_handler_that_the_service_gave_us_is_used_in_place_of_ours(stderr: Stderr) -> None:
    records: list[logging.LogRecord] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger.addHandler(Own())
    announcement.prepare(settings.load({"CASEYOS_OTEL_SAMPLING": "sometimes"}))
    assert [record.levelname for record in records] == ["ERROR"]
    assert stderr.getvalue() == ""


def test_it_is_written_to_what_stderr_is_at_that_moment(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    announcement.prepare(settings.load({}))
    monkeypatch.setattr(sys, "stderr", later := io.StringIO())
    logger.warning("hello")
    assert later.getvalue() == "caseyos-otel: hello\n"
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({"RAILWAY_PROJECT_ID": "p"}, "Railway"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ({}, None),
        ({"RAILWAY_PROJECT_ID": "p", "CASEYOS_OTEL_DATABASE_URL": "postgresql://db/app"}, None),
        ({"RAILWAY_PROJECT_ID": "p", "CASEYOS_OTEL_EXPORTERS": "log"}, None),
    ],
)
def test_where_a_disk_does_not_last_a_missing_database_is_an_error(
    environ: dict[str, str], platform: str | None, stderr: Stderr
) -> None:
    announcement.prepare(settings.load({"CASEYOS_OTEL_STATE_DIR": "/somewhere", **environ}))
    said = stderr.getvalue()
    if platform is None:
        assert said == ""
    else:
        assert "CASEYOS_OTEL_DATABASE_URL is not set" in said
        assert platform in said
        assert "/somewhere" in said


def test_the_start_up_line_names_what_is_on_what_decided_it_and_notes(stderr: Stderr) -> None:
    in_force = settings.load({"CASEYOS_OTEL_EXPORTERS": "log", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"})
    announcement.prepare(in_force)
    announcement.say(in_force, ["a note"])
    [line] = stderr.getvalue().splitlines()
    on, off = line.split("; off: ")
    assert on == (
        f"caseyos-otel: {announcement.version()} on: log (CASEYOS_OTEL_EXPORTERS), otlp (OTEL_EXPORTER_OTLP_ENDPOINT)"
    )
    assert off == "outcomes (CASEYOS_OTEL_EXPORTERS), sentry (CASEYOS_OTEL_EXPORTERS); a note"


def test_the_resource_names_this_distribution_and_its_installed_version() -> None:
    from importlib.metadata import version

    assert announcement.resource_attributes() == {
        "telemetry.distro.name": "caseyos-otel",
        "telemetry.distro.version": version("caseyos-otel"),
    }
