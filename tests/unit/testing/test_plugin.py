"""The plugin in a pytest of its own: what leaves, what is shown, what a service's tests notice."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.testing.conftest import Ran, Suite

SERVICE = """
    import caseyos_otel
    from caseyos_otel import track

    caseyos_otel.configure(flush_interval_ms=10)
    track("recommendation_viewed", user_id="casey", recommendations_shown=3)

    def reply():
        track("outcome_reply_received", recipient="john@acmecorp.com")
        track("contract_signed", contract_id="c1")
        caseyos_otel.flush(0.5)
"""
TEST_SERVICE = """
    import atexit, service
    from caseyos_otel import track

    def test_reply():
        service.reply()
        atexit.register(service.reply)
        track("outcome_reply_received", recipient="john@acmecorp.com", session=object())
"""
WATCH = """
    import sys

    def pytest_configure(config):
        config.reached = []
        reaching = ("socket.connect", "socket.getaddrinfo", "sqlite3.connect")
        sys.addaudithook(lambda event, arguments: config.reached.append(event) if event in reaching else None)

    def pytest_terminal_summary(terminalreporter, config):
        terminalreporter.write_line(f"reached: {sorted(set(config.reached))}")
"""
OUTSIDE = {
    "SENTRY_DSN": "http://key@127.0.0.1:9/1",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
}


def test_nothing_reaches_a_file_a_database_or_the_network(suite: Suite) -> None:
    suite.write(service=SERVICE, test_service=TEST_SERVICE, conftest=WATCH)
    ran = suite.run("-q", **OUTSIDE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "reached: []" in ran.stdout
    assert suite.left() == []
    assert "caseyos-otel" not in ran.stderr
    assert "recommendation_viewed" not in ran.stdout


def test_the_same_without_the_plugin_does(suite: Suite) -> None:
    """So the test above can fail."""
    suite.write(service=SERVICE, test_service="import service\ndef test_it(): service.reply()", conftest=WATCH)
    ran = suite.run("-q", "-p", "no:caseyos_otel", **OUTSIDE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "sqlite3.connect" in ran.stdout
    assert "socket.connect" in ran.stdout
    assert "caseyos.db" in suite.left()


def test_the_ini_option_leaves_everything_as_in_production(suite: Suite) -> None:
    suite.write(service=SERVICE, test_service="import service\ndef test_it(): service.reply()")
    suite.ini("caseyos_otel_plugin = off")
    ran = suite.run("-q")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "caseyos.db" in suite.left()


INSTRUMENTED = """
    import service
    from opentelemetry import trace
    from opentelemetry._logs import LogRecord, get_logger
    from caseyos_otel.pipeline import lifecycle
    from caseyos_otel import track

    def emit_with_opentelemetry_alone():
        attributes = {"recipient": "john@acmecorp.com"}
        get_logger("service").emit(LogRecord(event_name="caseyos.outcome.reply_received", attributes=attributes))

    def test_nothing_leaves_here():
        with trace.get_tracer("service").start_as_current_span("request"):
            service.reply()
            emit_with_opentelemetry_alone()
        assert lifecycle.current is None

    def test_events_have_their_trace(events):
        with trace.get_tracer("service").start_as_current_span("request"):
            track("recommendation_viewed", user_id="casey", recommendations_shown=3)
            emit_with_opentelemetry_alone()
        viewed, promoted = events
        assert promoted["recipient"] == "john@acmecorp.com"
        assert viewed.trace_id == promoted.trace_id is not None
        assert [shaped["trace_id"] for shaped in events.as_dicts()] == [f"{1:032x}"] * 2
"""


def test_under_opentelemetry_instrument(suite: Suite) -> None:
    suite.write(service=SERVICE, test_service=INSTRUMENTED, conftest=WATCH)
    state = suite.home / "state"
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    ran = suite.run("-q", under=(instrument,), CASEYOS_OTEL_STATE_DIR=str(state), **OUTSIDE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "reached: []" in ran.stdout
    assert "recommendation_viewed" not in ran.stdout
    assert set(suite.left()) <= {"pii.key"}  # made before pytest began


def test_declared_records_of_other_loggers_are_recorded_where_the_sdk_is(passing: Callable[..., Ran]) -> None:
    passing(
        """
        import pytest
        from opentelemetry._logs import LogRecord, get_logger, set_logger_provider
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

        exporter = InMemoryLogRecordExporter()

        @pytest.fixture(scope="module", autouse=True)
        def provider():
            provider = LoggerProvider()
            provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
            set_logger_provider(provider)

        def emit():
            record = LogRecord(event_name="caseyos.outcome.reply_received", attributes={"recipient": "j@b.c"})
            get_logger("service").emit(record)

        def test_events(events):
            emit()
            assert events.one("outcome_reply_received")["recipient"] == "j@b.c"

        def test_without():
            exporter.clear()
            emit()
            [exported] = exporter.get_finished_logs()
            assert exported.log_record.attributes["recipient"] == "j@b.c"
        """
    )


def test_tests_do_not_see_each_other(suite: Suite, passing: Callable[..., Ran]) -> None:
    suite.ini("asyncio_default_fixture_loop_scope = function")  # pytest-asyncio warns without it
    passing(
        """
        import pytest
        from caseyos_otel import configure, track
        from caseyos_otel.instrumentation.track import emitter

        @pytest.mark.parametrize("n", range(3))
        def test_recorded(events, n):
            assert len(events) == 0
            events.clock.advance(days=n)
            events.strict = bool(n)
            configure(strict=True)
            track("recommendation_viewed", user_id="casey", recommendations_shown=n)
            assert events.one("recommendation_viewed").event_id.endswith("-000000000001")
            assert events.one("recommendation_viewed").timestamp.day == 23 + n

        def test_unrecorded():
            track("recommendation_viewed", user_id="casey", bogus=1)
            assert not emitter.strict
            assert len(emitter.queue) == 0
        """,
        "-W",
        "error",
    )


ASYNC_TEST = """
    import asyncio
    import pytest
    from caseyos_otel import track_event

    @track_event("recommendation_viewed")
    async def view(user_id, recommendations_shown):
        await asyncio.sleep(0)

    @pytest.mark.asyncio
    async def test_view(events):
        await asyncio.gather(view("casey", 1), view("sam", 2))
        assert events.count("recommendation_viewed") == 2
        assert events.one("recommendation_viewed", user_id="sam")["recommendations_shown"] == 2
"""


def test_async_tests(passing: Callable[..., Ran]) -> None:
    passing(ASYNC_TEST)


def test_a_failed_test_shows_what_was_emitted(suite: Suite) -> None:
    suite.write(
        test_service="""
            from caseyos_otel import track

            def test_view(events):
                track("recommendation_viewed", user_id="casey", recommendations_shown=3)
                assert events.has("recommendation_viewed", user_id="sam")

            def test_strict(events):
                track("recommendation_viewed", user_id="casey")
        """
    )
    ran = suite.run()
    assert "2 failed" in ran.stdout
    assert "- Events emitted -" in ran.stdout
    assert "recommendation_viewed(user_id='casey', recommendations_shown=3)" in ran.stdout
    assert "recommendation_viewed.recommendations_shown" in ran.stdout


def test_a_fixture_of_the_services_own_wins(passing: Callable[..., Ran]) -> None:
    passing(
        """
        import pytest
        from caseyos_otel import track
        from caseyos_otel.testing import recording

        @pytest.fixture
        def events():
            return ["party"]

        @pytest.fixture
        def emitted():
            with recording() as recorder:
                yield recorder

        def test_it(events, emitted):
            track("recommendation_viewed", user_id="casey", recommendations_shown=3)
            assert (events, emitted.names) == (["party"], ["recommendation_viewed"])
        """
    )


@pytest.mark.parametrize(("ini", "code"), [("", 0), ("caseyos_otel_reraise = on", 1)])
def test_our_own_errors_are_raised_only_where_asked_for(suite: Suite, ini: str, code: int) -> None:
    suite.write(
        test_service="""
            from caseyos_otel import track

            def test_it():
                track("recommendation_viewed", delivery="no such promise", user_id="casey", recommendations_shown=3)
        """
    )
    suite.ini(ini)
    ran = suite.run()
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert ("no such promise" in ran.stdout) is bool(code)


def test_forked_and_named_in_a_conftest(suite: Suite) -> None:
    suite.write(
        conftest="pytest_plugins = ['caseyos_otel.testing.plugin']",
        service=SERVICE,
        test_service="""
            import multiprocessing, service

            def test_child(events):
                child = multiprocessing.get_context("fork").Process(target=service.reply)
                events.strict = False
                child.start()
                child.join(20)
                assert child.exitcode == 0
                assert len(events) == 0
        """,
    )
    ran = suite.run("-q", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert suite.left() == []
    assert "caseyos-otel" not in ran.stderr


def test_it_imports_neither_sdk_nor_sentry_nor_sqlalchemy() -> None:
    program = "import sys, caseyos_otel.testing.plugin as _; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "sentry_sdk", "sqlalchemy", "alembic", "requests")
    assert "caseyos_otel.testing.recorder" in loaded
    assert [name for name in loaded if name.startswith(heavy)] == []


def test_the_kit_itself_needs_no_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None; import caseyos_otel.testing as kit; print(kit.recording.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "recording\n"


def test_the_example_of_the_documentation(suite: Suite) -> None:
    page = Path(__file__).parents[3] / "docs" / "testing.md"
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["service", "test_service", "test_without_pytest"]
    suite.write(**dict(blocks))
    ran = suite.run("-q", "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert suite.left() == []
