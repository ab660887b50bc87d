"""Events as Sentry takes them, whole payloads compared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from caseyos_otel.events.record import EventRecord
from caseyos_otel.exporters.sentry import payloads

Make = Callable[..., EventRecord]

TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def plain(text: str) -> str:
    return text


def test_action_failed_becomes_an_issue_that_tells_the_failure(make_record: Make) -> None:
    record = make_record(
        "action_failed",
        {
            "action_id": "a-1",
            "action_type": "send_email",
            "error_type": "api_error",
            "error_message": "Gmail API: Daily sending limit exceeded",
            "retryable": False,
        },
    )
    assert payloads.issue(record, record.values, plain) == {
        "event_id": "019beadd800070008000000000000001",
        "timestamp": "2026-01-23T12:00:00.123456Z",
        "level": "error",
        "platform": "python",
        "logger": "caseyos_otel",
        "fingerprint": ["action_failed", "api_error", "send_email"],
        "tags": {
            "event": "action_failed",
            "action_type": "send_email",
            "error_type": "api_error",
            "retryable": "false",
        },
        "contexts": {
            "caseyos.event": {
                "event": "action_failed",
                "event_id": "019beadd-8000-7000-8000-000000000001",
                "action_id": "a-1",
                "action_type": "send_email",
                "error_type": "api_error",
                "error_message": "Gmail API: Daily sending limit exceeded",
                "retryable": False,
            },
            "trace": TRACE,
        },
        "breadcrumbs": {"values": []},
        "logentry": {"formatted": "action_failed: Gmail API: Daily sending limit exceeded"},
    }


def test_a_failed_call_that_will_be_retried_is_a_warning_grouped_by_its_route(make_record: Make) -> None:
    record = make_record(
        "integration_call_failed",
        {
            "integration": "hubspot",
            "endpoint": "/crm/v3/objects/deals/9876",
            "method": "GET",
            "status_code": 429,
            "error_message": "Rate limit exceeded",
            "retryable": True,
        },
        trace_id=0,
        span_id=0,
        resource={"service.name": "command-center", "service.version": "1.2"},
    )
    crumb = {"message": "signal_received"}
    assert payloads.issue(record, record.values, plain, [crumb]) == {
        "event_id": "019beadd800070008000000000000001",
        "timestamp": "2026-01-23T12:00:00.123456Z",
        "level": "warning",
        "platform": "python",
        "logger": "caseyos_otel",
        "fingerprint": ["integration_call_failed", "429", "hubspot", "GET /crm/v3/objects/deals/{id}"],
        "tags": {
            "event": "integration_call_failed",
            "integration": "hubspot",
            "method": "GET",
            "status_code": "429",
            "error_type": "429",
            "retryable": "true",
            "service.name": "command-center",
        },
        "contexts": {
            "caseyos.event": {
                "event": "integration_call_failed",
                "event_id": "019beadd-8000-7000-8000-000000000001",
                "integration": "hubspot",
                "endpoint": "/crm/v3/objects/deals/9876",
                "method": "GET",
                "status_code": 429,
                "error_message": "Rate limit exceeded",
                "retryable": True,
                "service": "command-center",
                "service_version": "1.2",
            },
        },
        "breadcrumbs": {"values": [crumb]},
        "logentry": {
            "formatted": "integration_call_failed: hubspot GET /crm/v3/objects/deals/{id} 429: Rate limit exceeded"
        },
    }


@pytest.mark.parametrize(
    ("name", "fields", "fingerprint", "title"),
    [
        (
            "circuit_breaker_opened",
            {"service": "hubspot", "failure_count": 5, "threshold": 5},
            ["circuit_breaker_opened", "hubspot"],
            "circuit_breaker_opened: hubspot",
        ),
        (
            "action_executed",
            {"action_id": "a", "action_type": "create_task", "execution_mode": "manual", "success": False}
            | {"error": "no\nroom"},
            ["action_executed", "create_task"],
            "action_executed: no room",
        ),
        (
            "action_rolled_back",
            {"action_id": "a", "action_type": "send_email", "rollback_reason": "duplicate_detected"}
            | {"rollback_success": False},
            ["action_rolled_back", "send_email"],
            "action_rolled_back: send_email",
        ),
        (
            "signal_received_failed",
            {"signal_id": "s-1", "error_type": "ValueError", "error_message": "no deal"},
            ["signal_received_failed", "ValueError"],
            "signal_received_failed: no deal",
        ),
    ],
)
def test_every_failure_has_a_group_and_a_title(
    make_record: Make, name: str, fields: dict[str, object], fingerprint: list[str], title: str
) -> None:
    record = make_record(name, fields)
    issue = payloads.issue(record, record.values, plain)
    assert issue["fingerprint"] == fingerprint
    assert issue["logentry"] == {"formatted": title}
    assert issue["level"] == "error"


@pytest.mark.parametrize(
    ("endpoint", "template"),
    [
        ("/crm/v3/objects/deals", "/crm/v3/objects/deals"),
        ("/gmail/v1/users/me/messages/18c2f0a9b?format=full", "/gmail/v1/users/me/messages/{id}"),
        ("/calendars/casey@example.com/events", "/calendars/{id}/events"),
        ("/calendars/casey%40example.com/events", "/calendars/{id}/events"),
        ("/deals/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/deals/{id}"),
        ("/token/abcdefghijklmnopqrstuvwxyzabcdefghi", "/token/{id}"),
    ],
)
def test_ids_in_a_path_do_not_make_groups(make_record: Make, endpoint: str, template: str) -> None:
    record = make_record("integration_call_failed", {"integration": "x", "method": "GET", "endpoint": endpoint})
    assert payloads.issue(record, record.values, plain)["fingerprint"][-1] == f"GET {template}"


def test_an_exception_text_becomes_frames_and_is_disclosed(make_record: Make) -> None:
    record = make_record(
        "action_failed",
        {"action_id": "a", "action_type": "send_email", "error_type": "gmail.QuotaError", "error_message": "over"},
        exception_attributes={
            "exception.type": "gmail.QuotaError",
            "exception.message": "over for john@acmecorp.com",
            "exception.stacktrace": 'Traceback (most recent call last):\n  File "/app/mail.py", line 12, in send\n'
            "    raise QuotaError(who)\ngmail.QuotaError: over for john@acmecorp.com\n",
        },
    )
    issue = payloads.issue(record, record.values, lambda text: text.replace("john@acmecorp.com", "h_1"))
    assert "logentry" not in issue
    assert issue["exception"] == {
        "values": [
            {
                "type": "QuotaError",
                "module": "gmail",
                "value": "over for h_1",
                "mechanism": {"type": "caseyos_otel", "handled": True},
                "stacktrace": {
                    "frames": [
                        {
                            "abs_path": "/app/mail.py",
                            "filename": "mail.py",
                            "lineno": 12,
                            "function": "send",
                            "context_line": "raise QuotaError(who)",
                        }
                    ]
                },
            }
        ]
    }


def test_a_breadcrumb_has_at_most_ten_fields(make_record: Make) -> None:
    record = make_record(
        "action_executed",
        {
            "action_id": "a-1",
            "action_type": "send_email",
            "execution_mode": "automated",
            "success": True,
            "metadata": {"recipient": "john@acmecorp.com"},
        },
    )
    assert payloads.breadcrumb(record, record.values) == {
        "type": "default",
        "category": "telemetry",
        "message": "action_executed",
        "level": "info",
        "timestamp": "2026-01-23T12:00:00.123456Z",
        "data": {
            "action_id": "a-1",
            "action_type": "send_email",
            "execution_mode": "automated",
            "success": True,
            "metadata.recipient": "john@acmecorp.com",
        },
    }
    many = {f"field_{n}": n for n in range(14)}
    assert len(payloads.breadcrumb(record, many)["data"]) == 10


def test_a_success_becomes_a_log_with_flat_names(make_record: Make) -> None:
    record = make_record(
        "outcome_meeting_booked",
        {
            "draft_id": "d",
            "attendee": "h_1",
            "meeting_time": datetime(2026, 1, 24, 14, tzinfo=UTC),
            "time_to_book_hours": 24,
        },
    )
    assert payloads.log(record, record.values) == (
        "outcome_meeting_booked",
        "info",
        {
            "event": "outcome_meeting_booked",
            "event_id": "019beadd-8000-7000-8000-000000000001",
            "draft_id": "d",
            "attendee": "h_1",
            "meeting_time": "2026-01-24T14:00:00Z",
            "time_to_book_hours": 24,
        },
    )


def test_invalid_fields_and_the_user_are_named(make_record: Make) -> None:
    record = make_record("action_failed", {"action_id": "a", "error_type": "api_error", "action_type": 3})
    issue = payloads.issue(record, record.values | {"user_id": "casey"}, plain)
    assert issue["contexts"]["caseyos.event"]["invalid_fields"] == ["action_type"]
    assert issue["user"] == {"id": "casey"}
