"""The composition root: how the one pipeline of a process begins, is flushed and survives forks."""

from __future__ import annotations

import atexit
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider

from caseyos_otel import _otel, settings
from caseyos_otel.diagnostics import guard
from caseyos_otel.events import declared
from caseyos_otel.events.registry import registry
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.pipeline import announcement
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from caseyos_otel.pipeline.process import Pipeline

EXIT_DEADLINE_S: Final = 5.0
"""What an exit may wait for destinations; what is durable and did not leave, the next process delivers."""

current: Pipeline | None = None
"""The pipeline of this process, once there is one."""
_starting = threading.RLock()
"""Re-entrant: an event class of the service's is imported while we start, and its module may call `configure()`."""
_tried = False


def start(in_force: Settings | None = None) -> Pipeline | None:
    """Make the pipeline of this process and attach it to the global providers. Again: the one that is there.

    None where CASEYOS_OTEL_DISABLED=1, or where our own start failed, which is logged and never stops the service.
    """
    global current, _tried
    with _starting:
        if not _tried:
            _tried = True
            with guard("starting"):
                current = _start(in_force or settings.load())
        return current


def _start(in_force: Settings) -> Pipeline | None:
    from caseyos_otel.instrumentation import exits
    from caseyos_otel.pipeline.process import Pipeline

    announcement.prepare(in_force)
    if in_force.disabled:
        tracking.enabled = False
        return None
    registry.load_entry_points()
    declared.load_or_report(in_force.hooks, registry)
    pipeline = Pipeline(in_force)
    _provide_bus(in_force)
    pipeline.attach(trace.get_tracer_provider(), get_logger_provider(), metrics.get_meter_provider())
    pipeline.connect()
    atexit.register(pipeline.shutdown, EXIT_DEADLINE_S)
    os.register_at_fork(
        before=pipeline.before_fork,
        after_in_parent=pipeline.after_fork_in_parent,
        after_in_child=pipeline.after_fork_in_child,
    )
    exits.watch(pipeline, partial(pipeline.flush_at_exit, EXIT_DEADLINE_S))
    return pipeline


def _provide_bus(in_force: Settings) -> None:
    """A LoggerProvider where there is none (a declarative configuration without logs): other loggers' events pass it too."""
    traces = trace.get_tracer_provider()
    if in_force.otel_sdk_disabled or _otel.is_sdk(get_logger_provider()) or not _otel.is_sdk(traces):
        return
    from opentelemetry.sdk._logs import LoggerProvider

    set_logger_provider(LoggerProvider(resource=getattr(traces, "resource", None)))


def start_beside_another_distro() -> None:
    """Attach to the providers that another distro has made. Our own configurator has done it already."""
    if _tried:
        return
    in_force = settings.load()
    if (pipeline := start(in_force)) is not None and not in_force.otel_config_file:
        pipeline.note("another distro was chosen; OTEL_PYTHON_DISTRO=caseyos chooses ours")


def configure(**overrides: Any) -> None:
    """Set everything up in a program that is not started by `opentelemetry-instrument`.

    Providers that are there already are used; otherwise OpenTelemetry's SDK is set up from its own variables. The second
    call changes nothing.

    Args:
        **overrides: Settings by name (`database_url=`, `exporters=("log", "outcomes")`, …); they win over variables.

    Raises:
        TypeError: an override is not the name of a setting.

    Example:
        >>> configure(log="stderr", success_ratio=1.0)  # doctest: +SKIP
    """
    in_force = settings.load(**overrides)
    if not _tried and not in_force.disabled and not _otel.is_sdk(trace.get_tracer_provider()):
        initialize(in_force)
    start(in_force)


def initialize(in_force: Settings, **kwargs: Any) -> None:
    """Set up OpenTelemetry's SDK as its variables say; what they leave open is OTLP where an endpoint is set."""
    with guard("setting up OpenTelemetry"):
        attributes = {**announcement.resource_attributes(), **(kwargs.pop("resource_attributes", None) or {})}
        names = {
            f"{signal}_exporter_names": [_otlp_exporter(in_force, signal)]
            for signal in ("trace", "metric", "log")
            if in_force.wants_otlp_by_default(signal)
        }
        if in_force.otel_config_file:
            _otel.initialize_sdk()
        else:
            _otel.initialize_sdk(resource_attributes=attributes, **names, **kwargs)


def _otlp_exporter(in_force: Settings, signal: str) -> str:
    """The stock exporter's name: `otlp` alone would mean gRPC where no variable says so, and ours is HTTP."""
    own = {"log": in_force.logs_protocol, "trace": in_force.traces_protocol}
    protocol = own.get(signal, in_force.otlp_protocol)
    return "otlp_proto_grpc" if protocol == "grpc" else _otel.OTLP_EXPORTER


def flush(timeout: float = 5.0) -> bool:
    """Deliver everything that was emitted before this call; True if all of it arrived within `timeout` seconds.

    Example:
        >>> flush(1.0)  # nothing is configured: there is nothing to deliver
        True
    """
    return True if current is None else current.flush(timeout)
