"""What our own code would swallow in production fails our own tests."""

from __future__ import annotations

import pytest

from caseyos_otel import diagnostics


@pytest.fixture(autouse=True)
def _reraise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "reraise", True)
