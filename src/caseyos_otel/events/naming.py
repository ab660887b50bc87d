"""How events, fields and their OpenTelemetry attributes are spelled (DESIGN section 2)."""

from __future__ import annotations

import re
from typing import Final

from caseyos_otel.errors import InvalidEventError

NOUNS: Final = ("recommendation", "action", "draft", "deal", "deliverable", "signal", "queue_item")
STANDARD_ATTRIBUTES: Final = {
    "user_id": "user.id",
    "error_type": "error.type",
    "error_message": "error.message",
    "method": "http.request.method",
    "status_code": "http.response.status_code",
    "endpoint": "url.path",
    "aps_score": "caseyos.recommendation.aps_score",
    "action_type": "caseyos.action.type",
    "signal_type": "caseyos.signal.type",
    "signal_source": "caseyos.signal.source",
    "integration": "caseyos.integration.name",
}
"""Fields whose attribute is the same in every event: OpenTelemetry's where one means the same, else the noun's own."""

RESERVED: Final = frozenset({"event", "event_id", "timestamp", "trace_id", "span_id"})
"""Names that every event has already, beside its own fields."""

_WORD: Final = "[a-z][a-z0-9_]*"


def check_names(cls: type, name: str, otel: str) -> None:
    """Refuse names that are not spelled as events are.

    Raises:
        InvalidEventError: the sentence says how they are spelled.
    """
    if not re.fullmatch(_WORD, name):
        raise InvalidEventError(f"{cls.__name__}: name={name!r} is not lower-case words joined by _")
    if not re.fullmatch(rf"{_WORD}(\.{_WORD})+", otel):
        raise InvalidEventError(
            f"{cls.__name__}: otel={otel!r} needs a namespace and lower case, like caseyos.outcome.reply_received"
        )


def attribute_name(field: str, prefix: str) -> str:
    """The OpenTelemetry attribute of a field: the standard one, the noun's id, or `<prefix>.<field>`."""
    if field in STANDARD_ATTRIBUTES:
        return STANDARD_ATTRIBUTES[field]
    noun = field.removesuffix("_id")
    if noun != field and noun in NOUNS:
        return f"caseyos.{noun}.id"
    own = prefix.rpartition(".")[2]
    return f"{prefix}.{field.removeprefix(own + '_') or field}"
