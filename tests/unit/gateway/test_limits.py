"""What is taken at once, and of one client."""

from __future__ import annotations

import pytest

from caseyos_otel.gateway.limits import BURST_S, MOST_CLIENTS, Concurrency, Rate
from caseyos_otel.gateway.refusal import RATE_LIMITED, UNAVAILABLE, Refused


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(rate: Rate, client: str, most: int = 1000) -> int:
    """Requests of a client until it is refused."""
    for n in range(most):
        try:
            rate.take(client)
        except Refused as refused:
            assert (refused.reason, refused.retry_after_s) == (RATE_LIMITED, 1)
            return n
    return most


def test_a_client_has_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    rate = Rate(10, clock)
    assert taken(rate, "a") == 10 * BURST_S
    assert taken(rate, "a") == 0
    clock.now += 0.5
    assert taken(rate, "a") == 5
    clock.now += 1000.0
    assert taken(rate, "a") == 10 * BURST_S


def test_clients_do_not_share() -> None:
    rate = Rate(1, Clock())
    assert taken(rate, "a") == taken(rate, "b") == BURST_S


def test_no_rate_is_no_limit() -> None:
    assert taken(Rate(0), "a") == 1000


def test_clients_that_are_remembered_are_bounded() -> None:
    rate = Rate(1, Clock())
    assert taken(rate, "first") == BURST_S
    for n in range(MOST_CLIENTS):
        rate.take(str(n))
    assert taken(rate, "first") == BURST_S  # forgotten


def test_one_too_many_is_refused_until_another_ends() -> None:
    concurrency = Concurrency(2)
    with concurrency.one():
        with concurrency.one(), pytest.raises(Refused) as refused, concurrency.one():
            pass
        assert (refused.value.reason, refused.value.retry_after_s) == (UNAVAILABLE, 1)
        with concurrency.one():
            assert concurrency.now == 2
    assert concurrency.now == 0
