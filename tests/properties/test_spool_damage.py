"""Whatever happens to the bytes of a segment costs the records that it happened to, and no other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import (
    HEADER_SIZE,
    RECORD_OVERHEAD,
    TICK,
    Damage,
    Record,
    encode_header,
    encode_record,
    scan,
)
from caseyos_otel.spool.spool import Spool

payloads = st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=12)
sizes_alike = st.lists(st.binary(min_size=64 - RECORD_OVERHEAD, max_size=64 - RECORD_OVERHEAD), min_size=1, max_size=12)
"""Records of 64 bytes: one flipped bit of a length leads exactly behind a later record."""


tails = st.sampled_from([0, 1, 11, 12, 500, 4096]).map(bytes)
"""What a killed process filled ahead of its records."""


def segment_of(frames: list[bytes]) -> bytes:
    return encode_header() + b"".join(encode_record(frame, number * TICK) for number, frame in enumerate(frames))


def without_zeros(pieces: list[bytes]) -> list[bytes]:
    """Where a record that cannot be read ended nobody can tell, if it ended in zeros."""
    return [piece.rstrip(b"\0") for piece in pieces]


def delivered(content: bytes) -> tuple[list[bytes], list[bytes], list[Problem]]:
    """What a spool makes of a dead process's segment: frames, bytes set aside, problems. It must end up empty."""
    problems: list[Problem] = []
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root) / "dead"
        directory.mkdir()
        (directory / "lock").touch()
        (directory / "outcomes-00000001.seg").write_bytes(content)
        spool = Spool(Path(root), on_problem=problems.append)
        reader = spool.reader("outcomes")
        spool.adopt()
        frames: list[bytes] = []
        while batch := reader.read(5, 200):
            frames += batch.frames
            reader.commit(batch)
        spool.adopt()
        assert not directory.exists()
        aside = [path.read_bytes() for path in (Path(root) / "quarantine").glob("*")]
        spool.close()
        return frames, aside, problems


@settings(deadline=None)
@given(frames=payloads | sizes_alike, tail=tails)
def test_zeros_behind_the_last_record_are_its_end(frames: list[bytes], tail: bytes) -> None:
    assert delivered(segment_of(frames) + tail) == (frames, [], [])


@settings(deadline=None)
@given(frames=payloads | sizes_alike, tail=tails, data=st.data())
def test_one_flipped_bit_costs_one_record_which_is_set_aside(
    frames: list[bytes], tail: bytes, data: st.DataObject
) -> None:
    content = bytearray(segment_of(frames))
    bit = data.draw(st.integers(HEADER_SIZE * 8, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    starts = [record.offset for record in scan(segment_of(frames), HEADER_SIZE)]
    hit = max(number for number, start in enumerate(starts) if start <= bit // 8)
    frames_left, aside, problems = delivered(bytes(content) + tail)
    end = [*starts, len(content)][hit + 1]
    assert frames_left == frames[:hit] + frames[hit + 1 :]
    assert without_zeros(aside) == without_zeros([bytes(content[starts[hit] : end])])
    assert len(problems) == 1


@settings(deadline=None)
@given(frames=payloads, tail=tails.filter(bool), data=st.data())
def test_one_flipped_bit_in_the_zeros_costs_no_record(frames: list[bytes], tail: bytes, data: st.DataObject) -> None:
    flipped = bytearray(tail)
    bit = data.draw(st.integers(0, len(tail) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    frames_left, aside, problems = delivered(segment_of(frames) + bytes(flipped))
    assert frames_left == frames
    assert without_zeros(aside) == without_zeros([bytes(flipped)])
    assert [problem.kind for problem in problems] in (["torn_tail"], ["corrupt_record"])


@settings(deadline=None)
@given(frames=payloads, bit=st.integers(0, HEADER_SIZE * 8 - 1))
def test_one_flipped_bit_in_the_header_costs_nothing(frames: list[bytes], bit: int) -> None:
    content = bytearray(segment_of(frames))
    content[bit // 8] ^= 1 << bit % 8
    frames_left, aside, problems = delivered(bytes(content))
    assert (frames_left, aside, [problem.kind for problem in problems]) == (frames, [], ["damaged_header"])


@settings(deadline=None)
@given(frames=payloads, tail=tails, data=st.data())
def test_a_cut_costs_what_stood_behind_it(frames: list[bytes], tail: bytes, data: st.DataObject) -> None:
    """A file that ends early, or a write that ended early in the zeros that were there before it."""
    content = segment_of(frames)
    ends = [record.end for record in scan(content, HEADER_SIZE)]
    cut = data.draw(st.integers(0, len(content)))
    tail = tail if cut >= HEADER_SIZE else b""
    left = content[:cut] + tail
    whole = [frame for frame, end in zip(frames, ends, strict=True) if end <= cut or content[:end] == left[:end]]
    frames_left, aside, _ = delivered(left)
    rest = content[max([HEADER_SIZE, *ends[: len(whole)]]) : cut].rstrip(b"\0")
    assert frames_left == whole
    assert without_zeros(aside) == ([rest] if rest else [])


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_read_to_the_end(content: bytes) -> None:
    frames, aside, _ = delivered(content)
    assert frames == []
    assert b"".join(aside).rstrip(b"\0") == content[HEADER_SIZE:].rstrip(b"\0")


@given(st.lists(st.builds(encode_record, st.binary(min_size=1), st.integers(0, 2**63 - 1)) | st.binary(), max_size=20))
def test_a_scan_accounts_for_every_byte_but_the_zeros_at_the_end_once(parts: list[bytes]) -> None:
    data = b"".join(parts)
    place = 0
    for item in scan(data):
        assert item.offset == place < item.end
        assert isinstance(item, Damage | Record)
        place = item.end
    assert len(data.rstrip(b"\0")) <= place <= len(data)
