"""The pages that are made from the code say what the code says; the README's commands and names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import caseyos_otel

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_and_variable_that_the_readme_names_exists() -> None:
    readme = (ROOT / "README.md").read_text("utf-8") + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", readme)) <= targets
    configuration = (ROOT / "docs/configuration.md").read_text("utf-8")
    for variable in re.findall(r"\b(?:CASEYOS_OTEL|SENTRY|OTEL)_[A-Z_]+\b", readme):
        assert f"`{variable}`" in configuration, variable


def test_names_that_the_pages_import_are_public() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for names in re.findall(r"from caseyos_otel import ([^\n]+)", page.read_text("utf-8")):
            assert {name.strip() for name in names.split(",")} <= set(caseyos_otel.__all__), page.name
