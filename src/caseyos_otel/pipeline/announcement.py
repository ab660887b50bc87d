"""Who we are, and what we say at start: the scope, the resource, the start-up line, the problems of the configuration."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Final

from caseyos_otel.diagnostics import logger
from caseyos_otel.settings import Settings

SCOPE: Final = "caseyos_otel"
DISTRO: Final = "caseyos-otel"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
"""Version of the semantic conventions whose attributes the declarations use."""


@cache
def version() -> str:
    """Version of this package; `0` where it runs without having been installed."""
    try:
        return installed_version(DISTRO)
    except PackageNotFoundError:
        return "0"


def resource_attributes() -> dict[str, str]:
    """What tells a backend which distribution of OpenTelemetry sent something."""
    return {"telemetry.distro.name": DISTRO, "telemetry.distro.version": version()}


def resource() -> dict[str, Any]:
    """Resource attributes of this process where no provider has detected them."""
    from opentelemetry.sdk.resources import Resource

    return dict(Resource.create(resource_attributes()).attributes)


def prepare(in_force: Settings) -> None:
    """Give our own logger a handler on stderr, unless the service gave it one, and report the configuration's problems."""
    if all(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("caseyos-otel: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    for problem in in_force.problems:
        logger.error(problem)
    if in_force.platform and not in_force.database_url and in_force.is_on("outcomes"):
        logger.error(
            "CASEYOS_OTEL_DATABASE_URL is not set, and the disk of a container on %s does not last: outcomes go to"
            " SQLite in %s. Set it to the service's PostgreSQL.",
            in_force.platform.capitalize(),
            in_force.state_dir,
        )


def say(in_force: Settings, notes: Sequence[str]) -> None:
    """The start-up line: which destinations are on and what decided it, and what stands in the way."""
    on = ", ".join(f"{d.name} ({d.why})" for d in in_force.destinations() if d.on) or "nothing"
    off = ", ".join(f"{d.name} ({d.why})" for d in in_force.destinations() if not d.on)
    extra = "".join(f"; {note}" for note in notes)
    logger.info("%s on: %s%s%s", version(), on, f"; off: {off}" if off else "", extra)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # generic in typeshed alone
    """Writes to what sys.stderr is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[no-untyped-def]  # StreamHandler has an attribute
        """The current standard error."""
        return sys.stderr

    @stream.setter
    def stream(self, value: object) -> None:
        """A fixed stream is not wanted."""
