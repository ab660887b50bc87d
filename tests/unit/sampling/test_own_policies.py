"""Policies that a service's packages name as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from caseyos_otel.sampling import own_policies
from caseyos_otel.sampling.decision import Decision
from caseyos_otel.sampling.policy import default_chain
from caseyos_otel.sampling.probability import threshold
from caseyos_otel.sampling.table import TraceTable


class Checkout:
    def evaluate(self, trace: Any) -> Decision | None:
        if any(span.name == "checkout" for span in trace.spans):
            return Decision(True, "policy:checkout", 0)
        return None


class Overpriced:
    """Claims a probability with which it cannot have kept the trace."""

    def evaluate(self, trace: Any) -> Decision | None:
        return Decision(True, "policy:overpriced", (1 << 56) - 1)


class WrongAnswer:
    def evaluate(self, trace: Any) -> Any:
        return True


INSTANCE = Checkout()
NO_POLICY = "checkout"
HERE = __name__


def declared(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = [EntryPoint(name, value, own_policies.GROUP) for name, value in values.items()]
    monkeypatch.setattr(own_policies, "entry_points", lambda *, group: found if group == own_policies.GROUP else [])


def test_a_class_is_made_and_an_instance_is_taken_in_the_order_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    declared(monkeypatch, b=f"{HERE}:INSTANCE", a=f"{HERE}:Overpriced")
    first, second = own_policies.own_policies()
    assert (type(first), second) == (Overpriced, INSTANCE)


def test_a_broken_one_is_reported_and_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    declared(monkeypatch, missing="no_such_module_of_ours:X", shape=f"{HERE}:NO_POLICY", works=f"{HERE}:Checkout")
    assert [type(policy) for policy in own_policies.own_policies()] == [Checkout]
    assert "'missing' of caseyos_otel_policies cannot be used" in caplog.text
    assert "'shape' of caseyos_otel_policies" in caplog.text
    assert "has no method evaluate(trace)" in caplog.text


def test_entry_points_that_cannot_be_read_are_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*, group: str) -> Any:
        raise OSError("no metadata")

    monkeypatch.setattr(own_policies, "entry_points", broken)
    assert own_policies.own_policies() == ()
    assert "cannot be read: no metadata" in caplog.text


def test_it_keeps_what_probability_would_drop_and_says_so(sampling: Any) -> None:
    service = sampling(policies=default_chain(threshold(0.1), own=[Checkout()]))
    for name in ("checkout", "browse"):
        service.tracer.start_span(name).end()
    service.pass_time(1)
    [span] = service.exported()
    assert span.attributes == {"caseyos.sampling.reason": "policy:checkout"}


def test_a_probability_that_a_policy_cannot_have_is_not_claimed(sampling: Any) -> None:
    service = sampling(policies=default_chain(threshold(0.1), own=[Overpriced()]))
    service.tracer.start_span("root").end()
    service.pass_time(1)
    [span] = service.exported()
    assert span.context.trace_state.to_header() == ""
    assert span.attributes == {"caseyos.sampling.reason": "policy:overpriced"}


@pytest.mark.swallows
def test_an_answer_that_is_no_decision_is_no_answer(sampling: Any, caplog: pytest.LogCaptureFixture) -> None:
    service = sampling(policies=default_chain(threshold(0.1), own=[WrongAnswer()]))
    service.will_be_kept(True)
    service.tracer.start_span("root").end()
    service.pass_time(1)
    assert [span.attributes["caseyos.sampling.reason"] for span in service.exported()] == ["probability"]
    assert "a policy returns a Decision or None, not bool" in caplog.text


def test_a_table_has_one_span_processor(sampling: Any) -> None:
    service = sampling()
    with pytest.raises(ValueError, match="has a span processor already"):
        type(service.processor)(service.table, [])
    assert isinstance(service.table, TraceTable)
