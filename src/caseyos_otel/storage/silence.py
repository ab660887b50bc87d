"""A connection to PostgreSQL that waits only so long for an answer.

A server that is frozen, or a proxy that has lost it, still acknowledges packets: no keepalive notices.
"""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic
from typing import Any, Self

import psycopg


class ImpatientConnection(psycopg.Connection[Any]):
    """Closes itself, and raises OperationalError, when nothing has come for `answer_within_s` seconds."""

    answer_within_s: float

    @classmethod
    def within(cls, answer_within_s: float, *args: Any, **arguments: Any) -> Self:
        """`psycopg.connect`, which has a limit of its own, `connect_timeout`."""
        made = cls.connect(*args, **arguments)
        made.answer_within_s = answer_within_s
        return made

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **more: Any) -> Any:
        """psycopg's, of everything that waits for the server."""
        return super().wait(self._watched(gen), *args, **more)

    def _watched(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Passes on what psycopg asks and is told: a ready socket, or after each interval none."""
        heard_at = monotonic()
        try:
            wanted = next(steps)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = monotonic()
                elif monotonic() - heard_at >= self.answer_within_s:
                    self.close()
                    raise psycopg.OperationalError(f"no answer for {self.answer_within_s:g} s")
                wanted = steps.send(ready)
        except StopIteration as done:
            return done.value
