"""A loopback receiver of what leaves the service: Sentry's envelopes and OTLP, both over HTTP. It answers 200 to all.

Requests are kept as they come and read when the day is over, so that receiving costs the demo little.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

PUBLIC_KEY = "0123456789abcdef0123456789abcdef"
PROJECT = "1"


@dataclass(frozen=True, slots=True)
class Request:
    """One POST: its path and its body, inflated."""

    path: str
    body: bytes


class Receiver:
    """Listens on a free port of loopback within a `with` block. `requests` holds what came, in its order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body of an answer in one packet: two would wait for an acknowledgement

            def do_POST(self) -> None:
                receiver._receive(self)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Base of the OTLP endpoints."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def dsn(self) -> str:
        """The Sentry DSN that leads here."""
        return f"http://{PUBLIC_KEY}@127.0.0.1:{self._server.server_port}/{PROJECT}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _receive(self, handler: BaseHTTPRequestHandler) -> None:
        body = _body(handler)
        # Kept before the answer: who got an answer may end, and is then counted.
        self.requests.append(Request(handler.path, body))
        envelope = handler.path.rstrip("/").endswith("/envelope")
        answer = b'{"id":""}' if envelope else b""
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json" if envelope else "application/x-protobuf")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, of known length or chunked, inflated."""
    if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
        body = b"".join(_chunks(handler))
    else:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    match handler.headers.get("Content-Encoding", "").lower():
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case _:
            return body


def _chunks(handler: BaseHTTPRequestHandler) -> list[bytes]:
    found = []
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        found.append(handler.rfile.read(size))
        handler.rfile.readline()
    handler.rfile.readline()
    return found
