"""What OpenTelemetry's loader calls: entry points of the installed package, defaults, adapters."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.instrumentation.distro import BaseDistro
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.trace.export import SpanExporter

from caseyos_otel.distro import distro, exporters
from caseyos_otel.distro.distro import DEFAULTS, CaseyosDistro
from caseyos_otel.errors import ConfigurationError
from caseyos_otel.pipeline import lifecycle
from caseyos_otel.processors.promote import promote


def loaded(group: str, name: str) -> Any:
    [entry_point] = [
        e for e in entry_points(group=group, name=name) if e.dist is not None and e.dist.name == "caseyos-otel"
    ]
    return entry_point.load()


@pytest.mark.parametrize(
    ("group", "name", "kind"),
    [
        ("opentelemetry_distro", "caseyos", BaseDistro),
        ("opentelemetry_instrumentor", "caseyos", BaseInstrumentor),
        ("opentelemetry_logs_exporter", "caseyos_log", LogRecordExporter),
        ("opentelemetry_logs_exporter", "caseyos_sentry", LogRecordExporter),
        ("opentelemetry_logs_exporter", "caseyos_outcomes", LogRecordExporter),
        ("opentelemetry_traces_exporter", "caseyos_sentry", SpanExporter),
    ],
)
def test_entry_points_of_the_installed_package_lead_to_what_the_loader_expects(
    group: str, name: str, kind: type
) -> None:
    assert issubclass(loaded(group, name), kind)


def test_the_configurator_the_plugin_and_the_command_load_too() -> None:
    assert callable(loaded("opentelemetry_configurator", "caseyos")().configure)
    assert loaded("pytest11", "caseyos_otel").events
    assert callable(loaded("console_scripts", "caseyos-otel"))


# -- the distro ------------------------------------------------------------------------------------------------------


def configured(monkeypatch: pytest.MonkeyPatch, **environ: str) -> dict[str, str]:
    """The environment that the distro leaves."""
    monkeypatch.setattr(distro.os, "environ", dict(environ))
    CaseyosDistro()._configure()
    return dict(distro.os.environ)


def test_defaults_are_set_where_nobody_set_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch) == {
        "OTEL_PYTHON_CONFIGURATOR": "caseyos",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "UVICORN_RESET_CONTEXTVARS": "true",
    }


@pytest.mark.parametrize("name", [name for name, _ in DEFAULTS])
def test_what_somebody_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch, **{name: "theirs"})[name] == "theirs"


def entry_point(load: Callable[[], Any]) -> EntryPoint:
    class Fake:
        name = "broken"

        def load(self) -> Any:
            return load()

    return Fake()  # type: ignore[return-value]


def test_an_instrumentor_that_fails_is_said_and_an_absent_one_is_the_loader_s_affair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(distro.diagnostics, "fault", lambda message, error: said.append(message))

    def fails(error: Exception) -> Callable[[], Any]:
        def load() -> Any:
            raise error

        return load

    CaseyosDistro().load_instrumentor(entry_point(fails(RuntimeError("no such hook"))))
    assert said == ["the instrumentor 'broken' failed, the others go on: no such hook"]
    with pytest.raises(ImportError):
        CaseyosDistro().load_instrumentor(entry_point(fails(ImportError("not installed"))))


# -- exporters by name -----------------------------------------------------------------------------------------------

ADAPTERS = (exporters.StructuredLogExporter, exporters.SentryLogExporter, exporters.OutcomesExporter)


class Pipeline:
    """What stands for the pipeline of this process: keeps what is handed over."""

    def __init__(self) -> None:
        self.accepted: list[LogRecord] = []

    def accept(self, record: LogRecord) -> None:
        self.accepted.append(record)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    made = Pipeline()
    monkeypatch.setattr(lifecycle, "start", lambda: made)
    monkeypatch.setattr(exporters, "_handed_over", type(exporters._handed_over)())
    return made


@pytest.mark.parametrize("processor", [BatchLogRecordProcessor, SimpleLogRecordProcessor])
def test_a_record_is_handed_over_once_though_each_of_our_exporters_is_named(
    processor: Callable[..., Any], pipeline: Pipeline
) -> None:
    provider = LoggerProvider(shutdown_on_exit=False)
    for adapter in ADAPTERS:
        provider.add_log_record_processor(processor(adapter(anything="from a declarative configuration")))
    logger = provider.get_logger("another")
    for number in range(3):
        logger.emit(event_name="caseyos.signal.received", attributes={"signal_id": f"s{number}"})
    for each in provider._multi_log_record_processor._log_record_processors:
        if isinstance(each, BatchLogRecordProcessor):
            each._batch_processor.force_flush()
    assert [dict(record.attributes or {})["signal_id"] for record in pipeline.accepted] == ["s0", "s1", "s2"]
    provider.shutdown()


def test_what_is_remembered_is_bounded(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporters, "_MOST_REMEMBERED", 5)
    records = [LogRecord(event_name="signal_received", attributes={"signal_id": str(n)}) for n in range(20)]
    assert all(exporters._first_time(record) for record in records)
    assert not exporters._first_time(records[-1])
    assert len(exporters._handed_over) == 5


def test_where_our_chain_is_attached_events_have_gone_through_it_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EventRecord is what `Pipeline.accept` passes by."""
    from caseyos_otel.pipeline.process import Pipeline as Real

    made = object.__new__(Real)
    made._promoted = lambda record: pytest.fail("seen already")  # type: ignore[method-assign]
    event = promote(LogRecord(event_name="signal_received"))
    assert event is not None
    made.accept(event)
    made.accept(LogRecord(body="no event"))


def test_without_a_pipeline_records_are_taken_and_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "start", lambda: None)
    provider = LoggerProvider(shutdown_on_exit=False)
    exporter = exporters.OutcomesExporter()
    results: list[Any] = []

    class Noting(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            results.append(exporter.export([log_record]))

    provider.add_log_record_processor(Noting(exporter))
    provider.get_logger("another").emit(event_name="signal_received")
    assert results == [LogRecordExportResult.SUCCESS]


def test_flush_of_an_adapter_is_that_of_the_pipeline_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(lifecycle, "flush", lambda timeout: bool(asked.append(timeout)) or True)
    assert exporters.StructuredLogExporter().force_flush(2500)
    assert asked == [2.5]


def test_the_span_exporter_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from caseyos_otel.distro.traces import SentrySpanExporter

    monkeypatch.delenv("SENTRY_DSN", raising=False)
    with pytest.raises(ConfigurationError, match="SENTRY_DSN is not set"):
        SentrySpanExporter()
    monkeypatch.setenv("SENTRY_DSN", "http://key@127.0.0.1:1/7")
    SentrySpanExporter(anything=1).shutdown()


# -- configurator and instrumentor -----------------------------------------------------------------------------------


def test_the_configurator_sets_up_the_sdk_then_starts_with_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from caseyos_otel.distro.configurator import CaseyosConfigurator

    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        lifecycle, "initialize", lambda in_force, **kwargs: calls.append(("initialize", (id(in_force), kwargs)))
    )
    monkeypatch.setattr(lifecycle, "start", lambda in_force: calls.append(("start", id(in_force))))
    CaseyosConfigurator().configure(auto_instrumentation_version="0.66b1")
    [(first, (settings_of_first, kwargs)), (second, settings_of_second)] = calls
    assert (first, second) == ("initialize", "start")
    assert settings_of_first == settings_of_second
    assert kwargs == {"auto_instrumentation_version": "0.66b1"}


def test_the_sdk_is_given_otlp_where_an_endpoint_is_set_and_nothing_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from caseyos_otel import _otel, settings

    given: list[dict[str, Any]] = []
    monkeypatch.setattr(_otel, "initialize_sdk", lambda **kwargs: given.append(kwargs))
    lifecycle.initialize(settings.load({}))
    lifecycle.initialize(settings.load({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}))
    everything = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "console"}
    lifecycle.initialize(settings.load(everything), resource_attributes={"a": "b"})
    lifecycle.initialize(settings.load({**everything, "OTEL_CONFIG_FILE": "otel.yaml"}))
    names = [{key: value for key, value in kwargs.items() if key.endswith("_names")} for kwargs in given]
    otlp = ["otlp_proto_http"]
    assert names == [
        {},
        {"trace_exporter_names": otlp},
        {"trace_exporter_names": otlp, "log_exporter_names": otlp},
        {},
    ]
    assert given[2]["resource_attributes"]["a"] == "b"
    assert given[2]["resource_attributes"]["telemetry.distro.name"] == "caseyos-otel"
    assert given[3] == {}
    assert loaded_by_sdk(otlp[0]) is OTLPLogExporter


def loaded_by_sdk(name: str) -> Any:
    [entry_point] = entry_points(group="opentelemetry_logs_exporter", name=name)
    return entry_point.load()


def test_the_instrumentor_needs_nobody_s_library_attaches_and_flushes_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from caseyos_otel.distro.instrumentor import CaseyosInstrumentor

    calls: list[str] = []
    monkeypatch.setattr(lifecycle, "start_beside_another_distro", lambda: calls.append("start"))
    monkeypatch.setattr(lifecycle, "flush", lambda: calls.append("flush"))
    instrumentor = CaseyosInstrumentor()
    assert instrumentor.instrumentation_dependencies() == ()
    instrumentor.instrument()
    instrumentor.uninstrument()
    assert calls == ["start", "flush"]
