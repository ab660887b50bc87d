"""Events that are declared in YAML, for services in languages that cannot bring a Python class (docs/own-events.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import new_class
from typing import Any, Final

from caseyos_otel import diagnostics
from caseyos_otel.errors import CaseyosOtelError, ConfigurationError
from caseyos_otel.events.field import Level, Privacy
from caseyos_otel.events.model import Declaration, Event, optional, required
from caseyos_otel.events.registry import Registry

TYPES: Final[Mapping[str, type]] = {
    "string": str,
    "int": int,
    "double": float,
    "boolean": bool,
    "timestamp": datetime,
}
_OTHERS: Final = ("hooks",)
"""What else may stand in such a file: somebody else reads it."""
_CLASS: Final = ("outcome", "failure", "failed_when", "twin")
_EVENT: Final = ("otel", "doc", "fields", *_CLASS)
_FIELD: Final = ("type", "level", "privacy", "allowed", "unit", "attribute", "doc", "dimension")


def load(paths: Iterable[str], registry: Registry) -> None:
    """Declare what the files say.

    Raises:
        ConfigurationError: a file cannot be read, or a declaration is wrong; the sentence says where, and what is accepted.
    """
    for path in paths:
        for cls in parse(_text(path), path):
            known = registry.get(cls.declaration.name)
            if known is not None and _facts(known) == _facts(cls.declaration):
                continue  # the same file, read again
            try:
                registry.register(cls)
            except CaseyosOtelError as error:
                raise ConfigurationError(f"{path}: events.{cls.declaration.name}: {error}") from None


def load_each(paths: Iterable[str], registry: Registry) -> list[str]:
    """`load` for a process that goes on whatever a file says: its events are then undeclared. What was wrong, a sentence each."""
    problems = []
    for path in paths:
        try:
            load([path], registry)
        except ConfigurationError as error:
            problems.append(str(error))
    return problems


def load_or_report(paths: Iterable[str], registry: Registry) -> None:
    """`load_each`, whose sentences go to our log: events of such a file are set aside."""
    for problem in load_each(paths, registry):
        diagnostics.error(problem)


def parse(text: str, where: str) -> list[type[Event]]:
    """The event classes that a file declares.

    Raises:
        ConfigurationError: see `load`.
    """
    document = _mapping(_yaml(text, where), where)
    _only(document, ("events", *_OTHERS), where)
    events = _mapping(document.get("events") or {}, f"{where}: events")
    return [_event(str(name), _mapping(facts, at), at) for name, facts in events.items() for at in [_at(where, name)]]


def _facts(declared: Declaration) -> tuple[object, ...]:
    return (
        declared.otel_name, declared.doc, declared.fields, declared.groups, declared.outcome, declared.failure,
        declared.failed_when, declared.twin,
    )  # fmt: skip


def _at(where: str, name: object) -> str:
    return f"{where}: events.{name}"


def _event(name: str, facts: Mapping[str, Any], where: str) -> type[Event]:
    _only(facts, _EVENT, where)
    if not isinstance(facts.get("otel"), str):
        raise ConfigurationError(f"{where}: otel is missing: the event's OpenTelemetry name, like acme.contract.signed")
    declared = _mapping(facts.get("fields") or {}, f"{where}.fields")
    fields = {
        str(key): _field(_mapping(value or {}, at), at)
        for key, value in declared.items()
        for at in [f"{where}.fields.{key}"]
    }
    arguments = {"name": name, "otel": facts["otel"], **{key: facts[key] for key in _CLASS if key in facts}}
    body = {
        "__doc__": str(facts.get("doc") or ""),
        "__annotations__": {key: hint for key, (hint, _) in fields.items()},
        "__module__": __name__,
        **{key: made for key, (_, made) in fields.items()},
    }
    title = "".join(word.capitalize() for word in name.split("_")) or "Event"
    try:
        return new_class(title, (Event,), arguments, lambda namespace: namespace.update(body))
    except (CaseyosOtelError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _field(facts: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Type and specification of a field, as a class would have them."""
    _only(facts, _FIELD, where)
    kind = TYPES[_one_of(facts.get("type", "string"), tuple(TYPES), f"{where}.type")]
    level = Level(_one_of(facts.get("level", "recommended"), tuple(Level), f"{where}.level"))
    privacy = Privacy(_one_of(facts.get("privacy", "none"), tuple(Privacy), f"{where}.privacy"))
    allowed = facts.get("allowed") or []
    if not isinstance(allowed, list) or not all(isinstance(value, str) for value in allowed):
        raise ConfigurationError(f"{where}.allowed: {allowed!r} is not a list of strings")
    more: dict[str, Any] = {name: str(facts.get(name) or "") for name in ("unit", "attribute", "doc")}
    more |= {"privacy": privacy, "allowed": tuple(allowed), "dimension": bool(facts.get("dimension"))}
    if level is Level.REQUIRED:
        return kind, required(**more)
    return kind | None, optional(level=level, **more)


def _one_of(value: object, accepted: tuple[str, ...], where: str) -> str:
    if value not in accepted:
        raise ConfigurationError(f"{where}: {value!r} is not accepted; accepted are {', '.join(accepted)}")
    return str(value)


def _only(found: Mapping[str, Any], accepted: tuple[str, ...], where: str) -> None:
    for name in found:
        if name not in accepted:
            raise ConfigurationError(f"{where}: {name!r} is not known here; accepted are {', '.join(accepted)}")


def _mapping(found: object, where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{where}: expected names with values behind a colon, found {type(found).__name__}")
    return found


def _yaml(text: str, where: str) -> object:
    try:
        import yaml  # type: ignore[import-untyped]  # it has no types of its own
    except ImportError:
        raise ConfigurationError(f"{where}: YAML files want PyYAML: pip install 'caseyos-otel[gateway]'") from None
    load_: Callable[[str], object] = yaml.safe_load
    try:
        return load_(text) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"CASEYOS_OTEL_HOOKS: {path} cannot be read: {reason}") from None
