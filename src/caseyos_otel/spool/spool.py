"""The spool of one process: its writer, one reader a destination, and the directories that dead processes left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from caseyos_otel.spool.adopt import Adoption
from caseyos_otel.spool.directory import ABANDON_AFTER, NAME, SegmentDirectory
from caseyos_otel.spool.problem import OnProblem
from caseyos_otel.spool.reader import SpoolReader
from caseyos_otel.spool.space import FAILURES, MAX_BYTES, Space
from caseyos_otel.spool.status import Pending, oldest_age, pending_in, total
from caseyos_otel.spool.wakeup import Wakeup
from caseyos_otel.spool.writer import SEGMENT_BYTES, SpoolWriter


class Spool:
    """What one process owns of the spool. Starts no thread: `adopt` and the writer's `sync` and `look_around` want a
    periodic caller.

    `role`: with one, it adopts only what processes of the same role left, or a replay; without, what anybody left. A
    gateway writes its log lines out of the spool, a service wrote them before: a gateway would write a service's twice.
    """

    def __init__(
        self,
        directory: Path,
        *,
        on_problem: OnProblem,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = MAX_BYTES,
        abandon_after: float = ABANDON_AFTER,
        role: str = "",
    ) -> None:
        self.directory = directory
        self.space = Space(directory, max_bytes)
        self._segment_bytes = min(segment_bytes, max(max_bytes // 16, 1))
        self.writer = SpoolWriter(directory, segment_bytes=self._segment_bytes, space=self.space, on_problem=on_problem)
        self.writer.make_room = self._evict_failures
        self.writer.role = role
        self.adoption = Adoption(directory, role=role, abandon_after=abandon_after, on_problem=on_problem)
        self._abandon_after = abandon_after
        self._readers: dict[str, SpoolReader] = {}

    def reader(self, destination: str) -> SpoolReader:
        """The reader of `destination`; from now on every segment waits for it. Raises ValueError for a bad name."""
        if not NAME.fullmatch(destination):
            raise ValueError(f"destination {destination!r}; accepted are lower-case names such as 'outcomes'")
        if destination not in self._readers:
            self._readers[destination] = SpoolReader(
                destination, partial(self._directories_for, destination), self._reap
            )
            self.writer.notify(self._readers[destination].appended)
            self.writer.wait_for(self._readers)
            self.adoption.wait_for(self._readers)
        return self._readers[destination]

    def directories(self) -> tuple[SegmentDirectory, ...]:
        """What this process owns now: adopted ones, then its own."""
        return (*self.adoption.directories, *self._own())

    def _directories_for(self, destination: str) -> tuple[SegmentDirectory, ...]:
        return (*self.adoption.held_for(destination), *self._own())

    def _own(self) -> tuple[SegmentDirectory, ...]:
        return () if (own := self.writer.own) is None else (own,)

    def adopt(self) -> int:
        """Take over directories whose owner is dead, tidy what was taken before; how many were taken now.

        For every destination of this process, so call it after the readers are made, then every few seconds. A
        directory that holds nothing for them, and waits for others, is let go for a process that knows those. Of very
        many the rest is taken as these are delivered: see `Adoption`.
        """
        own = self.writer.own
        taken = self.adoption.run(frozenset(self._readers), None if own is None else own.path)
        for name, reader in self._readers.items():
            # not only what is new: what was held for others before, what could not be read for want of descriptors
            if self._directories_for(name):
                reader.appended.set()
        return taken

    def relieve(self) -> None:
        """Let the oldest failures go before they reach their bound, so that no caller waits for it. Call it each second."""
        self.space.look()
        if too_many := self.space.lacks(FAILURES, self._segment_bytes):
            self._evict_failures(too_many)

    def oldest_age(self, destination: str) -> float:
        """Seconds that the oldest record here has waited for a destination; 0 where none waits."""
        return max((oldest_age(directory.path, destination) for directory in self.directories()), default=0.0)

    def pending(self, destination: str) -> Pending:
        """What waits for `destination` in the directories of this process."""
        return total(pending_in(directory.path, destination) for directory in self.directories())

    def close(self) -> None:
        """Let everything go. What is delivered is removed; the rest stays for the next process."""
        self.writer.close()
        self.adoption.close()

    def after_fork_in_child(self) -> None:
        """Everything that was owned stays the parent's. The readers stay, and wait for the new writer."""
        self.writer.after_fork_in_child()
        self.adoption.after_fork_in_child()
        for reader in self._readers.values():
            reader.appended = Wakeup()
            self.writer.notify(reader.appended)

    # -- bound ---------------------------------------------------------------------------------------------------

    def _evict_failures(self, wanted: int) -> None:
        """Free `wanted` bytes, oldest failures first, as far as this process has some."""
        freed = self._evict_complete(wanted)
        if freed < wanted:
            self.writer.end_segment(FAILURES)
            self._evict_complete(wanted - freed)

    def _evict_complete(self, wanted: int) -> int:
        freed = 0
        found = [(at, directory, name) for directory in self.directories() for at, name in directory.complete(FAILURES)]
        for _, directory, segment in sorted(found, key=lambda item: (item[0], item[2])):
            if freed >= wanted:
                break
            freed += directory.evict(segment)
        self.space.used -= freed
        return freed

    def _reap(self, directory: SegmentDirectory) -> None:
        directory.reap(frozenset(self._readers), self._abandon_after)
