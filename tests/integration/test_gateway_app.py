"""The application mounted in a service."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from caseyos_otel import settings
from caseyos_otel.gateway.app import create_app
from caseyos_otel.gateway.otlp_grpc import _client
from tests.e2e.gateway import reply, request_of


def test_switched_off_it_takes_nothing_and_the_service_goes_on(tmp_path: Path) -> None:
    off = {"CASEYOS_OTEL_DISABLED": "1", "CASEYOS_OTEL_STATE_DIR": str(tmp_path)}
    service = FastAPI()
    service.mount("/telemetry", create_app(settings.load(off)))

    @service.get("/orders")
    def orders() -> list[str]:
        return ["o1"]

    asyncio.run(_use(service))
    assert list(tmp_path.iterdir()) == []


async def _use(service: FastAPI) -> None:
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        headers = {"Content-Type": "application/x-protobuf"}
        body = request_of(reply(1)).SerializeToString()
        answer = await client.post("/telemetry/v1/logs", content=body, headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
        assert (await client.get("/orders")).json() == ["o1"]
        ready = await client.get("/telemetry/readyz")
        assert (ready.status_code, "CASEYOS_OTEL_DISABLED" in ready.text) == (503, True)
        assert (await client.get("/telemetry/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("peer", "client"),
    [("ipv4:10.0.0.1:51234", "10.0.0.1"), ("ipv6:%5B::1%5D:51234", "::1"), ("ipv6:[fe80::1]:1", "fe80::1")],
)
def test_a_client_is_an_address_over_grpc_as_over_http(peer: str, client: str) -> None:
    assert _client(peer) == client
