"""Pure: an outcome's row without addresses and names, each replaced by its keyed hash."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from caseyos_otel.events.field import FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.redaction.disclosure import is_address
from caseyos_otel.redaction.patterns import replace_emails
from caseyos_otel.redaction.pseudonyms import PREFIX
from caseyos_otel.storage.columns import OUTCOME_FIELDS

Pseudonym = Callable[[str], str]

_TEXTS: Final = tuple(name for name, types in OUTCOME_FIELDS.items() if FieldType.STRING in types)
READ: Final = ("event_id", "event", "contact_email", "contact_hash", *_TEXTS, "properties")
"""The columns that decide. No moment is among them: PostgreSQL has some that Python has not."""
_WHOLE: Final = (Privacy.EMAIL, Privacy.PERSON)
"""Of these classes nothing stays plain, whatever its type."""
_PSEUDONYM: Final = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
_IDS: Final = frozenset({"recommendation_id", "action_id", "draft_id", "deal_id", "deliverable_id", "user_id"})
"""What has such a name is an id, whoever fills it."""


def anonymised(declaration: Declaration | None, row: Mapping[str, Any], pseudonym: Pseudonym) -> dict[str, Any]:
    """The columns of a row of `outcome_events` that change, with what they become; `row` has those of `READ`.

    `contact_email` becomes `contact_hash`; fields of class `email` and `person`, and a `user` that is an address, become
    their pseudonyms; in free text, addresses do. Of what nobody declares here every text does: it may be a name. Ids stay
    unless they are addresses, numbers as they are.
    """
    changed = _columns(declaration, row, pseudonym)
    if row["contact_email"] not in (None, row["contact_hash"]):
        changed["contact_email"] = row["contact_hash"]
    properties = _property(declaration, "", row["properties"], pseudonym)
    if properties != row["properties"]:
        changed["properties"] = properties
    return changed


def _columns(declaration: Declaration | None, row: Mapping[str, Any], pseudonym: Pseudonym) -> dict[str, Any]:
    """Fields that have a column of their name; a number or a moment about a person has no hash of its own type, and goes."""
    shown = {name: _value(_privacy(declaration, name), row[name], pseudonym) for name in _TEXTS}
    others = (name for name in OUTCOME_FIELDS if name not in _TEXTS)
    gone = dict.fromkeys(name for name in others if _privacy(declaration, name) in _WHOLE)
    return {name: value for name, value in shown.items() if value != row[name]} | gone


def _property(declaration: Declaration | None, name: str, value: Any, pseudonym: Pseudonym) -> Any:
    """A property with all that is in it; the name of one in a group is `group.name`."""
    if isinstance(value, dict):
        within = f"{name}." if name else ""
        return {key: _property(declaration, within + key, each, pseudonym) for key, each in value.items()}
    if isinstance(value, list):
        return [_property(declaration, name, each, pseudonym) for each in value]
    return _value(_privacy(declaration, name), value, pseudonym)


def _privacy(declaration: Declaration | None, name: str) -> Privacy | None:
    """Its class; None of what nobody declares here."""
    field = declaration.by_name.get(name) if declaration is not None else None
    if field is not None:
        return field.privacy
    return Privacy.USER if name in _IDS else None


def _value(privacy: Privacy | None, value: Any, pseudonym: Pseudonym) -> Any:
    if not isinstance(value, str):
        return None if privacy in _WHOLE else value
    if privacy is Privacy.FREE_TEXT:
        return replace_emails(value, pseudonym)
    conceal = privacy in (None, *_WHOLE) or (privacy is Privacy.USER and is_address(value))
    return pseudonym(value) if conceal and not _PSEUDONYM.fullmatch(value) else value
