"""The only file with OpenTelemetry's private names. tests/unit/test_otel_seam.py pins each of them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, cast

import opentelemetry.context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation import _SPAN_KEY

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

OTLP_EXPORTER = "otlp_proto_http"
"""Name of the stock OTLP/HTTP exporter for every signal; `otlp` alone would mean gRPC."""


def is_sdk(provider: object) -> bool:
    """Whether a provider is the SDK's own, not the API's proxy."""
    return type(provider).__module__.startswith("opentelemetry.sdk.")


def initialize_sdk(**kwargs: Any) -> None:
    """Set up the SDK's providers from OpenTelemetry's variables and OTEL_CONFIG_FILE, as every distro does."""
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator

    cast("Any", _OTelSDKConfigurator)()._configure(**kwargs)


def _context_variable() -> ContextVar[Context] | None:
    """The context variable behind the current context, where the runtime context has one: the quickest way to it."""
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    return variable if isinstance(variable, ContextVar) else None


SPAN_KEY: Final = _SPAN_KEY
"""Where a context keeps its span."""
_CONTEXT: Final = _context_variable()
_EMPTY: Final = Context()

current_context: Final[Callable[[], Context]] = otel_context.get_current if _CONTEXT is None else _CONTEXT.get


def context_within(within: contextvars.Context) -> Context:
    """The OpenTelemetry context that is current in `within`, without going there."""
    return within.run(current_context) if _CONTEXT is None else within.get(_CONTEXT, _EMPTY)


def span_of(context: Context) -> Span | None:
    """The span in a context, or None."""
    span = context.get(_SPAN_KEY)
    return span if isinstance(span, Span) else None


def current_span() -> Span | None:
    """The current span, or None. A quarter of the cost of `trace.get_current_span()`."""
    return span_of(current_context())


def parent_span(context: Context | None) -> Span | None:
    """The span in a context that a new span was started with (None: the current context)."""
    span = trace.get_current_span(context)
    return None if span is trace.INVALID_SPAN else span


@contextmanager
def suppressed_instrumentation() -> Iterator[None]:
    """Requests inside make no spans: ours are never sampled input."""
    token = otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        otel_context.detach(token)


def log_processors(provider: LoggerProvider) -> tuple[LogRecordProcessor, ...]:
    """Processors of a finished provider.

    Raises:
        AttributeError: this version of the SDK keeps them elsewhere.
    """
    return tuple(provider._multi_log_record_processor._log_record_processors)


def set_log_processors(provider: LoggerProvider, processors: Sequence[LogRecordProcessor]) -> None:
    """Replace the processors of a finished provider."""
    multi = provider._multi_log_record_processor
    with multi._lock:
        multi._log_record_processors = tuple(processors)


def span_processors(provider: TracerProvider) -> tuple[SpanProcessor, ...]:
    """Processors of a finished provider.

    Raises:
        AttributeError: this version of the SDK keeps them elsewhere.
    """
    return tuple(provider._active_span_processor._span_processors)


def set_span_processors(provider: TracerProvider, processors: Sequence[SpanProcessor]) -> None:
    """Replace the processors of a finished provider."""
    multi = provider._active_span_processor
    with multi._lock:
        multi._span_processors = tuple(processors)


def place_added(provider: object, method: str, place: Callable[[Any], Any]) -> None:
    """Ask `place` about every processor that is added to a finished provider by `method` from now on.

    It returns what is added in its stead, or None where it has taken the processor.
    """
    add = getattr(provider, method)

    def added(processor: Any) -> None:
        if (instead := place(processor)) is not None:
            add(instead)

    setattr(provider, method, added)


# A SpanContext is a tuple. Every span of a service is looked at here: an index costs a third of a property.
TRACE_ID: Final = 0
SPAN_ID: Final = 1
TRACE_FLAGS: Final = 3
TRACE_STATE: Final = 4
IS_VALID: Final = 5

context_of: Final[Callable[[Any], SpanContext]] = attrgetter("_context")
"""The context of a span of the SDK or of the API, at half the price of `get_span_context`; AttributeError of any other."""


def span_context(trace_id: int, span_id: int, flags: TraceFlags, tracestate: TraceState) -> SpanContext:
    """The local context of a span whose ids are known to be valid, without asking again."""
    return tuple.__new__(SpanContext, (trace_id, span_id, False, flags, tracestate, True))


def fields_of(span: ReadableSpan) -> tuple[Any, ...]:
    """What an ended span consists of: a quarter of its memory, and one object for the garbage collector, not ten.

    Name, trace id, span id, trace flags, tracestate, parent, resource, attributes, events, links, kind, status, start,
    end, scope, and None or how many (attributes, events, links) were dropped at their limits. The attributes are the
    span's own: read only.
    """
    inside: Any = span  # the SDK's own containers, whatever the properties are typed as
    try:
        attributes, events, links = inside._attributes, inside._events, inside._links
        context = inside._context
        happened, linked = events._dq, links._dq
        return (
            inside._name,
            context[0],
            context[1],
            context[3] & 255,  # a plain number, of which there is one in the process
            context[4],
            inside._parent,
            inside._resource,
            attributes._dict,
            tuple(happened) if happened else (),
            tuple(linked) if linked else (),
            inside._kind,
            inside._status,
            inside._start_time,
            inside._end_time,
            inside._instrumentation_scope,
            (attributes.dropped, events.dropped, links.dropped)
            if attributes.dropped or events.dropped or links.dropped
            else None,
        )
    except (AttributeError, TypeError):  # made by somebody else, or by another version of the SDK
        return _public_fields_of(span)


def _public_fields_of(span: ReadableSpan) -> tuple[Any, ...]:
    context = span.context
    return (
        span.name,
        context.trace_id,
        context.span_id,
        int(context.trace_flags),
        context.trace_state,
        span.parent,
        span.resource,
        dict(span.attributes or {}),
        tuple(span.events),
        tuple(span.links),
        span.kind,
        span.status,
        span.start_time,
        span.end_time,
        span.instrumentation_scope,
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
    )


def on_ending(processor: SpanProcessor) -> Callable[[Any], None] | None:
    """What a processor does with a span that is about to end; None if nothing."""
    from opentelemetry.sdk.trace import SpanProcessor

    overridden = type(processor)._on_ending is not SpanProcessor._on_ending
    return processor._on_ending if overridden else None


def set_sampler(provider: TracerProvider, sampler: Any) -> None:
    """Replace the sampler of a finished provider, in tracers it has already given out as well."""
    provider.sampler = sampler
    with provider._tracers_lock:
        for tracer in provider._tracers.values():
            tracer.sampler = sampler


def exporter_of(processor: object) -> object | None:
    """The exporter behind a batch or simple processor of either signal, or None."""
    batch = getattr(processor, "_batch_processor", None)
    return (
        getattr(batch, "_exporter", None)
        or getattr(processor, "_exporter", None)
        or getattr(processor, "span_exporter", None)
    )


def queued(processor: object) -> int:
    """Records in the queue of a batch processor of either signal; 0 where there is none."""
    batch = getattr(processor, "_batch_processor", None)
    return len(getattr(batch, "_queue", ()))


def let_retry(exporter: object, allowed: bool) -> None:
    """Whether a stock OTLP exporter, over HTTP or gRPC, tries a batch again after a failure; in a version of the SDK that
    waits for something else, it goes on as it does.
    """
    client = getattr(exporter, "_client", None)
    ending = getattr(exporter, "_shutdown_in_progress", None) or getattr(client, "_shutdown_event", None)
    if isinstance(ending, threading.Event):
        (ending.clear if allowed else ending.set)()


def metric_readers(provider: Any) -> tuple[object, ...]:
    """The readers of a finished provider of metrics; each has an exporter, or is asked by somebody.

    Raises:
        AttributeError: this version of the SDK keeps them elsewhere.
    """
    return tuple(provider._metric_readers)


def post_otlp(exporter: OTLPLogExporter | OTLPSpanExporter, request: bytes) -> tuple[bool, int | None]:
    """Send request bytes with the stock HTTP exporter's own endpoint, headers, TLS, compression and retries.

    Returns (delivered, HTTP status or None where there was no answer). The exporter follows no redirect, but takes one for
    a success; nothing has arrived there.
    """
    result = exporter._client.export(request)
    return bool(result.success) and (result.status_code or 200) < 300, result.status_code


def answers_of(exporter: OTLPLogExporter | OTLPSpanExporter) -> Callable[[], bytes]:
    """The body of what a stock HTTP exporter was answered last; none in a version of the SDK that asks by other means."""
    transport: Any = getattr(exporter._client, "_transport", None)
    request = getattr(transport, "request", None)
    last = b""

    def asked(*arguments: Any, **more: Any) -> Any:
        nonlocal last
        last = b""
        result = request(*arguments, **more)  # type: ignore[misc]  # it is not None: see below
        last = result.content()
        return result

    if request is not None:
        transport.request = asked
    return lambda: last


_SERVICES = {"logs": "logs.v1.LogsService", "traces": "trace.v1.TraceService"}


def call_otlp(exporter: Any, signal: str, request: bytes) -> tuple[bool, str, bytes]:
    """Send request bytes once with the stock gRPC exporter's own channel (TLS, compression), headers and timeout.

    Returns (delivered, name of the gRPC status code, the answer; of an error its `grpc-status-details-bin` or nothing).
    """
    import grpc  # type: ignore[import-untyped]  # grpc has no types of its own

    method = f"/opentelemetry.proto.collector.{_SERVICES[signal]}/Export"
    try:
        answer = exporter._channel.unary_unary(method)(request, metadata=exporter._headers, timeout=exporter._timeout)
    except grpc.RpcError as error:
        return False, error.code().name, dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    except ValueError:  # the exporter has been shut down, and its channel with it
        return False, "CANCELLED", b""
    return True, "OK", answer
