"""`opentelemetry_distro: caseyos`: a flat list of defaults, one reason each."""

from __future__ import annotations

import os
from typing import Any

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined]  # declared in no __all__
from opentelemetry.util._importlib_metadata import EntryPoint

from caseyos_otel import diagnostics

DEFAULTS = (
    # ours sets up OTLP over HTTP where an endpoint is set, and nothing where not
    ("OTEL_PYTHON_CONFIGURATOR", "caseyos"),
    # the stock default is gRPC, which fails for ever against an endpoint on :4318
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    # else keep-alive requests can inherit the previous request's context
    ("UVICORN_RESET_CONTEXTVARS", "true"),
)


class CaseyosDistro(BaseDistro):  # type: ignore[misc]  # same
    """Sets defaults that no variable has set; one instrumentor that fails does not stop those after it."""

    def _configure(self, **kwargs: Any) -> None:
        for name, value in DEFAULTS:
            os.environ.setdefault(name, value)

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Load one instrumentor; a failure is reported and the others go on."""
        try:
            super().load_instrumentor(entry_point, **kwargs)
        except ImportError:
            raise  # the loader itself skips these, as it does without us
        except Exception as error:
            diagnostics.fault(f"the instrumentor {entry_point.name!r} failed, the others go on: {error}", error)
