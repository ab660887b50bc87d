"""Two services → agent → load balancer → two gateways, the real Collector: every event once, traces whole and sampled.

Who decides about a trace is tried in the three modes: each process, the Collector, or some of both. All of them ask the
same of a trace without failure (R ≥ T), so what is expected is a set of traces, not only a share.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from caseyos_otel.sampling import probability
from tests.e2e.receiver import OtlpReceiver, Span
from tests.e2e.service import wait_for
from tests.e2e.tiers import BEHIND, FRONT, services, tiers, traffic

FINE, FAILING = 300, 15
THRESHOLD = probability.threshold(0.1)


MODES = {
    "process": {FRONT: "process", BEHIND: "process"},
    "collector": {FRONT: "collector", BEHIND: "collector"},
    "both": {FRONT: "process", BEHIND: "collector"},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_event_once_and_whole_traces(mode: str, tmp_path: Path) -> None:
    modes = MODES[mode]
    wished = ["fine"] * FINE + ["behind-fails"] * FAILING + ["front-fails"] * FAILING
    with OtlpReceiver() as receiver, tiers(tmp_path, receiver.endpoint, **to(receiver)) as collectors:
        with services(tmp_path, collectors.agent, modes) as client:
            asked = traffic(client, wished)
        wait_for(
            lambda: len(receiver.records) >= 2 * len(wished) + FAILING,
            "events do not arrive:",
            lambda: len(receiver.records),
        )
        expected = {(trace_id, name) for trace_id, how in asked.items() for name in parts(trace_id, how, modes)}
        wait_for(lambda: {(s.trace_id, s.resource["service.name"]) for s in receiver.spans} >= expected, "traces lack")
        wait_for(lambda: not any(gateway.undecided for gateway in collectors.gateways), "undecided traces")
        assert all(gateway.kept for gateway in collectors.gateways)
        assert sum(gateway.kept for gateway in collectors.gateways) == len({trace_id for trace_id, _ in expected})
        assert {(span.trace_id, span.resource["service.name"]) for span in receiver.spans} == expected
    assert_events_once(receiver, len(wished))
    assert_whole(receiver.spans)
    kept = {trace_id for trace_id, _ in expected if asked[trace_id] == "fine"}
    assert 0.1 * FINE - 4 * (FINE * 0.09) ** 0.5 < len(kept) < 0.1 * FINE + 4 * (FINE * 0.09) ** 0.5


def to(receiver: OtlpReceiver) -> dict[str, str]:
    """Traces to it as well, judged soon."""
    return {
        "COLLECTOR_BACKEND": receiver.endpoint,
        "COLLECTOR_TRACES_TO": "[otlp_http/backend]",
        "COLLECTOR_DECISION_WAIT": "4s",
    }


def parts(trace_id: str, how: str, modes: dict[str, str]) -> set[str]:
    """Which services' parts of a trace are kept."""
    if probability.keep(probability.randomness(int(trace_id, 16)), THRESHOLD):
        return {FRONT, BEHIND}
    if how == "fine":
        return set()
    failed = FRONT if how == "front-fails" else BEHIND
    # a process that decides alone knows its own failures only; what it left to the Collector joins a failed trace
    return {failed} | {name for name, decided_by in modes.items() if decided_by == "collector"}


def assert_events_once(receiver: OtlpReceiver, requests: int) -> None:
    ids = [record.attributes["caseyos.event.id"] for record in receiver.records]
    assert len(set(ids)) == len(ids) == 2 * requests + FAILING
    names = [record.event_name for record in receiver.records]
    assert names.count("caseyos.outcome.reply_received") == names.count("caseyos.outcome.meeting_booked") == requests
    assert names.count("caseyos.circuit_breaker.opened") == FAILING


def assert_whole(spans: list[Span]) -> None:
    """Of each service, a trace has all the spans that any other one has; none is there twice."""
    assert len({span.span_id for span in spans}) == len(spans)
    shapes: dict[str, set[tuple[str, ...]]] = {FRONT: set(), BEHIND: set()}
    found: dict[tuple[str, str], list[str]] = {}
    for span in spans:
        found.setdefault((span.trace_id, span.resource["service.name"]), []).append(span.name)
    for (_, service), names in found.items():
        shapes[service].add(tuple(sorted(names)))
    assert {service: len(kinds) for service, kinds in shapes.items()} == {FRONT: 1, BEHIND: 1}
