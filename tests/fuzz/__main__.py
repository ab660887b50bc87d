"""`python -m tests.fuzz TARGET FOLDER [libFuzzer's options]`: FOLDER keeps what was found to be interesting.

Without options it runs until something is found. A failing input is left in FOLDER as `crash-…`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

# what is imported in here is guided by coverage; what it needs is not
with atheris.instrument_imports(include=["caseyos_otel.otlp", "caseyos_otel.gateway"]):
    from tests.fuzz.targets import TARGETS


def main(target: str, folder: Path, *options: str) -> None:
    """Does not return: libFuzzer ends the process, with 0 where nothing was found."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, seed in enumerate(TARGETS[target].seeds()):
        (folder / f"seed-{n:03}").write_bytes(seed)
    own = [f"-artifact_prefix={folder}/", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *own, *options, str(folder)], TARGETS[target].check)
    atheris.Fuzz()


main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
