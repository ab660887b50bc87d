"""Who may see what: one table, class of a field by kind of destination (DESIGN sections 7 and 8.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from caseyos_otel.events.field import FieldType, Privacy
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.record import EventRecord
from caseyos_otel.redaction.patterns import clean, clean_free_text, replace_emails
from caseyos_otel.redaction.pseudonyms import Pseudonyms

DESTINATIONS: Final = ("database", "log", "otlp", "sentry", "spool")
ALWAYS_PLAIN: Final = frozenset({"spool"})
"""The spool is ours, private to the service's user, and read by destinations that each disclose for themselves."""


class Treatment(Enum):
    """What a destination that may not see personal data in plain gets of a field."""

    PLAIN = "plain"
    PSEUDONYM = "pseudonym"
    PSEUDONYM_IF_ADDRESS = "pseudonym if it is an e-mail address"
    PSEUDONYMS_INSIDE = "e-mail addresses inside become pseudonyms"


TABLE: Final[Mapping[Privacy, Treatment]] = {
    Privacy.NONE: Treatment.PLAIN,
    Privacy.EMAIL: Treatment.PSEUDONYM,
    Privacy.PERSON: Treatment.PSEUDONYM,
    Privacy.COMPANY: Treatment.PSEUDONYM,
    Privacy.USER: Treatment.PSEUDONYM_IF_ADDRESS,
    Privacy.FREE_TEXT: Treatment.PSEUDONYMS_INSIDE,
}
"""For destinations outside `PII_PLAIN`; those inside get every class in plain. Secrets are masked for everybody."""

_STACKTRACE: Final = "exception.stacktrace"
_TEXTS: Final = frozenset({FieldType.STRING, FieldType.ID})
_Conceal = Callable[[Any], Any]


class Disclosure:
    """Applies the table. `plain` are the destinations of `PII_PLAIN`; a destination nobody knows is never plain."""

    def __init__(self, pseudonyms: Pseudonyms, plain: frozenset[str]) -> None:
        self.pseudonyms = pseudonyms
        self._plain = plain | ALWAYS_PLAIN
        self._plans: dict[Declaration, tuple[tuple[str, _Conceal], ...]] = {}
        self._conceal: Mapping[Treatment, _Conceal] = {
            Treatment.PSEUDONYM: self._pseudonym,
            Treatment.PSEUDONYM_IF_ADDRESS: self._pseudonym_if_address,
            Treatment.PSEUDONYMS_INSIDE: self._pseudonyms_inside,
        }

    def values(self, record: EventRecord, destination: str) -> Mapping[str, Any]:
        """What `destination` gets of a minimised record, by flat name; the record's own values where that is all."""
        values = record.values
        if destination in self._plain:
            return values
        plan = self._plans.get(record.declaration)
        if plan is None:
            plan = self._plans[record.declaration] = self._plan(record.declaration)
        disclosed = values
        for name, conceal in plan:
            value = values[name]
            if value is None or (shown := conceal(value)) is value:
                continue
            if disclosed is values:
                disclosed = values.copy()
            disclosed[name] = shown
        return disclosed

    def exception(self, record: EventRecord, destination: str) -> Mapping[str, str]:
        """What `destination` gets of a minimised record's `exception.*` attributes: free text, but for the type."""
        attributes = record.exception_attributes
        if not attributes or destination in self._plain:
            return attributes
        return {key: self._pseudonyms_inside(text) for key, text in attributes.items()}

    def text(self, text: str, destination: str) -> str:
        """Any other free text as `destination` may see it: secrets masked, cleaned, addresses as the table says."""
        text = clean_free_text(text)
        return text if destination in self._plain else self._pseudonyms_inside(text)

    def _plan(self, declaration: Declaration) -> tuple[tuple[str, _Conceal], ...]:
        treatments = ((field.name, TABLE[field.privacy]) for field in declaration.fields)
        return tuple((name, self._conceal[how]) for name, how in treatments if how is not Treatment.PLAIN)

    def _pseudonym(self, value: Any) -> str | None:
        # a number or a moment about a person has no hash of its own type: it does not leave
        return self.pseudonyms.of(value) if isinstance(value, str) else None

    def _pseudonym_if_address(self, value: Any) -> Any:
        return self.pseudonyms.of(value) if isinstance(value, str) and is_address(value) else value

    def _pseudonyms_inside(self, value: Any) -> Any:
        return replace_emails(value, self.pseudonyms.of) if isinstance(value, str) else None


def is_address(text: str) -> bool:
    """Whether an id has an e-mail address in it: an @ with something on both sides (`casey@localhost` is one)."""
    return 0 < text.find("@") < len(text) - 1 or "%40" in text


class Minimiser:
    """Makes a record fit to leave, once, before anybody reads it: secrets masked, every text storable."""

    def __init__(self) -> None:
        self._plans: dict[Declaration, tuple[tuple[str, Callable[[str], str]], ...]] = {}

    def __call__(self, record: EventRecord) -> None:
        """Clean `record` in place; doing it again does no harm."""
        plan = self._plans.get(record.declaration)
        if plan is None:
            plan = self._plans[record.declaration] = _cleaning(record.declaration)
        values = record.values
        for name, make_clean in plan:
            value = values[name]
            if value is not None:
                values[name] = make_clean(value)
        if record.exception_attributes:
            record.exception_attributes = {
                key: clean_free_text(text, keep_end=key == _STACKTRACE)
                for key, text in record.exception_attributes.items()
            }


def _cleaning(declaration: Declaration) -> tuple[tuple[str, Callable[[str], str]], ...]:
    texts = (f for f in declaration.fields if f.type in _TEXTS and not f.allowed)
    return tuple((f.name, clean_free_text if f.privacy is Privacy.FREE_TEXT else clean) for f in texts)


minimise: Final = Minimiser()
"""`minimise(record)`: what the redact step does to every record."""
