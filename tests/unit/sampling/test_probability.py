"""The arithmetic of OpenTelemetry's consistent probability sampling."""

from __future__ import annotations

from uuid import UUID

import pytest
from opentelemetry.trace import TraceState

from caseyos_otel.sampling import probability


@pytest.mark.parametrize(
    ("ratio", "threshold", "written"),
    [
        (1.0, 0, "0"),
        (0.5, 1 << 55, "8"),
        (0.25, 0xC0000000000000, "c"),
        (0.1, 0xE6666666666666, "e6666666666666"),
        (2**-56, (1 << 56) - 1, "ffffffffffffff"),
    ],
)
def test_threshold_is_one_minus_ratio_in_56_bits_and_written_without_trailing_zeros(
    ratio: float, threshold: int, written: str
) -> None:
    assert probability.threshold(ratio) == threshold
    assert probability.encode_threshold(threshold) == written
    assert probability.parse_threshold(written) == threshold


def test_ratio_zero_keeps_nothing_and_cannot_be_written() -> None:
    never = probability.threshold(0.0)
    assert not probability.keep((1 << 56) - 1, never)
    with pytest.raises(ValueError, match="cannot be written"):
        probability.encode_threshold(never)


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_ratio_outside_0_to_1_is_refused_by_value(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"{ratio!r}.*from 0 to 1"):
        probability.threshold(ratio)


def test_a_trace_is_kept_at_its_own_threshold_and_not_above() -> None:
    assert probability.keep(5, 5)
    assert not probability.keep(5, 6)


@pytest.mark.parametrize("text", ["", "g", "E6", "0x1", "123456789012345", " e", "e\n"])
def test_a_malformed_threshold_is_none(text: str) -> None:
    assert probability.parse_threshold(text) is None


@pytest.mark.parametrize(
    ("ot", "expected"),
    [
        ("rv:6e6d1a75832a2f", 0x6E6D1A75832A2F),
        ("th:c;rv:6e6d1a75832a2f", 0x6E6D1A75832A2F),
        ("rv:6e6d1a75832a2", 0x22222222222222),
        ("rv:6E6D1A75832A2F", 0x22222222222222),
        ("th:c", 0x22222222222222),
    ],
)
def test_randomness_is_rv_where_well_formed_else_the_low_56_bits(ot: str, expected: int) -> None:
    trace_id = 0x11111111111111111122222222222222
    assert probability.randomness(trace_id, TraceState([("ot", ot)])) == expected
    assert probability.randomness(trace_id) == 0x22222222222222


def test_randomness_of_events_of_one_millisecond_is_spread() -> None:
    ids = [UUID(int=0x0193_5555_5555_7000_8000_000000000000 + n) for n in range(20_000)]
    threshold = probability.threshold(0.1)
    kept = sum(probability.keep(probability.randomness_of_event(each), threshold) for each in ids)
    assert 1_850 <= kept <= 2_150
    assert probability.randomness_of_event(ids[0]) == probability.randomness_of_event(str(ids[0]))
    assert all(0 <= probability.randomness_of_event(each) < 1 << 56 for each in ids[:100])


def test_th_is_set_and_everything_else_stays() -> None:
    before = TraceState([("vendor", "1"), ("ot", "th:8;rv:6e6d1a75832a2f;x:y"), ("other", "a;b")])
    after = probability.with_threshold(before, probability.threshold(0.25))
    assert after.to_header() == "ot=th:c;rv:6e6d1a75832a2f;x:y,vendor=1,other=a;b"
    assert probability.threshold_of(after) == probability.threshold(0.25)
    assert before["ot"].startswith("th:8")


def test_th_is_removed_where_the_probability_is_unknown() -> None:
    before = TraceState([("ot", "th:8;rv:6e6d1a75832a2f"), ("vendor", "1")])
    assert probability.with_threshold(before, None).to_header() == "ot=rv:6e6d1a75832a2f,vendor=1"
    assert probability.with_threshold(TraceState([("ot", "th:8")]), None).to_header() == ""
    assert probability.with_threshold(None, None).to_header() == ""


def test_a_full_tracestate_loses_its_last_entry_and_not_th() -> None:
    full = TraceState([(f"v{n}", "1") for n in range(32)])
    after = probability.with_threshold(full, 0)
    assert len(after) == 32
    assert next(iter(after.items())) == ("ot", "th:0")
    assert "v31" not in after
    assert "v30" in after


def test_a_long_ot_value_keeps_th_and_rv_within_256_characters() -> None:
    ot = ";".join([f"k{n}:{'x' * 40}" for n in range(5)] + ["rv:6e6d1a75832a2f", "z:1"])
    after = probability.with_threshold(TraceState([("ot", ot)]), probability.threshold(0.1))["ot"]
    assert len(after) <= 256
    assert after.startswith("th:e6666666666666;rv:6e6d1a75832a2f;k0:")


def test_the_bare_tracestate_is_made_once_for_each_threshold() -> None:
    assert probability.with_threshold(None, 0) is probability.with_threshold(TraceState(), 0)
