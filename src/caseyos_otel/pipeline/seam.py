"""The one seam to OpenTelemetry's finished providers: what is put where in them (DESIGN section 4).

Each function raises AttributeError where this version of the SDK keeps its processors elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from caseyos_otel import _otel
from caseyos_otel.events.record import EventRecord
from caseyos_otel.pipeline import announcement
from caseyos_otel.pipeline.destinations import Destinations
from caseyos_otel.pipeline.providers import Providers
from caseyos_otel.sampling.table import TraceTable
from caseyos_otel.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from caseyos_otel.processors.chain import EventChain


def attach_logs(providers: Providers, chain: EventChain) -> Callable[[EventRecord], None]:
    """Our chain first; exporters that are there, or come later, get no event of ours twice. How an event is emitted then."""
    from caseyos_otel.processors.foreign import foreign_only
    from caseyos_otel.processors.writable import WritableEvent

    provider = providers["logs"]
    theirs = _otel.log_processors(provider)
    providers.watch(theirs, "log_records")
    _otel.set_log_processors(provider, (chain, *map(foreign_only, theirs)))

    def place(added: LogRecordProcessor) -> LogRecordProcessor:
        providers.watch([added], "log_records")
        return foreign_only(added)

    _otel.place_added(provider, "add_log_record_processor", place)
    logger = provider.get_logger(announcement.SCOPE, announcement.version(), announcement.SCHEMA_URL)

    def emit(record: EventRecord) -> None:
        logger.emit(WritableEvent(record, logger.resource, logger.instrumentation_scope))

    return emit


def attach_spans(
    providers: Providers, settings: Settings, destinations: Destinations, wake: Callable[[], None]
) -> None:
    """The trail first, then processors that do not export, then sampling with those that do, now or later, behind it."""
    from caseyos_otel.processors.trail import TrailSpanProcessor
    from caseyos_otel.sampling.spans import TailSamplingSpanProcessor

    provider = providers["traces"]
    theirs = _otel.span_processors(provider)
    exporting = [p for p in theirs if _otel.exporter_of(p) is not None]
    providers.watch(exporting, "spans")
    ours = destinations.span_processors()
    providers.watch(ours, "sentry-traces")
    exporting += ours
    mode: Any = settings.sampling  # one of the three that settings allow
    sampling = TailSamplingSpanProcessor(destinations.table, exporting, mode=mode, redact=destinations.span_text())
    first = TrailSpanProcessor(wake)
    _otel.set_span_processors(provider, (first, *(p for p in theirs if p not in exporting), sampling))

    def place(added: SpanProcessor) -> SpanProcessor | None:
        if _otel.exporter_of(added) is None:
            return added
        providers.watch([added], "spans")
        sampling.wrap(added)
        return None

    _otel.place_added(provider, "add_span_processor", place)


def record_every_span(
    provider: TracerProvider, settings: Settings, table: TraceTable, note: Callable[[str], None]
) -> None:
    """Wrap the default sampler, so that failures are kept whatever a remote parent decided; a chosen one stays as it is."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON

    from caseyos_otel.sampling.head import recording_sampler

    if settings.sampling == "off":
        return
    sampler: Any = provider.sampler  # the SDK leaves the classes of its samplers untyped
    always: Any = ALWAYS_ON
    default: Any = DEFAULT_ON
    description = sampler.get_description()
    if settings.otel_traces_sampler is None and description == default.get_description():
        _otel.set_sampler(provider, recording_sampler(provider.sampler))
    elif description != always.get_description() and not description.startswith("RecordingSampler"):
        table.spans_recorded("every_root" if description == default.get_description() else "unknown")
        note(f"the sampler {description} was chosen: it stands before the 100 % for failures")
