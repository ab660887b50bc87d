"""The gateway as its OpenAPI description has it: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from schemathesis import Case, CheckFunction
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from caseyos_otel.gateway.openapi import describe
from caseyos_otel.settings import load
from tests.properties.test_gateway import JSON, PROTOBUF, Sent, requests

INGEST, ADMIN = "i" * 32, "a" * 32
TOKENS = {"CASEYOS_OTEL_INGEST_TOKEN": INGEST, "CASEYOS_OTEL_ADMIN_TOKEN": ADMIN}
schemathesis.openapi.media_type(PROTOBUF, requests.map(ExportLogsServiceRequest.SerializeToString))
api = schemathesis.openapi.from_dict(describe(load(TOKENS)))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    with Sent(tmp_path_factory.mktemp("gateway"), **TOKENS, CASEYOS_OTEL_GATEWAY_MAX_BYTES=str(2**20)) as made:
        yield made


@api.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_of_the_described(gateway: Sent, case: Case) -> None:
    token = ADMIN if case.path == "/metrics" else INGEST
    headers = {"Authorization": f"Bearer {token}"}
    case.call_and_validate(base_url=str(gateway.client.base_url), headers=headers, excluded_checks=_unfit(case))


def _unfit(case: Case) -> list[CheckFunction]:
    """What a schema cannot say: a header alone compresses nothing, protobuf has a schema of its own; and in OTLP/JSON
    what is not known is ignored, by specification."""
    plain = case.media_type == JSON and (case.headers or {}).get("Content-Encoding", "identity") == "identity"
    return [negative_data_rejection] if plain else [negative_data_rejection, positive_data_acceptance]


def test_every_route_is_described(gateway: Sent) -> None:
    described = {(path, method.upper()) for path, of in gateway.app.openapi()["paths"].items() for method in of}
    assert described == {(route.path, method) for route in gateway.app.routes for method in route.methods - {"HEAD"}}
