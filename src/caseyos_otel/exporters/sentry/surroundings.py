"""What sentry-sdk adds to an issue of its request (URL, headers, its own breadcrumbs): minimised as an event's fields are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_ADDED: Final = ("request", "breadcrumbs", "extra", "transaction")
_NEVER: Final = ("data", "cookies")
"""Of a request: a body is nothing that an event declares, and may be a message."""


def minimised(event: dict[str, Any], disclose_text: Callable[[str], str]) -> dict[str, Any]:
    """The event with the request's body and cookies left out, and every other text that was added disclosed."""
    for name in _ADDED:
        if name in event:
            event[name] = _disclosed(event[name], disclose_text)
    if isinstance(request := event.get("request"), dict):
        event["request"] = {name: value for name, value in request.items() if name not in _NEVER}
    return event


def _disclosed(value: Any, disclose_text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return disclose_text(value)
    if isinstance(value, Mapping):
        return {name: _disclosed(inner, disclose_text) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_disclosed(inner, disclose_text) for inner in value]
    return value
