"""The specification, read by tests: its JSON examples and the values that its comments list."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("CASEYOS_TELEMETRY.md")
_BLOCK = re.compile(r"```json\n(.*?)```", re.DOTALL)
_COMMENT = re.compile(r"\s//\s.*$", re.MULTILINE)
_ALTERNATIVES = re.compile(r'^\s*"(\w+)":.*//.*?("\w+"(?: \| "\w+")+)', re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """One JSON example: the event's name, its properties (neither `event` nor `timestamp`), and listed alternatives."""

    event: str
    timestamp: str
    properties: dict[str, Any]
    alternatives: dict[str, tuple[str, ...]]

    @property
    def document(self) -> dict[str, Any]:
        """The example as the specification writes it."""
        return {"event": self.event, **self.properties, "timestamp": self.timestamp}

    @property
    def flat(self) -> dict[str, Any]:
        """Its properties with `metadata` opened: `metadata.recipient`."""
        flat: dict[str, Any] = {}
        for name, value in self.properties.items():
            inner = value.items() if isinstance(value, dict) else None
            flat |= {name: value} if inner is None else {f"{name}.{key}": v for key, v in inner}
        return flat


def examples() -> tuple[Example, ...]:
    """Every JSON example of the specification, in its order."""
    return tuple(map(_example, _BLOCK.findall(PATH.read_text("utf-8"))))


def _example(block: str) -> Example:
    document = json.loads(_COMMENT.sub("", block))
    listed = {name: tuple(re.findall(r'"(\w+)"', values)) for name, values in _ALTERNATIVES.findall(block)}
    return Example(document.pop("event"), document.pop("timestamp"), document, listed)
