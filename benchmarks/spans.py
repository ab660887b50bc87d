"""What tail sampling adds to a span: the plain SDK with a no-op processor, ours, and logfire's tail sampler."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from caseyos_otel.sampling.head import recording_sampler
from caseyos_otel.sampling.spans import TailSamplingSpanProcessor
from caseyos_otel.sampling.table import TraceTable

RATIO: Final = 0.1
TICK_S: Final = 0.1
_ATTRIBUTES: Final = {
    "http.request.method": "POST",
    "url.path": "/crm/v3/objects/deals",
    "server.address": "api.hubapi.com",
    "http.response.status_code": 200,
}

SDK, OURS, LOGFIRE = "opentelemetry", "caseyos-otel", "logfire"


@dataclass(frozen=True)
class Subject:
    """A tracer provider that ends in nothing; `tick` is what its worker does every 0.1 s, if it has one."""

    provider: TracerProvider
    tick: Callable[[], object] | None = None


class NoOp(SpanProcessor):
    """Where every subject ends."""


def opentelemetry() -> Subject:
    """The SDK with its default sampler and a processor that does nothing."""
    return Subject(_provider(NoOp(), DEFAULT_ON))


def ours() -> Subject:
    """Tail sampling as the pipeline sets it up: every span recorded, a tenth of the traces kept, a worker that ticks."""
    table = TraceTable(RATIO)
    processor = TailSamplingSpanProcessor(table, [NoOp()])
    return Subject(_provider(processor, recording_sampler(DEFAULT_ON)), table.tick)


def logfire() -> Subject:
    """logfire's tail sampler alone, on the same SDK: levels, durations, and a tenth of the rest."""
    from logfire.sampling import SamplingOptions
    from logfire.sampling._tail_sampling import TailSamplingProcessor

    tail = SamplingOptions.level_or_duration(background_rate=RATIO).tail
    assert tail is not None
    return Subject(_provider(TailSamplingProcessor(NoOp(), tail), DEFAULT_ON))


SUBJECTS: Final[dict[str, Callable[[], Subject]]] = {SDK: opentelemetry, OURS: ours, LOGFIRE: logfire}


def _provider(processor: SpanProcessor, sampler: Any) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


def request(tracer: trace.Tracer, children: int) -> None:
    """One trace: a root and calls beneath it."""
    root = tracer.start_span("POST /recommendations/{id}/accept", attributes=_ATTRIBUTES)
    within = trace.set_span_in_context(root)
    for _ in range(children):
        tracer.start_span("POST", within, attributes=_ATTRIBUTES).end()
    root.end()


def throughput(subject: Subject, requests: int, children: int) -> dict[str, float]:
    """Of one turn: µs of the caller's CPU, of the process's CPU (the worker included) and of wall time, a span."""
    tracer = subject.provider.get_tracer("benchmarks")
    with _ticking(subject.tick):
        wall, everything, caller = time.perf_counter_ns(), time.process_time_ns(), time.thread_time_ns()
        for _ in range(requests):
            request(tracer, children)
        caller = time.thread_time_ns() - caller
        subject.provider.force_flush()
        everything, wall = time.process_time_ns() - everything, time.perf_counter_ns() - wall
    spans = requests * (children + 1) * 1000
    return {"caller_us": caller / spans, "cpu_us": everything / spans, "wall_us": wall / spans}


@contextmanager
def _ticking(tick: Callable[[], object] | None) -> Iterator[None]:
    if tick is None:
        yield
        return
    done = threading.Event()

    def work() -> None:
        while not done.wait(TICK_S):
            tick()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


def memory(make: Callable[[], Subject], traces: int, children: int) -> float:
    """Bytes that an ended span of an undecided trace holds, by tracemalloc."""
    subject = make()
    tracer = subject.provider.get_tracer("benchmarks")
    roots = [tracer.start_span("root") for _ in range(traces)]
    contexts = [trace.set_span_in_context(root) for root in roots]
    _settle(subject)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for context in contexts:
        for _ in range(children):
            tracer.start_span("POST", context, attributes=_ATTRIBUTES).end()
    _settle(subject)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held / (traces * children)


def _settle(subject: Subject) -> None:
    if subject.tick is not None:
        subject.tick()
    gc.collect()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; asserts nothing."""
    asked = _arguments(arguments)
    wanted = [name for name in SUBJECTS if name != LOGFIRE or find_spec("logfire")]
    if LOGFIRE not in wanted:
        print(f"NOT MEASURED: logfire is not installed. {sys.executable} -m pip install logfire", file=sys.stderr)
    subjects = {name: SUBJECTS[name]() for name in wanted}
    for subject in subjects.values():
        throughput(subject, asked.requests // 4, asked.children)
    rounds = []
    for number in range(asked.rounds):
        order = wanted if number % 2 else wanted[::-1]  # what runs behind whom alternates
        rounds.append({name: throughput(subjects[name], asked.requests, asked.children) for name in order})
    held = {name: memory(SUBJECTS[name], 100, 20) for name in wanted}
    answer = _answer(rounds, held)
    print(json.dumps(answer) if asked.json else _text(answer, asked))
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spans", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often every subject has its turn (default: 9)")
    parser.add_argument("--requests", type=int, default=3000, help="traces of a turn (default: 3000)")
    parser.add_argument("--children", type=int, default=9, help="spans of a trace beside its root (default: 9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args(arguments)


def _answer(rounds: Sequence[dict[str, dict[str, float]]], held: dict[str, float]) -> dict[str, Any]:
    """Medians over rounds; ratios are taken within a round, so that a slow moment of the machine hits both sides.

    Throughput is that of one core, all threads together: wall time would measure what else the machine does.
    """
    answer: dict[str, Any] = {"bytes_held": held, "rounds": rounds}
    for name in held:
        each = {key: statistics.median(r[name][key] for r in rounds) for key in ("caller_us", "cpu_us", "wall_us")}
        each["throughput_of_sdk"] = statistics.median(r[SDK]["cpu_us"] / r[name]["cpu_us"] for r in rounds)
        each["added_us"] = statistics.median(r[name]["cpu_us"] - r[SDK]["cpu_us"] for r in rounds)
        answer[name] = each
    return answer


def _text(answer: dict[str, Any], asked: argparse.Namespace) -> str:
    held = answer["bytes_held"]
    shape = f"{asked.requests} traces of {asked.children + 1} spans each, a tenth of them kept"
    lines = [
        f"{asked.rounds} rounds, interleaved; {shape}; Python {sys.version.split()[0]}",
        f"{'a span':<16}{'caller µs':>10}{'CPU µs':>9}{'wall µs':>9}{'throughput / SDK':>18}{'added µs':>10}{'bytes held':>12}",
    ]
    for name, size in held.items():
        each = answer[name]
        lines.append(
            f"{name:<16}{each['caller_us']:>10.2f}{each['cpu_us']:>9.2f}{each['wall_us']:>9.2f}"
            f"{each['throughput_of_sdk']:>18.2f}{each['added_us']:>10.2f}{size:>12.0f}"
        )
    if LOGFIRE in held:
        added = answer[OURS]["added_us"] / answer[LOGFIRE]["added_us"]
        lines.append(f"ours / logfire: added cost {added:.2f}, memory {held[OURS] / held[LOGFIRE]:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
