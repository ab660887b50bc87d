"""What cannot be delivered as it is, kept with its reason until somebody mends it: undeclared events, refused records."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import uuid_utils

from caseyos_otel import diagnostics
from caseyos_otel.diagnostics import drops, guard
from caseyos_otel.errors import Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.structured_log import nested, rfc3339_of

NAME: Final = "set-aside.jsonl"
_ALL: Final = "set-aside*.jsonl"
MOST_BYTES: Final = 16 * 2**20
"""Size at which nothing more is set aside. What nobody declared is counted alone then; what a destination refuses waits."""


class SetAsideUnavailable(Unavailable):  # a state, like errors.Unavailable
    """A refused record can be kept nowhere but where it is."""


class SetAside:
    """A file of JSON lines in the spool directory, mode 0600. Fields of an undeclared event stay here: they leave for nowhere.

    An entry is written whole before the spool's cursor moves on. `encode` makes the OTLP frame of a record, which is what
    `caseyos-otel spool replay` puts back into the spool.
    """

    def __init__(self, directory: Path, encode: Callable[[EventRecord], bytes]) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._encode = encode

    def undeclared(self, name: str, fields: Mapping[str, Any]) -> None:
        """An event that nobody declared, with the id and the time that it will have when somebody does."""
        mark = {"event_id": str(uuid_utils.uuid7()), "timestamp": rfc3339_of(time.time_ns())}
        self._keep({"reason": "undeclared", "event": name, **mark, "fields": fields})

    def undeclared_frame(self, name: str, frame: bytes) -> None:
        """A frame whose event this process does not know (another release's)."""
        drops.count("undeclared", event=name)
        self._keep({"reason": "undeclared", "event": name, "otlp": _text(frame)})

    def malformed_frame(self, frame: bytes, reason: str) -> None:
        """A frame of the spool, its checksum sound, that is no OTLP request to this release."""
        drops.count("malformed", destination="spool")
        self._keep({"reason": reason, "event": "", "otlp": _text(frame)})

    def rejected(self, record: EventRecord, reason: str, destination: str) -> None:
        """A record that one destination refuses. It is said, as somebody has to mend something.

        Raises:
            SetAsideUnavailable: there is no room for it; it stays where it is, and is tried again.
        """
        with guard("setting an event aside", SetAsideUnavailable):
            line = _line(
                {
                    "reason": reason,
                    "event": record.declaration.name,
                    "event_id": record.event_id,
                    "timestamp": rfc3339_of(record.timestamp or 0),
                    "destination": destination,
                    "fields": nested(record.values, record.declaration.groups),
                    "otlp": _text(self._encode(record)),
                }
            )
            self._keep_refused(line, reason)
            mend = "after a mend, `caseyos-otel spool replay` brings it back"
            diagnostics.warn(f"an event is set aside: {reason}; {mend}", key=f"set aside for {destination}")

    def _keep_refused(self, line: bytes, reason: str) -> None:
        try:
            kept = self._wrote(line)
        except OSError as error:
            raise SetAsideUnavailable(f"{reason}, and it cannot be set aside: {error.strerror}") from error
        if not kept:
            mend = "`caseyos-otel spool replay` brings back what is there, after a mend"
            raise SetAsideUnavailable(f"{reason}, and {self._path} is full: {mend}")

    def _keep(self, entry: dict[str, Any]) -> None:
        with guard("setting an event aside"):
            if not self._wrote(_line(entry)):
                drops.count("set_aside_full", event=str(entry["event"])[:100])

    def _wrote(self, line: bytes) -> bool:
        """Whether there was room. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._path) as descriptor:
            if size(self._directory) + len(line) > MOST_BYTES:
                return False
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return True


def files(directory: Path) -> list[Path]:
    """The files of what is set aside in a spool directory: the current one, and what a replay could not bring back."""
    return sorted(directory.glob(_ALL))


def size(directory: Path) -> int:
    """Bytes of all those files."""
    total = 0
    for path in files(directory):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of one file; a line that is none (a full disk cut it) comes with that as its reason."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        yield entry if isinstance(entry, dict) else {"reason": "not an entry", "line": line.decode("ascii", "replace")}


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[list[Path]]:
    """The files, out of the way of those who set aside meanwhile, and for this process alone."""
    if (directory / NAME).exists():
        with _locked(directory / NAME):
            (directory / NAME).rename(directory / f"set-aside.{uuid4().hex}.jsonl")
    with contextlib.ExitStack() as held:
        old = [path for path in files(directory) if path.name != NAME]
        yield [path for path in old if held.enter_context(_if_free(path))]


def rewrite(path: Path, left: Iterable[Mapping[str, Any]]) -> None:
    """Leave these entries of a claimed file; none: the file goes."""
    lines = "".join(json.dumps(entry) + "\n" for entry in left)
    if not lines:
        path.unlink()
        return
    fresh = path.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_text(lines, "ascii")
    fresh.replace(path)


def expired(directory: Path, before: float) -> int:
    """How many entries were set aside before a moment, in seconds since 1970."""
    return sum(old for path in files(directory) for _, old in _aged(path, before))


def forget(directory: Path, before: float) -> int:
    """Remove those, and say how many; what a replay has in hand at this moment stays for the next time."""
    if not expired(directory, before):
        return 0
    gone = 0
    with claimed(directory) as paths:
        for path in paths:
            aged = list(_aged(path, before))
            left = [entry for entry, old in aged if not old]
            gone += len(aged) - len(left)
            if len(left) < len(aged):
                rewrite(path, left)
    return gone


def _aged(path: Path, before: float) -> Iterator[tuple[dict[str, Any], bool]]:
    """The entries of a file, and whether each is older; one that has no time is as old as the one before it."""
    moment = path.stat().st_mtime
    for entry in entries(path):
        said = entry.get("set_aside_at")
        moment = said if isinstance(said, int | float) else moment
        yield entry, moment < before


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A descriptor to append by. A replay renames the file under the same lock: nothing is written to one that is read."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _if_free(path: Path) -> Iterator[bool]:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is_still(file.fileno(), path)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps({"set_aside_at": time.time(), **entry}, default=_plain).encode("ascii") + b"\n"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else repr(value)


def _text(frame: bytes) -> str:
    return base64.b64encode(frame).decode("ascii")
