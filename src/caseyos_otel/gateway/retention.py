"""Retention once a day, in one gateway of however many write to the database."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Engine

from caseyos_otel import diagnostics
from caseyos_otel.errors import StorageError
from caseyos_otel.pipeline import set_aside
from caseyos_otel.privacy import retention
from caseyos_otel.settings import Settings
from caseyos_otel.storage import engine, health, lease, schema

LOOK_EVERY_S: Final = 600.0
RUN_EVERY: Final = timedelta(hours=24)
WORK: Final = "retention"
HELD_FOR: Final = timedelta(minutes=10)
"""A holder that died is followed after so long; one that lives says so after every batch."""


class DailyRetention:
    """What `caseyos-otel retention run` does. Called often, it runs once a day, as the role that owns our tables."""

    def __init__(self, settings: Settings, pseudonym: Callable[[str], str], holder: str = "") -> None:
        self._settings = settings
        self._pseudonym = pseudonym
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}"
        self._engine: Engine | None = None
        self._forget_again = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> bool:
        """Run if it is due and nobody else does it; whether all of it was done. What was not is tried again next time."""
        self._forget(datetime.now(UTC))
        try:
            return self._run_if_due(self._opened())
        except StorageError as error:
            diagnostics.warn(f"retention could not run: {error}", key=WORK)
            return False
        finally:
            if self._engine is not None:
                self._engine.dispose()

    def _forget(self, now: datetime) -> None:
        """What is set aside is on this host: once a day, whoever has the lease."""
        if now < self._forget_again:
            return
        self._forget_again = now + RUN_EVERY
        try:
            set_aside.forget(self._settings.spool_path, (now - retention.PLAIN_FOR).timestamp())
        except OSError as error:
            diagnostics.warn(f"retention: what is set aside cannot be removed: {error.strerror}")

    def _opened(self) -> Engine:
        if self._engine is None:
            self._engine = retention.in_utc(engine.create(engine.parse_url(self._settings.owner_database_url)))
        return self._engine

    def _run_if_due(self, opened: Engine) -> bool:
        now = datetime.now(UTC)
        if not schema.is_current(opened) or not _is_due(opened, now):
            return False
        if not lease.take(opened, WORK, self._holder, HELD_FOR):
            return False
        try:
            if not _is_due(opened, now):  # whoever had it before has just done it
                return False
            days = (self._settings.event_retention_days, self._settings.outcome_retention_days)
            report = retention.run(
                opened, retention.Policy.of(*days, now), self._pseudonym, lambda _: self._renew(opened)
            )
            diagnostics.logger.info("retention: %d rows deleted or made anonymous", report.rows)
            for remark in report.remarks + report.failures:
                diagnostics.warn(f"retention: {remark}")
            return not report.failures
        finally:
            lease.give_back(opened, WORK, self._holder)

    def _renew(self, opened: Engine) -> None:
        lease.take(opened, WORK, self._holder, HELD_FOR)


def _is_due(opened: Engine, now: datetime) -> bool:
    last = health.read(opened).last_retention
    return last is None or now - last >= RUN_EVERY
