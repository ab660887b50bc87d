"""How far recommendations get (specification, *Outcome Conversion Funnel*): one query, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Engine, Select, Table, Text, cast, distinct, func, select, union_all

from caseyos_otel.storage.tables import events, outcome_events

_RECOMMENDED: Final = ("recommendation_generated", "recommendation_accepted")
_EXECUTED: Final = "action_executed"
_CAME_OF_IT: Final = ("outcome_reply_received", "outcome_meeting_booked", "outcome_deal_advanced")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the funnel: how many came so far, and their share of the step before (None where that is empty)."""

    name: str
    count: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Funnel:
    """Counts of recommendations, of actions executed for them, and of what came of those, each counted once.

    A rate is the share of the step before and None where that is empty. It can exceed 1: a meeting may be booked that
    nobody replied to before, and one that was recommended last week may be booked in this one.

    Example:
        >>> Funnel(recommendations=100, accepted=70, executed=70, replied=28, booked=17, advanced=8).reply_rate
        0.4
    """

    recommendations: int = 0
    accepted: int = 0
    executed: int = 0
    replied: int = 0
    booked: int = 0
    advanced: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted of those generated."""
        return _share(self.accepted, self.recommendations)

    @property
    def execution_rate(self) -> float | None:
        """Executed of those accepted (draft → sent)."""
        return _share(self.executed, self.accepted)

    @property
    def reply_rate(self) -> float | None:
        """Replied of those executed (sent → replied)."""
        return _share(self.replied, self.executed)

    @property
    def booking_rate(self) -> float | None:
        """Booked of those replied (replied → meeting booked)."""
        return _share(self.booked, self.replied)

    @property
    def conversion_rate(self) -> float | None:
        """Advanced of those booked (meeting → deal advanced)."""
        return _share(self.advanced, self.booked)

    def steps(self) -> tuple[Step, ...]:
        """The funnel from top to bottom, the first step without a rate."""
        return (
            Step("recommendations", self.recommendations, None),
            Step("accepted", self.accepted, self.acceptance_rate),
            Step("executed", self.executed, self.execution_rate),
            Step("replied", self.replied, self.reply_rate),
            Step("booked", self.booked, self.booking_rate),
            Step("advanced", self.advanced, self.conversion_rate),
        )


def funnel(engine: Engine, *, since: datetime | None = None, until: datetime | None = None) -> Funnel:
    """The funnel of what occurred from `since` up to, not including, `until` (aware; None: no limit), in one query.

    A recommendation, action or outcome that was told twice counts once. Executed are actions that succeeded and were
    no dry run. Where an event names no recommendation, it stands for itself.

    Raises:
        ValueError: `since` or `until` has no time zone.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.utcoffset() is None:
            raise ValueError(f"{name}={moment.isoformat()} has no time zone; for example datetime.now(UTC)")
    with engine.connect() as connection:
        counts = {row.event: row.times for row in connection.execute(_query(since, until))}
    replied, booked, advanced = (counts.get(event, 0) for event in _CAME_OF_IT)
    generated, accepted = (counts.get(event, 0) for event in _RECOMMENDED)
    return Funnel(generated, accepted, counts.get(_EXECUTED, 0), replied, booked, advanced)


def _query(since: datetime | None, until: datetime | None) -> Select[Any]:
    performed = func.coalesce(events.c.properties["execution_mode"].as_string(), "") != "dry_run"
    counted = union_all(
        _subjects(events, ["recommendation_id"], _RECOMMENDED, since, until),
        _subjects(events, ["action_id"], [_EXECUTED], since, until).where(~events.c.failure, performed),
        _subjects(outcome_events, ["recommendation_id", "action_id", "deal_id"], _CAME_OF_IT, since, until),
    ).subquery()
    return select(counted.c.event, func.count(distinct(counted.c.subject)).label("times")).group_by(counted.c.event)


def _subjects(
    table: Table, ids: Iterable[str], names: Iterable[str], since: datetime | None, until: datetime | None
) -> Select[Any]:
    subject = func.coalesce(*(table.c[name] for name in ids), cast(table.c.event_id, Text)).label("subject")
    conditions: list[ColumnElement[bool]] = [table.c.event.in_(names)]
    if since is not None:
        conditions.append(table.c.occurred_at >= since)
    if until is not None:
        conditions.append(table.c.occurred_at < until)
    return select(table.c.event, subject).where(*conditions)


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
