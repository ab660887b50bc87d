"""What a machine lacks: said loudly, and an error where nothing may be skipped."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(message: str) -> NoReturn:
    """Skip the test, or fail it where CASEYOS_OTEL_REQUIRE_ALL asks that nothing is skipped (`.ci/run` does)."""
    if os.environ.get("CASEYOS_OTEL_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)
