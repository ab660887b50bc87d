from __future__ import annotations

import struct

import pytest

from caseyos_otel.spool.segment import (
    HEADER_SIZE,
    MAGIC,
    MARK,
    RECORD_OVERHEAD,
    TICK,
    VERSION,
    Damage,
    Record,
    appended_at,
    check_header,
    encode_header,
    encode_record,
    intact,
    is_blank,
    scan,
)


def test_a_segment_is_laid_out_as_documented() -> None:
    header, record = encode_header(), encode_record(b"abc", 258 * TICK + 5)
    assert (len(header), header[:8], header[8:12]) == (HEADER_SIZE, MAGIC, VERSION.to_bytes(4, "little"))
    assert record[:4] == b"\x03\0\0\xc1"
    assert record[8:RECORD_OVERHEAD] == (258).to_bytes(4, "little")
    assert record[RECORD_OVERHEAD:] == b"abc"


def test_records_come_back_with_their_places() -> None:
    data = encode_header() + encode_record(b"one", 0) + encode_record(b"three", TICK + 1)
    first, second = intact(data, HEADER_SIZE)
    assert first == Record(HEADER_SIZE, HEADER_SIZE + RECORD_OVERHEAD + 3, 0, b"one")
    assert second == Record(first.end, len(data), TICK, b"three")
    assert [appended_at(data[item.offset :]) for item in (first, second)] == [0, TICK]
    assert appended_at(b"") is None
    assert appended_at(bytes(100)) is None


@pytest.mark.parametrize(
    ("header", "state"),
    [
        (encode_header(), "readable"),
        (encode_header(VERSION + 1), "other_version"),
        (encode_header()[:-1], "damaged"),
        (b"X" + encode_header()[1:], "damaged"),
        (encode_header()[:8] + b"\xff" + encode_header()[9:], "damaged"),
    ],
)
def test_a_header_tells_another_version_from_damage(header: bytes, state: str) -> None:
    assert check_header(header) == state


def test_zeros_behind_the_last_record_are_nothing_even_where_its_payload_ends_in_some() -> None:
    data = encode_record(b"one", 1) + encode_record(b"two" + bytes(50), 2)
    assert [item.end for item in scan(data + bytes(4096))] == [item.end for item in scan(data)]
    assert [item.payload for item in scan(data + bytes(4096)) if isinstance(item, Record)] == [
        b"one",
        b"two" + bytes(50),
    ]
    assert is_blank(data + bytes(4096), len(data))
    assert not is_blank(data + bytes(4096), 0)


def test_zeros_between_records_are_damage() -> None:
    record = encode_record(b"one", 1)
    items = list(scan(record + bytes(4096) + record))
    assert items[1] == Damage(len(record), len(record) + 4096, "corrupt_record")
    assert [type(item) for item in items] == [Record, Damage, Record]


@pytest.mark.parametrize("written", [1, 4, 8, 11, 12, 13, 40, 99])
def test_an_unfinished_record_before_zeros_is_a_torn_tail(written: int) -> None:
    whole, unfinished = encode_record(b"one", 1), encode_record(b"x" * 100, 2)[:written]
    items = list(scan(whole + unfinished + bytes(4096)))
    assert isinstance(items[1], Damage)
    assert (len(items), items[1].offset, items[1].kind) == (2, len(whole), "torn_tail")
    assert len(whole + unfinished.rstrip(b"\0")) <= items[1].end <= len(whole) + RECORD_OVERHEAD + 100


def test_a_bit_flipped_in_the_zeros_is_set_aside_and_costs_no_record() -> None:
    record = encode_record(b"one", 1)
    zeros = bytearray(4096)
    zeros[1000] ^= 4
    assert list(scan(record + bytes(zeros)))[1:] == [Damage(len(record), len(record) + 1001, "torn_tail")]


def test_a_length_that_leads_behind_a_later_record_costs_only_its_own() -> None:
    """Every record is 64 bytes: one flipped bit makes the first as long as two, and its end a sound record."""
    records = [encode_record(bytes([65 + n]) * (64 - RECORD_OVERHEAD), n) for n in range(3)]
    data = bytearray(b"".join(records))
    data[0] ^= 64
    assert [type(item) for item in scan(bytes(data))] == [Damage, Record, Record]


def test_a_broken_checksum_in_the_last_record_is_corruption_not_a_torn_tail() -> None:
    data = encode_record(b"one", 1) + encode_record(b"two", 1)[:-1] + b"X"
    assert list(scan(data))[1] == Damage(RECORD_OVERHEAD + 3, len(data), "corrupt_record")


def test_a_broken_checksum_before_zeros_is_corruption_where_the_record_is_all_there() -> None:
    data = encode_record(b"one", 1) + encode_record(b"two", 1)[:-1] + b"X"
    assert list(scan(data + bytes(100)))[1] == Damage(RECORD_OVERHEAD + 3, len(data), "corrupt_record")


def test_behind_damage_every_record_is_found_whatever_the_frames_hold() -> None:
    """Batches of a gateway: thousands of numbers, each of whose zero bytes could be the end of a length."""
    frame = struct.pack("<d", 50000.0) * 5000 + "žluťoučký kůň".encode() * 100
    records = [encode_record(frame + bytes([n]), n * TICK) for n in range(80)]
    data = bytearray(b"".join(records))
    data[100] ^= 1
    assert [type(item) for item in scan(bytes(data) + bytes(4096))] == [Damage, *[Record] * 79]


def test_what_looks_like_records_over_and_over_costs_no_small_record_behind_it() -> None:
    """Crafted content: more to checksum than is worth it. Only what is as large as that is given up."""
    crafted = (MARK + 2**20).to_bytes(4, "little") * 10_000
    data = crafted + encode_record(b"x" * 2**20, 1)[:-1] + encode_record(b"one", 1)
    items = list(scan(data))
    assert [item.payload for item in items if isinstance(item, Record)] == [b"one"]
