"""What the trace table counts: decisions, evictions, late items, losses, and how long deciding took."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from caseyos_otel.sampling.outbox import Losses
from caseyos_otel.sampling.trace import SPANS

_MOST_DURATIONS: Final = 10_000


class Tally:
    """Not locked: its owner is.

    Attributes:
        evictions: Traces decided early, by the bound (`traces`, `items`, `trace_items`, `age`) that they met.
        late: Spans and records that came after the decision about their trace, by whether that was to keep it.
        losses: Items dropped since `take`, by (destination, event name); `lost_spans` of them apart, as they are most.
        durations: Seconds from a trace's first span to its decision, since `take`; the last 10,000.
        times: Whether somebody wants durations.
        decisions: How many decisions kept (True) or dropped (False) a trace, by reason.
    """

    def __init__(self) -> None:
        self.decisions: Counter[tuple[bool, str]] = Counter()
        self.evictions: Counter[str] = Counter()
        self.late: Counter[bool] = Counter()
        self.losses: Losses = Counter()
        self.lost_spans = 0
        self.durations: deque[float] = deque(maxlen=_MOST_DURATIONS)
        self.times = False

    def take(self) -> tuple[Losses, deque[float]]:
        """Losses and durations since the last time."""
        losses, durations = self.losses, self.durations
        losses[SPANS, ""] += self.lost_spans
        self.losses, self.lost_spans, self.durations = Counter(), 0, deque(maxlen=_MOST_DURATIONS)
        return losses, durations
