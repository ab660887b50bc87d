"""Events to write down, and OpenTelemetry's own classes to read them with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.trace import TraceFlags

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import SPECIFIED, Registry
from caseyos_otel.otlp.encode import RequestEncoder


class ContractSigned(Event, name="contract_signed", otel="acme.contract.signed", outcome=True):
    """Every type of field."""

    contract_id: str = required()
    signed_at: datetime | None = optional()
    pages: int | None = optional()
    value: float | None = optional(unit="USD")
    countersigned: bool | None = optional()
    kind: str | None = optional(allowed=("new", "renewal"))
    signer: str | None = optional(privacy=Privacy.EMAIL)


Make = Callable[..., EventRecord]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry([*SPECIFIED, ContractSigned])


@pytest.fixture
def make(registry: Registry) -> Make:
    """An event with its fields; arguments that begin with `_` are those of the record."""

    def make(name: str, /, **arguments: Any) -> EventRecord:
        declaration = registry.require(name)
        bound = declaration.bind({k: v for k, v in arguments.items() if not k.startswith("_")})
        given = {k[1:]: v for k, v in arguments.items() if k.startswith("_")}
        return EventRecord(
            declaration,
            bound.values,
            **{
                "event_id": "01890a5d-ac96-774b-bcce-b302099a8057",
                "timestamp": 1_769_178_600_123_456_789,
                "observed_timestamp": 1_769_178_600_123_456_999,
                "invalid_fields": tuple(p.field for p in bound.problems),
                "trace_id": 0x5B8EFFF798038103D269B633813FC60C,
                "span_id": 0xEEE19B7EC3C1B174,
                "trace_flags": TraceFlags(1),
                **given,
            },
        )

    return make


@pytest.fixture
def signed(make: Make) -> EventRecord:
    return make(
        "contract_signed",
        contract_id="c-1",
        signed_at=datetime(2026, 1, 23, 14, 30, tzinfo=UTC),
        pages=12,
        value=50_000,
        countersigned=False,
        kind="new",
        signer="john@acmecorp.com",
    )


@pytest.fixture
def encoder() -> RequestEncoder:
    return RequestEncoder({"service.name": "command-center"}, "caseyos_otel", "1.2.3", "https://example.com/schema/1")


@pytest.fixture
def parse() -> Callable[[bytes], ExportLogsServiceRequest]:
    return ExportLogsServiceRequest.FromString
