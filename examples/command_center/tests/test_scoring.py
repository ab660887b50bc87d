"""The Action Priority Score."""

from __future__ import annotations

from typing import Any

import pytest
from command_center.scoring import calculate_aps_score, score_signal


def test_a_deal_of_50k_due_tomorrow_with_strong_fit_scores_87_5() -> None:
    assert calculate_aps_score(revenue_impact=50_000, urgency_days=1, effort_minutes=15, icp_score=0.9) == 87.5


@pytest.mark.parametrize(
    "worse",
    [
        {"revenue_impact": 20_000},
        {"urgency_days": 9},
        {"effort_minutes": 50},
        {"icp_score": 0.2},
    ],
)
def test_less_money_time_ease_or_fit_scores_lower(worse: dict[str, Any]) -> None:
    best: dict[str, Any] = {"revenue_impact": 50_000, "urgency_days": 1, "effort_minutes": 15, "icp_score": 0.9}
    assert calculate_aps_score(**{**best, **worse}) < calculate_aps_score(**best)


def test_a_score_stays_between_0_and_100() -> None:
    assert calculate_aps_score(0, 10_000, 600, 0.0) >= 0
    assert calculate_aps_score(10_000_000, 0, 0, 1.0) == 100


def test_a_signal_is_scored_for_its_action_and_says_why() -> None:
    score = score_signal("form_submitted", 50_000, 0.9)
    assert score is not None
    assert (score.action_type, score.aps_score) == ("send_email", 87.5)
    assert score.reasoning == "High pipeline value ($50k ARR), due tomorrow (urgent), strong ICP fit"


def test_a_signal_that_asks_for_nothing_is_not_scored() -> None:
    assert score_signal("newsletter_unsubscribed", 50_000, 0.9) is None
