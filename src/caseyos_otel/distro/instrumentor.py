"""`opentelemetry_instrumentor: caseyos`: attaches to what is there, so that the stock distro works too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # in no __all__

from caseyos_otel.pipeline import lifecycle


class CaseyosInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # same
    """Loaded whatever the distro is. Where our configurator was chosen, everything is attached already."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """It instruments nobody's library."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        lifecycle.start_beside_another_distro()

    def _uninstrument(self, **kwargs: Any) -> None:
        lifecycle.flush()
