"""OTLP/JSON → protobuf messages (OTLP specification, "JSON Protobuf Encoding").

It is protobuf's JSON mapping with exceptions: trace and span ids are hexadecimal, unknown fields are ignored.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf import json_format  # type: ignore[import-untyped]  # protobuf has no types of its own
from google.protobuf.message import Message  # type: ignore[import-untyped]  # nor has this

from caseyos_otel.gateway.refusal import MALFORMED, Refused

ID_DIGITS: Final = {
    "traceId": 32,
    "trace_id": 32,
    "spanId": 16,
    "span_id": 16,
    "parentSpanId": 16,
    "parent_span_id": 16,
}
_DEEPEST: Final = 100
"""Messages inside each other, as protobuf's own parsers limit them."""

Request = TypeVar("Request", bound=Message)


def parse(body: bytes, request: Request) -> Request:
    """Fill `request` from OTLP/JSON.

    Raises:
        Refused: the body is no JSON, or not of this shape.
    """
    try:
        document = json.loads(body)
        if not isinstance(document, dict):
            raise TypeError(type(document).__name__)
        for holder in _holders(document):
            _hex_to_base64(holder)
        json_format.ParseDict(document, request, ignore_unknown_fields=True, max_recursion_depth=_DEEPEST)
        return request
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        # not the error's own text: it repeats what was sent
        raise Refused(MALFORMED, f"the body is no OTLP/JSON request ({type(error).__name__})") from None


def _holders(document: Any) -> Iterator[dict[str, Any]]:
    """Everything that has ids: log records, spans, links of spans. Attributes are somebody's content and stay as they are."""
    for resource in _list(document, "resourceLogs", "resource_logs"):
        for scope in _list(resource, "scopeLogs", "scope_logs"):
            yield from _list(scope, "logRecords", "log_records")
    for resource in _list(document, "resourceSpans", "resource_spans"):
        for scope in _list(resource, "scopeSpans", "scope_spans"):
            for span in _list(scope, "spans"):
                yield span
                yield from _list(span, "links")


def _list(holder: Any, *names: str) -> list[Any]:
    found = next((holder[name] for name in names if name in holder), None)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _hex_to_base64(holder: dict[str, Any]) -> None:
    for name in ID_DIGITS.keys() & holder.keys():
        text = holder[name]
        if isinstance(text, str) and text:
            if len(text) != ID_DIGITS[name]:
                raise ValueError(name)
            holder[name] = base64.b64encode(bytes.fromhex(text)).decode("ascii")
