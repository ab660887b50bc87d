from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
import uuid_utils

from caseyos_otel.storage.partitions import first_id, following, month_of, name_of, wanted

TODAY = date(2026, 1, 23)


def id_of(year: int, month: int, day: int) -> str:
    milliseconds = int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def test_the_month_is_in_the_id() -> None:
    now = datetime.now(UTC)
    assert month_of(str(uuid_utils.uuid7())) == now.date().replace(day=1)
    assert month_of(id_of(2026, 12, 31)) == date(2026, 12, 1)


@pytest.mark.parametrize("event_id", ["", "no id", "ffffffff-ffff-7000-8000-000000000000", "zzzzzzzz-zzzz-7000-8000-0"])
def test_an_id_without_a_time_has_no_month(event_id: str) -> None:
    assert month_of(event_id) is None


def test_a_partition_holds_the_ids_of_its_month_and_no_others() -> None:
    low, high = first_id(date(2025, 12, 1)), first_id(following(date(2025, 12, 1)))
    assert low <= id_of(2025, 12, 1) < id_of(2025, 12, 31) < high <= id_of(2026, 1, 1)
    assert name_of(date(2025, 12, 1)) == "events_2025_12"


def test_this_month_and_the_next_are_always_wanted() -> None:
    assert wanted([], TODAY) == {date(2026, 1, 1), date(2026, 2, 1)}


def test_a_wrong_clock_makes_no_partition() -> None:
    ids = [id_of(2025, 11, 5), id_of(2025, 8, 1), id_of(2031, 5, 5), id_of(1970, 1, 1), str(uuid_utils.uuid4())]
    assert wanted(ids, TODAY) == {date(2025, 11, 1), date(2026, 1, 1), date(2026, 2, 1)}
