"""The registry: names, nearest names, twins, doubles."""

from __future__ import annotations

import pytest

from caseyos_otel.errors import InvalidEventError, UnknownEventError
from caseyos_otel.events.model import Event, optional, required
from caseyos_otel.events.registry import SPECIFIED, Registry


class InvoicePaid(Event, name="invoice_paid", otel="acme.invoice.paid", outcome=True):
    """An invoice was paid."""

    invoice_id: str = required(doc="The invoice.")


class InvoicePaidFailed(Event, name="invoice_paid_failed", otel="acme.invoice.payment_failed", failure=True):
    """It was not."""

    invoice_id: str = required(doc="The invoice.")
    reason: str | None = optional(doc="Why.")


class InvoicePaidAgain(Event, name="invoice_paid", otel="acme.invoice.paid_again"):
    """The same flat name."""


class InvoiceSettled(Event, name="invoice_settled", otel="acme.invoice.paid"):
    """The same OpenTelemetry name."""


class OwnActionFailed(Event, name="action_failed", otel="acme.action.failed", failure=True):
    """A name of the specification."""


@pytest.mark.parametrize("cls", SPECIFIED, ids=lambda cls: cls.__name__)
def test_an_event_is_found_by_either_name(cls: type[Event]) -> None:
    registry = Registry()

    assert registry.get(cls.declaration.name) is cls.declaration
    assert registry.require(cls.declaration.otel_name) is cls.declaration


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("recommendation_genrated", "recommendation_generated"),
        ("outcome_reply_recieved", "outcome_reply_received"),
        ("caseyos.action.excuted", "caseyos.action.executed"),
    ],
)
def test_an_unknown_event_is_told_with_the_nearest_name(name: str, nearest: str) -> None:
    with pytest.raises(UnknownEventError) as caught:
        Registry().require(name)

    assert str(caught.value) == f"{name!r} is not a declared event; did you mean {nearest!r}?"
    assert Registry().get(name) is None


def test_an_unknown_event_that_resembles_none_is_told_how_to_declare_it() -> None:
    with pytest.raises(InvalidEventError, match=r"'zebra' is not a declared event; declare it .*caseyos_otel_events"):
        Registry().require("zebra")


def test_what_is_no_name_at_all_is_an_unknown_event() -> None:
    with pytest.raises(UnknownEventError, match="InvoicePaid"):
        Registry().require(InvoicePaid)  # type: ignore[arg-type]


def test_iterating_gives_the_specified_first_and_every_twin() -> None:
    declarations = list(Registry())
    names = [declaration.name for declaration in declarations]

    assert {cls.declaration for cls in SPECIFIED} <= set(declarations)
    assert len(names) == len(set(names))
    assert all(declaration.twin is None or declaration.twin in names for declaration in declarations)


def test_an_own_event_gets_its_twin() -> None:
    registry = Registry()
    registry.register(InvoicePaid)

    twin = registry.twin(InvoicePaid.declaration)

    assert twin is not None
    assert (twin.name, twin.otel_name, twin.failure) == ("invoice_paid_failed", "acme.invoice.paid_failed", True)
    assert registry.get("acme.invoice.paid_failed") is twin


@pytest.mark.parametrize("classes", [(InvoicePaid, InvoicePaidFailed), (InvoicePaidFailed, InvoicePaid)])
def test_a_twin_that_is_declared_replaces_the_implied_one_in_any_order(classes: tuple[type[Event], ...]) -> None:
    registry = Registry()
    for cls in classes:
        registry.register(cls)

    assert registry.twin(InvoicePaid.declaration) is InvoicePaidFailed.declaration
    assert registry.get("acme.invoice.paid_failed") is None
    assert registry.get("acme.invoice.payment_failed") is InvoicePaidFailed.declaration


def test_no_implied_twin_of_the_specification_is_left_behind_its_declared_one() -> None:
    registry = Registry()

    for otel_name in ("caseyos.action.executed_failed", "caseyos.integration.call_success_failed"):
        assert registry.get(otel_name) is None


@pytest.mark.parametrize("double", [InvoicePaidAgain, InvoiceSettled], ids=["flat name", "OpenTelemetry name"])
def test_a_name_declared_twice_is_refused_and_the_first_stays(double: type[Event]) -> None:
    registry = Registry()
    registry.register(InvoicePaid)

    with pytest.raises(InvalidEventError, match=r"declared twice; 'invoice_paid' \(acme.invoice.paid\) has it"):
        registry.register(double)

    assert registry.get("invoice_paid") is registry.get("acme.invoice.paid") is InvoicePaid.declaration


def test_an_event_of_the_specification_cannot_be_replaced() -> None:
    with pytest.raises(InvalidEventError, match="'action_failed'"):
        Registry().register(OwnActionFailed)


def test_registering_the_same_class_again_changes_nothing() -> None:
    registry = Registry()
    registry.register(InvoicePaid)
    before = list(registry)

    registry.register(InvoicePaid)

    assert list(registry) == before
