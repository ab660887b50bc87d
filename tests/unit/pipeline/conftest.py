"""A pipeline of its own for each test, with an emitter of its own; nothing of it stays in the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from caseyos_otel import context, diagnostics, settings
from caseyos_otel.emit.emitter import Emitter
from caseyos_otel.emit.queue import EventQueue
from caseyos_otel.instrumentation import track as tracking
from caseyos_otel.pipeline.process import Pipeline

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the structured log goes."""
    return tmp_path / "events.jsonl"


@pytest.fixture
def make_pipeline(monkeypatch: pytest.MonkeyPatch, state: Path, log: Path) -> Iterator[MakePipeline]:
    """`make_pipeline(traces=…, logs=…, metrics=…, VARIABLE="value")`: attached and connected."""
    monkeypatch.setattr(tracking, "emitter", Emitter(EventQueue()))
    for owner, names in (
        (tracking, ("insert_through", "set_aside_unknown")),
        (context, ("propagate", "isolation_scope")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(diagnostics, "_said", {})
    made: list[Pipeline] = []

    def make(traces: Any = None, logs: Any = None, metrics: Any = None, **environ: str) -> Pipeline:
        given = {"CASEYOS_OTEL_STATE_DIR": str(state), "CASEYOS_OTEL_LOG": str(log), **environ}
        pipeline = Pipeline(settings.load(given))
        made.append(pipeline)
        pipeline.attach(traces or NoOpTracerProvider(), logs or NoOpLoggerProvider(), metrics or NoOpMeterProvider())
        pipeline.connect()
        return pipeline

    yield make
    for pipeline in made:
        pipeline.shutdown(5)
