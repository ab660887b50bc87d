"""`@track_event` on every kind of function: what it emits, what it leaves as it was."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from caseyos_otel import track_event
from caseyos_otel.emit.emitter import build
from caseyos_otel.instrumentation import track as tracking

ACTION = {"action_id": "a1", "action_type": "send_email", "execution_mode": "automated"}


class Emitted:
    """What is in the queue, as (name, values)."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return iter([(r.declaration.name, r.values) for r in map(build, list(tracking.emitter.queue.items))])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]

    @property
    def only(self) -> tuple[str, dict[str, Any]]:
        ((name, values),) = self
        return name, values


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emitted]:
    monkeypatch.setattr(tracking.emitter, "woken", lambda: None)
    monkeypatch.setattr(tracking.emitter, "inline", None)
    monkeypatch.setattr(tracking, "enabled", True)
    tracking.emitter.queue.after_fork()
    yield Emitted()
    tracking.emitter.queue.after_fork()


def test_a_plain_function_fills_parameters_result_and_properties_the_later_wins(emitted: Emitted) -> None:
    @track_event("action_executed", properties={"execution_mode": "manual"})
    def send(action_id: str, action_type: str, execution_mode: str = "automated") -> dict[str, str]:
        """Send it."""
        return {"action_type": "create_task"}

    assert send("a1", "send_email") == {"action_type": "create_task"}
    name, values = emitted.only
    assert name == "action_executed"
    assert (values["action_id"], values["action_type"], values["execution_mode"]) == ("a1", "create_task", "manual")
    assert values["success"] is True
    assert values["duration_ms"] >= 0


def test_properties_may_be_a_callable_of_arguments_and_result(emitted: Emitted) -> None:
    @track_event(
        "signal_received", properties=lambda arguments, result: {"signal_id": result, "source": arguments["where"]}
    )
    def receive(where: str, signal_type: str) -> str:
        return "s1"

    receive("gmail", signal_type="reply")
    assert emitted.only[1]["signal_id"] == "s1"
    assert emitted.only[1]["source"] == "gmail"


def test_the_specification_s_own_example_yields_an_event_though_it_has_no_id(emitted: Emitted) -> None:
    @track_event("recommendation_generated")
    async def calculate_aps_score(revenue: float, urgency: float, effort: float, icp: float) -> float:
        return 87.5

    assert asyncio.run(calculate_aps_score(1, 2, 3, 4)) == 87.5
    assert emitted.only[0] == "recommendation_generated"
    assert emitted.only[1]["recommendation_id"] is None


def test_an_exception_emits_the_failure_twin_and_goes_on_as_the_same_object(emitted: Emitted) -> None:
    error = RuntimeError("Gmail API: Daily sending limit exceeded")

    @track_event("action_executed")
    def send(action_id: str, action_type: str) -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        send("a1", "send_email")
    assert raised.value is error
    name, values = emitted.only
    assert name == "action_failed"
    assert values["action_id"] == "a1"
    assert values["error_type"] == "RuntimeError"
    assert values["error_message"] == "Gmail API: Daily sending limit exceeded"
    assert values["duration_ms"] >= 0


def test_the_exception_s_own_attributes_fill_the_twin(emitted: Emitted) -> None:
    class HttpError(Exception):
        status_code = 429
        retryable = True

    @track_event("integration_call_success", properties={"integration": "hubspot"})
    def get(endpoint: str, method: str) -> None:
        raise HttpError("Rate limit exceeded")

    with pytest.raises(HttpError):
        get("/crm/v3/objects/deals", "GET")
    name, values = emitted.only
    assert name == "integration_call_failed"
    assert (values["integration"], values["status_code"], values["retryable"]) == ("hubspot", 429, True)


def test_the_issue_of_a_twin_carries_exception_type_message_and_stack(emitted: Emitted) -> None:
    @track_event("action_executed")
    def send() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        send()
    attributes = build(tracking.emitter.queue.items[0]).exception_attributes
    assert attributes["exception.type"] == "ValueError"
    assert attributes["exception.message"] == "no"
    assert "in send" in attributes["exception.stacktrace"]


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async_generator"])
def test_a_wrong_call_raises_its_typeerror_at_the_call_and_emits_nothing(kind: str, emitted: Emitted) -> None:
    function = track_event("action_executed")(_functions()[kind])
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'action_id'"):
        function()
    assert emitted.names == []


@pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async_generator"])
def test_signature_kind_and_docstring_stay(kind: str) -> None:
    original = _functions()[kind]
    function = track_event("action_executed")(original)
    assert inspect.signature(function) == inspect.signature(original)
    assert function.__doc__ == original.__doc__
    assert function.__qualname__ == original.__qualname__
    for question in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert question(function) is question(original)


def _functions() -> dict[str, Any]:
    def plain(action_id: str, /, *rest: int, action_type: str = "send_email", **more: object) -> tuple[object, ...]:
        """Plain."""
        return (action_id, rest, action_type, more)

    async def coroutine(action_id: str, action_type: str = "send_email") -> str:
        """Coroutine."""
        return action_id

    def generator(action_id: str, action_type: str = "send_email") -> Iterator[str]:
        """Generator."""
        yield action_id

    async def async_generator(action_id: str, action_type: str = "send_email") -> AsyncIterator[str]:
        """Async generator."""
        yield action_id

    return {"plain": plain, "coroutine": coroutine, "generator": generator, "async_generator": async_generator}


def test_every_way_of_passing_arguments_reaches_the_function(emitted: Emitted) -> None:
    function = track_event("action_executed")(_functions()["plain"])
    assert function("a1", 1, 2, action_type="x", extra=3) == ("a1", (1, 2), "x", {"extra": 3})
    assert emitted.only[1]["action_id"] == "a1"
    assert emitted.only[1]["action_type"] == "x"


def test_a_cancelled_coroutine_is_no_failure_and_no_success(emitted: Emitted) -> None:
    @track_event("action_executed")
    async def send() -> None:
        await asyncio.sleep(30)

    async def cancel() -> None:
        task = asyncio.create_task(send())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert emitted.names == []


def test_a_generator_emits_when_it_is_exhausted_and_not_when_it_is_closed(emitted: Emitted) -> None:
    @track_event("action_executed")
    def items(action_id: str) -> Iterator[int]:
        yield 1
        yield 2

    assert list(items("a1")) == [1, 2]
    assert emitted.names == ["action_executed"]
    half = items("a2")
    next(half)
    half.close()
    assert emitted.names == ["action_executed"]


def test_a_generator_s_exception_is_a_failure_and_sent_values_pass(emitted: Emitted) -> None:
    @track_event("action_executed")
    def echo(action_id: str) -> Iterator[Any]:
        got = yield "ready"
        yield got
        raise KeyError("k")

    running: Any = echo("a1")
    assert next(running) == "ready"
    assert running.send("hello") == "hello"
    with pytest.raises(KeyError):
        next(running)
    assert emitted.names == ["action_failed"]


async def test_an_async_generator_passes_values_and_exceptions_both_ways(emitted: Emitted) -> None:
    closed = []

    @track_event("action_executed")
    async def echo(action_id: str) -> AsyncIterator[Any]:
        try:
            got = yield "ready"
            while True:
                try:
                    got = yield got
                except ValueError as thrown:
                    got = f"caught {thrown}"
        finally:
            closed.append(action_id)

    running: Any = echo("a1")
    assert await anext(running) == "ready"
    assert await running.asend(1) == 1
    assert await running.athrow(ValueError("x")) == "caught x"
    assert await running.athrow(ValueError("y")) == "caught y"
    assert await running.asend(2) == 2
    await running.aclose()
    assert closed == ["a1"]
    assert emitted.names == []


async def test_an_async_generator_emits_once_at_its_end_and_its_twin_on_an_exception(emitted: Emitted) -> None:
    @track_event("action_executed")
    async def items(action_id: str) -> AsyncIterator[int]:
        yield 1
        if action_id == "bad":
            raise RuntimeError("no")

    assert [item async for item in items("a1")] == [1]
    with pytest.raises(RuntimeError):
        assert [item async for item in items("bad")] == [1]
    assert emitted.names == ["action_executed", "action_failed"]


def test_methods_classmethods_and_staticmethods(emitted: Emitted) -> None:
    class Sender:
        action_type = "send_email"

        @track_event("action_executed")
        def method(self, action_id: str) -> str:
            return action_id

        @classmethod
        @track_event("action_executed")
        def inner(cls, action_id: str) -> str:
            return action_id

        @track_event("action_executed")
        @staticmethod
        def static(action_id: str) -> str:
            return action_id

    assert (Sender().method("1"), Sender.inner("2"), Sender.static("3")) == ("1", "2", "3")
    assert [values["action_id"] for _, values in emitted] == ["1", "2", "3"]


def test_a_callable_that_is_no_function_can_be_decorated(emitted: Emitted) -> None:
    tracked = track_event("action_executed", properties=ACTION)(sorted)
    assert tracked([2, 1], reverse=False) == [1, 2]
    assert emitted.only[1]["action_id"] == "a1"


def test_broken_properties_cost_the_properties_not_the_event_nor_the_call(
    emitted: Emitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caseyos_otel.diagnostics.reraise", False)

    @track_event("action_executed", properties=lambda arguments, result: result["nothing there"])
    def send(action_id: str) -> str:
        return "sent"

    assert send("a1") == "sent"
    assert emitted.only[1]["action_id"] == "a1"


def test_strict_mode_raises_at_the_call_but_never_instead_of_the_function_s_own_exception(
    emitted: Emitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caseyos_otel import InvalidEventError

    monkeypatch.setattr(tracking.emitter, "strict", True)

    @track_event("action_executed")
    def send(fail: bool) -> None:
        if fail:
            raise KeyError("mine")

    with pytest.raises(InvalidEventError, match=r"action_executed\.action_id"):
        send(False)
    with pytest.raises(KeyError, match="mine"):
        send(True)
