"""What our own code would swallow in production fails our own tests, unless a test is about exactly that."""

from __future__ import annotations

import pytest

from caseyos_otel import diagnostics


@pytest.fixture(autouse=True)
def _reraise(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(diagnostics, "reraise", request.node.get_closest_marker("swallows") is None)
