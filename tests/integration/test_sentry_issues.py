"""Issues as a Sentry-compatible server stores them: each kind of failure one issue, each event once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import Context, copy_context
from typing import Any

import pytest
import sentry_sdk

from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import Registry
from caseyos_otel.exporters.sentry import scope
from caseyos_otel.exporters.sentry.client import SentryDestination
from caseyos_otel.exporters.sentry.scope import FailureScopes
from tests.integration.bugsink import Bugsink, Stored

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
EXECUTED = {"action_id": "a-2", "action_type": "create_task", "execution_mode": "automated"}
ROLLED_BACK = {"action_id": "a-3", "action_type": "send_email", "rollback_reason": "user_requested"}
CALL = {"integration": "hubspot", "method": "GET", "endpoint": "/crm/v3/objects/deals", "status_code": 429}
FAILURES: tuple[tuple[str, Mapping[str, Any], str, list[str], str], ...] = (
    (
        "action_failed",
        {"action_id": "a-1", "action_type": "send_email", "error_type": "api_error", "error_message": "limit exceeded"},
        "error",
        ["action_failed", "api_error", "send_email"],
        "action_failed: limit exceeded",
    ),
    (
        "action_executed",
        EXECUTED | {"success": False, "error": "no such list"},
        "error",
        ["action_executed", "create_task"],
        "action_executed: no such list",
    ),
    (
        "action_rolled_back",
        ROLLED_BACK | {"rollback_success": False},
        "error",
        ["action_rolled_back", "send_email"],
        "action_rolled_back: send_email",
    ),
    (
        "integration_call_failed",
        CALL | {"error_message": "Rate limit exceeded", "retryable": True},
        "warning",
        ["integration_call_failed", "429", "hubspot", "GET /crm/v3/objects/deals"],
        "integration_call_failed: hubspot GET /crm/v3/objects/deals 429: Rate limit exceeded",
    ),
    (
        "circuit_breaker_opened",
        {"service": "hubspot", "failure_count": 5, "threshold": 5},
        "error",
        ["circuit_breaker_opened", "hubspot"],
        "circuit_breaker_opened: hubspot",
    ),
    (
        "recommendation_generated_failed",
        {"error_type": "ValueError", "error_message": "no score"},
        "error",
        ["recommendation_generated_failed", "ValueError"],
        "ValueError: no score",
    ),
)
NAMES = [name for name, *_ in FAILURES]
RAISED = "recommendation_generated_failed"

registry = Registry()
_ids = iter(range(1, 10_000))


def make_record(name: str, fields: Mapping[str, Any], second: int = 0) -> EventRecord:
    declaration = registry.require(name)
    timestamp = 1_769_169_600_000_000_000 + second * 1_000_000_000
    return EventRecord(
        declaration,
        declaration.bind(fields).values,
        event_id=f"019beadd-8000-7000-8000-{next(_ids):012x}",
        timestamp=timestamp,
        observed_timestamp=timestamp,
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
    )


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[EventRecord], list[Stored]]]:
    """Every kind of failure twice, in two requests, and all of it delivered again as by another process."""
    records: list[EventRecord] = []
    with Bugsink(tmp_path_factory.mktemp("bugsink")) as bugsink:
        failures = FailureScopes()
        for request in ("first", "second"):
            records += Context().run(fail_in_every_way, request, failures)
        deliver(bugsink.dsn, records, failures)
        deliver(bugsink.dsn, records, FailureScopes())
        yield records, bugsink.stored()


def fail_in_every_way(request: str, failures: FailureScopes) -> list[EventRecord]:
    trail = []
    records = []
    for name, fields, *_ in FAILURES:
        earlier = make_record("signal_received", {"signal_id": request, "source": "gmail"}, second=len(trail))
        record = make_record(name, fields, second=len(trail) + 1)
        trail += [(r.timestamp or 0, r.declaration, r.values) for r in (earlier, record)]
        failures.remember(record.event_id, copy_context(), trail, raised() if name == RAISED else None)
        records.append(record)
    return records


def raised() -> ValueError:
    try:
        raise ValueError("no score")
    except ValueError as error:
        return error


def deliver(dsn: str, records: list[EventRecord], failures: FailureScopes) -> None:
    destination = SentryDestination(
        dsn, disclose=lambda record: record.values, disclose_text=lambda text: text, failures=failures
    )
    try:
        destination.export(records)
    finally:
        destination.close()
        sentry_sdk.get_global_scope().client.close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)
        scope.install(None)


def of(stored: list[Stored], name: str) -> list[Stored]:
    return [event for event in stored if event.data["tags"]["event"] == name]


def test_each_event_is_stored_once(delivered: tuple[list[EventRecord], list[Stored]]) -> None:
    records, stored = delivered
    assert sorted(event.data["event_id"] for event in stored) == sorted(r.event_id.replace("-", "") for r in records)


@pytest.mark.parametrize(
    ("name", "fields", "level", "fingerprint", "title"), FAILURES, ids=lambda value: str(value)[:30]
)
def test_each_kind_of_failure_is_one_issue(
    delivered: tuple[list[EventRecord], list[Stored]],
    name: str,
    fields: Mapping[str, Any],
    level: str,
    fingerprint: list[str],
    title: str,
) -> None:
    found = of(delivered[1], name)
    assert len(found) == 2
    assert len({event.issue for event in found}) == 1
    assert len({event.issue for event in delivered[1]}) == len(FAILURES)
    for event in found:
        assert (event.title, event.data["level"], event.data["fingerprint"]) == (title, level, fingerprint)
        assert event.data["contexts"]["trace"]["trace_id"] == f"{TRACE_ID:032x}"
        assert event.data["contexts"]["trace"]["span_id"] == f"{SPAN_ID:016x}"
        assert fields.items() <= event.data["contexts"]["caseyos.event"].items()


def test_breadcrumbs_are_the_requests_earlier_events(delivered: tuple[list[EventRecord], list[Stored]]) -> None:
    signals = set()
    for event in of(delivered[1], "action_rolled_back"):
        crumbs = event.data["breadcrumbs"]["values"]
        assert [crumb["message"] for crumb in crumbs] == [
            "signal_received",
            "action_failed",
            "signal_received",
            "action_executed",
            "signal_received",
        ]
        (signal,) = {crumb["data"]["signal_id"] for crumb in crumbs if crumb["message"] == "signal_received"}
        signals.add(signal)
    assert signals == {"first", "second"}


def test_a_raised_failure_has_the_exceptions_frames(delivered: tuple[list[EventRecord], list[Stored]]) -> None:
    for event in of(delivered[1], RAISED):
        (value,) = event.data["exception"]["values"]
        assert value["stacktrace"]["frames"][-1]["function"] == "raised"
