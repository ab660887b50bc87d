"""Policies: small questions about a trace. The first one with an answer decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

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


class Probability:
    """Keeps a trace if and only if its randomness reaches `threshold`; always has an answer."""

    def __init__(self, threshold: int) -> None:
        self.threshold: Final = threshold
        # Its two answers, made once: nearly every trace gets one of them.
        self.kept: Final = Decision(True, "probability", threshold)
        self.dropped: Final = Decision(False, "probability", threshold)

    def evaluate(self, trace: Trace) -> Decision | None:
        """Keep iff R ≥ T."""
        return self.of(trace.randomness)

    def of(self, randomness: int) -> Decision:
        """The decision about a trace or a record of this randomness."""
        return self.kept if randomness >= self.threshold else self.dropped


def default_chain(threshold: int, *, slow_ms: float | None = None, own: Iterable[Policy] = ()) -> tuple[Policy, ...]:
    """Errors, then a service's own policies, then `slow` where it is asked for, then probability."""
    slow: Sequence[Policy] = () if slow_ms is None else (Slow(slow_ms),)
    return (Errors(), *own, *slow, Probability(threshold))


OnError = Callable[[str, Exception], object]
"""Called as (what was being done, error) where a policy raises."""


def decider(policies: Iterable[Policy], on_error: OnError) -> Callable[[Trace], Decision]:
    """`decide` with these policies; written out where they are the default chain, which nearly every trace asks."""
    chain = tuple(policies)
    if not (len(chain) == 2 and type(chain[0]) is Errors and type(chain[1]) is Probability):
        return lambda trace: decide(trace, chain, on_error)
    threshold, kept, dropped = chain[1].threshold, chain[1].kept, chain[1].dropped

    def default(trace: Trace) -> Decision:
        chosen = ERROR if trace.failed else kept if trace.randomness >= threshold else dropped
        return chosen if trace.upstream is BEGAN_HERE else honouring_upstream(chosen, trace)

    return default


def decide(trace: Trace, policies: Iterable[Policy], on_error: OnError) -> Decision:
    """What the first policy with an answer says, held against what came in with the trace.

    Pure for the default chain: it depends on R, T, the incoming flag and threshold, and failures alone. A policy that
    raises has no answer. Without any answer the trace is kept. No policy can drop a failure.
    """
    chosen = _first_answer(trace, policies, on_error)
    if trace.failed and not chosen.failure:
        chosen = ERROR
    return chosen if trace.upstream is BEGAN_HERE else honouring_upstream(chosen, trace)


def _first_answer(trace: Trace, policies: Iterable[Policy], on_error: OnError) -> Decision:
    for policy in policies:
        try:
            answer = policy.evaluate(trace)
            if answer is not None:
                return _honest(answer, trace)
        except Exception as error:
            on_error(f"evaluating the sampling policy {type(policy).__name__}", error)
    return NO_ANSWER


def _honest(answer: Decision, trace: Trace) -> Decision:
    """A trace that is kept below the threshold it claims was kept by something else: no probability is claimed then."""
    if not isinstance(answer, Decision):
        raise TypeError(f"a policy returns a Decision or None, not {type(answer).__name__}")
    if answer.keep and answer.threshold is not None and trace.randomness < answer.threshold:
        return replace(answer, threshold=None)
    return answer


def honouring_upstream(decision: Decision, trace: Trace) -> Decision:
    """The decision after the caller's: an unsampled trace stays for failures only, a threshold is never lowered."""
    upstream = trace.upstream
    if not decision.keep:
        return decision
    if decision.failure:
        return replace(decision, threshold=threshold_of_failure(decision.threshold, trace))
    if not upstream.sampled:
        return Decision(False, decision.reason, None)
    if upstream.threshold is None or decision.threshold is None:
        return replace(decision, threshold=None)
    combined = max(decision.threshold, upstream.threshold)
    return replace(decision, keep=probability.keep(trace.randomness, combined), threshold=combined)


def threshold_of_failure(own: int | None, trace: Trace) -> int | None:
    """A failure is kept whatever came in, so its probability is 1 unless the caller stated one.

    None is claimed where a head sampler may have dropped others like it, nor for a stated threshold that the trace's
    randomness does not reach: it contradicts itself.
    """
    stated = trace.upstream.threshold
    if own is None or stated is None:
        return own if trace.upstream.recorded else None
    combined = max(own, stated)
    return combined if probability.keep(trace.randomness, combined) else None
