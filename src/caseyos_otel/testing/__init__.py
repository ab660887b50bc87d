"""Test kit: what a service's own tests say about its events. The pytest plugin is `caseyos_otel.testing.plugin`."""

from caseyos_otel.testing.clock import Clock
from caseyos_otel.testing.recorded import RecordedEvent
from caseyos_otel.testing.recorder import Recorder, recording

__all__ = ["Clock", "RecordedEvent", "Recorder", "recording"]
