"""The Sentry destination against a loopback receiver: what leaves, in whose name, and what happens when it cannot."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context, copy_context
from typing import Any

import pytest
import sentry_sdk

from caseyos_otel.context import TrailEntry
from caseyos_otel.diagnostics import drops
from caseyos_otel.errors import ConfigurationError, Rejected, Unavailable
from caseyos_otel.events.record import EventRecord
from caseyos_otel.events.registry import Registry
from caseyos_otel.exporters.sentry import scope
from caseyos_otel.exporters.sentry.client import SentryDestination
from caseyos_otel.exporters.sentry.scope import FailureScopes, request_scope
from caseyos_otel.redaction.disclosure import Disclosure
from caseyos_otel.redaction.pseudonyms import Pseudonyms
from tests.integration.sentry_receiver import KEY, SentryReceiver

NOON = 1_769_169_600_000_000_000
SECOND = 1_000_000_000
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
SPAN_ID = 0xB7AD6B7169203331
FAILED = {"action_id": "a-1", "action_type": "send_email", "error_type": "api_error", "error_message": "limit exceeded"}
SHOWN = {
    "recommendations_shown": 10,
    "top_score": 87.5,
    "bottom_score": 42.3,
    "user_id": "casey",
}

registry = Registry()
_ids = iter(range(1, 10_000))


def make_record(name: str, fields: Mapping[str, Any], **more: Any) -> EventRecord:
    declaration = registry.require(name)
    facts: dict[str, Any] = {
        "event_id": f"019beadd-8000-7000-8000-{next(_ids):012x}",
        "timestamp": NOON,
        "observed_timestamp": NOON,
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
    }
    return EventRecord(declaration, declaration.bind(fields).values, **(facts | more))


def entry(name: str, fields: Mapping[str, Any], seconds_before: int) -> TrailEntry:
    declaration = registry.require(name)
    return (NOON - seconds_before * SECOND, declaration, declaration.bind(fields).values)


@pytest.fixture
def receiver() -> Iterator[SentryReceiver]:
    with SentryReceiver() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_sdk() -> Iterator[None]:
    """A process in which nobody has initialised sentry-sdk, and where nothing is counted yet."""

    def reset() -> None:
        scope.install(None)
        client = sentry_sdk.get_global_scope().client
        client.close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)
        for each in (sentry_sdk.get_global_scope(), sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope()):
            each.clear()
        drops.after_fork()

    reset()
    yield
    reset()


@pytest.fixture
def destination(receiver: SentryReceiver) -> Iterator[Callable[..., SentryDestination]]:
    """Makes the destination; addresses leave as keyed hashes."""
    disclosure = Disclosure(Pseudonyms(b"k" * 32), frozenset({"database"}))
    with contextlib.ExitStack() as stack:

        def make(**more: Any) -> SentryDestination:
            made = SentryDestination(
                more.pop("dsn", receiver.dsn),
                disclose=lambda record: disclosure.values(record, "sentry"),
                disclose_text=lambda text: disclosure.text(text, "sentry"),
                **more,
            )
            stack.callback(made.close)
            return made

        yield make


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(found) == 1, f"{len(found)} arrived"
    return found[0]


def messages(event: dict[str, Any]) -> list[str]:
    return [crumb["message"] for crumb in event["breadcrumbs"]["values"]]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_issue_is_of_its_own_request_as_it_was(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination(environment="staging", release="command-center@1")
    record = make_record("action_failed", FAILED)

    def request(name: str, remember: bool) -> None:
        with sentry_sdk.isolation_scope() as isolation:
            isolation.set_tag("request", name)
            isolation.set_user({"id": name})
            sentry_sdk.add_breadcrumb(message=f"native of {name}", timestamp="2026-01-23T11:59:58Z")
            if remember:
                trail = (
                    entry("signal_received", {"signal_id": "s", "source": "gmail"}, 3),
                    entry("recommendation_viewed", SHOWN, 1),
                    (NOON, record.declaration, record.values),
                )
                sentry.failures.remember(record.event_id, copy_context(), trail)
                isolation.set_tag("request", "the next job on this scope")
                sentry_sdk.add_breadcrumb(message="later")

    Context().run(request, "first", remember=True)
    Context().run(request, "second", remember=False)
    sentry.export([record])

    event = only(receiver.events)
    assert event["event_id"] == record.event_id.replace("-", "")
    assert event["tags"]["request"] == "first"
    assert event["tags"]["event"] == "action_failed"
    assert event["user"] == {"id": "first"}
    assert (event["environment"], event["release"]) == ("staging", "command-center@1")
    assert event["contexts"]["trace"]["trace_id"] == f"{TRACE_ID:032x}"
    assert event["fingerprint"] == ["action_failed", "api_error", "send_email"]
    assert messages(event) == ["signal_received", "native of first", "recommendation_viewed"]
    path, headers = receiver.requests[0]
    assert path == "/api/7/envelope/"
    assert f"sentry_key={KEY}" in headers["X-Sentry-Auth"]
    assert len(sentry.failures) == 0


def test_an_issue_after_a_crash_leaves_without_its_request(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    sentry_sdk.set_tag("request", "somebody else's")
    record = make_record(
        "action_failed",
        FAILED,
        exception_attributes={
            "exception.type": "ValueError",
            "exception.message": "for john@acmecorp.com",
            "exception.stacktrace": 'Traceback (most recent call last):\n  File "/app/a.py", line 3, in f\nValueError',
        },
    )
    sentry.export([record])
    event = only(receiver.events)
    assert "request" not in event["tags"]
    assert event["breadcrumbs"]["values"] == []
    value = event["exception"]["values"][0]
    assert value["stacktrace"]["frames"][0]["function"] == "f"
    assert "john" not in value["value"]
    assert value["value"].startswith("for h_")


def test_a_repeated_batch_is_sent_once(receiver: SentryReceiver, destination: Callable[..., SentryDestination]) -> None:
    sentry = destination()
    batch = [make_record("action_failed", FAILED), make_record("action_failed", FAILED)]
    receiver.answers.extend([(200, {}), (503, {})])
    with pytest.raises(Unavailable):
        sentry.export(batch)
    sentry.export(batch)
    assert [event["event_id"] for event in receiver.events] == [record.event_id.replace("-", "") for record in batch]
    assert len(receiver.requests) == 3


def test_an_exception_comes_with_its_frames_but_no_variables_and_no_addresses(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    record = make_record("action_failed", FAILED)
    error = raised(ValueError("no mailbox john@acmecorp.com, password=hunter2"))
    sentry.failures.remember(record.event_id, copy_context(), None, error)
    sentry.export([record])
    value = only(receiver.events)["exception"]["values"][-1]
    assert value["type"] == "ValueError"
    assert "john" not in value["value"]
    assert "hunter2" not in value["value"]
    frame = value["stacktrace"]["frames"][-1]
    assert frame["function"] == "raised"
    assert frame["context_line"].strip() == "raise error"
    assert "vars" not in frame


def test_a_failure_is_one_issue_however_often_the_service_captures_its_exception(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    failures = [(make_record("action_failed", FAILED), raised(ValueError(f"number {n}"))) for n in range(2)]
    for record, error in failures:
        sentry.failures.remember(record.event_id, copy_context(), None, error)
        sentry_sdk.capture_exception(error)
        logging.getLogger("service").error("it failed", exc_info=error)
    sentry_sdk.capture_exception(ExceptionGroup("of a task group", [error for _, error in failures]))  # type: ignore[list-item]
    sentry.export([record for record, _ in failures])
    sentry_sdk.flush(timeout=20)
    assert {event["event_id"] for event in receiver.events} == {r.event_id.replace("-", "") for r, _ in failures}
    assert len(receiver.events) == 2


def test_a_new_exception_is_the_services_own_even_if_a_failure_caused_it(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    record = make_record("action_failed", FAILED)
    error = raised(ValueError("cause"))
    sentry.failures.remember(record.event_id, copy_context(), None, error)
    wrapped = KeyError("another")
    wrapped.__cause__ = error
    sentry_sdk.capture_exception(raised(wrapped))
    sentry_sdk.flush(timeout=20)
    assert [value["type"] for value in only(receiver.events)["exception"]["values"]] == ["ValueError", "KeyError"]


def test_a_failure_is_an_issue_even_if_the_service_captured_its_exception_before(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    error = raised(ValueError("seen"))
    sentry_sdk.capture_exception(error)
    record = make_record("action_failed", FAILED)
    sentry.failures.remember(record.event_id, copy_context(), None, error)
    sentry.export([record])
    sentry_sdk.flush(timeout=20)
    assert record.event_id.replace("-", "") in {event["event_id"] for event in receiver.events}


def test_errors_of_the_service_get_the_trails_breadcrumbs_in_order_and_within_the_limit(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry_sdk.init(receiver.dsn, max_breadcrumbs=3, default_integrations=False, traces_sample_rate=1.0)
    trail = [
        entry("signal_received", {"signal_id": "s", "source": "gmail"}, 9),
        entry("outcome_reply_received", {"recipient": "john@acmecorp.com"}, 4),
        entry("action_failed", FAILED | {"error_message": "token: abcdef123456"}, 1),
    ]
    destination(current_trail=lambda: trail)
    sentry_sdk.add_breadcrumb(message="native", timestamp="2026-01-23T11:59:58+00:00")
    with sentry_sdk.start_transaction(name="a transaction"):
        sentry_sdk.capture_message("something odd")
    sentry_sdk.flush(timeout=20)
    event = only(receiver.events)
    assert messages(event) == ["outcome_reply_received", "native", "action_failed"]
    reply, _, failed = event["breadcrumbs"]["values"]
    assert reply["data"]["recipient"].startswith("h_")
    assert "abcdef123456" not in failed["data"]["error_message"]
    assert failed["level"] == "error"
    transaction = only([item.payload for item in receiver.items if item.type == "transaction"])
    assert not transaction.get("breadcrumbs")


def test_a_success_is_a_log_with_its_own_time_and_trace(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry_sdk.init(receiver.dsn, default_integrations=False, enable_logs=False)
    sentry = destination()
    sentry.emit_log(make_record("recommendation_viewed", SHOWN))
    sentry.emit_log(make_record("outcome_reply_received", {"recipient": "john@acmecorp.com"}, trace_id=0, span_id=0))
    sentry.flush(2)
    viewed, reply = receiver.logs
    assert (viewed["body"], viewed["level"], viewed["timestamp"]) == ("recommendation_viewed", "info", NOON / SECOND)
    assert (viewed["trace_id"], viewed["span_id"]) == (f"{TRACE_ID:032x}", f"{SPAN_ID:016x}")
    assert SHOWN.items() <= viewed["attributes"].items()
    assert viewed["attributes"]["event"] == "recommendation_viewed"
    assert reply["attributes"]["recipient"].startswith("h_")
    assert "trace_id" not in reply


def test_logs_that_are_lost_or_refused_are_counted_by_event(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    def before_send_log(log: Any, hint: Any) -> Any:
        if log["attributes"]["event"] == "signal_processed":
            raise ValueError("a hook that fails")
        return None if log["attributes"]["event"] == "signal_received" else log

    sentry_sdk.init(receiver.dsn, default_integrations=False, before_send_log=before_send_log)
    sentry = destination()
    receiver.answers.append((503, {}))
    for name in ("signal_received", "signal_processed", "recommendation_viewed"):
        sentry.emit_log(make_record(name, {}))
    sentry.flush(2)
    sentry.emit_log(make_record("recommendation_viewed", SHOWN))
    sentry.flush(2)
    assert drops.snapshot() == {
        ("rejected", "sentry", "signal_received"): 1,
        ("rejected", "sentry", "signal_processed"): 1,
        ("destination_full", "sentry", "recommendation_viewed"): 1,
    }
    assert [log["body"] for log in receiver.logs] == ["recommendation_viewed"]


def test_logs_beyond_sentry_sdks_buffer_are_counted(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    with receiver.paused():
        for _ in range(2_000):
            sentry.emit_log(make_record("recommendation_viewed", SHOWN))
    sentry.flush(2)
    lost = drops.snapshot().get(("destination_full", "sentry", "recommendation_viewed"), 0)
    assert lost > 0
    assert len(receiver.logs) + lost == 2_000


@pytest.mark.parametrize("answer", [200, 503])
def test_logs_that_have_not_been_sent_when_a_process_ends_are_counted_once(
    answer: int, receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    receiver.answers.append((answer, {}))
    with receiver.paused():
        sentry.emit_log(make_record("recommendation_viewed", SHOWN))
        flushing = threading.Thread(target=sentry.flush, args=(10,))
        flushing.start()
        assert receiver.asked.wait(10)
        sentry.emit_log(make_record("signal_received", {}))
        sentry.emit_log(make_record("signal_received", {}))
        sentry.give_up(away=True)
    flushing.join(10)
    sentry.flush(1)
    assert drops.snapshot() == {
        ("shutdown", "sentry", "recommendation_viewed"): 1,
        ("shutdown", "sentry", "signal_received"): 2,
    }


@pytest.mark.parametrize("whose", ["ours", "the service's"])
def test_sentry_sdk_waits_at_exit_for_a_sentry_that_is_away_only_where_the_service_has_it_so(
    whose: str, receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    if whose != "ours":
        sentry_sdk.init(receiver.dsn, default_integrations=False, shutdown_timeout=7)
    sentry = destination()
    client = sentry_sdk.get_global_scope().client
    before = client.options["shutdown_timeout"]
    sentry.give_up(away=False)
    assert client.options["shutdown_timeout"] == before
    sentry.give_up(away=True)
    assert client.options["shutdown_timeout"] == (0 if whose == "ours" else 7)


def test_the_services_own_init_counts_whenever_it_comes(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination(release="ours")
    sentry.emit_log(make_record("recommendation_viewed", SHOWN))

    def before_send(event: Any, hint: Any) -> Any:
        return event | {"transaction": "named by the service"}

    sentry_sdk.init(receiver.dsn, release="theirs", before_send=before_send, sample_rate=0.0)
    sentry.export([make_record("action_failed", FAILED)])
    sentry.emit_log(make_record("recommendation_viewed", SHOWN))
    sentry.flush(2)
    event = only(receiver.events)
    assert (event["release"], event["transaction"]) == ("theirs", "named by the service")
    assert len(receiver.logs) == 2


def test_what_before_send_refuses_is_counted_and_done_with(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry_sdk.init(receiver.dsn, before_send=lambda event, hint: None)
    sentry = destination()
    sentry.export([make_record("action_failed", FAILED)])
    assert receiver.events == []
    assert drops.snapshot() == {("rejected", "sentry", "action_failed"): 1}


@pytest.mark.parametrize(
    ("status", "headers", "pause"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (429, {"X-Sentry-Rate-Limits": "12:error;default:key, 99:transaction:key"}, 12.0),
        (429, {"Retry-After": "nonsense"}, 60.0),
        (503, {"Retry-After": "7"}, None),
        (500, {}, None),
    ],
)
def test_an_issue_that_may_arrive_later_keeps_its_request(
    receiver: SentryReceiver,
    destination: Callable[..., SentryDestination],
    status: int,
    headers: dict[str, str],
    pause: float | None,
) -> None:
    sentry = destination()
    record = make_record("action_failed", FAILED)
    sentry.failures.remember(record.event_id, copy_context(), [entry("recommendation_viewed", SHOWN, 1)])
    receiver.answers.append((status, headers))
    with pytest.raises(Unavailable, match=str(status)) as away:
        sentry.export([record])
    assert away.value.retry_after_s == pause
    sentry.export([record])
    assert messages(only(receiver.events)) == ["recommendation_viewed"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_issue_that_never_will_arrive_is_rejected(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination], status: int
) -> None:
    receiver.answers.append((status, {}))
    with pytest.raises(Rejected, match=str(status)):
        destination().export([make_record("action_failed", FAILED)])


def test_a_wrong_key_is_said_and_nothing_is_lost(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    receiver.answers.append((403, {}))
    with pytest.raises(Unavailable, match="SENTRY_DSN"):
        destination().export([make_record("action_failed", FAILED)])


def test_a_server_that_is_away_is_unavailable(destination: Callable[..., SentryDestination]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}"):
            destination(dsn=f"http://{KEY}@127.0.0.1:{port}/7").export([make_record("action_failed", FAILED)])


def test_the_services_proxy_is_used(receiver: SentryReceiver, destination: Callable[..., SentryDestination]) -> None:
    proxy = receiver.dsn.replace(f"{KEY}@", "").removesuffix("/7")
    sentry_sdk.init(receiver.dsn, http_proxy=proxy)
    destination(dsn=f"http://{KEY}@sentry.invalid/7").export([make_record("action_failed", FAILED)])
    assert [path for path, _ in receiver.requests] == ["http://sentry.invalid/api/7/envelope/"]


@pytest.mark.parametrize("dsn", ["nonsense", "http://127.0.0.1/7", "http://key@host/project", "http://key@host:port/7"])
def test_a_dsn_that_is_none_says_how_to_mend_it(destination: Callable[..., SentryDestination], dsn: str) -> None:
    with pytest.raises(ConfigurationError, match=r"SENTRY_DSN: .*Client Keys"):
        destination(dsn=dsn)


def test_a_forked_child_delivers_by_connections_of_its_own(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    sentry = destination()
    sentry.export([make_record("action_failed", FAILED)])
    record = make_record("action_failed", FAILED)
    if (pid := os.fork()) == 0:
        try:
            sentry.after_fork()
            sentry.export([record])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    sentry.export([make_record("action_failed", FAILED)])
    assert len(receiver.events) == 3
    parents, childs, parents_again = receiver.connections
    assert childs != parents
    assert parents_again == parents


def test_our_own_requests_are_not_the_services(
    receiver: SentryReceiver, destination: Callable[..., SentryDestination]
) -> None:
    with SentryReceiver() as elsewhere:
        sentry_sdk.init(elsewhere.dsn)
        sentry = destination()
        record = make_record("action_failed", FAILED)
        with sentry_sdk.isolation_scope():
            sentry.failures.remember(record.event_id, copy_context(), None)
            sentry.export([record])
            sentry_sdk.capture_message("something else")
        sentry_sdk.flush(timeout=20)
        assert only(receiver.events)["event_id"] == record.event_id.replace("-", "")
        assert only(elsewhere.events)["breadcrumbs"]["values"] == []


def test_failures_waiting_for_sentry_are_bounded() -> None:
    failures = FailureScopes(limit=2)
    for event_id in ("one", "two", "three"):
        failures.remember(event_id, copy_context(), None)
    assert failures.get("one") is None
    assert failures.get("three") is not None
    assert len(failures) == 2


def test_start_up_is_no_request() -> None:
    sentry_sdk.get_isolation_scope()
    current = request_scope()
    assert current() is None
    assert Context().run(current) is None
    with sentry_sdk.isolation_scope() as request:
        assert current() is request


def test_sentry_sdk_keeps_its_name_and_the_propagator(destination: Callable[..., SentryDestination]) -> None:
    from opentelemetry import propagate
    from sentry_sdk.client import SDK_INFO

    before = propagate.get_global_textmap()
    sentry_sdk.init(default_integrations=False, integrations=[])
    SDK_INFO["name"] = "sentry.python.service"
    destination()
    assert SDK_INFO["name"] == "sentry.python.service"
    assert propagate.get_global_textmap() is before
