"""Tail sampling of spans; every assertion is made on what reached the exporter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.policy import default_chain
from caseyos_otel.sampling.probability import threshold
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable

if TYPE_CHECKING:
    from opentelemetry.context import Context

TENTH = "th:e6666666666666"


def request(sampling: Any, *, parent: Context | None = None, fail: bool = False) -> None:
    """A root span with one child; the child fails where asked."""
    with sampling.tracer.start_as_current_span("root", parent), sampling.tracer.start_as_current_span("child") as child:
        if fail:
            child.set_status(StatusCode.ERROR)


def th(span: ReadableSpan) -> str | None:
    ot = span.get_span_context().trace_state.get("ot", "")  # type: ignore[union-attr]
    return next((member for member in ot.split(";") if member.startswith("th:")), None)


def test_a_trace_without_a_failure_leaves_whole_or_not_at_all_by_its_randomness(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    request(service)
    service.will_be_kept(False)
    request(service)
    service.pass_time(0.3)

    child, root = service.exported()
    assert (child.name, root.name) == ("child", "root")
    assert child.context.trace_id == root.context.trace_id
    assert {th(child), th(root)} == {TENTH}
    assert root.attributes == {"caseyos.sampling.reason": "probability"}
    assert service.dropped == {("sampled", "spans", ""): 2}


def failing_status(span: trace.Span) -> None:
    span.set_status(Status(StatusCode.ERROR, "no"))


def failing_exception(span: trace.Span) -> None:
    span.record_exception(ValueError("no"))


def failing_error_type(span: trace.Span) -> None:
    span.set_attribute("error.type", "500")


@pytest.mark.parametrize("fail", [failing_status, failing_exception, failing_error_type])
def test_a_failed_span_keeps_its_whole_trace(sampling: Callable[..., Any], fail: Callable[[trace.Span], None]) -> None:
    service = sampling()
    with service.tracer.start_as_current_span("root"):
        service.tracer.start_span("before").end()
        with service.tracer.start_as_current_span("failing") as failing:
            fail(failing)
        service.tracer.start_span("after").end()
    service.table.tick()

    assert service.names() == ["before", "failing", "after", "root"]
    for span in service.exported():
        assert th(span) == "th:0"
        assert span.attributes["caseyos.sampling.reason"] == "error"
        assert span.attributes["sampling.priority"] == 1
        assert "caseyos.sampling.incomplete" not in span.attributes


def test_a_failing_event_keeps_the_trace_before_its_span_ends(sampling: Callable[..., Any]) -> None:
    service = sampling()
    with service.tracer.start_as_current_span("root") as root:
        service.tracer.start_span("child").end()
        service.table.keep(root.get_span_context().trace_id)
    service.table.tick()
    assert service.names() == ["child", "root"]
    assert {th(span) for span in service.exported()} == {"th:0"}


def test_an_event_made_from_a_span_before_sampling_can_keep_its_trace(sampling: Callable[..., Any]) -> None:
    service = sampling(before=lambda span: service.table.keep(span.context.trace_id) if span.name == "call" else None)
    with service.tracer.start_as_current_span("root"):
        service.tracer.start_span("call").end()
    service.table.tick()
    assert service.names() == ["call", "root"]


def test_nothing_is_decided_before_the_last_open_span_has_ended_and_the_grace_is_over(
    sampling: Callable[..., Any],
) -> None:
    service = sampling(grace_s=0.2)
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    straggler = service.tracer.start_span("straggler", trace.set_span_in_context(root))
    root.end()
    service.pass_time(5)
    assert service.names() == []
    straggler.end()
    service.pass_time(0.1)
    assert service.names() == []
    service.pass_time(0.1)
    assert service.names() == ["root", "straggler"]


def test_a_span_that_never_ends_cannot_pin_its_trace(sampling: Callable[..., Any]) -> None:
    service = sampling(max_age_s=30)
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    service.tracer.start_span("child", trace.set_span_in_context(root)).end()
    service.pass_time(30)
    [child] = service.exported()
    assert child.attributes == {"caseyos.sampling.reason": "probability", "caseyos.sampling.incomplete": True}
    root.end()
    service.pass_time(0)
    assert service.names() == ["child", "root"]
    assert service.table.held_traces == 0


def test_a_span_that_starts_after_its_trace_was_dropped_stays_dropped(sampling: Callable[..., Any]) -> None:
    service = sampling()
    root = service.tracer.start_span("root")
    root.end()
    service.pass_time(1)
    service.tracer.start_span("late", trace.set_span_in_context(root)).end()
    service.pass_time(1)
    assert service.names() == []
    assert service.dropped == {("sampled", "spans", ""): 2}


def test_a_late_failure_of_a_dropped_trace_is_kept_and_marked(sampling: Callable[..., Any]) -> None:
    service = sampling()
    root = service.tracer.start_span("root")
    root.end()
    service.pass_time(1)
    with service.tracer.start_as_current_span("late", trace.set_span_in_context(root)) as late:
        late.set_status(StatusCode.ERROR)
    service.tracer.start_span("later", trace.set_span_in_context(root)).end()
    service.pass_time(1)
    assert service.names() == ["late", "later"]
    for span in service.exported():
        assert span.attributes["caseyos.sampling.reason"] == "late_error"
        assert span.attributes["caseyos.sampling.incomplete"] is True
        assert span.attributes["sampling.priority"] == 1
        assert th(span) == "th:0"


def test_a_late_failure_of_a_kept_trace_is_marked_but_complete(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    root = service.tracer.start_span("root")
    root.end()
    service.pass_time(1)
    late = service.tracer.start_span("late", trace.set_span_in_context(root))
    late.set_status(StatusCode.ERROR)
    late.end()
    service.pass_time(0)
    first, second = service.exported()
    assert first.attributes["caseyos.sampling.reason"] == "probability"
    assert second.attributes == {"caseyos.sampling.reason": "late_error", "sampling.priority": 1}


# What came in with the request


@pytest.mark.parametrize("kept", [True, False])
def test_a_remote_parent_is_sampled_like_a_root(sampling: Callable[..., Any], incoming: Any, kept: bool) -> None:
    service = sampling()
    request(service, parent=incoming("01", low_bits=(1 << 56) - 1 if kept else 1))
    service.pass_time(1)
    assert service.names() == (["child", "root"] if kept else [])


def test_an_unknown_upstream_probability_leaves_no_threshold(sampling: Callable[..., Any], incoming: Any) -> None:
    service = sampling()
    request(service, parent=incoming("01", "vendor=1,ot=rv:ffffffffffffff", low_bits=0))
    service.pass_time(1)
    assert {span.context.trace_state.to_header() for span in service.exported()} == {"ot=rv:ffffffffffffff,vendor=1"}
    assert len(service.exported()) == 2


@pytest.mark.parametrize(("theirs", "leaves"), [("8", TENTH), ("f", "th:f"), ("0", TENTH)])
def test_an_incoming_threshold_is_never_lowered(
    sampling: Callable[..., Any], incoming: Any, theirs: str, leaves: str
) -> None:
    service = sampling()
    request(service, parent=incoming("01", f"ot=th:{theirs}"))
    service.pass_time(1)
    assert [th(span) for span in service.exported()] == [leaves, leaves]


def test_an_incoming_threshold_above_ours_is_honoured(sampling: Callable[..., Any], incoming: Any) -> None:
    service = sampling()
    between = threshold(0.09)
    request(service, parent=incoming("01", "ot=th:f", low_bits=between))
    service.pass_time(1)
    assert service.names() == []


@pytest.mark.parametrize(("theirs", "leaves"), [("", "th:0"), ("ot=th:8", "th:8"), ("ot=th:0", "th:0")])
def test_a_failure_carries_the_incoming_threshold_or_zero(
    sampling: Callable[..., Any], incoming: Any, theirs: str, leaves: str
) -> None:
    service = sampling()
    request(service, parent=incoming("01", theirs), fail=True)
    service.pass_time(1)
    assert [th(span) for span in service.exported()] == [leaves, leaves]


def test_an_unsampled_caller_is_kept_on_failure_only_with_its_attributes(
    sampling: Callable[..., Any], incoming: Any
) -> None:
    service = sampling()
    request(service, parent=incoming("00", number=1))
    service.pass_time(1)
    assert service.names() == []

    context = incoming("00", number=2)
    with service.tracer.start_as_current_span("root", context, SpanKind.SERVER, {"url.path": "/x"}) as root:
        root.set_status(StatusCode.ERROR)
    service.pass_time(1)
    [span] = service.exported()
    assert span.attributes["url.path"] == "/x"
    assert span.context.trace_flags.sampled
    assert th(span) == "th:0"


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_flag_that_goes_out_is_the_one_that_came_in(
    sampling: Callable[..., Any], incoming: Any, flags: str
) -> None:
    service = sampling()
    headers: dict[str, str] = {}
    with service.tracer.start_as_current_span("root", incoming(flags, "vendor=1")) as root:
        root.set_status(StatusCode.ERROR)
        TraceContextTextMapPropagator().inject(headers)
    assert headers["traceparent"].endswith(f"-{flags}")
    assert headers["tracestate"] == "vendor=1"


@pytest.mark.parametrize("fail", [False, True])
def test_a_chosen_head_sampler_is_respected_and_claims_no_threshold(sampling: Callable[..., Any], fail: bool) -> None:
    service = sampling(sampler=TraceIdRatioBased(1.0), recorded="unknown")
    service.will_be_kept(True)
    request(service, fail=fail)
    service.pass_time(1)
    assert [th(span) for span in service.exported()] == [None, None]
    assert service.names() == ["child", "root"]


@pytest.mark.parametrize(("recorded", "leaves"), [("every_span", "th:0"), ("every_root", None), ("unknown", None)])
@pytest.mark.parametrize("late", [False, True])
def test_a_failure_claims_to_be_kept_always_only_where_no_unsampled_caller_s_is_lost(
    sampling: Callable[..., Any], incoming: Any, recorded: str, leaves: str | None, late: bool
) -> None:
    service = sampling(recorded=recorded)
    context = incoming("01", low_bits=1)
    if late:
        request(service, parent=context)
        service.pass_time(1)
    request(service, parent=context, fail=True)
    service.pass_time(1)
    assert [(span.name, th(span)) for span in service.exported()] == [("child", leaves), ("root", leaves)]


def test_a_late_failure_carries_the_incoming_threshold(sampling: Callable[..., Any], incoming: Any) -> None:
    service = sampling()
    context = incoming("01", "ot=th:8", low_bits=threshold(0.3))
    request(service, parent=context)
    service.pass_time(1)
    assert service.names() == []
    request(service, parent=context, fail=True)
    service.pass_time(1)
    assert [(span.name, th(span)) for span in service.exported()] == [("child", "th:8"), ("root", "th:8")]


def test_an_incoming_threshold_that_contradicts_the_randomness_is_not_repeated(
    sampling: Callable[..., Any], incoming: Any
) -> None:
    service = sampling()
    request(service, parent=incoming("01", "ot=th:8", low_bits=1), fail=True)
    service.pass_time(1)
    assert [span.context.trace_state.to_header() for span in service.exported()] == ["", ""]


# Bounds


def test_at_the_bound_of_traces_the_oldest_is_decided(sampling: Callable[..., Any]) -> None:
    service = sampling(max_traces=3)
    service.will_be_kept(True)
    roots = []
    for number in range(4):
        roots.append(service.tracer.start_span(f"root{number}"))
        service.tracer.start_span(f"child{number}", trace.set_span_in_context(roots[-1])).end()
        assert service.table.held_traces <= 3
    service.table.tick()
    [child] = service.exported()
    assert child.name == "child0"
    assert child.attributes == {"caseyos.sampling.reason": "overflow", "caseyos.sampling.incomplete": True}
    assert th(child) == TENTH


def test_at_the_bound_of_items_the_oldest_trace_is_decided_and_without_a_worker_the_caller_makes_room(
    sampling: Callable[..., Any],
) -> None:
    service = sampling(max_items=10)
    service.will_be_kept(True)
    for _ in range(3):
        with service.tracer.start_as_current_span("root"):
            for _ in range(8):
                service.tracer.start_span("child").end()
                assert service.table.held_items <= 10
    assert len(service.exported()) == 27 - 10
    service.processor.force_flush()
    assert len(service.exported()) == 27
    assert service.dropped == {}


def test_at_the_bound_of_one_trace_it_is_decided_and_what_follows_passes(sampling: Callable[..., Any]) -> None:
    service = sampling(max_trace_items=5)
    for kept in (True, False):
        service.will_be_kept(kept)
        with service.tracer.start_as_current_span("root"):
            for _ in range(8):
                service.tracer.start_span("child").end()
    service.table.tick()
    assert service.names() == ["child"] * 8 + ["root"]
    assert {span.attributes["caseyos.sampling.reason"] for span in service.exported()} == {"overflow"}
    assert service.dropped == {("sampled", "spans", ""): 9}


def test_a_failure_after_overflow_dropped_its_trace_is_still_kept(sampling: Callable[..., Any]) -> None:
    service = sampling(max_trace_items=2)
    with service.tracer.start_as_current_span("root") as root:
        for _ in range(3):
            service.tracer.start_span("child").end()
        root.set_status(StatusCode.ERROR)
    service.table.tick()
    assert [(span.name, span.attributes["caseyos.sampling.reason"]) for span in service.exported()] == [
        ("root", "late_error")
    ]


def test_what_is_already_decided_leaves_before_an_undecided_trace_is_cut_short(sampling: Callable[..., Any]) -> None:
    service = sampling(max_items=10)
    service.will_be_kept(True)
    waiting = service.tracer.start_span("waiting")
    service.tracer.start_span("its child", trace.set_span_in_context(waiting)).end()
    for _ in range(20):
        request(service, fail=True)
    assert service.table.held_traces == 1
    waiting.end()
    service.pass_time(1)
    reasons = {span.name: span.attributes["caseyos.sampling.reason"] for span in service.exported()}
    assert (reasons["waiting"], reasons["its child"]) == ("probability", "probability")
    assert len(service.exported()) == 42


# Life


def test_flush_and_shutdown_decide_what_is_pending_and_flush_the_exporters(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    request(service)
    root = service.tracer.start_span("open root")
    service.tracer.start_span("open child", trace.set_span_in_context(root)).end()
    assert service.provider.force_flush()
    spans = {span.name: span.attributes for span in service.exporter.get_finished_spans()}
    assert spans == {
        "child": {"caseyos.sampling.reason": "probability"},
        "root": {"caseyos.sampling.reason": "probability"},
        "open child": {"caseyos.sampling.reason": "shutdown", "caseyos.sampling.incomplete": True},
    }
    request(service)
    service.provider.shutdown()
    assert len(service.exporter.get_finished_spans()) == 5


def test_a_processor_attached_after_the_root_has_started_takes_what_it_sees() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=DEFAULT_ON, shutdown_on_exit=False)
    tracer = provider.get_tracer("tests")
    table = TraceTable(0.0)
    with tracer.start_as_current_span("root"):
        provider.add_span_processor(TailSamplingSpanProcessor(table, [SimpleSpanProcessor(exporter)]))
        with tracer.start_as_current_span("child") as child:
            child.set_status(StatusCode.ERROR)
    with tracer.start_as_current_span("other"):
        pass
    provider.force_flush()
    assert [span.name for span in exporter.get_finished_spans()] == ["child", "root"]


def test_a_span_whose_start_was_not_seen_does_not_hide_one_that_is_open(sampling: Callable[..., Any]) -> None:
    service = sampling()
    service.will_be_kept(True)
    unseen = service.tracer.start_span("unseen")
    service.table.after_fork()
    unseen.end()
    seen = service.tracer.start_span("seen", trace.set_span_in_context(unseen))
    service.pass_time(5)
    assert service.names() == []
    seen.end()
    service.pass_time(1)
    assert service.names() == ["unseen", "seen"]


def test_a_span_that_ends_inside_the_table_does_not_deadlock(sampling: Callable[..., Any]) -> None:
    """The garbage collector may close a generator, and with it a span, at any allocation of ours."""
    service = sampling()
    service.will_be_kept(True)

    def end_inside() -> None:
        with service.table._turns.lock:
            request(service)

    inside = threading.Thread(target=end_inside, daemon=True)
    inside.start()
    inside.join(10)
    assert not inside.is_alive()
    service.pass_time(1)
    assert service.names() == ["child", "root"]


def test_a_forked_child_starts_empty_and_the_parent_keeps_its_traces(sampling: Callable[..., Any]) -> None:
    service = sampling()
    child = sampling()
    for each in (service, child):
        each.will_be_kept(True)
        request(each)
    child.table.after_fork()
    for each in (service, child):
        each.pass_time(1)
    assert service.names() == ["child", "root"]
    assert child.names() == []
    request(child)
    child.pass_time(1)
    assert child.names() == ["child", "root"]


@pytest.mark.swallows
def test_an_exporting_processor_that_raises_costs_its_span_only(
    sampling: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name == "child":
                raise RuntimeError("exporter is broken")

    service = sampling()
    service.processor._wrapped = (Raising(), *service.processor._wrapped)
    service.will_be_kept(True)
    request(service)
    service.pass_time(1)
    assert service.names() == ["root"]


# What leaves


def test_everything_else_of_the_span_leaves_as_it_was() -> None:
    exporter, plain = InMemorySpanExporter(), InMemorySpanExporter()
    provider = TracerProvider(
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_span_attributes=2, max_events=1, max_links=1),
    )
    table = TraceTable(1.0)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [SimpleSpanProcessor(exporter)]))
    provider.add_span_processor(SimpleSpanProcessor(plain))
    link = Link(SpanContext(1, 2, True, TraceFlags(1)), {"l": 1})
    span = provider.get_tracer("scope", "1.0").start_span(
        "name", kind=SpanKind.CLIENT, attributes={"a": 1, "b": [1, 2], "c": "x"}, links=[link, link]
    )
    span.add_event("one")
    span.add_event("two", {"n": 1})
    span.set_status(StatusCode.OK)
    span.end()
    provider.force_flush()
    [left], [original] = exporter.get_finished_spans(), plain.get_finished_spans()
    same = ("name", "kind", "parent", "resource", "status", "start_time", "end_time", "events", "links")
    same += ("instrumentation_scope", "dropped_attributes", "dropped_events", "dropped_links")
    assert {key: getattr(left, key) for key in same} == {key: getattr(original, key) for key in same}
    assert (left.dropped_attributes, left.dropped_events, left.dropped_links) == (1, 1, 1)
    assert left.attributes == {**original.attributes, "caseyos.sampling.reason": "probability"}
    assert left.context.span_id == original.context.span_id
    assert left.context.trace_state.to_header() == "ot=th:0"
    assert original.context.trace_state.to_header() == ""


@pytest.mark.parametrize("mode", ["process", "collector", "off"])
def test_texts_are_redacted_as_they_leave(sampling: Callable[..., Any], mode: str) -> None:
    service = sampling(redact=lambda text: text.replace("john@acme.com", "[person]"), mode=mode)
    service.will_be_kept(True)
    attributes = {"url.path": "/john@acme.com", "n": 1, "to": ["john@acme.com", "x"]}
    links = [Link(SpanContext(1, 2, is_remote=True), {"of": "john@acme.com"})]
    with service.tracer.start_as_current_span("GET /john@acme.com", attributes=attributes, links=links) as root:
        root.add_event("sent", {"to": "john@acme.com", "bytes": 5})
        root.set_status(Status(StatusCode.ERROR, "refused john@acme.com"))
    service.pass_time(1)
    [span] = service.exported()
    assert {key: span.attributes[key] for key in attributes} == {
        "url.path": "/[person]",
        "n": 1,
        "to": ("[person]", "x"),
    }
    assert [(each.name, each.attributes) for each in span.events] == [("sent", {"to": "[person]", "bytes": 5})]
    assert span.status.description == "refused [person]"
    assert span.name == "GET /[person]"
    assert [(each.context.span_id, each.attributes) for each in span.links] == [(2, {"of": "[person]"})]


def test_collector_mode_lets_everything_leave_with_the_verdict_on_it(
    sampling: Callable[..., Any], incoming: Any
) -> None:
    service = sampling(mode="collector")
    for kept in (True, False):
        service.will_be_kept(kept)
        service.tracer.start_span(f"kept {kept}").end()
    service.tracer.start_span("unsampled", incoming("00", "ot=th:8")).end()
    failing = service.tracer.start_span("failing")
    failing.set_status(StatusCode.ERROR)
    failing.end()
    service.pass_time(1)
    left = {span.name: (dict(span.attributes), th(span)) for span in service.exported()}
    by_chance = "probability"
    assert left == {
        "kept True": ({"caseyos.sampling.kept": True, "caseyos.sampling.reason": by_chance}, None),
        "kept False": ({"caseyos.sampling.kept": False, "caseyos.sampling.reason": by_chance}, None),
        "unsampled": ({"caseyos.sampling.kept": False, "caseyos.sampling.reason": by_chance}, "th:8"),
        "failing": (
            {"caseyos.sampling.kept": True, "caseyos.sampling.reason": "error", "sampling.priority": 1},
            None,
        ),
    }
    assert service.dropped == {}


def test_off_mode_lets_every_span_leave_at_once_unchanged(sampling: Callable[..., Any]) -> None:
    service = sampling(mode="off")
    request(service)
    assert service.names() == ["child", "root"]
    assert [dict(span.attributes) for span in service.exported()] == [{}, {}]
    assert service.table.held_traces == 0


@pytest.mark.parametrize("redact", [None, str.upper])
def test_off_mode_leaves_the_sampled_flag_as_the_service_s_sampler_set_it(
    sampling: Callable[..., Any], incoming: Any, redact: Callable[[str], str] | None
) -> None:
    service = sampling(mode="off", redact=redact)
    request(service, parent=incoming("00"))  # recorded, and not for export
    request(service, parent=incoming("01"))
    assert [span.name.lower() for span in service.exported()] == ["child", "root"]
    assert {int(span.context.trace_flags) for span in service.exported()} == {1}


def test_wrapped_processors_see_every_start(sampling: Callable[..., Any]) -> None:
    class Starts(SpanProcessor):
        def __init__(self) -> None:
            self.names: list[str] = []

        def on_start(self, span: Any, parent_context: Context | None = None) -> None:
            self.names.append(span.name)

    starts = Starts()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(TraceTable(0.0), [starts]))
    provider.get_tracer("tests").start_span("seen").end()
    assert starts.names == ["seen"]


# Policies


def test_a_slow_trace_is_kept_by_the_slow_policy(sampling: Callable[..., Any]) -> None:
    service = sampling(policies=default_chain(threshold(0.1), slow_ms=500))
    for name, milliseconds in (("fast", 499), ("slow", 500)):
        service.tracer.start_span(name, start_time=1_000_000_000).end(1_000_000_000 + milliseconds * 1_000_000)
    service.pass_time(1)
    [span] = service.exported()
    assert (span.name, th(span)) == ("slow", "th:0")
    assert span.attributes == {"caseyos.sampling.reason": "policy:slow"}


def test_a_policy_of_ones_own_decides_before_probability_and_never_against_a_failure(
    sampling: Callable[..., Any],
) -> None:
    class NoHealthChecks:
        def evaluate(self, trace: Any) -> Decision | None:
            if any(span.name == "GET /health" for span in trace.spans):
                return Decision(False, "policy:health", None)
            return None

    service = sampling(policies=[NoHealthChecks(), *default_chain(threshold(0.1))])
    service.will_be_kept(True)
    service.tracer.start_span("GET /health").end()
    service.tracer.start_span("GET /x").end()
    with service.tracer.start_as_current_span("GET /y") as failing:
        service.tracer.start_span("GET /health").end()
        failing.set_status(StatusCode.ERROR)
    service.pass_time(1)
    assert sorted(service.names()) == ["GET /health", "GET /x", "GET /y"]


def test_a_policy_before_errors_cannot_hide_a_failure_from_an_unsampled_caller(
    sampling: Callable[..., Any], incoming: Any
) -> None:
    class Everything:
        def evaluate(self, trace: Any) -> Decision | None:
            return Decision(True, "policy:everything", 0)

    service = sampling(policies=[Everything()])
    request(service, parent=incoming("00"), fail=True)
    service.pass_time(1)
    assert {span.attributes["caseyos.sampling.reason"] for span in service.exported()} == {"error"}
    assert len(service.exported()) == 2


@pytest.mark.swallows
def test_a_policy_that_raises_has_no_answer(sampling: Callable[..., Any]) -> None:
    class Broken:
        def evaluate(self, trace: Any) -> Decision | None:
            raise KeyError(trace.trace_id)

    service = sampling(policies=[Broken(), *default_chain(threshold(0.1))])
    service.will_be_kept(True)
    request(service)
    service.pass_time(1)
    assert service.names() == ["child", "root"]
