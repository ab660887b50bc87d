"""TLS of `caseyos-otel serve`, for both protocols: its certificate, and those that it asks for."""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

from tests.e2e.gateway import REPLY, SERVE, Gateway, emit, reply, request_of
from tests.e2e.service import environment, rows, wait_for
from tests.ports import free_port

Pair = tuple[Path, Path]
"""A certificate and its key."""


@contextmanager
def serving_tls(state: Path, certificate: Pair, *more: str) -> Iterator[Gateway]:
    made, key = certificate
    gateway = Gateway(state, "--ssl-certfile", str(made), "--ssl-keyfile", str(key), *more)
    try:
        gateway.start_unready()
        wait_for(gateway.listens, "it does not listen:", gateway.log.read_text)
        yield gateway
    finally:
        gateway.kill()


def sent_over_https(gateway: Gateway, name: str, trusted: Path, own: Pair | None = None) -> bool:
    context = ssl.create_default_context(cafile=str(trusted))
    if own is not None:
        context.load_cert_chain(*own)
    url = f"https://127.0.0.1:{gateway.port}/v1/logs"
    headers = {"Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(url, request_of(reply(name)).SerializeToString(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def sent_over_grpcs(gateway: Gateway, name: str, trusted: Path, own: Pair | None = None) -> bool:
    chain, key = (own[0].read_bytes(), own[1].read_bytes()) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted.read_bytes(), key, chain)
    exporter = OTLPLogExporter(f"https://localhost:{gateway.grpc_port}", credentials=credentials, timeout=1)
    attributes = {"caseyos.recommendation.id": f"r{name}", "caseyos.draft.id": "d1"}
    emit(exporter, [(REPLY, attributes)])
    return stored(gateway, f"r{name}")


def stored(gateway: Gateway, name: str) -> bool:
    query = f"SELECT count(*) FROM outcome_events WHERE recommendation_id = '{name}'"
    try:
        return bool(wait_for(lambda: rows(gateway.state, query) == [(1,)], "", timeout_s=2))
    except AssertionError:
        return False


def test_its_certificate_is_for_both_protocols(tmp_path: Path, certificate: Pair) -> None:
    trusted = certificate[0]
    with serving_tls(tmp_path / "state", certificate) as gateway:
        wait_for(lambda: sent_over_https(gateway, "https", trusted), "no answer over TLS:", gateway.log.read_text)
        assert sent_over_grpcs(gateway, "grpcs", trusted)
        assert stored(gateway, "rhttps")


def test_it_asks_for_a_certificate_over_both_protocols(tmp_path: Path, certificate: Pair, stranger: Pair) -> None:
    trusted = certificate[0]
    with serving_tls(tmp_path / "state", certificate, "--ssl-client-ca", str(trusted)) as gateway:
        wait_for(lambda: sent_over_https(gateway, "https", trusted, certificate), "refused:", gateway.log.read_text)
        assert sent_over_grpcs(gateway, "grpcs", trusted, certificate)
        for send in (sent_over_https, sent_over_grpcs):
            assert not send(gateway, "none", trusted)
            assert not send(gateway, "stranger", trusted, stranger)
        assert rows(gateway.state, "SELECT count(*) FROM outcome_events") == [(2,)]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate that nobody trusts."""
    folder = tmp_path_factory.mktemp("stranger")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ssl-certfile={made}"], "--ssl-certfile and --ssl-keyfile come together"),
        (["--ssl-client-ca={made}"], "--ssl-client-ca asks for --ssl-certfile and --ssl-keyfile too"),
        (["--ssl-certfile={made}", "--ssl-keyfile=/nowhere.pem"], "/nowhere.pem cannot be used: No such file"),
        (["--ssl-certfile={made}", "--ssl-keyfile={other}"], "cannot be used: [X509: KEY_VALUES_MISMATCH]"),
        (
            ["--ssl-certfile={key}", "--ssl-keyfile={made}"],
            "in PEM, and the certificate's own key without a passphrase",
        ),
        (
            ["--ssl-certfile={made}", "--ssl-keyfile={key}", "--ssl-client-ca=/nowhere.pem"],
            "--ssl-client-ca /nowhere.pem",
        ),
    ],
)
def test_files_that_would_protect_nothing_are_named(
    tmp_path: Path, certificate: Pair, stranger: Pair, options: list[str], said: str
) -> None:
    given = [option.format(made=certificate[0], key=certificate[1], other=stranger[1]) for option in options]
    ports = ["--port", str(free_port()), "--grpc-port", str(free_port())]
    command = [SERVE, "serve", *ports, *given]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
