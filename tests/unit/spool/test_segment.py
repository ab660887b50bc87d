from __future__ import annotations

import pytest

from caseyos_otel.spool.segment import (
    HEADER_SIZE,
    MAGIC,
    RECORD_OVERHEAD,
    VERSION,
    Damage,
    Record,
    check_header,
    encode_header,
    encode_record,
    headers,
    intact,
    scan,
)


def test_a_segment_is_laid_out_as_documented() -> None:
    header, record = encode_header(), encode_record(b"abc", 258)
    assert (len(header), header[:8], header[8:12]) == (HEADER_SIZE, MAGIC, VERSION.to_bytes(4, "little"))
    assert record[:4] == (3).to_bytes(4, "little")
    assert record[4:12] == (258).to_bytes(8, "little")
    assert record[RECORD_OVERHEAD:] == b"abc"


def test_records_come_back_with_their_places() -> None:
    data = encode_header() + encode_record(b"one", 1) + encode_record(b"three", 2)
    first, second = intact(data, HEADER_SIZE)
    assert first == Record(HEADER_SIZE, HEADER_SIZE + RECORD_OVERHEAD + 3, 1, b"one")
    assert second == Record(first.end, len(data), 2, b"three")
    assert list(headers(data, HEADER_SIZE)) == [(3, 1), (5, 2)]


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


def test_a_tail_of_zeros_is_one_torn_tail() -> None:
    record = encode_record(b"one", 1)
    assert list(scan(record + bytes(4096)))[1:] == [Damage(len(record), len(record) + 4096, "torn_tail")]


def test_a_length_that_leads_behind_a_later_record_costs_only_its_own() -> None:
    """Every record is 64 bytes: one flipped bit makes the first as long as two, and its end a sound record."""
    records = [encode_record(bytes([65 + n]) * (64 - RECORD_OVERHEAD), n) for n in range(3)]
    data = bytearray(b"".join(records))
    data[0] ^= 64
    assert [type(item) for item in scan(bytes(data))] == [Damage, Record, Record]


def test_a_broken_checksum_in_the_last_record_is_corruption_not_a_torn_tail() -> None:
    data = encode_record(b"one", 1) + encode_record(b"two", 1)[:-1] + b"X"
    assert list(scan(data))[1] == Damage(RECORD_OVERHEAD + 3, len(data), "corrupt_record")
