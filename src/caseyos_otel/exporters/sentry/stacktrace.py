"""The text of a Python traceback as Sentry's exception interface; for failures whose exception object is gone."""

from __future__ import annotations

import re
from typing import Any, Final

MAX_FRAMES: Final = 100
"""Sentry trims longer stack traces anyway; the innermost frames are kept."""
MECHANISM: Final = {"type": "caseyos_otel", "handled": True}
"""How the exception came to Sentry. Whether the service handles what we re-raise is unknown: no crash is claimed."""

_CHAINED: Final = re.compile(
    r"\n\nThe above exception was the direct cause of the following exception:\n\n"
    r"|\n\nDuring handling of the above exception, another exception occurred:\n\n"
)
_GROUP_MEMBERS: Final = re.compile(r"^ *\+-\+-", re.MULTILINE)
_GROUP_MARGIN: Final = re.compile(r"^  [+|] ", re.MULTILINE)
_FRAME: Final = re.compile(r'^ {2}File "(?P<path>[^"\n]+)", line (?P<line>\d+), in (?P<function>[^\n]+)$', re.MULTILINE)
_SOURCE: Final = re.compile(r"\n {4}([^\n]+)")
_LAST_LINE: Final = re.compile(r"^(?P<type>[^\s:|][^\s:]*)(?:: (?P<value>.*))?$", re.MULTILINE | re.DOTALL)


def exceptions(kind: str, message: str, stacktrace: str) -> list[dict[str, Any]]:
    """Sentry's `exception.values`, causes first, from OpenTelemetry's `exception.type`, `.message` and `.stacktrace`.

    Members of an exception group are left out: the group's own frames and message stand for it.
    """
    *causes, last = _CHAINED.split(stacktrace)
    return [*(_cause(text) for text in causes), _exception(kind, message, last)]


def _cause(text: str) -> dict[str, Any]:
    end = max((match.end() for match in _FRAME.finditer(text)), default=0)
    found = _LAST_LINE.search(text, end)
    kind, value = (found["type"], found["value"] or "") if found else ("Exception", "")
    return _exception(kind, value.strip(), text)


def _exception(kind: str, message: str, text: str) -> dict[str, Any]:
    module, _, name = kind.rpartition(".")
    exception: dict[str, Any] = {"type": name or kind, "value": message, "mechanism": dict(MECHANISM)}
    if module:
        exception["module"] = module
    if frames := _frames(text):
        exception["stacktrace"] = {"frames": frames}
    return exception


def _frames(text: str) -> list[dict[str, Any]]:
    own = _GROUP_MARGIN.sub("", _GROUP_MEMBERS.split(text, maxsplit=1)[0])
    matches = list(_FRAME.finditer(own))[-MAX_FRAMES:]
    return [_frame(match, _SOURCE.match(own, match.end())) for match in matches]


def _frame(match: re.Match[str], source: re.Match[str] | None) -> dict[str, Any]:
    path = match["path"]
    frame: dict[str, Any] = {
        "abs_path": path,
        "filename": path.rpartition("/")[2],
        "lineno": int(match["line"]),
        "function": match["function"],
    }
    if source is not None:
        frame["context_line"] = source[1]
    return frame
