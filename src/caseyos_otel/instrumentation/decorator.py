"""`@track_event`: an event for every call of a function, its failure twin when the call raises."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from types import FunctionType, TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from caseyos_otel import diagnostics
from caseyos_otel.errors import InvalidEventError
from caseyos_otel.events.model import Declaration
from caseyos_otel.events.registry import registry
from caseyos_otel.instrumentation import track as tracking

P = ParamSpec("P")
R = TypeVar("R")
Properties = Mapping[str, Any] | Callable[[Mapping[str, Any], Any], Mapping[str, Any]]

MEASURED: Final = ("duration_ms", "processing_duration_ms")
"""Declared durations that are the duration of the call itself."""


def track_event(event_name: str, properties: Properties | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Emit `event_name` for every call of the decorated function, method, coroutine, generator or async generator.

    Declared fields are filled from same-named parameters, then from same-named keys or attributes of the result (of the
    exception, when the call raises), then from `properties` (a mapping, or a callable that takes the arguments by name
    and the result); the later wins. A declared duration is measured with a monotonic clock. When the call raises, the
    failure twin is emitted (its issue carries the exception) and the same exception goes on. A cancelled coroutine or a
    closed generator did not fail; a generator's event is emitted when it is exhausted.

    Example:
        >>> @track_event("recommendation_generated")
        ... async def calculate_aps_score(revenue, urgency, effort, icp): ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, staticmethod | classmethod):
            return cast("Callable[P, R]", type(function)(decorate(function.__func__)))
        return cast("Callable[P, R]", _wrap(function, functools.partial(_Watch, event_name, properties)))

    return decorate


class _Watch:
    """One call: what went in, what came out, how long it took. Emits at the end of the `with` block."""

    __slots__ = ("_arguments", "_event_name", "_properties", "_start", "result")

    def __init__(self, event_name: str, properties: Properties | None, arguments: Mapping[str, Any]) -> None:
        self._event_name = event_name
        self._properties = properties
        self._arguments = arguments
        self.result: Any = None

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # CancelledError, GeneratorExit, KeyboardInterrupt and SystemExit are no Exceptions: nothing happened, or failed.
        if tracking.enabled and (error is None or isinstance(error, Exception)):
            self._emit(error, time.perf_counter() - self._start)

    def _emit(self, error: Exception | None, seconds: float) -> None:
        try:
            declaration = registry.require(self._event_name)
            if error is None:
                tracking.emitter.emit(declaration, self._fields(declaration, seconds, self.result))
            elif twin := registry.twin(declaration) or (declaration if declaration.failure else None):
                fields = {**_described(error), **self._fields(twin, seconds, error)}
                tracking.emitter.emit(twin, fields, exception=error)
        except InvalidEventError as invalid:
            # Strict mode must not replace the exception that is already on its way to the caller.
            if error is None:
                tracking.refused(self._event_name, {}, invalid)
        except Exception as ours:
            diagnostics.swallowed(f"tracking a call for {self._event_name!r}", ours)

    def _fields(self, declaration: Declaration, seconds: float, source: Any) -> dict[str, Any]:
        """Fields from parameters, then from `source` (the result, or the exception), then from the given properties."""
        names = _top_level(declaration)
        fields: dict[str, Any] = {name: seconds * 1000 for name in MEASURED if name in declaration.by_name}
        if declaration.failed_when:
            fields[declaration.failed_when] = True
        arguments = self._arguments
        fields.update((name, arguments[name]) for name in names if arguments.get(name) is not None)
        fields.update(_from_object(names, source))
        with diagnostics.guard("asking for the properties of an event"):
            given = self._properties
            fields.update((given(arguments, self.result) if callable(given) else given) or {})
        return fields


@functools.cache
def _top_level(declaration: Declaration) -> tuple[str, ...]:
    return (*declaration.groups, *(name for name in declaration.by_name if "." not in name))


def _described(error: Exception) -> dict[str, Any]:
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be shown)"
    return {"error_type": type(error).__qualname__, "error_message": message}


def _from_object(names: tuple[str, ...], source: Any) -> dict[str, Any]:
    if source is None or isinstance(source, str | bytes | int | float | list | tuple | set):
        return {}
    if isinstance(source, Mapping):
        return {name: source[name] for name in names if source.get(name) is not None}
    found = {name: getattr(source, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None and not callable(value)}


# A wrapper with the function's own parameters: a wrong call raises its TypeError where and as it always did (an
# `async def wrapper(*args, **kwargs)` would raise it at the await), and the arguments need no `inspect` at each call.
# Our own names begin with `_caseyos_`, so that no parameter has the same.
_PLAIN = """
def wrapper({parameters}):
    with _caseyos_watch({arguments}) as _caseyos_call:
        _caseyos_call.result = _caseyos_function({call})
    return _caseyos_call.result
"""
_COROUTINE = """
async def wrapper({parameters}):
    with _caseyos_watch({arguments}) as _caseyos_call:
        _caseyos_call.result = await _caseyos_function({call})
    return _caseyos_call.result
"""
_GENERATOR = """
def wrapper({parameters}):
    with _caseyos_watch({arguments}) as _caseyos_call:
        _caseyos_call.result = yield from _caseyos_function({call})
    return _caseyos_call.result
"""
_ASYNC_GENERATOR = """
async def wrapper({parameters}):
    with _caseyos_watch({arguments}):
        _caseyos_source = _caseyos_function({call})
        try:
            _caseyos_item = await anext(_caseyos_source)
            while True:
                try:
                    _caseyos_sent = yield _caseyos_item
                except GeneratorExit:
                    raise
                except BaseException as _caseyos_thrown:
                    _caseyos_item = await _caseyos_source.athrow(_caseyos_thrown)
                else:
                    _caseyos_item = await _caseyos_source.asend(_caseyos_sent)
        except StopAsyncIteration:
            return
        finally:
            await _caseyos_source.aclose()
"""


def _wrap(function: Callable[..., Any], watch: Callable[..., _Watch]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        template = _ASYNC_GENERATOR
    elif inspect.iscoroutinefunction(function):
        template = _COROUTINE
    elif inspect.isgeneratorfunction(function):
        template = _GENERATOR
    else:
        template = _PLAIN
    source = template.format(**_spelled(function))
    namespace: dict[str, Any] = {"_caseyos_watch": watch, "_caseyos_function": function}
    exec(compile(source, "<track_event>", "exec"), namespace)  # noqa: S102  # our own template, filled with parameter names
    wrapper = namespace["wrapper"]
    if isinstance(function, FunctionType):
        wrapper.__defaults__, wrapper.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return functools.wraps(function)(wrapper)


def _spelled(function: Callable[..., Any]) -> dict[str, str]:
    """Parameters of a function as source text: to declare them, to name them in a dict, and to pass them on."""
    code = getattr(function, "__code__", None)
    if not isinstance(function, FunctionType) or code is None:
        return {"parameters": "*args, **kwargs", "arguments": "kwargs", "call": "*args, **kwargs"}
    names = list(code.co_varnames)
    positional, keyword_only = names[: code.co_argcount], names[code.co_argcount :][: code.co_kwonlyargcount]
    rest = names[code.co_argcount + code.co_kwonlyargcount :]
    star = [f"*{rest.pop(0)}"] if code.co_flags & inspect.CO_VARARGS else []
    double = [f"**{rest.pop(0)}"] if code.co_flags & inspect.CO_VARKEYWORDS else []
    slash = ["/"] if code.co_posonlyargcount else []
    before, after = positional[: code.co_posonlyargcount], positional[code.co_posonlyargcount :]
    declared = [*before, *slash, *after, *(star or (["*"] if keyword_only else [])), *keyword_only, *double]
    passed = [*positional, *star, *(f"{name}={name}" for name in keyword_only), *double]
    named = [*(f"{name!r}: {name}" for name in (*positional, *keyword_only)), *double]
    return {
        "parameters": ", ".join(declared),
        "arguments": "{" + ", ".join(named) + "}",
        "call": ", ".join(passed),
    }
