"""Derived event ids: UUIDs of version 8."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest

from caseyos_otel.events.identity import derived_event_id, once_per_event_id


@pytest.mark.parametrize(
    ("nanoseconds", "milliseconds"),
    [(0, 0), (999_999, 0), (1_769_178_600_123_456_789, 1_769_178_600_123), (-1, 0), (2**80, 2**48 - 1)],
)
def test_time_is_the_first_48_bits(nanoseconds: int, milliseconds: int) -> None:
    identity = UUID(derived_event_id(nanoseconds, b"content"))
    assert (identity.version, identity.variant) == (8, RFC_4122)
    assert identity.int >> 80 == milliseconds


def test_content_decides_the_rest() -> None:
    assert derived_event_id(5_000_000, b"a") == derived_event_id(5_000_000, b"a")
    assert derived_event_id(5_000_000, b"a") != derived_event_id(5_000_000, b"b")


def test_the_form_is_stable() -> None:
    # stored ids must not change between versions
    assert derived_event_id(1_769_178_600_123_456_789, b"content") == "019beb43-12bb-8561-a9d6-120208ecfd60"
    assert once_per_event_id("outcome_deal_advanced", "deal-7") == "00000000-0000-857a-bd02-8c3002591a7c"


def test_once_per_event_and_key() -> None:
    ids = {once_per_event_id(*pair) for pair in [("a", "bc"), ("ab", "c"), ("a", "bd"), ("a", "\ud800")]}
    assert len(ids) == 4
    assert all(UUID(i).int >> 80 == 0 and UUID(i).version == 8 for i in ids)
