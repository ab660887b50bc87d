"""Nothing leaves: what is emitted goes to one callable, in the caller, whatever the service configures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import get_logger_provider

from caseyos_otel import _otel
from caseyos_otel.diagnostics import guard
from caseyos_otel.emit.emitter import build
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.events.record import EventRecord
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.pipeline import lifecycle

Record = Callable[[EventRecord], None]

_draining = threading.RLock()


def isolate(record: Record, *, strict: bool = False) -> ExitStack:
    """Hand every event to `record` until the stack is closed, which puts everything back. May be nested."""
    undo = ExitStack()
    configured = lifecycle.current is not None
    queue = EventQueue()
    replace(
        undo,
        tracking.emitter,
        queue=queue,
        inline=lambda: _drain(queue, record),
        spool=None,
        keep=None,
        remember=None,
        woken=_nothing,
        strict=strict,
    )
    replace(undo, tracking, enabled=True, insert_through=_insert_at_once, set_aside_unknown=None)
    # `configure()` and OpenTelemetry's loader still accept what they accept, and set up nothing
    replace(undo, lifecycle, current=None, start=_nothing, initialize=_nothing)
    with guard("joining the log records of OpenTelemetry"):
        _join_log_records(undo, record)
    if configured:
        with guard("keeping spans from leaving"):
            _leave_spans(undo)
    return undo


def replace(undo: ExitStack, owner: object, **attributes: Any) -> None:
    """Set attributes, and have `undo` set them back."""
    for name, value in attributes.items():
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


def _drain(queue: EventQueue, record: Record) -> None:
    # Under a lock, so that an event which another thread took is recorded before its own caller goes on.
    with _draining:
        while (item := queue.pop()) is not None:
            with guard("recording an event"):
                record(build(item))


def _insert_at_once(_session: object, record: EventRecord, *, on_commit: Record, on_discard: Record) -> None:
    """`track(…, session=)` needs no tables of ours here, and no real session either."""
    on_commit(record)


def _join_log_records(undo: ExitStack, record: Record) -> None:
    """Where the SDK is set up, declared events of other loggers are recorded too, in place of what a pipeline does."""
    provider: Any = get_logger_provider()
    if not _otel.is_sdk(provider):
        return
    from caseyos_otel.processors.chain import EventChain

    chain = EventChain((), (("recorder", record),), _nothing, _nothing, lambda _: True)
    before = _otel.log_processors(provider)
    ours = [processor for processor in before if isinstance(processor, EventChain)]
    _otel.set_log_processors(provider, (chain, *(processor for processor in before if processor not in ours)))

    def leave() -> None:
        now = _otel.log_processors(provider)
        _otel.set_log_processors(provider, (*ours, *(processor for processor in now if processor is not chain)))

    undo.callback(leave)


def _leave_spans(undo: ExitStack) -> None:
    """A pipeline that `opentelemetry-instrument` has started before gets no spans: they would wake it, and leave."""
    provider: Any = trace.get_tracer_provider()
    if not _otel.is_sdk(provider):
        return
    from caseyos_otel.processors.trail import TrailSpanProcessor
    from caseyos_otel.sampling.spans import TailSamplingSpanProcessor

    before = _otel.span_processors(provider)
    others = [p for p in before if not isinstance(p, TrailSpanProcessor | TailSamplingSpanProcessor)]
    _otel.set_span_processors(provider, others)
    undo.callback(_otel.set_span_processors, provider, before)


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _after_fork_in_child() -> None:
    global _draining
    _draining = threading.RLock()  # whoever holds the parent's does not exist here


os.register_at_fork(after_in_child=_after_fork_in_child)
