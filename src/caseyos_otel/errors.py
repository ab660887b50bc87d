"""What can go wrong, and how it is said: what, where, and how to mend it."""

from __future__ import annotations


class CaseyosOtelError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(CaseyosOtelError):
    """A variable has a value that is not accepted. Reported once at start; never stops the service."""


class InvalidEventError(CaseyosOtelError, ValueError):
    """An event or a field does not match its declaration. Raised at the call in strict mode only."""


class UnknownEventError(InvalidEventError):
    """Nobody declared an event of this name."""


class StorageError(CaseyosOtelError):
    """The database cannot take our rows as it is: wrong kind, foreign table, missing schema."""


class Unavailable(CaseyosOtelError):
    """A destination is away; try again, after `retry_after_s` seconds if it said so."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Rejected(CaseyosOtelError):
    """A destination refuses records for what they are; trying again does not help."""
