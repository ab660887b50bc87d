"""The search behind `events where`: spool, what is set aside, database."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from caseyos_otel.errors import CaseyosOtelError
from caseyos_otel.events.registry import registry
from caseyos_otel.otlp.decode import MalformedRequestError, decode
from caseyos_otel.pipeline import set_aside
from caseyos_otel.settings import Settings
from caseyos_otel.spool import find

_UUIDS: Final = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Found = dict[str, Any]
"""One place where an event is: `state` (pending, delivered, stored, set_aside, quarantined), where, and what belongs to it."""


def places(in_force: Settings, event_id: str) -> tuple[list[Found], list[str]]:
    """Where an event is, and what could not be looked at."""
    root = in_force.spool_path
    everybody = [d.name for d in in_force.destinations() if d.on]
    found = [*_spooled(root, event_id, everybody), *_set_aside(root, event_id)]
    found += [{"state": "quarantined", "where": str(p)} for p in find.find_quarantined(root, event_id.encode("ascii"))]
    unseen = []
    try:
        found += _stored(in_force, event_id)
    except CaseyosOtelError as error:
        unseen.append(str(error))
    return found, unseen


def _spooled(root: Path, event_id: str, everybody: Collection[str]) -> Iterator[Found]:
    for place in find.find(root, event_id.encode("ascii"), everybody):
        appended = datetime.fromtimestamp(place.appended_at / 1e9, UTC).isoformat(timespec="seconds")
        wanted = _wanted(place.payload, event_id)
        common = {"where": str(place.segment), "since": appended}
        for state, names in (("pending", place.waiting), ("delivered", place.passed)):
            for name in names:
                if name in wanted:
                    yield {"state": state, "destination": name, **common}


def _wanted(frame: bytes, event_id: str) -> frozenset[str]:
    """The destinations that the event in a frame is for: only failures become Sentry issues. None, if it is not in there.

    The id may stand there as something else, an action's for one; of an event that nobody declared that cannot be told.
    """
    everyone, undeclared = frozenset({"outcomes", "sentry", "otlp"}), []
    try:
        records = decode(frame, registry, on_undeclared=lambda name, _: undeclared.append(name))
    except MalformedRequestError:
        return everyone
    failures = {record.event_id: record.failure for record in records}
    if event_id not in failures:
        return everyone if undeclared else frozenset()
    return everyone if failures[event_id] else everyone - {"sentry"}


def _set_aside(root: Path, event_id: str) -> Iterator[Found]:
    for path in set_aside.files(root):
        for entry in set_aside.entries(path):
            if event_id in (entry.get("event_id"), *_ids(entry)):
                kept: Found = {key: entry[key] for key in ("reason", "destination") if key in entry}
                yield {"state": "set_aside", "where": str(path), **kept}


def _ids(entry: dict[str, Any]) -> Iterator[str]:
    """Ids inside a frame whose event nobody declared: they stand there as text."""
    if "event_id" not in entry and "otlp" in entry:
        frame = base64.b64decode(str(entry["otlp"]))
        yield from (match.decode("ascii") for match in _UUIDS.findall(frame))


def _stored(in_force: Settings, event_id: str) -> Iterator[Found]:
    from sqlalchemy.exc import SQLAlchemyError

    from caseyos_otel.insights.stored import stored
    from caseyos_otel.storage import engine
    from caseyos_otel.storage.failure import translate

    url = engine.parse_url(in_force.effective_database_url)
    if (file := engine.file_of(url)) is not None and not file.exists():
        return  # looking must not make one
    try:
        row = stored(engine.create(url), event_id)
    except SQLAlchemyError as error:
        raise translate(error) from error
    if row is not None:
        times = {"occurred_at": row.occurred_at.isoformat(), "received_at": row.received_at.isoformat()}
        yield {"state": "stored", "where": f"table {row.table}", "event": row.event, **times}
