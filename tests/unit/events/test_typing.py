"""What a type checker says about typed events: optional fields may be left out, required ones may not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """\
from caseyos_otel.events.action import ActionExecuted, ActionMetadata
from caseyos_otel.events.model import Event, optional, required


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed"):
    contract_id: str = required(doc="The contract.")
    value: float | None = optional(doc="What it is worth.")


ContractSigned(contract_id="c-1")
ContractSigned(contract_id="c-1", value=2)
ActionExecuted(action_id="a", action_type="t", execution_mode="manual", success=True)
ActionExecuted(action_id="a", action_type="t", execution_mode="manual", success=True, metadata={"subject": "s"})
ActionExecuted(action_id="a", action_type="t", execution_mode="manual", success=True, metadata=ActionMetadata())
ContractSigned(value=2.5)
ContractSigned(contract_id="c-1", value="much")
ContractSigned(contract_id="c-1", other=1)
ContractSigned("c-1")
"""
WRONG = {
    15: 'Missing named argument "contract_id"',
    16: 'Argument "value" to "ContractSigned" has incompatible type "str"',
    17: 'Unexpected keyword argument "other"',
    18: 'Too many positional arguments for "ContractSigned"',
}


def test_a_type_checker_knows_what_an_event_takes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")

    cache = str(tmp_path / "cache")
    checker = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", cache, "program.py"]
    done = subprocess.run(checker, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    told = re.findall(r"^program\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    assert [int(number) for number, _ in told] == list(WRONG), done.stdout + done.stderr
    assert all(sentence.startswith(WRONG[int(number)]) for number, sentence in told), done.stdout
