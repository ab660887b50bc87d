from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from caseyos_otel.spool.segment import RECORD_OVERHEAD, encode_header, encode_record
from caseyos_otel.spool.spool import Spool
from caseyos_otel.spool.status import Pending, pending

MakeSpool = Callable[..., Spool]


def test_pending_counts_what_each_destination_has_not_passed_in_all_processes(
    make_spool: MakeSpool, root: Path
) -> None:
    first, second = make_spool("outcomes", "sentry"), make_spool("outcomes")
    for _ in range(3):
        first.writer.append("outcomes", b"1234")
    second.writer.append("failures", b"123456")
    reader = first.reader("outcomes")
    reader.commit(reader.read(2))
    record = 4 + RECORD_OVERHEAD
    of_first, of_all, of_sentry = first.pending("outcomes"), pending(root, "outcomes"), pending(root, "sentry")
    assert (of_first.records, of_first.bytes) == (1, record)
    assert (of_all.records, of_all.bytes) == (2, record + 6 + RECORD_OVERHEAD)
    assert (of_sentry.records, of_sentry.bytes) == (3, 3 * record)
    assert pending(root, "unknown") == Pending(0, 0, None)


def test_the_oldest_age_is_that_of_the_oldest_record_not_of_the_segment(root: Path) -> None:
    directory = root / "somebody"
    directory.mkdir(parents=True)
    (directory / "destinations").write_text("outcomes\n")
    now = time.time_ns()
    ages = (500, 100)
    records = [encode_record(b"frame", now - age * 10**9) for age in ages]
    (directory / "outcomes-00000001.seg").write_bytes(encode_header() + b"".join(records))
    age = pending(root, "outcomes").oldest_age
    assert age is not None
    assert 500 <= age < 600


def test_a_spool_that_does_not_exist_has_nothing_pending(tmp_path: Path) -> None:
    assert pending(tmp_path / "nowhere", "outcomes") == Pending(0, 0, None)
