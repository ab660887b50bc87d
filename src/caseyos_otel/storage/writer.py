"""Records into the database: one transaction a batch, each event once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel.events.record import EventRecord
from caseyos_otel.storage import partitions
from caseyos_otel.storage.failure import StorageUnavailable, translate, unavailable
from caseyos_otel.storage.insert import Maker, store

if TYPE_CHECKING:
    from sqlalchemy import Engine

TRY_PARTITIONS_AGAIN_S: Final = 300.0

Disclose = Callable[[EventRecord], Mapping[str, Any]]
Pseudonym = Callable[[str], str]


class Writer:
    """Stores records: outcomes in `outcome_events`, the rest in `events` unless `event_store` is `outcomes`.

    `disclose` says what of a record this database may see, `pseudonym` is the keyed hash of an address. `prepare` runs
    before the first write, and again until it succeeds: usually `schema.upgrade`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        event_store: str,
        disclose: Disclose,
        pseudonym: Pseudonym,
        prepare: Callable[[Engine], object] | None = None,
    ) -> None:
        self._engine = engine
        self._event_store = event_store
        self._disclose = disclose
        self._pseudonym = pseudonym
        self._prepare = prepare
        self._months: set[date] = set()
        self._partitions_not_before = 0.0

    def write(self, records: Sequence[EventRecord]) -> None:
        """Store all of them or none; those that are stored already stay as they are.

        Raises:
            StorageUnavailable: nothing is wrong with the records; try again later.
            RowsRejected: these records cannot be stored as they are; the message says why.
        """
        stored = [r for r in records if r.outcome] if self._event_store == "outcomes" else records
        if not stored:
            return
        try:
            self._make_ready(stored)
            self._store(stored)
        except StorageUnavailable:
            # the reason may be the connection's for as long as it lasts: a server that is a replica now, a role's settings
            self.release()
            raise

    def release(self) -> None:
        """Close the connection while there is nothing to write; the next write opens one."""
        self._engine.dispose()

    def _make_ready(self, records: Sequence[EventRecord]) -> None:
        """Raises StorageUnavailable, whatever is wrong: no row has been sent yet, so none can be at fault."""
        try:
            if self._prepare is not None:
                self._prepare(self._engine)
                self._prepare = None
            if self._engine.dialect.name == "postgresql":
                self._make_partitions([record.event_id for record in records if not record.outcome])
        except Exception as error:
            raise unavailable(error) from None

    def _store(self, records: Sequence[EventRecord]) -> None:
        try:
            store(self._engine, records, Maker(self._disclose, self._pseudonym, datetime.now(UTC)))
        except Exception as error:
            # not chained: the driver's text may repeat the row, and with it an address
            raise translate(error) from None

    def _make_partitions(self, event_ids: Sequence[str]) -> None:
        if not event_ids:
            return
        months = partitions.wanted(event_ids, datetime.now(UTC).date())
        if months <= self._months or time.monotonic() < self._partitions_not_before:
            return
        if partitions.ensure(self._engine, months):
            self._months |= months
        else:
            self._partitions_not_before = time.monotonic() + TRY_PARTITIONS_AGAIN_S
