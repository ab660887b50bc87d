"""The example in Node.js: an outcome of the stock SDK, through the Collector, in the table."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.collector import Collector
from tests.e2e.gateway import serving
from tests.e2e.service import environment, rows, wait_for
from tests.e2e.tiers import TOKEN
from tests.missing import missing

EXAMPLE = Path(__file__).parents[2] / "examples" / "node_service"
QUERY = "SELECT event, draft_id, contact_email, reply_sentiment, service_name FROM outcome_events"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """The example with what its lock file names."""
    if shutil.which("npm") is None:
        missing("npm is not installed: the example in Node.js is not tried")
    copy = tmp_path / "service"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=copy, check=True, capture_output=True)
    return copy


def test_an_outcome_of_node_is_stored(service: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "serve", CASEYOS_OTEL_INGEST_TOKEN=TOKEN) as serve,
        Collector(
            "gateway.yaml", tmp_path / "gateway", COLLECTOR_SERVE=serve.http, CASEYOS_OTEL_INGEST_TOKEN=TOKEN
        ) as gateway,
        Collector("agent.yaml", tmp_path / "agent", COLLECTOR_NEXT=f"http://{gateway.grpc}") as agent,
    ):
        env = environment(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=agent.http)
        for draft in ("draft-1", "draft-2"):
            subprocess.run(["node", "service.js", draft], cwd=service, env=env, check=True, timeout=60)
        found = wait_for(lambda: len(rows(serve.state, QUERY)) == 2 and rows(serve.state, QUERY), "no rows", agent.log)
    fields = ("john@acme.example", "positive", "node-service")
    assert sorted(found) == [("outcome_reply_received", draft, *fields) for draft in ("draft-1", "draft-2")]


def test_its_schema_is_the_one_of_today() -> None:
    command = [shutil.which("caseyos-otel", path=environment(Path())["PATH"]), "events", "schema"]
    printed = subprocess.run([*command, "outcome_reply_received"], check=True, capture_output=True, text=True).stdout
    assert (EXAMPLE / "schema.json").read_text() == printed
