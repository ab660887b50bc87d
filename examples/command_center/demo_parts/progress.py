"""How far the day is: a bar on a terminal, else a line whenever something else is being done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int, str], None]


@contextmanager
def shown(*, bar: bool) -> Iterator[Report]:
    """A callable that takes how much is done, of how much, and what is being done."""
    if not bar:
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda done, total, label: progress.update(task, completed=done, total=total, description=label)


class _Lines:
    def __init__(self) -> None:
        self._label = ""

    def __call__(self, done: int, total: int, label: str) -> None:
        if label != self._label:
            self._label = label
            print(f"{label} ({done} of {total} recommendations decided)", file=sys.stderr, flush=True)
