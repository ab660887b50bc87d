"""What was set aside goes back into the spool, after a fix: declared meanwhile, accepted now, or mended by hand."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.events import declared
from caseyos_otel.events.field import parse_timestamp
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import MalformedRequestError, decode
from caseyos_otel.otlp.encode import RequestEncoder
from caseyos_otel.pipeline import announcement, set_aside
from caseyos_otel.settings import Settings
from caseyos_otel.spool import quarantine
from caseyos_otel.spool.adopt import REPLAY
from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import Record, scan
from caseyos_otel.spool.space import FAILURES, OUTCOMES, Space
from caseyos_otel.spool.writer import SpoolWriter

FED_BY_SPOOL: Final = ("outcomes", "sentry", "otlp")
"""The destinations that read the spool."""
INTAKE: Final = "intake"
"""What reads a gateway's spool besides: sets aside what nobody declared, measures, writes the log, feeds Sentry's logs."""
Progress = Callable[[int], object]


@dataclass(slots=True)
class Replayed:
    """How many events went back into the spool, and how many did not, by reason."""

    back: int = 0
    kept: Counter[str] = field(default_factory=Counter)


def replay(in_force: Settings, *, dry_run: bool = False, progress: Progress = lambda n: None) -> Replayed:
    """Put back what this release can deliver; the rest stays where it is. Again: nothing is there twice, ids absorb it.

    Raises:
        SpoolUnavailable: the spool takes nothing; everything stays set aside.
    """
    registry.load_entry_points()
    declared.load_or_report(in_force.hooks, registry)
    root = in_force.spool_path
    done = Replayed()
    with ExitStack() as open_, set_aside.claimed(root) as claimed:
        back = _Back(root, in_force, open_, dry_run)
        for path in claimed:
            left = list(_entries(path, back, done, progress))
            back.sync()
            if not dry_run:
                set_aside.rewrite(path, left)
        for path in quarantine.files(root):
            _quarantined(path, back, done)
            progress(1)
    return done


def count(in_force: Settings) -> int:
    """Entries and quarantined pieces: what `replay` will look at."""
    root = in_force.spool_path
    return sum(1 for path in set_aside.files(root) for _ in set_aside.entries(path)) + len(quarantine.files(root))


class _Back:
    """Writers into the spool: one for every destination, and one for each that alone refused something."""

    def __init__(self, root: Path, in_force: Settings, open_: ExitStack, dry_run: bool) -> None:
        self._root = root
        self._space = Space(root, in_force.spool_max_bytes)
        self._on = [d.name for d in in_force.destinations() if d.on and d.name in FED_BY_SPOOL]
        self._open = open_
        self.dry_run = dry_run
        self._writers: dict[str, SpoolWriter] = {}

    def put(self, series: str, frame: bytes, destination: str) -> None:
        """Append a frame for one destination (empty: for all)."""
        if self.dry_run:
            return
        if destination not in self._writers:
            self._writers[destination] = self._open.enter_context(self._writer(destination))
        self._writers[destination].append(series, frame)

    def sync(self) -> None:
        """Force it to disk: what was set aside is forgotten next."""
        for writer in self._writers.values():
            writer.sync()

    @contextmanager
    def _writer(self, destination: str) -> Iterator[SpoolWriter]:
        writer = SpoolWriter(self._root, space=self._space, on_problem=_told)
        writer.role = REPLAY
        writer.wait_for([destination] if destination else self._on)
        try:
            yield writer
        finally:
            if destination:
                _pass_by(writer, [name for name in (*FED_BY_SPOOL, INTAKE) if name != destination])
            writer.sync()
            writer.close()


def _pass_by(writer: SpoolWriter, others: Sequence[str]) -> None:
    """The other destinations have these records already: their cursors stand behind them."""
    if (own := writer.own) is not None:
        ends = {name: own.size(name) for name in own.segments()}
        for name in others:
            own.advance(name, ends)


def _entries(path: Path, back: _Back, done: Replayed, progress: Progress) -> Iterator[dict[str, Any]]:
    """Put back what can be; the entries that are left."""
    for entry in set_aside.entries(path):
        found = _records(entry)
        if isinstance(found, str):
            done.kept[found] += 1
            yield entry
        else:
            destination = str(entry.get("destination", ""))
            for record in found:
                series = OUTCOMES if record.outcome else FAILURES
                back.put(series, _frame(record), destination if destination in FED_BY_SPOOL else "")
            done.back += len(found)
        progress(1)


def _records(entry: Mapping[str, Any]) -> list[EventRecord] | str:
    """The events of an entry, or why there are none."""
    if "otlp" in entry:
        return _from_frame(str(entry["otlp"]))
    fields, event_id = entry.get("fields"), entry.get("event_id")
    if not isinstance(fields, dict) or not isinstance(event_id, str):
        return "not an entry"
    if (declaration := registry.get(str(entry.get("event")))) is None:
        return "undeclared"
    values, problems = declaration.bind(fields)
    happened = _nanoseconds(fields.get("timestamp")) or _nanoseconds(entry.get("timestamp")) or time.time_ns()
    return [
        EventRecord(
            declaration,
            values,
            event_id=event_id,
            timestamp=happened,
            observed_timestamp=happened,
            invalid_fields=tuple(dict.fromkeys(problem.field for problem in problems)),
        )
    ]


def _nanoseconds(text: Any) -> int:
    moment = parse_timestamp(text)
    return 0 if moment is None else int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


def _from_frame(text: str) -> list[EventRecord] | str:
    undeclared: list[str] = []
    try:
        records = decode(base64.b64decode(text), registry, on_undeclared=lambda name, _: undeclared.append(name))
    except (MalformedRequestError, ValueError):
        return "malformed"
    return "undeclared" if undeclared or not records else records


def _frame(record: EventRecord) -> bytes:
    encoder = RequestEncoder({}, announcement.SCOPE, announcement.version(), announcement.SCHEMA_URL)
    return encoder.encode([record])


def _quarantined(path: Path, back: _Back, done: Replayed) -> None:
    """Put back the records in a piece that are sound (somebody mended it); what is damaged stays."""
    data = path.read_bytes()
    found = list(scan(data))
    sound = [item for item in found if isinstance(item, Record)]
    done.back += len(sound)
    done.kept["damaged"] += len(found) - len(sound)
    for item in sound:
        back.put(OUTCOMES if f".{OUTCOMES}-" in path.name else FAILURES, item.payload, "")
    back.sync()
    if len(sound) == len(found) and not back.dry_run:
        path.unlink()


def _told(problem: Problem) -> None:
    diagnostics.warn(f"spool: {problem.path}: {problem.kind}: {problem.detail}")
