"""A real tracer provider behind tail sampling, a clock that stands still, and what reached the exporter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from caseyos_otel.sampling.head import recording_sampler
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

KEPT_BITS = (1 << 56) - 1
DROPPED_BITS = 1


class ChosenIds(RandomIdGenerator):
    """Trace ids whose low 56 bits are chosen, so that a test says what probability sampling will do."""

    def __init__(self) -> None:
        self.low_bits = DROPPED_BITS
        self._count = itertools.count(1)

    def generate_trace_id(self) -> int:
        return (next(self._count) << 64) | self.low_bits


class Sampling:
    """One service with tail sampling."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.dropped: Counter[tuple[str, str, str]] = Counter()
        self.exporter = InMemorySpanExporter()
        self.ids = ChosenIds()
        processor = {name: options.pop(name) for name in ("mode", "redact", "before") if name in options}
        sampler = options.pop("sampler", recording_sampler(DEFAULT_ON))
        self.table = TraceTable(0.1, clock=lambda: self.now, on_dropped=self._count, **options)
        self.processor = TailSamplingSpanProcessor(self.table, [BatchSpanProcessor(self.exporter)], **processor)
        self.provider = TracerProvider(sampler=sampler, id_generator=self.ids, shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        self.tracer: Tracer = self.provider.get_tracer("tests")

    def _count(self, reason: str, n: int, destination: str, event_name: str) -> None:
        self.dropped[reason, destination, event_name] += n

    def will_be_kept(self, kept: bool) -> None:
        """Whether the traces that begin from now on are kept by probability."""
        self.ids.low_bits = KEPT_BITS if kept else DROPPED_BITS

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the worker look once."""
        self.now += seconds
        self.table.tick()

    def exported(self) -> tuple[ReadableSpan, ...]:
        """What has left and reached the exporter; nothing is decided by asking."""
        for each in self.processor._wrapped:
            assert each.force_flush(10_000)
        return self.exporter.get_finished_spans()

    def names(self) -> list[str]:
        return [span.name for span in self.exported()]


@pytest.fixture
def sampling() -> Iterator[Callable[..., Sampling]]:
    made: list[Sampling] = []

    def make(**options: Any) -> Sampling:
        made.append(Sampling(**options))
        return made[-1]

    yield make
    for each in made:
        each.provider.shutdown()


@pytest.fixture
def incoming() -> Callable[..., Context]:
    """The context of a request that carries a traceparent, and a tracestate where given."""

    def make(flags: str, tracestate: str = "", *, low_bits: int = KEPT_BITS, number: int = 7) -> Context:
        headers = {"traceparent": f"00-{number << 64 | low_bits:032x}-00000000000000aa-{flags}"}
        if tracestate:
            headers["tracestate"] = tracestate
        return TraceContextTextMapPropagator().extract(headers)

    return make
