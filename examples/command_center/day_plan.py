"""What happens on a working day: who writes in, and what a person would do. The seed alone decides; pure functions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]

SIGNALS = (
    ("hubspot", "form_submitted"),
    ("calendar", "meeting_requested"),
    ("gmail", "email_replied"),
    ("hubspot", "deal_stage_changed"),
    ("webhook", "trial_expiring"),
)
NO_ACTION_SIGNAL = ("webhook", "newsletter_unsubscribed")
FIRST_NAMES = ("john", "maria", "wei", "amara", "lukas", "priya", "sofia", "omar", "hannah", "diego", "yuki", "nora")
LAST_NAMES = ("miller", "garcia", "chen", "okafor", "weber", "patel", "rossi", "haddad", "olsen", "silva", "tanaka")
COMPANIES = ("acmecorp", "globexcorp", "initechcorp", "umbracorp", "hoolicorp", "vandelaycorp", "starkcorp")
LATER_STAGES = ("SQL", "Opportunity", "Proposal", "Closed Won")
DISMISS_REASONS = ("not_relevant", "already_done", "bad_timing", None)
ROLLBACK_REASONS = ("user_requested", "failed_validation", "duplicate_detected")
SENTIMENTS = ("positive", "positive", "neutral", "negative", None)
DELIVERABLES = ("onboarding_doc", "security_review", "proposal", "migration_plan")

ACCEPTED_SHARE = 0.7
DRY_RUN_SHARE, EMPTY_SUBJECT_SHARE, MANUAL_SHARE = 0.03, 0.03, 0.03
ROLLED_BACK_SHARE = 1 / 16
REPLIED_SHARE = 0.4
TOLD_TWICE_SHARE = 0.1
ADVANCED_SHARE = 0.3


def signals(recommendations: int, seed: int) -> list[Json]:
    """Signals for so many recommendations, each about somebody else; one in twenty more asks for nothing."""
    kinds = [SIGNALS[number % len(SIGNALS)] for number in range(recommendations)]
    kinds += [NO_ACTION_SIGNAL] * max(1, recommendations // 20)
    randomness = random.Random(seed)
    day = [
        {"source": source, "signal_type": kind, "contact_email": f"{_name(n)}@{randomness.choice(COMPANIES)}.com"}
        for n, (source, kind) in enumerate(kinds)
    ]
    randomness.shuffle(day)
    return day


def _name(number: int) -> str:
    again, person = divmod(number, len(FIRST_NAMES) * len(LAST_NAMES))
    first, last = divmod(person, len(LAST_NAMES))
    return f"{FIRST_NAMES[first]}.{LAST_NAMES[last]}{again or ''}"


@dataclass(frozen=True, slots=True)
class Person:
    """What the user would do with the moves about one person, whenever asked: independent of the order of things."""

    seed: int
    email: str

    def _drawn(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed} {purpose} {self.email}")

    def accepts(self, action_type: str) -> bool:
        """Seven of ten moves are accepted, and every meeting, so that the calendar's breaker has work."""
        return action_type == "book_meeting" or self._drawn("accept").random() < ACCEPTED_SHARE

    def dismiss_reason(self) -> str | None:
        """The reason given for a dismissal, if any."""
        return self._drawn("dismiss").choice(DISMISS_REASONS)

    def orders(self) -> list[Json]:
        """The executions in order: some are tried out dry or with an empty subject first, some are done by hand."""
        habit = self._drawn("execute").random()
        if habit < DRY_RUN_SHARE:
            return [{"execution_mode": "dry_run"}, {}]
        if habit < DRY_RUN_SHARE + EMPTY_SUBJECT_SHARE:
            return [{"subject": ""}, {}]
        return [{"execution_mode": "manual"}] if habit > 1 - MANUAL_SHARE else [{}]

    def rolls_back(self) -> bool:
        """Whether an executed action is undone."""
        return self._drawn("undo").random() < ROLLED_BACK_SHARE

    def rollback_reason(self) -> str:
        """Why it is undone."""
        return self._drawn("reason").choice(ROLLBACK_REASONS)

    def replies(self) -> bool:
        """Whether a message is answered."""
        return self._drawn("reply").random() < REPLIED_SHARE

    def reply(self, message_id: str) -> list[Json]:
        """The news of a reply some hours later; one in ten is told twice, and must count once."""
        drawn = self._drawn("words")
        received_at = datetime.now(UTC) + timedelta(hours=drawn.uniform(0.2, 20))
        sentiment = drawn.choice(SENTIMENTS)
        news = {"message_id": message_id, "received_at": received_at.isoformat(), "reply_sentiment": sentiment}
        return [news] * (2 if drawn.random() < TOLD_TWICE_SHARE else 1)

    def advances(self) -> bool:
        """Whether HubSpot tells of a change of the person's deal."""
        return self._drawn("advance").random() < ADVANCED_SHARE

    def new_stage(self) -> str:
        """The stage the deal is in then; not always further than it was."""
        return self._drawn("stage").choice(LATER_STAGES)


def deliverables(recommendations: int) -> list[Json]:
    """What is promised to clients; one in five is late."""
    return [
        {
            "client": COMPANIES[number % len(COMPANIES)].removesuffix("corp").title() + " Corp",
            "deliverable_type": DELIVERABLES[number % len(DELIVERABLES)],
            "due_at": (datetime.now(UTC) + timedelta(days=-1 if number % 5 == 4 else 2)).isoformat(),
        }
        for number in range(max(1, recommendations // 50))
    ]
