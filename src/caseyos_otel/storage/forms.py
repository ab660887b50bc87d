"""How each database wants its values: as source code for what is usual, by a function for the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from caseyos_otel.storage.columns import moment

STORABLE: Final = "{v}.isascii() and '\\0' not in {v}"
"""Whether a text can be stored as it is by every database."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How values reach a database. Of `{v}`, source code; `driver` takes what is written seldom."""

    text: str
    """A text that needs no cleaning."""
    plain: str
    """Whether any text goes as it is."""
    null: str
    number: str
    boolean: str
    moment: str
    json: str
    driver: Callable[[Any], Any]
    every_column: bool
    """Or only those that events of this kind fill differently: what is not a parameter costs nothing."""


def _to_parameter(value: Any) -> Any:
    return moment(value) if isinstance(value, datetime) else value


def _to_copy_text(value: Any) -> str:
    r"""`\N` for none; backslash, tab and line ends escaped."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, datetime):
        return f"{moment(value)}+00"
    text = str(value).replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


SQLITE: Final = Form(
    text="{v}",
    plain=STORABLE,
    null="None",
    number="{v}",
    boolean="+{v}",
    moment="{v}",
    json="{v}",
    driver=_to_parameter,
    every_column=False,
)
"""Parameters of sqlite3, which asks 0.2 µs longer what to do with a bool than with 0 or 1."""

_UNESCAPED: Final = "{v}.isprintable() and '\\\\' not in {v}"
COPY: Final = Form(
    text=f"{{v}} if {_UNESCAPED} else driver({{v}})",
    plain=_UNESCAPED,
    null="'\\\\N'",
    number="repr({v})",
    boolean="('t' if {v} else 'f')",
    moment="{v} + '+00'",
    json="({v}).replace('\\\\', '\\\\\\\\')",
    driver=_to_copy_text,
    every_column=True,
)
"""Fields of a line that PostgreSQL's COPY reads."""
