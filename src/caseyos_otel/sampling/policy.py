"""Policies: small questions about a trace. The first one with an answer decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from caseyos_otel import diagnostics
from caseyos_otel.sampling import probability
from caseyos_otel.sampling.decision import ERROR, NO_ANSWER, Decision
from caseyos_otel.sampling.trace import BEGAN_HERE

if TYPE_CHECKING:
    from caseyos_otel.sampling.trace import Trace


class Policy(Protocol):
    """One rule. Returns a decision, or None to leave it to the next rule.

    A policy must have an honest threshold: the probability with which it keeps a trace that it matches. A rate limit
    has none. It runs while the trace table is locked: look at the trace, do nothing else.

    Example:
        >>> class Checkout:
        ...     def evaluate(self, trace):
        ...         spans = trace.spans
        ...         return Decision(True, "policy:checkout", 0) if any(s.name == "checkout" for s in spans) else None
    """

    def evaluate(self, trace: Trace) -> Decision | None:
        """The decision about `trace`, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Errors:
    """Keeps every trace with a failure."""

    def evaluate(self, trace: Trace) -> Decision | None:
        """Keep with probability 1 if something in the trace failed."""
        return ERROR if trace.failed else None


@dataclass(frozen=True, slots=True)
class Slow:
    """Keeps every trace that took at least `milliseconds` from its first span's start to its last span's end."""

    milliseconds: float

    def evaluate(self, trace: Trace) -> Decision | None:
        """Keep with probability 1 if the spans seen so far cover that time."""
        if trace.duration_ms < self.milliseconds:
            return None
        return Decision(True, "policy:slow", probability.ALWAYS)


@dataclass(frozen=True, slots=True)
class Probability:
    """Keeps a trace if and only if its randomness reaches `threshold`; always has an answer."""

    threshold: int

    def evaluate(self, trace: Trace) -> Decision | None:
        """Keep iff R ≥ T."""
        return Decision(probability.keep(trace.randomness, self.threshold), "probability", self.threshold)


def default_chain(threshold: int, *, slow_ms: float | None = None, own: Iterable[Policy] = ()) -> tuple[Policy, ...]:
    """Errors, then a service's own policies, then `slow` where it is asked for, then probability."""
    slow: Sequence[Policy] = () if slow_ms is None else (Slow(slow_ms),)
    return (Errors(), *own, *slow, Probability(threshold))


def decide(trace: Trace, policies: Iterable[Policy]) -> Decision:
    """What the first policy with an answer says, held against what came in with the trace.

    Pure for the default chain: it depends on R, T, the incoming flag and threshold, and failures alone. A policy that
    raises has no answer. Without any answer the trace is kept. No policy can drop a failure.
    """
    answers = (_answer(policy, trace) for policy in policies)
    chosen = next((answer for answer in answers if answer is not None), NO_ANSWER)
    return honouring_upstream(ERROR if trace.failed and not chosen.failure else chosen, trace)


def _answer(policy: Policy, trace: Trace) -> Decision | None:
    try:
        return policy.evaluate(trace)
    except Exception as error:
        diagnostics.swallowed(f"evaluating the sampling policy {type(policy).__name__}", error)
        return None


def honouring_upstream(decision: Decision, trace: Trace) -> Decision:
    """The decision after the caller's: an unsampled trace stays for failures only, a threshold is never lowered."""
    upstream = trace.upstream
    if not decision.keep or upstream is BEGAN_HERE:
        return decision
    if decision.failure:
        return replace(decision, threshold=_threshold_of_failure(decision.threshold, trace))
    if not upstream.sampled:
        return Decision(False, decision.reason, None)
    if upstream.threshold is None or decision.threshold is None:
        return replace(decision, threshold=None)
    combined = max(decision.threshold, upstream.threshold)
    return replace(decision, keep=probability.keep(trace.randomness, combined), threshold=combined)


def _threshold_of_failure(own: int | None, trace: Trace) -> int | None:
    """A failure is kept whatever came in, so its probability is 1 unless the caller stated one.

    A stated threshold that the trace's randomness does not reach contradicts itself; then none is claimed.
    """
    stated = trace.upstream.threshold
    if own is None or stated is None:
        return own
    combined = max(own, stated)
    return combined if probability.keep(trace.randomness, combined) else None
