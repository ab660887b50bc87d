"""The format of a segment file: bytes in, bytes out, no I/O.

A segment is a header and any number of records, all little-endian::

    header   magic 8 bytes · version u32 · crc32 u32 of the twelve bytes before it
    record   length u24 · mark u8 · crc32 u32 · appended at u32 (Unix time in `TICK` nanoseconds) · payload
    zeros    behind the last record, where the file was filled ahead of its records

The record's checksum is that of its payload, begun with length, mark and time, one XOR the other: a flipped bit anywhere
costs that record and no other. The mark is a byte that no text has, so that the next record is soon found behind damage,
and zeros are no record. Where the zeros begin the records decide: a payload may end in some.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from zlib import crc32

MAGIC: Final = b"COTSPOOL"
VERSION: Final = 3
MAX_PAYLOAD: Final = 2**24 - 1
"""Largest payload in bytes."""
_MARK_BYTE: Final = 0xC1
MARK: Final = _MARK_BYTE << 24
"""What a record begins with beside its length. UTF-8 has no such byte, and nor have small numbers, in whatever form."""

_HEADER: Final = struct.Struct("<8sI")
_CRC: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<III")
TICK: Final = 2**31
"""Nanoseconds, about two seconds: how exactly a record tells its time, up to the year 2262."""
HEADER_SIZE: Final = _HEADER.size + _CRC.size
RECORD_OVERHEAD: Final = _RECORD.size
record_head: Final = _RECORD.pack
_RESYNC_BUDGET: Final = 2**30
"""Bytes that one search for the next record may checksum; crafted content cannot make it run for minutes. What would
take more than is left of it is passed over, so that smaller records are found all the same."""

HeaderState = Literal["readable", "other_version", "damaged"]
DamageKind = Literal["corrupt_record", "torn_tail"]


@dataclass(frozen=True, slots=True)
class Record:
    """One intact record: where it starts, where the next one starts, when it was appended (Unix ns, to a `TICK`), its payload."""

    offset: int
    end: int
    appended_at: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of bytes without an intact record. ``torn_tail``: zeros at most are behind it; perhaps an unfinished write."""

    offset: int
    end: int
    kind: DamageKind


def encode_header(version: int = VERSION) -> bytes:
    """The first `HEADER_SIZE` bytes of a segment."""
    start = _HEADER.pack(MAGIC, version)
    return start + _CRC.pack(crc32(start))


def check_header(data: bytes) -> HeaderState:
    """Tell whether the segment that starts with `data` can be read by this version.

    A damaged header is no reason to leave the records: each carries its own checksum.
    """
    if len(data) < HEADER_SIZE or crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        return "damaged"
    magic, version = _HEADER.unpack_from(data)
    return "readable" if magic == MAGIC and version == VERSION else "other_version"


def tick_of(moment: int) -> int:
    """A record's time of a Unix nanosecond; the nearest that can be told for a clock that somebody set far off."""
    return min(max(0, moment // TICK), 2**32 - 1)


def encode_record(payload: bytes, appended_at: int) -> bytes:
    """One record, appended at this Unix nanosecond. `payload` holds 1 to `MAX_PAYLOAD` bytes; the caller checks."""
    marked, tick = MARK + len(payload), tick_of(appended_at)
    return record_head(marked, crc32(payload, marked ^ tick), tick) + payload


def intact(data: bytes, offset: int = 0) -> Iterator[Record]:
    """The records from `offset` on, up to the first that is not whole and sound."""
    while record := record_at(data, offset):
        yield record
        offset = record.end


def is_blank(data: bytes, offset: int) -> bool:
    """Whether nothing but zeros is left from `offset` on, where a record would start."""
    return not any(data[offset : offset + RECORD_OVERHEAD]) and not data[offset:].strip(b"\0")


def scan(data: bytes, offset: int = 0) -> Iterator[Record | Damage]:
    """Everything from `offset` on: each byte is in exactly one record or damage, or in the zeros at the end."""
    written = len(data.rstrip(b"\0"))
    while offset < written:
        item = record_at(data, offset) or _damage_at(data, offset, written)
        yield item
        offset = item.end


def record_at(data: bytes, offset: int) -> Record | None:
    """The record that starts at `offset`, or None when none that is whole and sound does."""
    end = _stated_end(data, offset)
    if end is None:
        return None
    marked, checksum, tick = _RECORD.unpack_from(data, offset)
    payload = data[offset + RECORD_OVERHEAD : end]
    if crc32(payload, marked ^ tick) != checksum:
        return None
    return Record(offset, end, tick * TICK, payload)


def appended_at(head: bytes) -> int | None:
    """When the record was appended (Unix ns) that begins with these bytes, its checksum unread; None where none does."""
    if len(head) < RECORD_OVERHEAD:
        return None
    marked, _, tick = _RECORD.unpack_from(head)
    return tick * TICK if 0 < marked - MARK <= MAX_PAYLOAD else None


def _damage_at(data: bytes, offset: int, written: int) -> Damage:
    """The unreadable stretch at `offset`, up to the next sound record, which is looked for byte by byte.

    The stated length is not followed: with one bit flipped it may lead exactly behind a later, innocent record. Only
    where no other record is does it tell whether all bytes of this one are there; none is `written` behind the last.
    """
    following = _next_record(data, offset + 1, written)
    if following is not None:
        return Damage(offset, following, "corrupt_record")
    stated = _stated_end(data, offset)
    whole = stated in (written, len(data))
    return Damage(offset, max(written, stated or 0), "corrupt_record" if whole else "torn_tail")


def _stated_end(data: bytes, offset: int) -> int | None:
    if offset + RECORD_OVERHEAD > len(data):
        return None
    length: int = _RECORD.unpack_from(data, offset)[0] - MARK
    end = offset + RECORD_OVERHEAD + length
    return end if 0 < length <= MAX_PAYLOAD and end <= len(data) else None


def _next_record(data: bytes, offset: int, written: int) -> int | None:
    budget = _RESYNC_BUDGET
    mark = data.find(_MARK_BYTE, offset + 3)
    while 0 <= mark - 3 < written:
        start = mark - 3
        end = _stated_end(data, start)
        if end is not None and end - start <= budget:
            budget -= end - start
            if record_at(data, start):
                return start
        mark = data.find(_MARK_BYTE, mark + 1)
    return None
