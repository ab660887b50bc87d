"""Processes that a demo starts: ready when their port is open, stopped whatever happens, their last words at hand."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 30.0
LAST_LINES = 15


class DemoError(Exception):
    """The demo cannot go on; the message is for its reader."""


class Child:
    """One process, with what it says in a file."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def wait_for(self, port: int) -> None:
        """Return when the port is open; raise `DemoError` if the process ends first or it takes more than a minute."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                status = self._process.returncode
                raise DemoError(f"{self.name} ended with status {status} instead of starting.{self._words()}")
            try:
                # A connection without a request: it makes no trace that the driver has not caused.
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise DemoError(f"{self.name} does not listen on port {port} after {START_SECONDS:.0f} s.{self._words()}")

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def explain(self, error: Exception) -> DemoError:
        """The error of somebody who talked to this process, with the process's last words."""
        ended = self._process.poll()
        state = "is still running" if ended is None else f"ended with status {ended}"
        return DemoError(f"{type(error).__name__}: {error}; {self.name} {state}.{self._words()}")

    def stop(self) -> None:
        """End it by SIGTERM, as platforms do, and wait; raise `DemoError` if it must be killed."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoError(f"{self.name} did not end within {STOP_SECONDS:.0f} s of SIGTERM.{self._words()}") from None

    def kill(self) -> None:
        """End it at once if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _words(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]
        if not lines:
            return f" It said nothing ({self.log})."
        return f" Its last words ({self.log}):\n" + "\n".join(f"    {line}" for line in lines)


@contextmanager
def running(
    name: str, command: Sequence[str], directory: Path, environ: Mapping[str, str], log: Path, port: int
) -> Iterator[Child]:
    """A process that listens on `port` within the block and does not outlive it."""
    try:
        child = Child(name, command, directory, environ, log)
    except OSError as error:
        raise DemoError(f"{name} cannot be started ({error}); `make demo` installs it.") from error
    try:
        child.wait_for(port)
        yield child
        child.stop()
    finally:
        child.kill()


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
