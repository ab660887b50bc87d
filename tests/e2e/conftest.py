"""A PostgreSQL server that the end-to-end tests may stop and start under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import PostgresServer, running_postgresql


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """Whoever stops it starts it again."""
    with running_postgresql("caseyos-e2e") as running:
        yield running
