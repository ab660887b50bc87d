"""`opentelemetry_configurator: caseyos`: the SDK as its variables say, then our pipeline attached to it."""

from __future__ import annotations

from typing import Any

from caseyos_otel import settings
from caseyos_otel.pipeline import lifecycle


class CaseyosConfigurator:
    """Called by OpenTelemetry's loader after the distro."""

    def configure(self, **kwargs: Any) -> None:
        """Set up providers and attach. `auto_instrumentation_version` comes from the loader."""
        in_force = settings.load()
        lifecycle.initialize(in_force, **kwargs)
        lifecycle.start(in_force)
