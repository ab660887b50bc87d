"""A log record's bytes taken apart: what stands between the values, and where each value is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from caseyos_otel.events.record import DELIVERY, EXCEPTION_ATTRIBUTES, INVALID_FIELDS

_READ_OTHERWISE: Final = frozenset({INVALID_FIELDS, DELIVERY, *EXCEPTION_ATTRIBUTES})
TIME, OBSERVED, FLAGS, TRACE_ID, SPAN_ID, _BODY, _ATTRIBUTE, _EVENT_NAME = 1, 11, 8, 9, 10, 5, 6, 12
_FIXED: Final = {TIME: (0x09, "Q", 8), OBSERVED: (0x59, "Q", 8), FLAGS: (0x45, "I", 4)}
_IDS: Final = {TRACE_ID: 16, SPAN_ID: 8}
_VARINTS: Final = frozenset({2, 7})
_SEVERITY_TEXT: Final = 3


@dataclass(slots=True)
class Structure:
    """A record taken apart: its format, what stands between the values, and what each value is (field number or key)."""

    format: str = "<"
    literals: tuple[bytes, ...] = ()
    roles: list[tuple[object, str]] = field(default_factory=list)
    observed_at: int | None = None


class UnusualError(Exception):
    """The record is left to its message."""


def take_apart(record: bytes) -> Structure | None:
    """The structure of a record; None where anything in it is unusual."""
    try:
        return _Reader(record).structure()
    except (UnusualError, IndexError):
        return None


class _Reader:
    """Takes one record apart. Strict: what is not known here is unusual."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self._at = 0
        self._literal_from = 0
        self._literals: list[bytes] = []
        self._made = Structure()
        self._once: set[object] = set()

    def structure(self) -> Structure:
        """Raises UnusualError, IndexError."""
        while self._at < len(self._record):
            self._field()
        self._close_literal()
        made = self._made
        made.literals = tuple(self._literals)
        return made

    def _field(self) -> None:
        tag = self._record[self._at]
        number = tag >> 3
        if number != _ATTRIBUTE:
            self._only_once(number)
        if number in _FIXED and tag == _FIXED[number][0]:
            self._at += 1
            if number == OBSERVED:
                self._made.observed_at = self._at - 1
            self._value(number, *_FIXED[number][1:], "fixed")
        elif number in _VARINTS and tag & 7 == 0:
            self._at += 1
            self._varint()
        elif number in (_SEVERITY_TEXT, _EVENT_NAME) and tag & 7 == 2:
            self._at = self._length()
        elif number in _IDS and tag & 7 == 2:
            if self._length() - self._at != _IDS[number]:
                raise UnusualError
            self._value(number, f"{_IDS[number]}s", _IDS[number], "bytes")
        elif number == _BODY and tag & 7 == 2:
            if (end := self._length()) > self._at:
                self._any_value(_BODY, end)
        elif number == _ATTRIBUTE and tag & 7 == 2:
            self._key_value(self._length())
        else:
            raise UnusualError

    def _key_value(self, end: int) -> None:
        self._expect(0x0A)
        after_key = self._length(0)
        key = (
            self._record[self._at : after_key].decode("utf-8", "strict")
            if self._record[self._at : after_key].isascii()
            else ""
        )
        if not key or key in _READ_OTHERWISE:
            raise UnusualError
        self._only_once(key)
        self._at = after_key
        self._expect(0x12)
        if self._length(0) != end:
            raise UnusualError
        self._any_value(key, end)

    def _any_value(self, role: object, end: int) -> None:
        tag = self._record[self._at]
        self._at += 1
        if tag == 0x0A:
            if self._length(0) != end:
                raise UnusualError
            self._value(role, f"{end - self._at}s", end - self._at, "string")
        elif tag == 0x10:
            self._value(role, "B", 1, "bool")
        elif tag == 0x18:
            self._value(role, f"{end - self._at}s", end - self._at, "int")
        elif tag == 0x21:
            self._value(role, "d", 8, "double")
        else:
            raise UnusualError
        if self._at != end:
            raise UnusualError

    def _value(self, role: object, code: str, size: int, kind: str) -> None:
        if self._at + size > len(self._record):
            raise UnusualError
        self._close_literal()
        self._made.format += code
        self._made.roles.append((role, kind))
        self._at += size
        self._literal_from = self._at

    def _close_literal(self) -> None:
        literal = self._record[self._literal_from : self._at]
        self._literals.append(literal)
        self._made.format += f"{len(literal)}s"

    def _expect(self, tag: int) -> None:
        if self._record[self._at] != tag:
            raise UnusualError
        self._at += 1

    def _length(self, tag_size: int = 1) -> int:
        """Step behind tag and length; the end of what follows."""
        self._at += tag_size
        size = self._varint()
        if self._at + size > len(self._record):
            raise UnusualError
        return self._at + size

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._record[self._at]
            self._at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise UnusualError

    def _only_once(self, what: object) -> None:
        if what in self._once:
            raise UnusualError
        self._once.add(what)
