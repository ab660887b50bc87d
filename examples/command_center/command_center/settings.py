"""Where the service's database and its integrations are; the only module that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

STAND_INS_URL = "http://127.0.0.1:9100"


@dataclass(frozen=True)
class Settings:
    """Everything that an operator can choose. Durations are in seconds."""

    database_url: str = "sqlite:///command_center.db"
    hubspot_url: str = STAND_INS_URL
    gmail_url: str = STAND_INS_URL
    calendar_url: str = STAND_INS_URL
    http_timeout_seconds: float = 30.0
    breaker_threshold: int = 5
    breaker_reset_seconds: float = 5.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read `COMMAND_CENTER_*`; raise `ValueError` naming the variable whose value is no number."""
        return cls(
            database_url=environ.get("COMMAND_CENTER_DATABASE_URL", cls.database_url),
            hubspot_url=environ.get("COMMAND_CENTER_HUBSPOT_URL", cls.hubspot_url),
            gmail_url=environ.get("COMMAND_CENTER_GMAIL_URL", cls.gmail_url),
            calendar_url=environ.get("COMMAND_CENTER_CALENDAR_URL", cls.calendar_url),
            http_timeout_seconds=_number(environ, "COMMAND_CENTER_HTTP_TIMEOUT_SECONDS", cls.http_timeout_seconds),
            breaker_threshold=int(_number(environ, "COMMAND_CENTER_BREAKER_THRESHOLD", cls.breaker_threshold)),
            breaker_reset_seconds=_number(environ, "COMMAND_CENTER_BREAKER_RESET_SECONDS", cls.breaker_reset_seconds),
        )


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if text is None:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number; for example {name}={default}") from None
