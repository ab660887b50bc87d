"""Pure: an outcome's row without addresses and names, each replaced by its keyed hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from caseyos_otel.events.field import Field, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.redaction.disclosure import is_address
from caseyos_otel.redaction.patterns import replace_emails
from caseyos_otel.redaction.pseudonyms import PREFIX
from caseyos_otel.storage.columns import OUTCOME_FIELDS

Pseudonym = Callable[[str], str]

_PSEUDONYM: Final = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")


def anonymised(declaration: Declaration | None, row: Mapping[str, Any], pseudonym: Pseudonym) -> dict[str, Any]:
    """The columns of a row of `outcome_events` that change, with what they become.

    `contact_email` becomes `contact_hash`; fields of class `email` and `person`, and a `user` that is an address, become
    their pseudonyms; in free text, and everywhere where nobody declares the event any more, addresses do.
    """
    changed = _columns(declaration, row, pseudonym)
    if row["contact_email"] not in (None, row["contact_hash"]):
        changed["contact_email"] = row["contact_hash"]
    properties = _properties(declaration, row["properties"], pseudonym)
    if properties != row["properties"]:
        changed["properties"] = properties
    return changed


def _columns(declaration: Declaration | None, row: Mapping[str, Any], pseudonym: Pseudonym) -> dict[str, Any]:
    """Fields that have a column of their name."""
    known = declaration.by_name if declaration is not None else {}
    shown = {name: _value(known.get(name), row[name], pseudonym) for name in OUTCOME_FIELDS}
    return {name: value for name, value in shown.items() if value != row[name]}


def _properties(declaration: Declaration | None, properties: Any, pseudonym: Pseudonym, within: str = "") -> Any:
    made = {}
    for name, value in properties.items():
        field = declaration.by_name.get(within + name) if declaration is not None else None
        if isinstance(value, dict):
            made[name] = _properties(declaration, value, pseudonym, f"{name}.")
        else:
            made[name] = _value(field, value, pseudonym)
    return made


def _value(field: Field | None, value: Any, pseudonym: Pseudonym) -> Any:
    if field is None or field.privacy is Privacy.FREE_TEXT:
        return replace_emails(value, pseudonym) if isinstance(value, str) else value
    whole = field.privacy in (Privacy.EMAIL, Privacy.PERSON)
    if isinstance(value, str):
        conceal = whole or (field.privacy is Privacy.USER and is_address(value))
        return pseudonym(value) if conceal and not _PSEUDONYM.fullmatch(value) else value
    # a number or a moment about a person has no hash of its own type
    return None if whole else value
