"""How an append wakes a delivery thread."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Wakeup:
    """An event that may be set from anywhere, a signal handler or a finalizer included.

    `threading.Event.set` takes a lock that is not reentrant: a signal handler that emits would wait for itself.
    `SimpleQueue.put` is documented to be reentrant.
    """

    def __init__(self) -> None:
        self._signals: SimpleQueue[None] = SimpleQueue()
        self.is_set = False
        """True from before the signal is put until after it is taken, so that who finds it set need not set it."""

    def set(self) -> None:
        """Let `wait` return."""
        if not self.is_set:
            self.is_set = True
            self._signals.put(None)

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until it is set, and unset it; whether it was."""
        try:
            self._signals.get(timeout=max(0.0, timeout))
            while not self._signals.empty():
                self._signals.get_nowait()
        except Empty:
            return False
        finally:
            self.is_set = False  # also where nothing came: an exception may have kept a signal from being put
        return True
