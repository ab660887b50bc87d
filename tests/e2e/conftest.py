"""What several end-to-end tests start once: a PostgreSQL server that they may stop under load, a certificate."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import PostgresServer, running_postgresql


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """Whoever stops it starts it again."""
    with running_postgresql("caseyos-e2e") as running:
        yield running


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for loopback, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", made]
    subprocess.run([*command, *more], check=True, capture_output=True)
    return made, key
