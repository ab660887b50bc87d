"""Something else between any two steps (opcodes of Python) of a piece of work."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupted(within: str, work: Callable[[], object], at: int, between: Callable[[], object]) -> bool:
    """Do the work, and something else before its step `at` in files whose path has `within`; False if it has fewer."""
    steps = itertools.count()
    reached = False

    def step(frame: FrameType, event: str, _: object) -> Any:
        nonlocal reached
        if event == "opcode" and next(steps) == at:
            reached = True
            sys.settrace(None)
            between()
        return None if reached else step

    def enter(frame: FrameType, _event: str, _: object) -> Any:
        if within not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        return step

    sys.settrace(enter)
    try:
        work()
    finally:
        sys.settrace(None)
    return reached
