"""Ways in which a process ends without running atexit: each is watched, so that what is in memory leaves (DESIGN 9.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import wrapt

from caseyos_otel.diagnostics import guarded

Flush = Callable[[], object]


def watch(owner: object, flush: Flush) -> None:
    """Flush when a server stops, and at the end of a multiprocessing child. Nothing is imported that is not there.

    `owner` is what must be alive for it to happen: the pipeline.
    """
    wrapt.register_post_import_hook(lambda module: _watch_uvicorn(module, flush), "uvicorn.server")
    wrapt.register_post_import_hook(lambda module: _watch_gunicorn(module, flush), "gunicorn.workers.base")
    wrapt.register_post_import_hook(lambda module: _watch_celery(module, flush), "celery.signals")
    wrapt.register_post_import_hook(lambda module: _watch_multiprocessing(module, owner, flush), "multiprocessing.util")


def _watch_uvicorn(module: Any, flush: Flush) -> None:
    # After the shutdown uvicorn raises the signal again, whose default action ends the process without atexit.
    async def shutdown(wrapped: Any, _server: Any, args: Any, kwargs: Any) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            guarded("flushing at the end of uvicorn", flush)

    guarded("watching uvicorn", lambda: wrapt.wrap_function_wrapper(module, "Server.shutdown", shutdown))


def _watch_gunicorn(module: Any, flush: Flush) -> None:
    # A worker that was asked to quit at once, or is recycled, may leave by os._exit.
    def handle_quit(wrapped: Any, _worker: Any, args: Any, kwargs: Any) -> Any:
        guarded("flushing at the end of a gunicorn worker", flush)
        return wrapped(*args, **kwargs)

    guarded("watching gunicorn", lambda: wrapt.wrap_function_wrapper(module, "Worker.handle_quit", handle_quit))


def _watch_celery(module: Any, flush: Flush) -> None:
    def connect() -> None:
        module.worker_process_shutdown.connect(
            lambda **_: guarded("flushing at the end of a Celery worker", flush), weak=False
        )

    guarded("watching Celery", connect)


def _watch_multiprocessing(module: Any, owner: object, flush: Flush) -> None:
    # A child forgets its parent's finalizers, then runs what was registered here: that is when its own is made.
    def in_child(_: object) -> None:
        module.Finalize(None, guarded, args=("flushing at the end of a child process", flush), exitpriority=100)

    guarded("watching multiprocessing", lambda: module.register_after_fork(owner, in_child))
