"""A service's own events: how a class is declared, what is refused, and how an installed package offers them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from caseyos_otel.errors import InvalidEventError
from caseyos_otel.events.field import Field, FieldType, Level, Privacy
from caseyos_otel.events.model import Event, Fields, group, optional, required


class ContractDetails(Fields):
    """What may leave of a contract's details."""

    signer: str | None = optional(privacy=Privacy.PERSON, doc="Who signed.")


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """A contract was signed."""

    contract_id: str = required(doc="The contract.")
    deal_id: str | None = optional(doc="The deal.")
    value: float | None = optional(unit="USD", doc="What it is worth.")
    pages: int | None = optional(level=Level.OPT_IN, doc="How long it is.")
    signed_at: datetime | None = optional(doc="When.")
    channel: str | None = optional(
        allowed=("paper", "online"), attribute="acme.sales_channel", doc="How.", dimension=True
    )
    details: ContractDetails | None = group(ContractDetails, doc="More.")


class ImportFinished(Event, name="import_finished", otel="acme.import.finished", failed_when="ok", twin="import_broke"):
    """A file was imported, or not."""

    ok: bool = required(doc="Whether it worked.")


class DiskFull(Event, name="disk_full", otel="acme.disk.full", failure=True):
    """No space left."""


def test_a_class_becomes_a_declaration() -> None:
    declaration = ContractSigned.declaration

    assert (declaration.name, declaration.otel_name) == ("contract_signed", "acme.contract.signed")
    assert declaration.doc == "A contract was signed."
    assert (declaration.outcome, declaration.failure, declaration.twin) == (True, False, "contract_signed_failed")
    assert declaration.by_name["contract_id"] == Field(
        "contract_id", FieldType.ID, Level.REQUIRED, Privacy.NONE, "acme.contract.id", doc="The contract."
    )
    assert [(f.name, f.type.value, f.attribute) for f in declaration.fields[1:]] == [
        ("deal_id", "id", "caseyos.deal.id"),
        ("value", "double", "acme.contract.value"),
        ("pages", "int", "acme.contract.pages"),
        ("signed_at", "timestamp", "acme.contract.signed_at"),
        ("channel", "string", "acme.sales_channel"),
        ("details.signer", "string", "acme.contract.signer"),
    ]
    assert declaration.by_name["pages"].level is Level.OPT_IN


def test_an_instance_is_frozen_and_holds_what_was_given() -> None:
    event = ContractSigned(contract_id="c-1", details=ContractDetails(signer="Ann"))

    with pytest.raises(AttributeError):
        event.contract_id = "c-2"  # type: ignore[misc]
    values, problems = ContractSigned.declaration.bind(vars(event))
    assert (values["contract_id"], values["details.signer"], problems) == ("c-1", "Ann", ())


def test_an_instance_without_a_required_field_is_an_event_that_says_so() -> None:
    values, problems = ContractSigned.declaration.bind(vars(ContractSigned()))  # type: ignore[call-arg]

    assert set(values.values()) == {None}
    assert [problem.field for problem in problems] == ["contract_id"]


def test_failures_of_the_service_are_failures() -> None:
    assert DiskFull.declaration.failed({})
    assert ImportFinished.declaration.failed({"ok": False})
    assert not ImportFinished.declaration.failed({"ok": True})
    assert (DiskFull.declaration.twin, ImportFinished.declaration.twin) == (None, "import_broke")


def declare(annotations: dict[str, Any], *, base: type = Event, **facts: Any) -> None:
    """Make an event class from what a service may write."""
    body = {name: default for name, (_, default) in annotations.items() if default is not None}
    types = {name: kind for name, (kind, _) in annotations.items()}
    type("Own", (base,), {"__annotations__": types, "__module__": __name__, **body}, **facts)


GOOD: dict[str, Any] = {"name": "own", "otel": "acme.own.happened"}


@pytest.mark.parametrize(
    ("fields", "facts", "message"),
    [
        ({}, {**GOOD, "otel": "happened"}, "Own: otel='happened' needs a namespace"),
        ({}, {**GOOD, "otel": "Acme.Own"}, "Own: otel='Acme.Own' needs a namespace and lower case"),
        ({}, {**GOOD, "name": "Own-Event"}, "Own: name='Own-Event' is not lower-case words joined by _"),
        ({"plain": (str, "default")}, GOOD, r"Own.plain: declare it with required\(\), optional\(\) or group\(\)"),
        ({"items": (list[str], optional())}, GOOD, "Own.items: type .* is not one of str, int, float, bool, datetime"),
        ({"either": (int | str | None, optional())}, GOOD, "Own.either: type .* is not one of str, int"),
        ({"other": ("Missing", optional())}, GOOD, "Own: name 'Missing' is not defined"),
        ({"timestamp": (str, optional())}, GOOD, "Own.timestamp: every event has this already"),
        ({"event_id": (str, optional())}, GOOD, "Own.event_id: every event has this already"),
        ({"state": (str, optional())}, {**GOOD, "failed_when": "ok"}, "Own: failed_when='ok' is not a bool field"),
        ({"ok": (str, optional())}, {**GOOD, "failed_when": "ok"}, "Own: failed_when='ok' is not a bool field"),
        (
            {"a": (str, optional(attribute="acme.x")), "b": (str, optional(attribute="acme.x"))},
            GOOD,
            "Own: a and b share the attribute acme.x",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_at_its_class(fields: Any, facts: Any, message: str) -> None:
    with pytest.raises(InvalidEventError, match=message):
        declare(fields, **facts)


OWN_EVENTS = '''
from caseyos_otel.events.model import Event, optional, required


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """A contract was signed."""

    contract_id: str = required(doc="The contract.")
    ok: bool | None = optional(doc="Whether it is valid.")


class ContractSignedTwice(Event, name="contract_signed", otel="acme.contract.signed_twice"):
    """Takes a name that is taken."""


class ContractExpired(Event, name="contract_expired", otel="acme.contract.expired", failure=True):
    """A contract has expired."""
'''
SHOW = """
import json, logging, sys, threading
logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
from caseyos_otel.events.registry import Registry
registry = Registry()
print(json.dumps({
    "found": [d.name for d in registry if not d.name.startswith(("recommendation", "action", "outcome", "signal"))],
    "late": registry.get("acme.contract.expired").name,
    "values": registry.require("contract_signed").bind({"contract_id": 7, "ok": "yes"}).values,
    "twin": registry.twin(registry.require("contract_signed")).name,
    "nearest": str(registry.get("contract_sined")),
}))
"""


def install(folder: Path, name: str, entry_points: str, **modules: str) -> None:
    """A distribution as an installer leaves it: modules, and a dist-info with entry points."""
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, "utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[caseyos_otel_events]\n" + textwrap.dedent(entry_points), "utf-8")


def run(folder: Path, program: str) -> tuple[Any, str]:
    """A fresh Python with this distribution on its path: the JSON that it prints, and what it logs."""
    program = f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_an_installed_module_of_events_is_found_and_a_broken_class_in_it_is_reported(tmp_path: Path) -> None:
    install(tmp_path, "acme", "acme = acme_events", acme_events=OWN_EVENTS)

    shown, log = run(tmp_path, SHOW)

    assert {"contract_signed", "contract_signed_failed", "contract_expired"} <= set(shown["found"])
    assert shown["late"] == "contract_expired"
    assert shown["values"] == {"contract_id": "7", "ok": None}
    assert shown["twin"] == "contract_signed_failed"
    assert "ERROR entry point 'acme' of caseyos_otel_events: ContractSignedTwice: " in log
    assert "'contract_signed' (acme.contract.signed_twice) is declared twice" in log


def test_broken_entry_points_are_reported_and_cost_nothing_else(tmp_path: Path) -> None:
    install(
        tmp_path,
        "acme",
        """\
        absent = acme_nowhere
        exits = acme_exits
        missing = acme_events:Nothing
        raises = acme_raises
        text = acme_events:__name__
        unrelated = acme_unrelated
        works = acme_events
        """,
        acme_events=OWN_EVENTS,
        acme_exits="raise SystemExit(3)",
        acme_raises="1 / 0",
        acme_unrelated="class Plain: ...",
    )

    shown, log = run(tmp_path, SHOW)

    assert {"contract_signed", "contract_expired"} <= set(shown["found"])
    for name in ("absent", "exits", "missing", "raises", "text"):
        assert f"ERROR entry point '{name}' of caseyos_otel_events cannot be used: " in log
    assert "ZeroDivisionError: division by zero" in log
    assert "WARNING entry point 'unrelated' of caseyos_otel_events (acme_unrelated) has no Event class" in log


def test_a_module_that_looks_up_events_while_it_is_loaded_does_no_harm(tmp_path: Path) -> None:
    looks = "from caseyos_otel.events.registry import registry\nassert registry.get('contract_signed') is None\n"
    install(tmp_path, "acme", "acme = acme_events", acme_events=looks + OWN_EVENTS)

    shown, _ = run(
        tmp_path,
        "import json; from caseyos_otel.events.registry import registry\n"
        "print(json.dumps([registry.require('contract_signed').name, str(registry.get('zebra'))]))",
    )

    assert shown == ["contract_signed", "None"]


def test_every_thread_finds_an_own_event_while_another_still_loads(tmp_path: Path) -> None:
    slow = "import time; time.sleep(0.3)\n"
    install(tmp_path, "acme", "acme = acme_events", acme_events=slow + OWN_EVENTS)

    shown, _ = run(
        tmp_path,
        "import json\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from caseyos_otel.events.registry import registry\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(json.dumps([d is not None for d in pool.map(registry.get, ['contract_signed'] * 8)]))",
    )

    assert shown == [True] * 8
