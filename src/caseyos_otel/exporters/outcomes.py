"""The database as a destination: outcomes in `outcome_events`, the rest in `events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caseyos_otel.errors import StorageError, Unavailable
from caseyos_otel.events.record import EventRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caseyos_otel.storage.writer import Writer


class OutcomesDestination:
    """Writes records as rows. Imports SQLAlchemy and connects at the first export, in the delivery thread.

    SQLite is migrated at first use; PostgreSQL by `caseyos-otel db upgrade`, so that a service needs no DDL rights.
    """

    def __init__(
        self,
        url: str,
        event_store: str,
        disclose: Callable[[EventRecord], Mapping[str, Any]],
        pseudonym: Callable[[str], str],
    ) -> None:
        self._url = url
        self._event_store = event_store
        self._disclose = disclose
        self._pseudonym = pseudonym
        self._writer: Writer | None = None

    def export(self, records: Sequence[EventRecord]) -> None:
        """Store records, each once.

        Raises:
            Unavailable: the database is away or lacks our tables; the records wait.
            Rejected: a record cannot be stored as it is.
        """
        if self._writer is None:
            self._writer = self._connect()
        self._writer.write(records)

    def after_fork(self) -> None:
        """A child opens a connection of its own."""
        self._writer = None

    def _connect(self) -> Writer:
        from caseyos_otel.storage import engine
        from caseyos_otel.storage.writer import Writer

        try:
            opened = engine.create(engine.parse_url(self._url))
        except StorageError as refused:
            raise Unavailable(str(refused)) from refused
        return Writer(
            opened,
            event_store=self._event_store,
            disclose=self._disclose,
            pseudonym=self._pseudonym,
            prepare=_make_ready,
        )


def _make_ready(engine: Engine) -> None:
    from caseyos_otel.storage import schema

    if engine.dialect.name == "sqlite":
        schema.upgrade(engine)
    elif not schema.is_current(engine):
        raise Unavailable("the database lacks our tables: run `caseyos-otel db upgrade`")
