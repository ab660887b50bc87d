"""Whatever happens to the bytes of a segment costs the records that it happened to, and no other."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from caseyos_otel.spool.adopt import Spool
from caseyos_otel.spool.problem import Problem
from caseyos_otel.spool.segment import HEADER_SIZE, Damage, Record, encode_header, encode_record, scan

payloads = st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=12)
sizes_alike = st.lists(st.binary(min_size=48, max_size=48), min_size=1, max_size=12)
"""Records of 64 bytes: one flipped bit of a length leads exactly behind a later record."""


def segment_of(frames: list[bytes]) -> bytes:
    return encode_header() + b"".join(encode_record(frame, number) for number, frame in enumerate(frames))


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
@given(frames=payloads | sizes_alike, data=st.data())
def test_one_flipped_bit_costs_one_record_which_is_set_aside(frames: list[bytes], data: st.DataObject) -> None:
    content = bytearray(segment_of(frames))
    bit = data.draw(st.integers(HEADER_SIZE * 8, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    starts = [record.offset for record in scan(segment_of(frames), HEADER_SIZE)]
    hit = max(number for number, start in enumerate(starts) if start <= bit // 8)
    frames_left, aside, problems = delivered(bytes(content))
    end = [*starts, len(content)][hit + 1]
    assert frames_left == frames[:hit] + frames[hit + 1 :]
    assert aside == [bytes(content[starts[hit] : end])]
    assert len(problems) == 1


@settings(deadline=None)
@given(frames=payloads, bit=st.integers(0, HEADER_SIZE * 8 - 1))
def test_one_flipped_bit_in_the_header_costs_nothing(frames: list[bytes], bit: int) -> None:
    content = bytearray(segment_of(frames))
    content[bit // 8] ^= 1 << bit % 8
    frames_left, aside, problems = delivered(bytes(content))
    assert (frames_left, aside, [problem.kind for problem in problems]) == (frames, [], ["damaged_header"])


@settings(deadline=None)
@given(frames=payloads, data=st.data())
def test_a_cut_costs_what_stood_behind_it(frames: list[bytes], data: st.DataObject) -> None:
    content = segment_of(frames)
    ends = [record.end for record in scan(content, HEADER_SIZE)]
    cut = data.draw(st.integers(0, len(content)))
    whole = [frame for frame, end in zip(frames, ends, strict=True) if end <= cut]
    frames_left, aside, _ = delivered(content[:cut])
    rest = content[max([HEADER_SIZE, *(end for end in ends if end <= cut)]) : cut]
    assert frames_left == whole
    assert aside == ([rest] if rest else [])


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_read_to_the_end(content: bytes) -> None:
    frames, aside, _ = delivered(content)
    assert frames == []
    assert b"".join(aside) == content[HEADER_SIZE:]


@given(st.lists(st.builds(encode_record, st.binary(min_size=1), st.integers(0, 2**64 - 1)) | st.binary(), max_size=20))
def test_a_scan_accounts_for_every_byte_once(parts: list[bytes]) -> None:
    data = b"".join(parts)
    place = 0
    for item in scan(data):
        assert item.offset == place < item.end
        assert isinstance(item, Damage | Record)
        place = item.end
    assert place == len(data)
