"""The service over its HTTP interface, with integrations that answer over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Counts = Callable[[], dict[str, dict[str, int]]]
FindPerson = Callable[..., str]
LATER = "2099-01-23T18:30:00Z"


def send_signal(service: httpx.Client, email: str, signal_type: str = "form_submitted") -> dict[str, Any]:
    signal = {"source": "hubspot", "signal_type": signal_type, "contact_email": email}
    answer = service.post("/api/signals", json=signal)
    assert answer.status_code == 201
    processed: dict[str, Any] = answer.json()
    return processed


def accepted_move(service: httpx.Client, email: str, signal_type: str = "form_submitted") -> dict[str, Any]:
    recommendation_id = send_signal(service, email, signal_type)["recommendation_id"]
    moves = service.get("/api/command-queue/today", params={"limit": 100}).json()["moves"]
    move: dict[str, Any] = next(move for move in moves if move["recommendation_id"] == recommendation_id)
    assert service.post(f"/api/command-queue/{move['queue_item_id']}/accept").status_code == 200
    return move


def execute(service: httpx.Client, move: dict[str, Any], **order: Any) -> httpx.Response:
    return service.post(f"/api/command-queue/{move['queue_item_id']}/execute", json=order)


def revive(stand_ins_url: str) -> None:
    httpx.post(f"{stand_ins_url}/_revive/calendar", trust_env=False).raise_for_status()


def breaker_of(service: httpx.Client, integration: str) -> dict[str, Any]:
    states = service.get("/api/integrations").json()["integrations"]
    state: dict[str, Any] = next(state for state in states if state["integration"] == integration)
    return state


def test_a_signal_becomes_a_recommendation_in_the_queue(service: httpx.Client, person: FindPerson) -> None:
    email = person()
    answer = send_signal(service, email)
    assert answer["recommendation_generated"] is True
    today = service.get("/api/command-queue/today", headers={"X-User-Id": "casey"}).json()
    [move] = today.pop("moves")
    assert (move["recommendation_id"], move["recipient"]) == (answer["recommendation_id"], email)
    score = move["aps_score"]
    assert today == {"user_id": "casey", "recommendations_shown": 1, "top_score": score, "bottom_score": score}


def test_todays_moves_are_the_best_ones_best_first(service: httpx.Client) -> None:
    for number in range(6):
        send_signal(service, f"maria{number}@globexcorp.com")
    everything = service.get("/api/command-queue/today").json()
    best = service.get("/api/command-queue/today", params={"limit": 2}).json()
    scores = [move["aps_score"] for move in everything["moves"]]
    assert scores == sorted(scores, reverse=True)
    assert [move["aps_score"] for move in best["moves"]] == scores[:2]
    assert (best["top_score"], best["bottom_score"]) == (scores[0], scores[1])


def test_a_signal_that_asks_for_nothing_is_processed_all_the_same(service: httpx.Client, person: FindPerson) -> None:
    answer = send_signal(service, person(), "newsletter_unsubscribed")
    assert (answer["recommendation_generated"], answer["recommendation_id"]) == (False, None)
    assert service.get("/api/command-queue/today").json()["recommendations_shown"] == 0


def test_hubspots_rate_limit_is_waited_out(service: httpx.Client, person: FindPerson, calls: Counts) -> None:
    assert send_signal(service, person(hubspot="limited"))["recommendation_generated"] is True
    assert calls()["hubspot"] == {"429": 1, "200": 1}


def test_without_hubspot_a_signal_is_scored_all_the_same(
    service: httpx.Client, person: FindPerson, calls: Counts
) -> None:
    assert send_signal(service, person(hubspot="broken"))["recommendation_generated"] is True
    assert calls()["hubspot"] == {"500": 1}


def test_an_unknown_source_is_refused(service: httpx.Client) -> None:
    signal = {"source": "fax", "signal_type": "form_submitted", "contact_email": "john@acmecorp.com"}
    assert service.post("/api/signals", json=signal).status_code == 422


def test_a_move_is_decided_once(service: httpx.Client, person: FindPerson) -> None:
    move = accepted_move(service, person())
    for decision in ("accept", "dismiss"):
        answer = service.post(f"/api/command-queue/{move['queue_item_id']}/{decision}", json={})
        assert answer.status_code == 409
        assert "is accepted, no longer pending" in answer.json()["detail"]


def test_a_dismissed_move_leaves_the_queue(service: httpx.Client, person: FindPerson) -> None:
    send_signal(service, person())
    [move] = service.get("/api/command-queue/today").json()["moves"]
    path = f"/api/command-queue/{move['queue_item_id']}/dismiss"
    answer = service.post(path, json={"dismiss_reason": "not_relevant"}, headers={"X-User-Id": "robin"}).json()
    assert (answer["user_id"], answer["recommendation_id"]) == ("robin", move["recommendation_id"])
    assert answer["time_to_decision_seconds"] >= 0
    assert service.get("/api/command-queue/today").json()["moves"] == []


@pytest.mark.parametrize(
    "path", ["command-queue/nothing/accept", "command-queue/nothing/execute", "actions/nothing/rollback"]
)
def test_what_does_not_exist_is_not_found(service: httpx.Client, path: str) -> None:
    assert service.post(f"/api/{path}", json={}).status_code == 404


def test_an_accepted_mail_is_sent_once(service: httpx.Client, person: FindPerson, calls: Counts) -> None:
    email = person()
    move = accepted_move(service, email)
    answer = execute(service, move, subject="Follow up: Demo tomorrow").json()
    assert (answer["action_type"], answer["execution_mode"], answer["success"]) == ("send_email", "automated", True)
    assert answer["metadata"].pop("gmail_message_id").startswith("msg_")
    assert answer["metadata"] == {"recipient": email, "subject": "Follow up: Demo tomorrow"}
    assert execute(service, move).status_code == 409
    assert calls()["gmail"] == {"200": 1}


def test_a_move_must_be_accepted_before_it_is_executed(service: httpx.Client, person: FindPerson) -> None:
    send_signal(service, person())
    [move] = service.get("/api/command-queue/today").json()["moves"]
    assert execute(service, move).status_code == 409


def test_a_dry_run_sends_nothing_and_can_be_followed_by_the_real_thing(
    service: httpx.Client, person: FindPerson, calls: Counts
) -> None:
    move = accepted_move(service, person())
    assert execute(service, move, execution_mode="dry_run").json()["success"] is True
    assert calls()["gmail"] == {}
    assert execute(service, move).json()["success"] is True
    assert calls()["gmail"] == {"200": 1}


def test_an_empty_subject_is_refused_before_anything_is_sent(
    service: httpx.Client, person: FindPerson, calls: Counts
) -> None:
    answer = execute(service, accepted_move(service, person()), subject=" ")
    assert answer.status_code == 422
    assert (answer.json()["error_type"], answer.json()["retryable"]) == ("validation_error", False)
    assert calls()["gmail"] == {}


def test_gmails_limit_fails_the_action_and_a_later_try_succeeds(
    service: httpx.Client, person: FindPerson, calls: Counts
) -> None:
    move = accepted_move(service, person(gmail="limited"))
    answer = execute(service, move)
    assert answer.status_code == 429
    assert answer.json()["error_type"] == "rate_limit"
    assert answer.json()["error_message"] == "gmail API: Daily sending limit exceeded"
    assert execute(service, move).json()["success"] is True
    assert calls()["gmail"] == {"429": 1, "200": 1}


def test_a_broken_integration_fails_the_action(service: httpx.Client, person: FindPerson) -> None:
    answer = execute(service, accepted_move(service, person(gmail="broken")))
    assert answer.status_code == 502
    assert answer.json() | {"action_id": ""} == {
        "action_id": "",
        "error_type": "api_error",
        "error_message": "gmail API: Backend error",
        "retryable": True,
        "integration_status_code": 500,
        "circuit_open": False,
    }


def test_five_failures_open_the_breaker_and_the_sixth_call_is_not_made(
    service: httpx.Client, person: FindPerson, calls: Counts, stand_ins_url: str
) -> None:
    move = accepted_move(service, person(), "meeting_requested")
    for _ in range(5):
        assert execute(service, move).json()["integration_status_code"] == 503
    assert execute(service, move).json()["circuit_open"] is True
    assert calls()["calendar"] == {"503": 5}
    assert breaker_of(service, "calendar")["openings"] == 1
    revive(stand_ins_url)
    while breaker_of(service, "calendar")["breaker"] == "open":
        time.sleep(0.05)
    assert execute(service, move).json()["success"] is True
    assert breaker_of(service, "calendar")["breaker"] == "closed"


@pytest.mark.parametrize(
    ("signal_type", "integration"),
    [("form_submitted", "gmail"), ("deal_stage_changed", "hubspot"), ("meeting_requested", "calendar")],
)
def test_an_executed_action_is_rolled_back_once(
    service: httpx.Client, person: FindPerson, calls: Counts, stand_ins_url: str, signal_type: str, integration: str
) -> None:
    revive(stand_ins_url)
    action = execute(service, accepted_move(service, person(), signal_type)).json()
    before = sum(calls()[integration].values())
    path = f"/api/actions/{action['action_id']}/rollback"
    answer = service.post(path, json={"rollback_reason": "duplicate_detected"})
    assert answer.json() == {
        "action_id": action["action_id"],
        "action_type": action["action_type"],
        "rollback_reason": "duplicate_detected",
        "rollback_success": True,
    }
    assert sum(calls()[integration].values()) == before + 1
    assert service.post(path, json={}).status_code == 409


def test_a_reply_is_an_outcome_once(service: httpx.Client, person: FindPerson) -> None:
    action = execute(service, accepted_move(service, person())).json()
    reply = {"message_id": action["metadata"]["gmail_message_id"], "received_at": LATER, "reply_sentiment": "positive"}
    assert service.post("/api/webhooks/gmail", json=reply).json() == {"recorded": True}
    assert service.post("/api/webhooks/gmail", json=reply).json() == {"recorded": False}


def test_a_reply_to_somebody_elses_message_is_no_outcome(service: httpx.Client) -> None:
    reply = {"message_id": "msg_unknown", "received_at": LATER}
    assert service.post("/api/webhooks/gmail", json=reply).json() == {"recorded": False}


def test_accepted_meetings_are_found_once(service: httpx.Client, stand_ins_url: str) -> None:
    revive(stand_ins_url)
    people = [f"wei{number}@initechcorp.com" for number in range(12)]
    executed = [execute(service, accepted_move(service, email, "meeting_requested")) for email in people]
    found = service.post("/api/outcomes/poll").json()["meetings_booked"]
    assert 0 < found <= sum(answer.is_success for answer in executed)
    assert service.post("/api/outcomes/poll").json()["meetings_booked"] == 0


def test_polling_a_dead_calendar_is_told(service: httpx.Client) -> None:
    assert service.post("/api/outcomes/poll").status_code == 502


def person_with_deal(service: httpx.Client) -> dict[str, Any]:
    for number in range(100):
        send_signal(service, f"amara{number}@umbracorp.com", "deal_stage_changed")
        moves: list[dict[str, Any]] = service.get("/api/command-queue/today", params={"limit": 100}).json()["moves"]
        for move in moves:
            if move["deal_id"] is not None:
                return move
    raise AssertionError("nobody has a deal")


def test_a_deal_that_we_touched_advances_and_one_that_we_did_not_does_not_count(service: httpx.Client) -> None:
    move = person_with_deal(service)
    news = {"deal_id": move["deal_id"], "new_stage": "Proposal"}
    assert service.post("/api/webhooks/hubspot", json=news).json() == {"recorded": False}
    service.post(f"/api/command-queue/{move['queue_item_id']}/accept")
    assert execute(service, move, execution_mode="manual").json()["success"] is True
    won, back = news | {"new_stage": "Closed Won"}, news | {"new_stage": "Lead"}
    assert service.post("/api/webhooks/hubspot", json=won).json() == {"recorded": True}
    assert service.post("/api/webhooks/hubspot", json=won).json() == {"recorded": False}
    assert service.post("/api/webhooks/hubspot", json=back).json() == {"recorded": False}


def test_a_deliverable_is_shipped_once(service: httpx.Client) -> None:
    promise = {"client": "Acme Corp", "deliverable_type": "onboarding_doc", "due_at": LATER}
    deliverable_id = service.post("/api/deliverables", json=promise).json()["deliverable_id"]
    assert service.post(f"/api/deliverables/{deliverable_id}/ship").status_code == 200
    assert service.post(f"/api/deliverables/{deliverable_id}/ship").status_code == 409
