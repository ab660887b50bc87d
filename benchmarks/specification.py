"""The first peer: the decorator that the specification sketches, a breadcrumb and a JSON log line."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import sentry_sdk

P = ParamSpec("P")
R = TypeVar("R")

logger: Final = logging.getLogger("telemetry")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: the message, and what came as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return json.dumps({"level": record.levelname, "message": record.getMessage(), **extra}, default=str)


def track_event(
    event_name: str, properties: Mapping[str, Any]
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Decorate an async function: its success becomes a breadcrumb and a log line, its exception an issue."""

    def decorator(func: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(func)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            start = time.time()
            try:
                result = await func(*args, **kwargs)
            except Exception as error:
                logger.error(
                    "Event failed: %s", event_name, extra={"event": f"{event_name}_failed", "error": str(error)}
                )
                sentry_sdk.capture_exception(error)
                raise
            data = {
                "event": event_name,
                "duration_ms": (time.time() - start) * 1000,
                "timestamp": datetime.now(UTC).isoformat(),
                **properties,
            }
            sentry_sdk.add_breadcrumb({"category": "telemetry", "message": event_name, "level": "info", "data": data})
            logger.info(f"Event: {event_name}", extra=data)
            return result

        return wrapper

    return decorator
