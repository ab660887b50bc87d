"""A door before a server: it lets through, refuses, takes and is silent, is slow, or does not even answer a knock."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal, Self

Way = Literal["open", "refuses", "is silent", "is slow", "does not answer"]
SLOW_S = 3.0
"""Longer than an exit waits for one answer, shorter than a service would be willing to."""
AWAY: tuple[Way, ...] = ("refuses", "is silent", "is slow", "does not answer")


class Door:
    """A TCP proxy on a port of loopback. Use as a context manager; `become` changes it under living connections."""

    def __init__(self, target: int, way: Way = "open") -> None:
        self._target = target
        self._way: Way = way
        self._listener: socket.socket | None = None
        self._sockets: list[socket.socket] = []
        self.port = 0

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.become(self._way)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def become(self, way: Way) -> None:
        """From now on. Connections stay as they are, but a door that refuses closes them."""
        before, self._way = self._way, way
        if way in ("refuses", "does not answer") or before == "does not answer":
            self._close()
        if way == "does not answer":
            self._listen(backlog=0)
            self._fill()
        elif way == "refuses":
            return
        elif self._listener is None:
            threading.Thread(target=self._accept, args=(self._listen(backlog=64),), daemon=True).start()

    def _listen(self, backlog: int) -> socket.socket:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(backlog)
        return self._listener

    def _fill(self) -> None:
        """With the backlog full, the kernel drops whoever knocks."""
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", self.port))
            self._sockets.append(client)

    def _close(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        while self._sockets:
            each = self._sockets.pop()
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                inside, _ = listener.accept()
            except OSError:
                return
            outside = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [inside, outside]
            for each in (inside, outside):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, question in ((inside, outside, True), (outside, inside, False)):
                threading.Thread(target=self._pass, args=(source, sink, question), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, question: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                while self._way == "is silent":
                    time.sleep(0.02)
                if question and self._way == "is slow":
                    time.sleep(SLOW_S)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
