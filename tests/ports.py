"""Ports of loopback for servers of tests."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def free_port() -> int:
    """One of them."""
    [port] = free_ports(1)
    return port


def listens(port: int) -> bool:
    """Whether somebody does now."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False


def port_of(address: str) -> int:
    """The port in a URL of loopback."""
    return int(address.rpartition(":")[2].partition("/")[0])
