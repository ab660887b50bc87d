"""CaseyOS product events as OpenTelemetry: every event logged, every outcome stored once, every failure an issue.

PYTEST_DONT_REWRITE: our plugin may be imported before pytest could rewrite it (`opentelemetry-instrument pytest`).
"""

from caseyos_otel.context import bind
from caseyos_otel.errors import CaseyosOtelError, InvalidEventError, StorageError, UnknownEventError
from caseyos_otel.events.field import Level, Privacy
from caseyos_otel.events.model import Event, Fields, group, optional, required
from caseyos_otel.instrumentation.decorator import track_event
from caseyos_otel.instrumentation.track import track
from caseyos_otel.pipeline.lifecycle import configure, flush

__all__ = [
    "CaseyosOtelError",
    "Event",
    "Fields",
    "InvalidEventError",
    "Level",
    "Privacy",
    "StorageError",
    "UnknownEventError",
    "bind",
    "configure",
    "flush",
    "group",
    "optional",
    "required",
    "track",
    "track_event",
]
