"""The service and its stand-ins, each on a port of its own on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from command_center import stand_ins
from command_center.app import create_app
from command_center.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SEED = 7


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def stand_ins_url() -> Iterator[str]:
    with serving(stand_ins.create_app(SEED)) as url:
        yield url


@pytest.fixture
def calls(stand_ins_url: str) -> Callable[[], dict[str, dict[str, int]]]:
    """What the stand-ins have answered so far, by integration and status."""
    return lambda: httpx.get(f"{stand_ins_url}/_counts", trust_env=False).json()


@pytest.fixture
def service(stand_ins_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'service.db'}",
        hubspot_url=stand_ins_url,
        gmail_url=stand_ins_url,
        calendar_url=stand_ins_url,
        breaker_reset_seconds=0.3,
    )
    with serving(create_app(settings)) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


@pytest.fixture
def person() -> Callable[..., str]:
    """An address whose calls have the wished-for trouble (`gmail="limited"`) and no other."""

    def find(**wished: stand_ins.Trouble) -> str:
        expected = {integration: wished.get(integration) for integration in stand_ins.INTEGRATIONS}
        candidates = (f"john{number}@acmecorp.com" for number in range(100_000))
        return next(email for email in candidates if trouble_of(email) == expected)

    return find


def trouble_of(email: str) -> dict[str, stand_ins.Trouble | None]:
    return {each: stand_ins.trouble(SEED, each, email) for each in stand_ins.INTEGRATIONS}
