"""Policies of the service: what its packages name in the entry point group `caseyos_otel_policies`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.sampling.policy import Policy

GROUP: Final = "caseyos_otel_policies"


def own_policies() -> tuple[Policy, ...]:
    """The policies, in the order of their names. A broken one is reported, never raised."""
    try:
        found = sorted(entry_points(group=GROUP), key=lambda each: each.name)
    except Exception as error:
        diagnostics.fault(f"entry points of {GROUP} cannot be read: {error}", error)
        return ()
    return tuple(policy for each in found for policy in _load(each))


def _load(entry_point: EntryPoint) -> Iterator[Policy]:
    try:
        loaded: Any = entry_point.load()
        policy = loaded() if isinstance(loaded, type) else loaded
    except (Exception, SystemExit) as error:
        diagnostics.fault(f"entry point {entry_point.name!r} of {GROUP} cannot be used: {error}", error)
        return
    if callable(getattr(policy, "evaluate", None)):
        yield policy
    else:
        diagnostics.warn(
            f"entry point {entry_point.name!r} of {GROUP} ({entry_point.value}) has no method evaluate(trace);"
            " name a class whose instances have one"
        )
