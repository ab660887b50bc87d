"""What was decided about a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from caseyos_otel.sampling import probability

FAILURE_REASONS: Final = frozenset({"error", "late_error"})


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about a trace, and why.

    Attributes:
        keep: Whether what belongs to the trace leaves.
        reason: `error`, `probability`, `late_error`, `overflow`, `shutdown` or `policy:<name>`.
        threshold: The probability with which such a trace is kept, as a 56-bit threshold (0: always). None: unknown,
            because somebody before us sampled and did not say how much.
        incomplete: Part of the trace came before or may come after what was decided on.
        failure: Whether a failure kept the trace; a collector's sampler is then asked to keep it too.
    """

    keep: bool
    reason: str
    threshold: int | None
    incomplete: bool = False
    failure: bool = field(init=False)

    def __post_init__(self) -> None:
        """Looked at for every span that is kept: it follows from the rest, once."""
        object.__setattr__(self, "failure", self.keep and self.reason in FAILURE_REASONS)


ERROR: Final = Decision(True, "error", probability.ALWAYS)
LATE_ERROR: Final = Decision(True, "late_error", probability.ALWAYS)
NO_ANSWER: Final = Decision(True, "policy:none", probability.ALWAYS)
