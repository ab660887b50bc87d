"""The circuit breaker."""

from __future__ import annotations

import pytest
from command_center.breaker import CircuitBreaker, CircuitOpenError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker("calendar", 3, 10.0, lambda error: isinstance(error, ConnectionError), clock)


def fail(breaker: CircuitBreaker, error: type[Exception] = ConnectionError) -> None:
    with pytest.raises(error), breaker.attempt():
        raise error


def succeed(breaker: CircuitBreaker) -> None:
    with breaker.attempt():
        pass


def open_it(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        fail(breaker)


def test_it_opens_at_the_threshold_and_then_refuses(breaker: CircuitBreaker) -> None:
    fail(breaker)
    fail(breaker)
    assert breaker.state == "closed"
    fail(breaker)
    assert (breaker.state, breaker.openings, breaker.failure_count) == ("open", 1, 3)
    with pytest.raises(CircuitOpenError, match=r"try again in 10\.0 s"), breaker.attempt():
        pytest.fail("the call was let through")


def test_a_success_between_failures_starts_the_count_again(breaker: CircuitBreaker) -> None:
    fail(breaker)
    fail(breaker)
    succeed(breaker)
    fail(breaker)
    assert breaker.state == "closed"


def test_an_error_that_is_no_outage_does_not_count(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        fail(breaker, ValueError)
    assert (breaker.state, breaker.failure_count) == ("closed", 0)


def test_half_open_lets_one_call_through_and_its_success_closes(breaker: CircuitBreaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 9.9
    with pytest.raises(CircuitOpenError), breaker.attempt():
        pytest.fail("the call was let through too early")
    clock.now = 10.0
    with breaker.attempt(), pytest.raises(CircuitOpenError), breaker.attempt():
        pytest.fail("a second call was let through")
    assert breaker.state == "closed"


def test_half_open_opens_again_when_its_one_call_fails(breaker: CircuitBreaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 10.0
    fail(breaker)
    assert (breaker.state, breaker.openings) == ("open", 2)


def test_a_call_that_began_before_the_opening_does_not_open_it_twice(breaker: CircuitBreaker) -> None:
    with pytest.raises(ConnectionError), breaker.attempt():
        open_it(breaker)
        raise ConnectionError
    assert (breaker.openings, breaker.failure_count) == (1, 3)


def test_a_trial_that_tells_nothing_leaves_room_for_the_next(breaker: CircuitBreaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 10.0
    fail(breaker, ValueError)
    succeed(breaker)
    assert breaker.state == "closed"
