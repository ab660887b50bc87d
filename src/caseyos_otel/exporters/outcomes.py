"""The database as a destination: outcomes in `outcome_events`, the rest in `events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from caseyos_otel.errors import Unavailable
from caseyos_otel.events.record import EventRecord

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caseyos_otel.storage.health import Health
    from caseyos_otel.storage.writer import Writer

LOOK_EVERY_S: Final = 600.0
BUSY_TIMEOUT_S: Final = 0.5
"""A SQLite file that another process holds for longer is away: what waits is tried again, and an exit does not wait."""
ANSWER_WITHIN_S: Final = 60.0
"""PostgreSQL that says nothing for longer is away: a frozen server, a proxy that has lost it, a lock on our tables."""


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
        self._engine: Engine | None = None
        self._look_at = 0.0
        self.health: Health | None = None
        """What the database said when it was last looked at, every ten minutes; None where it did not say."""

    def export(self, records: Sequence[EventRecord]) -> None:
        """Store records, each once.

        Raises:
            Unavailable: the database is away or lacks our tables; the records wait.
            Rejected: a record cannot be stored as it is.
        """
        self.prepare()
        assert self._writer is not None
        self._writer.write(records)
        self._look()

    def prepare(self) -> None:
        """Import SQLAlchemy and the driver: what takes its time, but waits for nobody. Raises Unavailable."""
        if self._writer is None:
            self._writer = self._connect()

    def idle(self) -> None:
        """Close the connection: there is nothing to write."""
        if self._writer is not None:
            self._look()
            self._writer.release()

    def after_fork(self) -> None:
        """A child opens a connection of its own."""
        self._writer = self._engine = self.health = None

    def _look(self) -> None:
        if self._engine is None or monotonic() < self._look_at:
            return
        from caseyos_otel.storage import health

        self._look_at = monotonic() + LOOK_EVERY_S
        try:
            self.health = health.read(self._engine)
        except Exception:
            # a schema before it was remembered, a role that may not read: nothing is said, and what is written stays so
            self.health = None

    def _connect(self) -> Writer:
        from caseyos_otel.storage import engine
        from caseyos_otel.storage.failure import unavailable
        from caseyos_otel.storage.writer import Writer

        try:
            opened = engine.create(
                engine.parse_url(self._url), busy_timeout_s=BUSY_TIMEOUT_S, answer_within_s=ANSWER_WITHIN_S
            )
        except Exception as refused:  # whatever it is, it is about no record
            raise unavailable(refused) from refused
        self._engine = opened
        self._look_at = 0.0
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
    elif not schema.is_writable(engine):
        raise Unavailable("the database lacks our tables: run `caseyos-otel db upgrade`")
