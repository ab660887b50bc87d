"""A PostgreSQL server that the end-to-end tests may stop and start under load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import PostgresServer, _free_port, _install


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """Whoever stops it starts it again."""
    directory = Path(tempfile.mkdtemp(prefix="caseyos-e2e-"))
    server = PostgresServer(directory, _free_port())
    try:
        _install(directory)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
