"""The Action Priority Score (APS): what to do next, as one number between 0 and 100. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

REVENUE_WEIGHT, URGENCY_WEIGHT, ICP_WEIGHT, EFFORT_WEIGHT = 35.0, 30.0, 25.0, 10.0
FULL_REVENUE = 50_000
FULL_EFFORT_MINUTES = 60

ACTION_OF_SIGNAL = {
    "form_submitted": "send_email",
    "deal_stage_changed": "create_task",
    "email_replied": "send_email",
    "meeting_requested": "book_meeting",
    "trial_expiring": "send_email",
}
URGENCY_DAYS = {
    "form_submitted": 1,
    "deal_stage_changed": 3,
    "email_replied": 1,
    "meeting_requested": 2,
    "trial_expiring": 7,
}
EFFORT_MINUTES = {"send_email": 15, "create_task": 5, "book_meeting": 20}


@dataclass(frozen=True, slots=True)
class Score:
    """A scored action with the reasons a person is shown."""

    aps_score: float
    action_type: str
    revenue_impact: int
    urgency_days: int
    effort_minutes: int
    icp_score: float
    reasoning: str


def calculate_aps_score(revenue_impact: int, urgency_days: int, effort_minutes: int, icp_score: float) -> float:
    """Weigh money (dollars a year), urgency (days left), fit (0 to 1) and effort (minutes); 0 to 100, one decimal."""
    revenue = min(1.0, revenue_impact / FULL_REVENUE)
    urgency = 3 / (3 + urgency_days)
    ease = max(0.0, 1 - effort_minutes / FULL_EFFORT_MINUTES)
    score = REVENUE_WEIGHT * revenue + URGENCY_WEIGHT * urgency + ICP_WEIGHT * icp_score + EFFORT_WEIGHT * ease
    return round(score, 1)


def score_signal(signal_type: str, revenue_impact: int, icp_score: float) -> Score | None:
    """The action that a signal asks for, scored; None where a signal asks for nothing."""
    action_type = ACTION_OF_SIGNAL.get(signal_type)
    if action_type is None:
        return None
    urgency_days, effort_minutes = URGENCY_DAYS[signal_type], EFFORT_MINUTES[action_type]
    return Score(
        aps_score=calculate_aps_score(revenue_impact, urgency_days, effort_minutes, icp_score),
        action_type=action_type,
        revenue_impact=revenue_impact,
        urgency_days=urgency_days,
        effort_minutes=effort_minutes,
        icp_score=icp_score,
        reasoning=_reasoning(revenue_impact, urgency_days, icp_score),
    )


def _reasoning(revenue_impact: int, urgency_days: int, icp_score: float) -> str:
    value = "High pipeline value" if revenue_impact >= FULL_REVENUE else "Pipeline value"
    urgency = "due tomorrow (urgent)" if urgency_days <= 1 else f"due in {urgency_days} days"
    fit = "strong ICP fit" if icp_score >= 0.75 else "moderate ICP fit" if icp_score >= 0.5 else "weak ICP fit"
    return f"{value} (${revenue_impact / 1000:g}k ARR), {urgency}, {fit}"
