"""What surrounds an event: the trail of its request, and what `bind()` fills in."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from caseyos_otel import bind, context
from caseyos_otel.context import TRAIL_LENGTH, Trail, bound_fields, current_trail
from caseyos_otel.processors.trail import TrailSpanProcessor


class Scope:
    """What stands for a Sentry isolation scope."""


@pytest.fixture
def woken() -> list[None]:
    return []


@pytest.fixture
def tracer(woken: list[None]) -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TrailSpanProcessor(lambda: woken.append(None)))
    yield provider.get_tracer("service")
    provider.shutdown()


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> ContextVar[Scope | None]:
    """The isolation scope of the current context."""
    current: ContextVar[Scope | None] = ContextVar("scope", default=None)
    monkeypatch.setattr(context, "isolation_scope", current.get)
    monkeypatch.setattr(context, "_scope_trails", type(context._scope_trails)())
    return current


def trail() -> Trail:
    found = current_trail()
    assert found is not None
    return found


def note(what: str) -> None:
    trail().append((0, what, {}))


def noted() -> list[Any]:
    return [entry[1] for entry in trail()]


# -- the trail of a span --------------------------------------------------------------------------------------------


def test_a_local_root_has_a_trail_and_its_descendants_share_it(tracer: Tracer, woken: list[None]) -> None:
    with tracer.start_as_current_span("request"):
        of_root = trail()
        assert len(of_root) == 0
        with tracer.start_as_current_span("child"), tracer.start_as_current_span("grandchild"):
            assert trail() is of_root
            note("seen")
        assert noted() == ["seen"]
    assert len(woken) == 3


@pytest.mark.swallows
def test_a_mistake_of_ours_does_not_reach_who_starts_a_span() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TrailSpanProcessor(fail))
    with provider.get_tracer("service").start_as_current_span("request") as span:
        assert span.is_recording()


def test_an_empty_trail_is_shared_too(tracer: Tracer) -> None:
    with tracer.start_as_current_span("request"):
        with tracer.start_as_current_span("child"):
            note("in the child")
        assert noted() == ["in the child"]


def test_another_root_has_another_trail_even_from_inside_a_request(tracer: Tracer) -> None:
    with tracer.start_as_current_span("request"):
        note("of the first")
        with tracer.start_as_current_span("job", context=Context()):
            assert noted() == []
        with tracer.start_as_current_span("child"):
            assert noted() == ["of the first"]
    with tracer.start_as_current_span("request"):
        assert noted() == []


def test_a_span_with_a_remote_parent_is_a_local_root(tracer: Tracer) -> None:
    headers = {"traceparent": f"00-{7:032x}-{8:016x}-01"}
    incoming = TraceContextTextMapPropagator().extract(headers)
    with tracer.start_as_current_span("first request", context=incoming) as first:
        note("of the first")
        assert first.get_span_context().trace_id == 7
    with tracer.start_as_current_span("second request", context=incoming):
        assert noted() == []


def test_a_trail_is_bounded_and_keeps_the_latest(tracer: Tracer) -> None:
    with tracer.start_as_current_span("request"):
        for number in range(TRAIL_LENGTH + 5):
            trail().append((number, None, {}))
        assert [entry[0] for entry in trail()] == list(range(5, TRAIL_LENGTH + 5))


async def test_child_tasks_and_executor_threads_share_the_trail_of_their_request(tracer: Tracer) -> None:
    async def step(name: str) -> None:
        await asyncio.sleep(0)
        note(name)
        await asyncio.to_thread(note, f"thread of {name}")

    async def request(name: str) -> list[Any]:
        with tracer.start_as_current_span("request"):
            await asyncio.gather(*(asyncio.create_task(step(f"{name}{n}")) for n in range(2)))
            return noted()

    first, second = await asyncio.gather(request("a"), request("b"))
    assert sorted(first) == ["a0", "a1", "thread of a0", "thread of a1"]
    assert sorted(second) == ["b0", "b1", "thread of b0", "thread of b1"]


# -- the trail without a span ----------------------------------------------------------------------------------------


def test_without_a_span_and_a_scope_there_is_no_trail() -> None:
    assert current_trail() is None


def test_at_start_up_there_is_none_and_nothing_is_inherited_from_it(scope: ContextVar[Scope | None]) -> None:
    assert current_trail() is None
    scope.set(Scope())
    assert noted() == []


def test_without_a_span_each_isolation_scope_has_one(scope: ContextVar[Scope | None]) -> None:
    first, second = Scope(), Scope()
    scope.set(first)
    note("of the first")
    scope.set(second)
    assert noted() == []
    scope.set(first)
    assert noted() == ["of the first"]


def test_a_span_s_trail_goes_before_that_of_the_scope(tracer: Tracer, scope: ContextVar[Scope | None]) -> None:
    scope.set(Scope())
    note("before the span")
    with tracer.start_as_current_span("request"):
        assert noted() == []
    assert noted() == ["before the span"]


def test_threads_of_one_scope_share_its_trail(scope: ContextVar[Scope | None]) -> None:
    scope.set(Scope())
    note("here")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(copy_context().run, note, "there").result()
    assert noted() == ["here", "there"]


def test_scopes_are_remembered_up_to_a_bound_and_never_taken_for_another_one(scope: ContextVar[Scope | None]) -> None:
    for number in range(context._SCOPES_REMEMBERED + 50):
        scope.set(Scope())  # the one before is garbage: its address may be given to the next
        assert noted() == []
        note(str(number))
    assert len(context._scope_trails) == context._SCOPES_REMEMBERED


# -- bind ------------------------------------------------------------------------------------------------------------


def test_inner_fields_win_and_end_with_their_block() -> None:
    with bind(recommendation_id="outer", user_id="casey"):
        with bind(recommendation_id="inner"):
            assert bound_fields() == {"recommendation_id": "inner", "user_id": "casey"}
        assert bound_fields() == {"recommendation_id": "outer", "user_id": "casey"}
    assert bound_fields() is None


def test_an_exception_ends_the_block_and_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), bind(user_id="casey"):
        raise ZeroDivisionError
    assert bound_fields() is None


async def test_what_is_bound_reaches_child_tasks_and_threads_and_not_its_siblings() -> None:
    async def request(name: str) -> list[Any]:
        with bind(recommendation_id=name):
            await asyncio.sleep(0)
            return [
                bound_fields(),
                await asyncio.create_task(asyncio.sleep(0, bound_fields())),
                await asyncio.to_thread(bound_fields),
            ]

    results = await asyncio.gather(request("a"), request("b"))
    assert results == [[{"recommendation_id": name}] * 3 for name in ("a", "b")]
    assert bound_fields() is None


def generator() -> Iterator[Any]:
    with bind(recommendation_id="of the generator"):
        yield bound_fields()
        yield bound_fields()


def test_a_generator_closed_in_another_context_leaves_what_is_bound_there() -> None:
    source = generator()
    assert contextvars.Context().run(next, source) == {"recommendation_id": "of the generator"}
    with bind(user_id="casey"):
        source.close()
        assert bound_fields() == {"user_id": "casey"}
    assert bound_fields() is None


def test_a_generator_closed_in_a_copy_of_its_context_takes_what_it_bound_with_it() -> None:
    source = generator()

    def begun() -> contextvars.Context:
        with bind(user_id="casey"):
            next(source)
            return copy_context()

    copied = contextvars.Context().run(begun)
    copied.run(source.close)
    assert copied.run(bound_fields) == {"user_id": "casey"}


def test_nothing_travels_in_baggage_unless_asked_for() -> None:
    with bind(recommendation_id="r1"):
        assert baggage.get_all() == {}


def test_propagated_fields_travel_in_baggage_and_local_ones_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "propagate", True)
    with bind(recommendation_id="r1", attempt=3):
        assert baggage.get_all() == {"caseyos.recommendation_id": "r1", "caseyos.attempt": "3"}
        assert bound_fields() == {"recommendation_id": "r1", "attempt": 3}  # not the text of the baggage
        bare = contextvars.Context()
        incoming = {"caseyos.recommendation_id": "of the caller", "caseyos.user_id": "casey", "tenant": "acme"}

        def receive() -> Any:
            held = None
            for name, value in incoming.items():
                held = baggage.set_baggage(name, value, held)
            attach(held)
            with bind(recommendation_id="ours"):
                return bound_fields()

        assert bare.run(receive) == {"recommendation_id": "ours", "user_id": "casey"}
    assert baggage.get_all() == {}
