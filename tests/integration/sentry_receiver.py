"""A loopback receiver of Sentry envelopes: keeps what arrives, answers what it is told to."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

KEY = "0123456789abcdef0123456789abcdef"
PROJECT = "7"


class Item(NamedTuple):
    """One item of an envelope."""

    type: str
    payload: Any


class SentryReceiver:
    """Use as a context manager; `dsn` leads to it. Answers 200 unless `answers` holds (status, headers) to give.

    `requests` holds path and headers of each request, `connections` the client's port of each.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.connections: list[int] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.asked = threading.Event()
        """Set when a request is there, whether or not it has an answer yet."""
        self._open = threading.Event()
        self._open.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # header and body in one packet: two would wait for an acknowledgement

            def do_POST(self) -> None:
                receiver._receive(self)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def dsn(self) -> str:
        return f"http://{KEY}@127.0.0.1:{self._server.server_port}/{PROJECT}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Payloads of issues, in the order of arrival."""
        return [item.payload for item in self.items if item.type == "event"]

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Sentry logs, with attributes as plain values."""
        found = []
        for item in self.items:
            if item.type == "log":
                found += [log | {"attributes": _plain(log["attributes"])} for log in item.payload["items"]]
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Answer nothing inside the block."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.asked.set()
        self._open.wait()
        status, headers = self.answers.popleft() if self.answers else (200, {})
        self.connections.append(handler.client_address[1])
        self.requests.append((handler.path, dict(handler.headers)))
        if status == 200:
            self.items += parse_envelope(body)
        handler.send_response(status)
        for name, value in {"Content-Length": "2", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"{}")


def parse_envelope(body: bytes) -> list[Item]:
    """The items of an envelope whose payloads are JSON."""
    _, _, rest = body.partition(b"\n")
    items = []
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length", rest.find(b"\n") if b"\n" in rest else len(rest))
        items.append(Item(header["type"], json.loads(rest[:length])))
        rest = rest[length:].lstrip(b"\n")
    return items


def _plain(attributes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: attribute["value"] for name, attribute in attributes.items()}
