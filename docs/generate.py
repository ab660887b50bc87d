"""Writes the pages that are made from the code: `python docs/generate.py`; with --check it only says whether they are true."""

from __future__ import annotations

import sys
from pathlib import Path

from caseyos_otel.environment_variables import VARIABLES
from caseyos_otel.events import schema

HERE = Path(__file__).parent
HEAD = """# Configuration

Made from `src/caseyos_otel/environment_variables.py` by `make docs`. Everything has a default. OpenTelemetry's and
Sentry's own variables win where they exist. A secret or a URL can also be given as a file: `<NAME>_FILE` is its path.
`caseyos_otel.configure()` takes the names of the last column as keywords. A value that is not accepted is reported
once at start, and the default holds. A relative path is taken from the directory in which the settings are read, and a leading
`~` is the home directory.

| variable | default | accepts | what it does | `configure()` |
|---|---|---|---|---|
"""


def configuration() -> str:
    """The table of all variables."""
    rows = [
        f"| `{v.name}` | {v.shown_default} | {v.accepted} | {v.doc} | `{v.attribute}` |".replace("|  |", "| none |")
        for v in VARIABLES
    ]
    return HEAD + "\n".join(rows) + "\n"


PAGES = {"configuration.md": configuration, "events.md": lambda: schema.markdown(schema.specified())}


def main() -> int:
    """Write, or check."""
    stale = [name for name, make in PAGES.items() if (HERE / name).read_text("utf-8") != make()]
    if "--check" in sys.argv:
        sys.stderr.write("".join(f"docs/{name} is not up to date: run `make docs`\n" for name in stale))
        return 1 if stale else 0
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
