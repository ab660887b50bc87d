"""What holds for every trace, however its spans and events interleave. Asserted on what reached the exporter."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, TraceState

from caseyos_otel.sampling import probability
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.head import recording_sampler
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.sampling.trace import STRIDE

if TYPE_CHECKING:
    from opentelemetry.context import Context

FIFTY_SIX_BITS = st.one_of(st.integers(0, (1 << 56) - 1), st.sampled_from([0, 1, (1 << 56) - 1, 1 << 55]))


def provider_of(table: TraceTable, exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(sampler=recording_sampler(DEFAULT_ON), shutdown_on_exit=False)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [SimpleSpanProcessor(exporter)]))
    return provider


def remote(trace_id: int, sampled: bool, ot: str) -> Context:
    tracestate = TraceState([("ot", ot)] if ot else [])
    context = SpanContext(trace_id, 1, True, TraceFlags(1 if sampled else 0), tracestate)
    return trace.set_span_in_context(NonRecordingSpan(context))


@given(FIFTY_SIX_BITS.filter(bool), st.integers(0, 15))
def test_a_threshold_written_and_read_is_itself(threshold: int, zeros: int) -> None:
    threshold = threshold >> 4 * zeros << 4 * zeros
    written = probability.encode_threshold(threshold)
    assert probability.parse_threshold(written) == threshold
    assert written == "0" or (not written.endswith("0") and len(written) <= 14)


KEYS = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
VALUES = st.from_regex(r"[!-+\--:<>-~]{1,200}", fullmatch=True)
MEMBERS = st.from_regex(r"[a-z]{1,6}:[A-Za-z0-9.-]{0,60}", fullmatch=True)


@given(st.dictionaries(KEYS, VALUES, max_size=40), st.lists(MEMBERS, max_size=8), FIFTY_SIX_BITS)
def test_the_tracestate_stays_valid_and_keeps_what_is_not_ours(
    entries: dict[str, str], members: list[str], threshold: int
) -> None:
    entries.pop("ot", None)
    ot = ";".join(members)[:256]
    before = TraceState(([("ot", ot)] if ot else []) + list(entries.items())[:31])
    after = probability.with_threshold(before, threshold)
    assert probability.threshold_of(after) == threshold
    assert len(after["ot"]) <= 256
    assert len(after) <= 32
    assert {key: value for key, value in after.items() if key != "ot"} == {
        key: value for key, value in before.items() if key != "ot"
    }
    assert probability.randomness(1, after) == probability.randomness(1, before)
    assert TraceState.from_header([after.to_header()]).to_header() == after.to_header()


@settings(max_examples=150, deadline=None)
@given(
    ratio=st.floats(0.0, 1.0),
    low_bits=FIFTY_SIX_BITS,
    sampled=st.booleans(),
    theirs=st.one_of(st.none(), FIFTY_SIX_BITS),
    rv=st.one_of(st.none(), FIFTY_SIX_BITS),
    failing=st.sets(st.integers(0, 4), max_size=2),
    by_event=st.booleans(),
    ticks=st.sets(st.integers(0, 4)),
)
def test_the_verdict_depends_on_r_t_incoming_state_and_failures_alone(
    ratio: float,
    low_bits: int,
    sampled: bool,
    theirs: int | None,
    rv: int | None,
    failing: set[int],
    by_event: bool,
    ticks: set[int],
) -> None:
    exporter, table = InMemorySpanExporter(), TraceTable(ratio)
    tracer = provider_of(table, exporter).get_tracer("tests")
    ot = [] if theirs is None else [f"th:{probability.encode_threshold(theirs)}"]
    ot += [] if rv is None else [f"rv:{rv:014x}"]
    trace_id = (3 << 64) | low_bits
    with tracer.start_as_current_span("root", remote(trace_id, sampled, ";".join(ot))):
        for number in range(5):
            with tracer.start_as_current_span("child") as child:
                if number in failing and by_event:
                    table.keep(trace_id)
                elif number in failing:
                    child.set_status(StatusCode.ERROR)
            if number in ticks:
                table.tick()
    table.flush()

    randomness = low_bits if rv is None else rv
    effective = max(probability.threshold(ratio), theirs or 0)
    kept = bool(failing) or (sampled and randomness >= effective)
    spans = exporter.get_finished_spans()
    assert len(spans) == (6 if kept else 0)
    for span in spans:
        threshold = probability.threshold_of(span.context.trace_state)
        assert threshold is None or randomness >= threshold >= (theirs or 0)
        if not failing:
            assert threshold == (None if theirs is None else effective)


def test_adjusted_counts_of_100_000_traces_add_up_within_two_percent() -> None:
    source = random.Random(20260123)
    exporter: Counter[bool] = Counter()
    total = 0.0
    table = TraceTable(0.1, on_dropped=lambda *_: None)

    def add(failure: bool, decision: Decision) -> None:
        nonlocal total
        assert decision.threshold is not None
        exporter[failure] += 1
        total += probability.adjusted_count(decision.threshold)

    failures = 0
    for number in range(100_000):
        trace_id = source.getrandbits(128) or 1
        table.begin(SpanContext(trace_id, 1, False, TraceFlags(1)), None)
        failure = number % 50 == 0
        failures += failure
        table.offer(trace_id, failure, add)
        if failure:
            table.keep(trace_id)
        if number % 1_000 == 999:
            table.flush()
    assert exporter[True] == failures
    assert abs(total - 100_000) <= 2_000


def test_threads_and_a_ticking_worker_lose_and_double_nothing() -> None:
    exporter = InMemorySpanExporter()
    dropped: Counter[str] = Counter()
    table = TraceTable(
        0.5,
        max_traces=40,
        max_items=150,
        max_trace_items=20,
        grace_s=0.0,
        on_dropped=lambda reason, n, destination, event: dropped.update({destination: n}),
    )
    provider = TracerProvider(sampler=recording_sampler(DEFAULT_ON), shutdown_on_exit=False)
    export = BatchSpanProcessor(exporter, max_queue_size=100_000)
    provider.add_span_processor(TailSamplingSpanProcessor(table, [export]))
    tracer = provider.get_tracer("tests")
    records: list[int] = []
    failed: set[int] = set()
    over_bounds: list[tuple[int, int]] = []
    done = threading.Event()

    def serve(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(150):
            with tracer.start_as_current_span("root") as root:
                trace_id = root.get_span_context().trace_id
                for _ in range(source.randrange(8)):
                    tracer.start_span("child").end()
                    table.offer(trace_id, trace_id, lambda item, _: records.append(item))
                if source.random() < 0.1:
                    failed.add(trace_id)
                    root.set_status(StatusCode.ERROR)

    def work() -> None:
        while not done.is_set():
            table.tick()
            held = (table.held_traces, table.held_items)
            if held[0] > 40 or held[1] > 150:
                over_bounds.append(held)

    threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(6)]
    worker = threading.Thread(target=work)
    for thread in (worker, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    worker.join()
    provider.force_flush()

    spans = exporter.get_finished_spans()
    expected_children = sum(source.randrange(8) for source in _replayed())
    assert over_bounds == []
    assert len({span.context.span_id for span in spans}) == len(spans)
    assert len(spans) + dropped["spans"] == 6 * 150 + expected_children
    assert len(records) + dropped["sentry"] == expected_children
    assert failed <= {span.context.trace_id for span in spans if span.name == "root"}
    assert table.held_items == 0


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns a hundred times as often as they do otherwise."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("max_traces", "max_items", "max_trace_items", "grace_s"), [(1, 1, 1, 0.0), (2, 3, 2, 0.0), (6, 40, 9, 0.001)]
)
def test_hurried_threads_at_small_bounds(max_traces: int, max_items: int, max_trace_items: int, grace_s: float) -> None:
    """Roots, children that other threads end, remote parents, records, failures; a worker, two that flush, one that looks."""
    exporter, dropped, lock = InMemorySpanExporter(), Counter[str](), threading.Lock()

    def count(reason: str, n: int, destination: str, event: str) -> None:
        with lock:
            dropped[destination] += n

    table = TraceTable(
        0.5,
        max_traces=max_traces,
        max_items=max_items,
        max_trace_items=max_trace_items,
        grace_s=grace_s,
        on_dropped=count,
    )
    provider = provider_of(table, exporter)
    tracer = provider.get_tracer("tests")
    over_bounds: list[tuple[int, int, int]] = []
    released: list[int] = []
    offered: list[int] = []
    started: dict[int, list[int]] = defaultdict(list)
    failed: set[int] = set()
    handed_on: deque[trace.Span] = deque()
    done = threading.Event()

    def start(source: random.Random, context: Context | None) -> trace.Span:
        span = tracer.start_span("span", context)
        started[span.get_span_context().trace_id].append(span.get_span_context().span_id)
        if source.random() < 0.05:
            failed.add(span.get_span_context().span_id)
            span.set_status(StatusCode.ERROR)
        return span

    def serve(seed: int) -> None:
        source = random.Random(seed)
        for number in range(120):
            theirs = remote(source.getrandbits(56) | 1 << 70, source.random() < 0.8, source.choice(["", "th:8"]))
            root = start(source, theirs if number % 3 == 0 else None)
            trace_id = root.get_span_context().trace_id
            for _ in range(source.randrange(6)):
                handed_on.append(start(source, trace.set_span_in_context(root)))
                if handed_on and source.random() < 0.9:
                    with suppress(IndexError):
                        handed_on.popleft().end()
                offered.append(1)
                table.offer(trace_id, 1, lambda item, _: released.append(item), failure=source.random() < 0.02)
            root.end()

    def until_done(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            while not done.is_set():
                work()

        return run

    def look() -> None:
        traces, items = table.held_traces, table.held_items
        longest = max((len(each.held) // STRIDE for each in list(table.traces.values())), default=0)
        if (
            traces > max_traces or items > max_items or longest > max_trace_items + 4
        ):  # each caller may be about to look
            over_bounds.append((traces, items, longest))

    serving = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
    beside = [threading.Thread(target=until_done(work)) for work in (table.tick, lambda: table.flush(0.01), look, look)]
    for thread in (*beside, *serving):
        thread.start()
    for thread in serving:
        thread.join()
    done.set()
    for thread in beside:
        thread.join()
    for span in handed_on:
        span.end()
    assert provider.force_flush()

    spans = exporter.get_finished_spans()
    ids = [span.context.span_id for span in spans]
    assert over_bounds == []
    assert len(set(ids)) == len(ids)
    assert len(ids) + dropped["spans"] == sum(map(len, started.values()))
    assert len(released) + dropped["sentry"] == len(offered)
    assert failed <= set(ids)
    assert (table.held_traces, table.held_items) == (0, 0)
    # there is as much room as at the start
    assert table.room.limit - table.room.draw() == max_items
    assert table._trace_room.limit - table._trace_room.draw() == max_traces


def _replayed() -> Any:
    """The random numbers of `serve`, at the point where it asks how many children a root has."""
    for seed in range(6):
        source = random.Random(seed)
        for _ in range(150):
            yield source
            source.random()


class Interleavings(RuleBasedStateMachine):
    """Spans and events of several traces start, end, fail, come late, while the worker ticks and flushes."""

    spans = Bundle("spans")
    MAX_TRACES, MAX_ITEMS, MAX_TRACE_ITEMS = 3, 8, 5

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.exporter = InMemorySpanExporter()
        self.dropped: Counter[str] = Counter()
        self.released: list[int] = []
        self.table = TraceTable(
            0.5,
            max_traces=self.MAX_TRACES,
            max_items=self.MAX_ITEMS,
            max_trace_items=self.MAX_TRACE_ITEMS,
            max_age_s=10,
            grace_s=1,
            clock=lambda: self.now,
            on_dropped=lambda reason, n, destination, event: self.dropped.update({destination: n}),
        )
        self.provider = provider_of(self.table, self.exporter)
        self.tracer = self.provider.get_tracer("tests")
        self.open: dict[int, trace.Span] = {}
        self.tracestates: dict[int, TraceState] = {}
        self.ended = 0
        self.offered = 0
        self.failed_spans: set[int] = set()
        self.failed_records: set[int] = set()
        self.sizes: Counter[int] = Counter()

    @rule(target=spans)
    def start_root(self) -> Any:
        return self._started(None)

    @rule(
        target=spans, low_bits=FIFTY_SIX_BITS, sampled=st.booleans(), ot=st.sampled_from(["", "th:0", "th:8", "th:f"])
    )
    def start_remote(self, low_bits: int, sampled: bool, ot: str) -> Any:
        return self._started(remote((5 << 64) | low_bits, sampled, ot))

    @rule(target=spans, parent=spans)
    def start_child(self, parent: trace.Span) -> Any:
        return self._started(trace.set_span_in_context(parent))

    def _started(self, context: Context | None) -> Any:
        span = self.tracer.start_span("span", context)
        self.open[span.get_span_context().span_id] = span
        self.tracestates[span.get_span_context().span_id] = span.get_span_context().trace_state
        return multiple(span)

    @rule(span=spans, fails=st.booleans())
    def end(self, span: trace.Span, fails: bool) -> None:
        context = span.get_span_context()
        if self.open.pop(context.span_id, None) is None:
            return
        if fails:
            span.set_status(StatusCode.ERROR)
            self.failed_spans.add(context.span_id)
        span.end()
        self.ended += 1
        self.sizes[context.trace_id] += 1

    @rule(span=spans)
    def emit(self, span: trace.Span) -> None:
        self.table.offer(span.get_span_context().trace_id, self.offered, lambda item, _: self.released.append(item))
        self.offered += 1

    @rule(span=spans)
    def emit_failure(self, span: trace.Span) -> None:
        self.table.keep(span.get_span_context().trace_id)
        assert self.table.known(span.get_span_context().trace_id).keep

    @rule(span=spans)
    def emit_failed_record(self, span: trace.Span) -> None:
        number = self.offered
        self.offered += 1
        self.failed_records.add(number)
        trace_id = span.get_span_context().trace_id
        self.table.offer(trace_id, number, lambda item, _: self.released.append(item), failure=True)
        assert self.table.known(trace_id).keep

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 10.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.table.tick()

    @rule()
    def fork(self) -> None:
        """From here on this is the child: what was held is the parent's; spans that are open end here as well."""
        self.table.after_fork()
        assert (self.table.held_traces, self.table.held_items) == (0, 0)
        self.exporter.clear()
        for counted in (self.dropped, self.released, self.failed_spans, self.failed_records, self.sizes):
            counted.clear()
        self.ended = self.offered = 0

    @rule()
    def flush(self) -> None:
        assert self.provider.force_flush()
        assert self.table.held_items == 0

    @rule(threads=st.integers(2, 4))
    def flush_with_several_threads(self, threads: int) -> None:
        answers: list[bool] = []
        flushing = [
            threading.Thread(target=lambda: answers.append(self.provider.force_flush())) for _ in range(threads)
        ]
        for thread in flushing:
            thread.start()
        for thread in flushing:
            thread.join()
        assert answers == [True] * threads
        assert self.table.held_items == 0

    @rule()
    def room_is_as_much_as_is_not_taken(self) -> None:
        room, ticket = self.table.room, self.table.room.draw()
        # where there is none, tickets that nobody used stand behind the limit
        assert max(room.limit - ticket, 0) == self.MAX_ITEMS - self.table.held_items
        room.give_back(ticket)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.table.held_traces <= self.MAX_TRACES
        assert self.table.held_items <= self.MAX_ITEMS

    @invariant()
    def nothing_leaves_twice(self) -> None:
        ids = [span.context.span_id for span in self.exporter.get_finished_spans()]
        assert len(set(ids)) == len(ids)
        assert len(set(self.released)) == len(self.released)

    def teardown(self) -> None:
        self.provider.force_flush()
        spans = self.exporter.get_finished_spans()
        assert len(spans) + self.dropped["spans"] == self.ended
        assert len(self.released) + self.dropped["sentry"] == self.offered
        assert self.failed_spans <= {span.context.span_id for span in spans}
        assert self.failed_records <= set(self.released)
        self._thresholds_are_honest(spans)
        self._traces_left_whole_or_marked(spans)

    def _thresholds_are_honest(self, spans: Any) -> None:
        """What is claimed is reached, and an incoming threshold is not lowered; a failure asks a collector to keep it."""
        for span in spans:
            claimed = probability.threshold_of(span.context.trace_state)
            randomness = probability.randomness(span.context.trace_id, span.context.trace_state)
            assert claimed is None or randomness >= claimed
            incoming = probability.threshold_of(self.tracestates[span.context.span_id])
            assert claimed is None or incoming is None or claimed >= incoming
            failed = span.attributes["caseyos.sampling.reason"] in ("error", "late_error")
            assert (span.attributes.get("sampling.priority") == 1) is failed

    def _traces_left_whole_or_marked(self, spans: Any) -> None:
        by_trace: dict[int, list[Any]] = defaultdict(list)
        for span in spans:
            by_trace[span.context.trace_id].append(span)
        for trace_id, left in by_trace.items():
            marked = {"late_error", "overflow", "shutdown"} & {
                span.attributes["caseyos.sampling.reason"] for span in left
            }
            assert marked or len(left) == self.sizes[trace_id] or self._is_forgotten(trace_id, left)

    def _is_forgotten(self, trace_id: int, left: list[Any]) -> bool:
        """The memory of kept traces is as small here as the table: one that comes back later may be forgotten."""
        kept = sum(n for (keep, _), n in self.table.decisions.items() if keep)
        reason = left[-1].attributes["caseyos.sampling.reason"]
        known = self.table.known(trace_id)
        return kept > self.MAX_TRACES and (known is None or known.reason != reason)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
