"""What makes two failures the same issue (never an id, a person or a message), and what the issue is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from caseyos_otel.events.record import EventRecord

_SUBJECTS: Final = ("integration", "action_type", "service")
_TEXTS: Final = ("error_message", "error")
_IDENTIFIER: Final = re.compile(r"\d|@|%40|^[A-Za-z_-]{33,}$")
_VERSION: Final = re.compile(r"v\d+(?:\.\d+)?")
_TITLE_LENGTH: Final = 250


def fingerprint(record: EventRecord, values: Mapping[str, Any]) -> list[str]:
    """`[event name, error type, integration or action type, operation]`; what the event does not have is left out."""
    parts = (record.declaration.name, error_type(record, values), subject(values), operation(values))
    return [part for part in parts if part]


def title(record: EventRecord, values: Mapping[str, Any]) -> str:
    """One line that tells the failure, like `action_failed: Gmail API: Daily sending limit exceeded`."""
    text = next((values[name] for name in _TEXTS if values.get(name)), "")
    if text and "integration" not in values:
        details = [text]
    else:
        what = " ".join(part for part in (subject(values), operation(values), error_type(record, values)) if part)
        details = [what, text]
    line = ": ".join(part for part in (record.declaration.name, *details) if part)
    return " ".join(line.split())[:_TITLE_LENGTH]


def error_type(record: EventRecord, values: Mapping[str, Any]) -> str:
    """The declared error type, else the class of the exception, else the HTTP status, else nothing."""
    status = values.get("status_code")
    return (
        values.get("error_type")
        or record.exception_attributes.get("exception.type", "")
        or ("" if status is None else str(status))
    )


def subject(values: Mapping[str, Any]) -> str:
    """Which integration, kind of action or service failed."""
    return next((str(values[name]) for name in _SUBJECTS if values.get(name)), "")


def operation(values: Mapping[str, Any]) -> str:
    """Method and endpoint of a call, with what looks like an id in the path replaced; nothing for other events."""
    parts = (values.get("method"), _template(values.get("endpoint") or ""))
    return " ".join(part for part in parts if part)


def _template(endpoint: str) -> str:
    """A path whose segments with digits, addresses or very long words became `{id}`; versions like v3 stay."""
    path = endpoint.partition("?")[0]
    return "/".join("{id}" if _is_identifier(segment) else segment for segment in path.split("/"))


def _is_identifier(segment: str) -> bool:
    return _IDENTIFIER.search(segment) is not None and _VERSION.fullmatch(segment) is None
