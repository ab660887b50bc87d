"""Deadlines, interruptions, and processors that want more than the end of a span."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from caseyos_otel import diagnostics
from caseyos_otel.sampling.decision import ERROR, Decision
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.sampling.trace import BEGAN_HERE, Trace
from caseyos_otel.sampling.undecided import Undecided


class Slow(SpanProcessor):
    """Takes its time for every span, as an exporter does that waits for a network."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.asked_to_flush_within: list[int] = []

    def on_end(self, span: ReadableSpan) -> None:
        time.sleep(0.05)
        self.names.append(span.name)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.asked_to_flush_within.append(timeout_millis)
        return True


def test_a_flush_ends_at_its_deadline_and_the_rest_leaves_later() -> None:
    slow, table = Slow(), TraceTable(1.0)
    processor = TailSamplingSpanProcessor(table, [slow])
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    for number in range(20):
        provider.get_tracer("tests").start_span(f"{number}").end()
    assert processor.force_flush(120) is False
    assert 0 < len(slow.names) < 20
    assert slow.asked_to_flush_within == [0]
    table.tick()
    assert slow.names == [f"{number}" for number in range(20)]
    assert table.held_items == 0


def test_what_shutdown_cannot_hand_over_is_counted(
    monkeypatch: pytest.MonkeyPatch, sampling: Callable[..., Any]
) -> None:
    monkeypatch.setattr("caseyos_otel.sampling.spans.SHUTDOWN_S", 0.0)
    service = sampling()
    service.will_be_kept(True)
    for _ in range(3):
        service.tracer.start_span("root").end()
    service.provider.shutdown()
    assert service.dropped == {("shutdown", "spans", ""): 3}
    assert service.exporter.get_finished_spans() == ()


def test_processors_that_want_to_know_that_a_span_is_ending_are_told_before_it_has() -> None:
    told: list[str] = []

    class Ending(SpanProcessor):
        def _on_ending(self, span: Any) -> None:
            told.append(f"{span.name} is ending")

        def on_end(self, span: ReadableSpan) -> None:
            told.append(f"{span.name} has ended")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(TraceTable(1.0), [Ending()]))
    provider.get_tracer("tests").start_span("span").end()
    provider.force_flush()
    assert told == ["span is ending", "span has ended"]


def test_what_interrupts_a_decision_in_its_own_thread_is_done_after_it(sampling: Callable[..., Any]) -> None:
    """As the garbage collector does it: a policy is asked, and meanwhile spans begin, end and fail in this thread."""
    interrupted: list[int] = []

    class Interrupts:
        def evaluate(self, evaluated: Any) -> None:
            if not interrupted:
                interrupted.append(evaluated.trace_id)
                service.tracer.start_span("inside", trace.set_span_in_context(root)).end()
                failing = service.tracer.start_span("failing inside")
                failing.set_status(StatusCode.ERROR)
                failing.end()
                service.table.keep(evaluated.trace_id)

    service = sampling(policies=[Interrupts()])
    root = service.tracer.start_span("root")
    root.end()
    service.pass_time(1)
    service.pass_time(1)
    assert sorted(service.names()) == ["failing inside", "inside", "root"]
    assert service.table.held_traces == service.table.held_items == 0


def test_records_and_failures_without_a_worker_meet_the_bound(sampling: Callable[..., Any]) -> None:
    service = sampling(max_items=5)
    released: list[int] = []
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    for number in range(50):
        service.table.offer(root.get_span_context().trace_id, number, lambda item, _: released.append(item))
        failing = service.tracer.start_span("failing")
        failing.set_status(StatusCode.ERROR)
        failing.end()
        assert service.table.held_items <= 5
    service.table.flush()
    assert sorted(released) == list(range(50))
    assert service.names() == ["failing"] * 50


def test_traces_that_end_without_a_worker_are_bounded_and_none_is_lost(sampling: Callable[..., Any]) -> None:
    service = sampling(max_traces=10, max_items=1_000)
    for number in range(500):
        service.will_be_kept(number % 2 == 0)
        service.tracer.start_span("root").end()
        assert service.table.held_traces <= 10
    assert len(service.table.traces) + len(service.table.idle) <= 200
    service.processor.force_flush()
    assert len(service.exported()) == 250
    assert service.dropped == {("sampled", "spans", ""): 250}


@pytest.mark.parametrize("fails", [False, True])
def test_spans_that_end_while_their_trace_is_decided_are_neither_lost_nor_doubled(fails: bool) -> None:
    """Threads end spans of one trace while another one decides it again and again."""
    exporter = InMemorySpanExporter()
    table = TraceTable(1.0, grace_s=0.0)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [SimpleSpanProcessor(exporter)]))
    tracer = provider.get_tracer("tests")
    done = threading.Event()

    def serve() -> None:
        for _ in range(200):
            root = tracer.start_span("root")
            within = trace.set_span_in_context(root)
            for number in range(3):
                child = tracer.start_span("child", within)
                if fails and number == 1:
                    child.set_status(StatusCode.ERROR)
                child.end()
            root.end()

    def decide() -> None:
        while not done.is_set():
            table.flush()

    threads = [threading.Thread(target=serve) for _ in range(4)]
    worker = threading.Thread(target=decide)
    for thread in (worker, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    worker.join()
    provider.force_flush()
    ids = [span.context.span_id for span in exporter.get_finished_spans()]
    assert len(ids) == len(set(ids)) == 4 * 200 * 4


@pytest.mark.swallows
def test_a_span_without_a_context_hurts_nobody(sampling: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    service = sampling()
    service.processor.on_end(ReadableSpan("made by hand"))
    assert "failed while holding an ended span" in caplog.text


def test_a_flush_waits_for_what_another_thread_is_handing_over() -> None:
    taken, go_on, flushed = threading.Event(), threading.Event(), threading.Event()
    exported: list[str] = []

    class Waits(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            taken.set()
            assert go_on.wait(30)
            exported.append(span.name)

    table = TraceTable(1.0)
    processor = TailSamplingSpanProcessor(table, [Waits()])
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("tests").start_span("span").end()
    worker = threading.Thread(target=lambda: table.tick(time.monotonic() + 60))
    worker.start()
    assert taken.wait(10)
    assert processor.force_flush(20) is False  # it has not left, and the deadline is over
    flusher = threading.Thread(target=lambda: (processor.force_flush(30_000), flushed.set()))
    flusher.start()
    assert not flushed.wait(0.05)
    go_on.set()
    flusher.join(30)
    worker.join(30)
    assert flushed.is_set()
    assert exported == ["span"]


def test_an_exporter_may_flush_from_within() -> None:
    class Flushes(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            asked.append(table.flush(30))

    asked: list[bool] = []
    table = TraceTable(1.0)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [Flushes()]))
    provider.get_tracer("tests").start_span("span").end()
    provider.force_flush()
    assert asked == [True]


def test_what_ends_while_the_processor_shuts_down_is_counted() -> None:
    lost: list[tuple[str, int]] = []

    class EndsAnother(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name == "first":
                tracer.start_span("second").end()

    table = TraceTable(1.0, on_dropped=lambda reason, n, destination, event: lost.append((reason, n)))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [EndsAnother()]))
    tracer = provider.get_tracer("tests")
    tracer.start_span("first").end()
    provider.shutdown()
    assert lost == [("shutdown", 1)]
    assert table.held_traces == table.held_items == 0


@pytest.mark.swallows
def test_what_a_policy_raises_is_not_logged_while_the_table_is_locked(sampling: Callable[..., Any]) -> None:
    """A handler holds its own lock while it logs; elsewhere it may just be what asks the table: neither would go on."""
    answers: list[bool] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            elsewhere = threading.Thread(target=service.table.keep, args=(5,), daemon=True)
            elsewhere.start()
            elsewhere.join(5)
            answers.append(elsewhere.is_alive())

    class Broken:
        def evaluate(self, trace: Any) -> None:
            raise LookupError("broken as the test wants")

    service = sampling(policies=[Broken()])
    handler = Asks()
    diagnostics.logger.addHandler(handler)
    try:
        service.tracer.start_span("root").end()
        service.pass_time(1)
    finally:
        diagnostics.logger.removeHandler(handler)
    assert answers == [False]


def test_letting_go_of_void_entries_keeps_the_order_of_time_while_others_become_idle() -> None:
    """Another thread may end a trace between any two steps; here it does whenever one is looked at."""
    undecided, later = Undecided(), itertools.count(1000)

    class Looked(Trace):
        __slots__ = ("looked_at",)

        @property
        def decision(self) -> Decision | None:  # type: ignore[override]
            if not hasattr(self, "looked_at"):
                self.looked_at = True
                moment = float(next(later))
                undecided.idle.append((moment, Trace(1000, 0, BEGAN_HERE, moment)))
            return None if self.trace_id % 10 == 0 else ERROR

        @decision.setter
        def decision(self, value: Decision | None) -> None:
            pass

    for number in range(200):
        undecided.idle.append((float(number), Looked(number, 0, BEGAN_HERE, float(number))))
    undecided.oldest()
    moments = [moment for moment, _ in undecided.idle]
    assert moments == sorted(moments)
    assert len(moments) == 220
