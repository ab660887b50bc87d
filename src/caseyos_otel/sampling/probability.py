"""Consistent probability sampling: keep a trace if and only if its randomness R is at least the threshold T.

Pure. Follows OpenTelemetry's "TraceState: Probability Sampling" and W3C Trace Context level 2: numbers of 56 bits,
`T = (1 - p) * 2**56`, `R` from `ot=rv` or the low 56 bits of the trace id, `ot=th` on what is kept.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import TraceState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

NEVER: Final = 1 << 56
"""The threshold of probability 0: no randomness reaches it."""

ALWAYS: Final = 0
"""The threshold of probability 1."""

LOW_56_BITS: Final = NEVER - 1
"""Of a trace id: its randomness, where no `ot=rv` says another."""
_HEX_DIGITS: Final = 14
_MAX_VALUE_LENGTH: Final = 256
_MAX_ENTRIES: Final = 32
_KEY: Final = "ot"
_TH: Final = re.compile(r"[0-9a-f]{1,14}")
_RV: Final = re.compile(r"[0-9a-f]{14}")


def threshold(ratio: float) -> int:
    """The threshold T that keeps the share `ratio` (0 to 1) of all traces.

    Raises:
        ValueError: `ratio` is not a number from 0 to 1.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"sampling ratio {ratio!r} is not a number from 0 to 1; 0.1 keeps a tenth")
    return NEVER - round(ratio * NEVER)


def keep(randomness: int, threshold: int) -> bool:
    """Whether a trace of this randomness is kept at this threshold."""
    return randomness >= threshold


def adjusted_count(threshold: int) -> float:
    """How many traces one kept at this threshold stands for: `2**56 / (2**56 - T)`."""
    return NEVER / (NEVER - threshold)


def randomness(trace_id: int, tracestate: Mapping[str, str] | None = None) -> int:
    """The randomness R of a trace: `ot=rv` where the tracestate has one, else the low 56 bits of the trace id."""
    explicit = _sub_keys(tracestate).get("rv") if tracestate else None
    if explicit is not None and _RV.fullmatch(explicit):
        return int(explicit, 16)
    return trace_id & LOW_56_BITS


def randomness_of_event(event_id: UUID | str | bytes) -> int:
    """The randomness of a record that belongs to no trace: the first 56 bits of a hash of its event id.

    Not bits of the id itself: the low bits of a UUIDv7 may hold a counter, so that whole milliseconds would be kept
    or dropped together.
    """
    raw = event_id if isinstance(event_id, bytes) else str(event_id).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=7).digest())


def encode_threshold(threshold: int) -> str:
    """A threshold as `ot=th` spells it: hexadecimal, full precision, trailing zeros removed.

    Raises:
        ValueError: the threshold keeps nothing, so nothing kept can carry it.
    """
    if not 0 <= threshold < NEVER:
        raise ValueError(f"threshold {threshold} is outside 0 … 2**56 - 1 and cannot be written as ot=th")
    return f"{threshold:014x}".rstrip("0") or "0"


def parse_threshold(text: str) -> int | None:
    """The threshold that `text` spells (1 to 14 lower-case hexadecimal digits), or None if it spells none."""
    if not _TH.fullmatch(text):
        return None
    return int(text, 16) << 4 * (_HEX_DIGITS - len(text))


def threshold_of(tracestate: Mapping[str, str] | None) -> int | None:
    """The threshold that whoever sampled before us wrote into `ot=th`; None if it is absent or malformed."""
    written = _sub_keys(tracestate).get("th") if tracestate else None
    return None if written is None else parse_threshold(written)


def with_threshold(tracestate: TraceState | None, threshold: int | None) -> TraceState:
    """The tracestate with `ot=th` set (None: removed); other vendors' entries and other `ot` sub-keys stay.

    Entries that do not fit the limits of W3C (32 entries, 256 characters a value) are left out from the right.
    """
    if not tracestate:
        return bare_tracestate(threshold)
    sub_keys = _sub_keys(tracestate)
    sub_keys.pop("th", None)
    return _replaced(tracestate, _join(threshold, sub_keys))


@lru_cache(maxsize=64)
def bare_tracestate(threshold: int | None) -> TraceState:
    """The tracestate that holds the threshold alone; made once for each threshold."""
    return TraceState() if threshold is None else TraceState([(_KEY, f"th:{encode_threshold(threshold)}")])


def _replaced(tracestate: TraceState, value: str) -> TraceState:
    others = [(key, text) for key, text in tracestate.items() if key != _KEY]
    if not value:
        return TraceState(others)
    return TraceState([(_KEY, value), *others[: _MAX_ENTRIES - 1]])


def _sub_keys(tracestate: Mapping[str, str]) -> dict[str, str]:
    """The `key:value` members of the `ot` entry, in their order."""
    members = tracestate.get(_KEY, "").split(";")
    return {key: value for key, found, value in (member.partition(":") for member in members) if found}


def _join(threshold: int | None, sub_keys: Mapping[str, str]) -> str:
    members = [] if threshold is None else [f"th:{encode_threshold(threshold)}"]
    if "rv" in sub_keys:
        members.append(f"rv:{sub_keys['rv']}")
    members += [f"{key}:{value}" for key, value in sub_keys.items() if key != "rv"]
    while members and len(";".join(members)) > _MAX_VALUE_LENGTH:
        members.pop()
    return ";".join(members)
