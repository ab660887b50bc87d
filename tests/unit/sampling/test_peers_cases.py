"""What the suites of peers try: the Collector's tail sampling, logfire's, Refinery's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, StatusCode, TraceFlags


def child_of(span: trace.Span) -> Any:
    return trace.set_span_in_context(span)


def remote(trace_id: int, span_id: int) -> Any:
    context = SpanContext(trace_id, span_id, True, TraceFlags(TraceFlags.SAMPLED))
    return trace.set_span_in_context(NonRecordingSpan(context))


KEPT, DROPPED = (1 << 100) | (1 << 56) - 1, (1 << 100) | 1


# The Collector: late spans, its decision cache, orphans


@pytest.mark.parametrize(("trace_id", "names"), [(KEPT, ["first", "late"]), (DROPPED, [])])
def test_a_late_span_follows_the_cached_decision(sampling: Callable[..., Any], trace_id: int, names: list[str]) -> None:
    service = sampling()
    service.tracer.start_span("first", remote(trace_id, 1)).end()
    service.pass_time(1)
    service.pass_time(60)
    service.tracer.start_span("late", remote(trace_id, 2)).end()
    service.pass_time(1)
    assert service.names() == names


def test_a_forgotten_decision_is_made_again_alike(sampling: Callable[..., Any]) -> None:
    service = sampling(max_traces=2)
    for trace_id in (KEPT, DROPPED):
        service.tracer.start_span("first", remote(trace_id, 1)).end()
    service.pass_time(1)
    for number in range(200):  # as many as push both out of the memory
        service.will_be_kept(number % 2 == 0)
        service.tracer.start_span("other").end()
        service.pass_time(1)
    for trace_id in (KEPT, DROPPED):
        service.tracer.start_span("again", remote(trace_id, 2)).end()
    service.pass_time(1)
    assert [span.context.trace_id for span in service.exported() if span.name in ("first", "again")] == [KEPT, KEPT]


def test_an_orphan_whose_parent_never_comes_is_decided_like_any_trace(sampling: Callable[..., Any]) -> None:
    service = sampling()
    nobody = NonRecordingSpan(SpanContext(KEPT, 7, False, TraceFlags(1)))
    service.tracer.start_span("orphan", child_of(nobody)).end()
    service.pass_time(1)
    assert service.names() == ["orphan"]
    assert service.table.held_traces == 0


# logfire: pending spans, children that outlive their root


def test_a_pending_span_that_another_processor_makes_at_the_start_takes_no_part(sampling: Callable[..., Any]) -> None:
    service = sampling()
    root = service.tracer.start_span("root")
    context = root.get_span_context()
    pending = ReadableSpan("pending", SpanContext(context.trace_id, 9, False, context.trace_flags), context)
    service.processor.on_end(pending)
    service.pass_time(5)  # neither does it end the wait for the root
    root.set_status(StatusCode.ERROR)
    root.end()
    service.pass_time(1)
    assert sorted(service.names()) == ["pending", "root"]


def test_a_child_that_outlives_its_root_and_fails_keeps_them_both(sampling: Callable[..., Any]) -> None:
    service = sampling()
    root = service.tracer.start_span("root")
    child = service.tracer.start_span("child", child_of(root))
    root.end()
    service.pass_time(10)
    child.set_status(StatusCode.ERROR)
    child.end()
    service.pass_time(1)
    assert service.names() == ["root", "child"]
    assert {span.attributes["caseyos.sampling.reason"] for span in service.exported()} == {"error"}


# Refinery: the root comes last, links, no root at all, several at once


def test_the_root_may_come_last(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    spans = [service.tracer.start_span(f"{number}", child_of(root)) for number in range(3)]
    for span in reversed(spans):
        span.end()
        service.pass_time(1)
    assert service.names() == []
    root.end()
    service.pass_time(1)
    assert service.names() == ["2", "1", "0", "root"]


def test_a_link_to_a_kept_trace_keeps_nothing_and_is_kept_itself(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    linked = service.tracer.start_span("linked")
    linked.end()
    service.will_be_kept(False)
    service.tracer.start_span("dropped", links=[Link(linked.get_span_context())]).end()
    with service.tracer.start_as_current_span("failing", links=[Link(linked.get_span_context(), {"n": 1})]) as failing:
        failing.set_status(StatusCode.ERROR)
    service.pass_time(1)
    [left] = [span for span in service.exported() if span.name == "failing"]
    assert sorted(service.names()) == ["failing", "linked"]
    assert [(link.context, dict(link.attributes)) for link in left.links] == [(linked.get_span_context(), {"n": 1})]


def test_two_local_roots_of_one_trace_are_one_trace(sampling: Callable[..., Any]) -> None:
    service = sampling()
    first = service.tracer.start_span("first", remote(DROPPED, 1))
    second = service.tracer.start_span("second", remote(DROPPED, 2))
    first.end()
    service.pass_time(5)
    second.set_status(StatusCode.ERROR)
    second.end()
    service.pass_time(1)
    assert service.names() == ["first", "second"]
    assert service.table.decisions == {(True, "error"): 1}
