"""What is true of sampling though something else happens between any two of its steps (opcodes of Python).

In the same thread: the garbage collector or a signal handler starts, ends and flushes there. In another one: the
interpreter lets threads take turns there. Asserted on what reached the exporter.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import StatusCode

from caseyos_otel.sampling.head import recording_sampler
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable
from tests.steps import interrupted

SAMPLING = "/caseyos_otel/sampling/"
EVERY = 41
"""How many steps are passed over from one interruption to the next: 1 tries all of them, in twenty minutes."""


class KeptIds(RandomIdGenerator):
    def __init__(self) -> None:
        self._count = itertools.count(1)

    def generate_trace_id(self) -> int:
        return next(self._count) << 64 | (1 << 56) - 1


class Service:
    """Three traces: one is decided, one is due, one is open with a child that is open and one that has ended."""

    def __init__(self, **bounds: Any) -> None:
        self.now = 1000.0
        self.bounds = bounds
        self.dropped: Counter[str] = Counter()
        self.exporter = InMemorySpanExporter()
        self.table = TraceTable(
            0.5,
            clock=lambda: self.now,
            on_dropped=lambda reason, n, destination, event: self.dropped.update({destination: n}),
            **bounds,
        )
        self.processor = TailSamplingSpanProcessor(self.table, [SimpleSpanProcessor(self.exporter)])
        provider = TracerProvider(sampler=recording_sampler(DEFAULT_ON), id_generator=KeptIds(), shutdown_on_exit=False)
        provider.add_span_processor(self.processor)
        self.tracer = provider.get_tracer("tests")
        self.open: list[trace.Span] = []
        self.ended: list[int] = []
        self.failed: set[int] = set()
        self.released: list[int] = []
        self.offered = 0
        self.decided = self.start()
        self.end(self.decided)
        self.now += 100
        self.table.tick()
        self.late = self.start(self.decided)
        self.due = self.start()
        self.end(self.due)
        self.now += 5
        self.root = self.start()
        self.end(self.start(self.root))
        self.child = self.start(self.root)

    def start(self, parent: trace.Span | None = None) -> trace.Span:
        self.open.append(self.tracer.start_span("span", parent and trace.set_span_in_context(parent)))
        return self.open[-1]

    def end(self, span: trace.Span, *, fails: bool = False) -> None:
        if span not in self.open:
            return
        self.open.remove(span)
        span_id = span.get_span_context().span_id
        self.ended.append(span_id)
        if fails:
            self.failed.add(span_id)
            span.set_status(StatusCode.ERROR)
        span.end()

    def offer(self, span: trace.Span, *, failure: bool = False) -> None:
        self.offered += 1
        trace_id = span.get_span_context().trace_id
        self.table.offer(trace_id, self.offered, lambda item, _: self.released.append(item), failure=failure)

    def assert_nothing_is_lost(self) -> None:
        for span in list(self.open):
            self.end(span)
        assert self.processor.force_flush()
        left = [span.context.span_id for span in self.exporter.get_finished_spans()]
        assert len(set(left)) == len(left)
        assert len(left) + self.dropped["spans"] == len(self.ended)
        assert self.failed <= set(left)
        assert len(self.released) + self.dropped["sentry"] == self.offered
        assert (self.table.held_traces, self.table.held_items) == (0, 0)
        # there is as much room as at the start
        assert self.table.room.limit - self.table.room.draw() == self.bounds["max_items"]
        assert self.table._trace_room.limit - self.table._trace_room.draw() == self.bounds["max_traces"]


Work = Callable[[Service], object]
INTERRUPTED: dict[str, Work] = {
    "a root that ends": lambda service: service.end(service.start()),
    "a child that ends": lambda service: service.end(service.child),
    "a root that ends before its child": lambda service: service.end(service.root),
    "a late failure": lambda service: service.end(service.late, fails=True),
    "a record": lambda service: service.offer(service.root),
    "a tick": lambda service: service.table.tick(),
    "a flush": lambda service: service.table.flush(5),
}
BETWEEN: dict[str, Work] = {
    "a root": INTERRUPTED["a root that ends"],
    "a child of a trace that is due": lambda service: service.end(service.start(service.due)),
    "a failure": lambda service: service.end(service.child, fails=True),
    "a failed record": lambda service: service.offer(service.due, failure=True),
    "a tick": INTERRUPTED["a tick"],
    "a flush": INTERRUPTED["a flush"],
}
BOUNDS = {
    "roomy": {"max_traces": 50, "max_items": 500, "max_trace_items": 50, "grace_s": 1.0},
    "tight": {"max_traces": 2, "max_items": 3, "max_trace_items": 2, "grace_s": 0.0},
}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the same thread", "in another one"])
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("what", INTERRUPTED)
def test_what_happens_between_two_steps_loses_nothing(what: str, between: str, bounds: str, elsewhere: bool) -> None:
    for at in itertools.count(0, EVERY):
        service = Service(**BOUNDS[bounds])
        other = threading.Thread(target=BETWEEN[between], args=[service])

        def meanwhile(service: Service = service, other: threading.Thread = other) -> None:
            if elsewhere:
                other.start()
                other.join(0.002)  # it goes on as soon as a lock that is held here is free
            else:
                BETWEEN[between](service)

        if not interrupted(SAMPLING, partial(INTERRUPTED[what], service), at, meanwhile):
            break
        if elsewhere:
            other.join()
        service.assert_nothing_is_lost()
