"""TLS of a gateway, the same for both protocols."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # grpc has no types of its own

from caseyos_otel.errors import ConfigurationError

_PEM: Final = "certificates are wanted in PEM, and the certificate's own key without a passphrase"


def check_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """Refuse files with which it would not start, or would protect less than they promise.

    Raises:
        ConfigurationError: one of them is missing, cannot be read, or does not belong to the others.
    """
    if (certificate is None) != (key is None):
        raise ConfigurationError("--ssl-certfile and --ssl-keyfile come together")
    if certificate is None or key is None:
        if client_ca is not None:  # served without TLS, nobody would be asked for a certificate
            raise ConfigurationError("--ssl-client-ca asks for --ssl-certfile and --ssl-keyfile too")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _try(
        f"--ssl-certfile {certificate} with --ssl-keyfile {key}", lambda: context.load_cert_chain(certificate, key, "")
    )
    if client_ca is not None:
        _try(f"--ssl-client-ca {client_ca}", lambda: context.load_verify_locations(client_ca))


def _try(what: str, load: Callable[[], object]) -> None:
    try:
        load()
    except OSError as error:  # of which SSLError is one
        wanted = "" if not isinstance(error, ssl.SSLError) else "; " + _PEM
        raise ConfigurationError(f"{what} cannot be used: {error.strerror or error}{wanted}") from None


def grpc_credentials(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Any:
    """What grpc's server wants; None for no TLS."""
    if certificate is None or key is None:
        return None
    ca = None if client_ca is None else client_ca.read_bytes()
    pair = (key.read_bytes(), certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
