"""The pytest plugin: the `events` fixture, and nothing leaves from tests that do not use it.

Loaded by pytest wherever the package is installed, so it imports little, prints nothing, and changes nothing that a
service's own tests could notice. `caseyos_otel_plugin = off` in the ini file leaves everything as it is in production.
"""

from __future__ import annotations

import atexit
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from caseyos_otel import diagnostics
from caseyos_otel.events.record import EventRecord
from caseyos_otel.pipeline import lifecycle
from caseyos_otel.testing.isolation import isolate
from caseyos_otel.testing.recorder import Recorder, recording

ON: Final = "caseyos_otel_plugin"
RERAISE: Final = "caseyos_otel_reraise"

_held: ExitStack | None = None
"""Never closed: what a service emits while the interpreter ends must not leave either."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our two ini options."""
    parser.addini(ON, "off: caseyos-otel works in tests as in production", type="bool", default=True)
    parser.addini(RERAISE, "on: errors of caseyos-otel's own are raised, not swallowed", type="bool", default=False)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before a conftest imports the service, which may configure us and emit events."""
    _hold(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """The same, where the plugin was named in a conftest."""
    _hold(config)


@pytest.fixture
def events() -> Iterator[Recorder]:
    """What this test emits: `has`, `one`, `count`, `none`, `sequence`, `as_dicts`; fixed ids and clock, strict."""
    with recording() as recorder:
        yield recorder


@pytest.hookimpl(hookwrapper=True)  # the older kind of wrapper, which every pytest in use knows
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """A failed test shows what was emitted in it."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.when == "call":
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Recorder):
                report.sections.append(("Events emitted", value.describe()))


def _hold(config: pytest.Config) -> None:
    global _held
    if config.getini(RERAISE):
        diagnostics.reraise = True
    if _held is not None or not config.getini(ON):
        return
    with diagnostics.guard("keeping events from leaving"):
        if lifecycle.current is not None:  # started by opentelemetry-instrument
            atexit.unregister(lifecycle.current.shutdown)
        _held = isolate(_discard)


def _discard(record: EventRecord) -> None:
    pass
