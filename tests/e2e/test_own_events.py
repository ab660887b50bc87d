"""A service's own event classes, found by the entry point of an installed distribution, reach every place."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.receiver import OtlpReceiver, Record, Sentry
from tests.e2e.service import environment, run

DECLARED = """
from caseyos_otel import Event, Privacy, optional, required


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    '''A contract was signed.'''

    contract_id: str = required(doc="Contract in the CRM.")
    recommendation_id: str | None = optional(doc="The recommendation that led to it.")
    signer: str | None = optional(privacy=Privacy.EMAIL, doc="Who signed.")
    annual_value: float | None = optional(unit="USD", doc="Value a year.")
    tier: str | None = optional(allowed=("gold", "silver"), doc="What was bought.", dimension=True)


class InvoiceRefused(Event, name="invoice_refused", otel="acme.invoice.refused", failure=True):
    '''The client does not pay.'''

    invoice_id: str = required(doc="The invoice.")
    error_message: str | None = optional(privacy=Privacy.FREE_TEXT, doc="What the client says.")


class InvoiceSent(Event, name="invoice_sent", otel="acme.invoice.sent", failed_when="delivered"):
    '''An invoice left.'''

    invoice_id: str = required(doc="The invoice.")
    delivered: bool = required(doc="Whether it arrived.")
"""
PROGRAM = """
from opentelemetry import trace
from caseyos_otel import track, track_event


@track_event("contract_signed")
def sign(contract_id, signer):
    raise RuntimeError("the pen of " + signer + " is dry")


with trace.get_tracer("service").start_as_current_span("request"):
    track("invoice_sent", invoice_id="i1", delivered=True)
    track("contract_signed", contract_id="c1", recommendation_id="r1", signer="john@acmecorp.com",
          annual_value=120000.0, tier="gold", never="declared")
    track("invoice_refused", invoice_id="i2", error_message="john@acmecorp.com says no")
    track("invoice_sent", invoice_id="i3", delivered=False)
    try:
        sign("c2", signer="ann@acmecorp.com")
    except RuntimeError:
        pass
"""
FAILURES = ("invoice_refused", "invoice_sent", "contract_signed_failed")


class Arrived(NamedTuple):
    """What one run of the program left everywhere."""

    lines: list[dict[str, Any]]
    records: list[Record]
    events: list[dict[str, Any]]
    state: Path
    totals: dict[tuple[str, frozenset[tuple[str, Any]]], float]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.state / "caseyos.db") as connection:
            return connection.execute(query).fetchall()

    def issue(self, name: str) -> dict[str, Any]:
        (event,) = (event for event in self.events if event["fingerprint"][0] == name)
        return event

    def record(self, name: str) -> Record:
        (record,) = (record for record in self.records if record.event_name == name)
        return record


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages in which a distribution with our entry point is installed."""
    site = tmp_path_factory.mktemp("site")
    info = site / "acme_telemetry-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-telemetry\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[caseyos_otel_events]\nacme = acme_telemetry\n")
    (site / "acme_telemetry.py").write_text(DECLARED)
    return site


@pytest.fixture(scope="module")
def arrived(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Arrived:
    here = tmp_path_factory.mktemp("program")
    (here / "program.py").write_text(PROGRAM)
    with OtlpReceiver() as receiver, Sentry() as sentry:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "SENTRY_DSN": sentry.dsn, "SENTRY_RELEASE": "1"}
        done = run(here / "program.py", environment(here / "state", PYTHONPATH=str(site), **settings))
        assert done.returncode == 0, done.stderr
    return Arrived(done.lines, receiver.records, sentry.events, here / "state", receiver.sums)


def test_the_log_has_them_by_their_flat_names(arrived: Arrived) -> None:
    names = [line["event"] for line in arrived.lines]
    assert names == ["invoice_sent", "contract_signed", "invoice_refused", "invoice_sent", "contract_signed_failed"]
    signed = arrived.lines[1]
    assert list(signed)[:6] == ["event", "contract_id", "recommendation_id", "signer", "annual_value", "tier"]
    assert (signed["annual_value"], signed["tier"], signed["signer"][:2]) == (120000.0, "gold", "h_")
    assert "never" not in signed
    failed = arrived.lines[4]
    assert (failed["contract_id"], failed["error_type"]) == ("c2", "RuntimeError")
    assert "@acmecorp" not in json.dumps(arrived.lines)


def test_an_own_outcome_has_the_shared_columns_and_its_properties(arrived: Arrived) -> None:
    query = "select event, recommendation_id, contact_email, contact_hash, trace_id, properties from outcome_events"
    ((event, recommendation_id, email, hashed, trace_id, properties),) = arrived.rows(query)
    assert (event, recommendation_id, email) == ("contract_signed", "r1", "john@acmecorp.com")
    assert (hashed, trace_id) == (arrived.lines[1]["signer"], arrived.lines[1]["trace_id"])
    assert json.loads(properties) == {"contract_id": "c1", "annual_value": 120000.0, "tier": "gold"}
    assert arrived.rows("select event, failure from events order by event_id") == [
        ("invoice_sent", 0),
        ("invoice_refused", 1),
        ("invoice_sent", 1),
        ("contract_signed_failed", 1),
    ]


def test_each_own_failure_is_an_issue_with_the_trail_and_the_trace(arrived: Arrived) -> None:
    assert len(arrived.events) == len(FAILURES)
    before = ["invoice_sent", "contract_signed", "invoice_refused", "invoice_sent"]
    for name, count in zip(FAILURES, (2, 3, 4), strict=True):
        issue = arrived.issue(name)
        assert [crumb["message"] for crumb in issue["breadcrumbs"]["values"]] == before[:count]
        assert issue["contexts"]["trace"]["trace_id"] == arrived.lines[0]["trace_id"]
    assert arrived.issue("invoice_refused")["contexts"]["caseyos.event"]["invoice_id"] == "i2"
    assert arrived.issue("invoice_sent")["contexts"]["caseyos.event"]["invoice_id"] == "i3"
    (exception,) = arrived.issue("contract_signed_failed")["exception"]["values"]
    assert exception["type"] == "RuntimeError"
    assert "@acmecorp" not in json.dumps([exception["value"], arrived.issue("invoice_refused")])


def test_otlp_has_them_by_their_attributes(arrived: Arrived) -> None:
    assert len(arrived.records) == 5
    signed = arrived.record("acme.contract.signed").attributes
    assert signed["acme.contract.id"] == "c1"
    assert signed["caseyos.recommendation.id"] == "r1"
    assert signed["acme.contract.annual_value"] == 120000.0
    assert signed["acme.contract.signer"].startswith("h_")
    assert arrived.record("acme.contract.signed_failed").attributes["error.type"] == "RuntimeError"
    assert arrived.record("acme.invoice.refused").attributes["acme.invoice.id"] == "i2"
    assert "@acmecorp" not in str(arrived.records)


def test_they_are_counted_by_their_dimensions(arrived: Arrived) -> None:
    counted = {series: n for (metric, series), n in arrived.totals.items() if metric == "caseyos.events"}
    by_name = {dict(series)["event.name"]: n for series, n in counted.items()}
    assert by_name == {
        "acme.invoice.sent": 2,
        "acme.contract.signed": 1,
        "acme.invoice.refused": 1,
        "acme.contract.signed_failed": 1,
    }
    assert {dict(series).get("acme.contract.tier") for series in counted} == {None, "gold"}


def test_the_command_knows_them(site: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("caseyos-otel")), "events", "schema", "contract_signed"]
    env = environment(tmp_path, PYTHONPATH=str(site))
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["properties"]["tier"]["enum"] == ["gold", "silver", None]
