"""Events declared in YAML are what a class would declare, and what is wrong is said with its place."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from caseyos_otel.errors import ConfigurationError
from caseyos_otel.events.declared import load, load_or_report, parse
from caseyos_otel.events.field import Level, Privacy
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.registry import Registry

TEXT = """
events:
  contract_signed:
    otel: acme.contract.signed
    doc: A contract was signed.
    outcome: true
    fields:
      contract_id: {level: required, doc: Contract in the CRM.}
      signer: {privacy: email}
      annual_value: {type: double, unit: USD}
      tier: {allowed: [gold, silver], dimension: true}
      signed_at: {type: timestamp, level: opt_in}
      pages: {type: int}
      countersigned: {type: boolean, attribute: acme.countersigned}
      bare:
  invoice_sent: {otel: acme.invoice.sent, failed_when: delivered, fields: {delivered: {type: boolean}}}
hooks: [somebody else's]
"""


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """A contract was signed."""

    contract_id: str = required(doc="Contract in the CRM.")
    signer: str | None = optional(privacy=Privacy.EMAIL)
    annual_value: float | None = optional(unit="USD")
    tier: str | None = optional(allowed=("gold", "silver"), dimension=True)
    signed_at: datetime | None = optional(level=Level.OPT_IN)
    pages: int | None = optional()
    countersigned: bool | None = optional(attribute="acme.countersigned")
    bare: str | None = optional()


def test_it_is_what_a_class_would_declare() -> None:
    signed, sent = (cls.declaration for cls in parse(TEXT, "events.yaml"))
    expected = ContractSigned.declaration
    assert (signed.name, signed.otel_name, signed.doc, signed.outcome) == (
        expected.name, expected.otel_name, expected.doc, True,
    )  # fmt: skip
    assert signed.fields == expected.fields
    assert (sent.failed_when, sent.twin) == ("delivered", "invoice_sent_failed")


def test_loaded_again_it_changes_nothing_and_has_its_twin(tmp_path: Path) -> None:
    (tmp_path / "events.yaml").write_text(TEXT)
    registry = Registry()
    for _ in range(2):
        load([str(tmp_path / "events.yaml")], registry)
    assert registry.require("contract_signed_failed").failure
    assert registry.require("acme.invoice.sent").name == "invoice_sent"


WRONG = {
    "events: [": "not YAML",
    "event: {}": "'event' is not known here; accepted are events, hooks",
    "events: [x]": "events: expected names with values behind a colon, found list",
    "events: {x: 3}": "events.x: expected names",
    "events: {x: {}}": "events.x: otel is missing",
    "events: {x: {otel: X}}": "events.x: X: otel='X' needs a namespace and lower case",
    "events: {X: {otel: acme.x}}": "name='X' is not lower-case words",
    "events: {x: {otel: acme.x, outcomes: true}}": "events.x: 'outcomes' is not known here",
    "events: {x: {otel: acme.x, fields: {a: {type: uuid}}}}": "events.x.fields.a.type: 'uuid' is not accepted; accepted are",
    "events: {x: {otel: acme.x, fields: {a: {privacy: mail}}}}": "events.x.fields.a.privacy: 'mail' is not accepted",
    "events: {x: {otel: acme.x, fields: {a: {level: must}}}}": "events.x.fields.a.level: 'must'",
    "events: {x: {otel: acme.x, fields: {a: {allowed: red}}}}": "events.x.fields.a.allowed: 'red' is not a list of strings",
    "events: {x: {otel: acme.x, fields: {timestamp: {}}}}": "events.x: ",
    "events: {x: {otel: acme.x, failed_when: a}}": "events.x: ",
    "events: {recommendation_viewed: {otel: acme.viewed}}": "declared twice",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "events.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load([str(path)], Registry())
    assert str(raised.value).startswith(str(path))
    assert WRONG[text] in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"CASEYOS_OTEL_HOOKS: .*none\.yaml cannot be read: No such file"):
        load([str(tmp_path / "none.yaml")], Registry())


def test_a_service_goes_on_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.yaml").write_text(TEXT)
    registry = Registry()
    load_or_report([str(tmp_path / "none.yaml"), str(tmp_path / "good.yaml")], registry)
    assert "none.yaml cannot be read" in caplog.text
    assert registry.get("contract_signed") is not None
