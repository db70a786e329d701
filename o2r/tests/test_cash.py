"""Opportunity to cash: how far the money has come, where the rest waits, and for how long."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from o2r.cash import Cash, cash_of
from o2r.facts import Facts

TODAY = date(2026, 11, 24)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def cash(days: dict[str, int], **given: Any) -> Cash:
    """Of milestones so many days ago (negative: ahead), on a deal of 1,000.00."""
    dates = {key: ago(number) for key, number in days.items()}
    sow, targets = given.pop("sow_estimated_on", None), given.pop("targets", {})
    facts = Facts(
        first_seen_on=ago(90),
        created_on=ago(100),
        dates=dates,
        sow_estimated_on=sow,
        targets=targets,
    )
    said: dict[str, Any] = {"amount_minor": 100_000, "currency": "USD", "amounts": {}}
    return cash_of(facts, TODAY, **{**said, "overdue_after": 45, **given})


def money(line: Cash) -> list[int | None]:
    """Booked, invoiced, collected, recognised."""
    return [each.minor for each in line.money]


def waits(line: Cash) -> list[tuple]:
    return [(each.milestone, each.minor, each.days) for each in line.waits]


@pytest.mark.parametrize(
    ("days", "expected", "waiting"),
    [
        ({}, [0, 0, 0, 0], []),
        ({"proposal": 20}, [0, 0, 0, 0], [("po", 100_000, 20)]),
        ({"proposal": 20, "sow": 5}, [0, 0, 0, 0], [("po", 100_000, 20)]),
        ({"proposal": 40, "po": 20}, [100_000, 0, 0, 0], [("invoice", 100_000, 20)]),
        ({"po": 20, "kickoff": 15}, [100_000, 0, 0, 0], [("invoice", 100_000, 15)]),
        ({"po": 50, "invoice": 30}, [100_000, 100_000, 0, 0], [("payment", 100_000, 30)]),
        (
            {"po": 50, "invoice": 30, "payment": 3},
            [100_000, 100_000, 100_000, 0],
            [("revenue", 100_000, 3)],
        ),
        ({"po": 50, "invoice": 30, "payment": 3, "revenue": 1}, [100_000] * 4, []),
        # recognised before it was paid
        (
            {"po": 50, "invoice": 30, "revenue": 1},
            [100_000, 100_000, 0, 100_000],
            [("payment", 100_000, 30)],
        ),
        # an invoice without a PO: booked all the same
        ({"proposal": 60, "invoice": 30}, [100_000, 100_000, 0, 0], [("payment", 100_000, 30)]),
        # a plan is no fact
        ({"po": 20, "invoice": -5}, [100_000, 0, 0, 0], [("invoice", 100_000, 20)]),
    ],
)
def test_money_stands_where_the_facts_say(days: Any, expected: Any, waiting: Any) -> None:
    line = cash(days)
    assert (money(line), waits(line)) == (expected, waiting)


def test_part_invoices_leave_the_rest_waiting() -> None:
    given = {"invoice": (40_000, "USD"), "payment": (10_000, "USD")}
    line = cash({"po": 50, "invoice": 30, "payment": 3}, amounts=given)
    assert money(line) == [100_000, 40_000, 10_000, 0]
    assert waits(line) == [
        ("invoice", 60_000, 50),
        ("payment", 30_000, 30),
        ("revenue", 10_000, 3),
    ]


@pytest.mark.parametrize(("days", "overdue"), [(45, 0), (46, 1), (60, 15)])
def test_an_unpaid_invoice_is_overdue_beyond_the_threshold(days: int, overdue: int) -> None:
    line = cash({"po": 90, "invoice": days})
    assert (line.overdue.overdue_days if line.overdue else 0) == overdue
    assert cash({"invoice": days}, overdue_after=None).overdue is None


def test_an_amount_in_another_currency_is_named_and_not_added() -> None:
    line = cash({"po": 50, "invoice": 30}, amounts={"invoice": (40_000, "EUR")})
    assert line.left_out == ("invoice",)
    assert money(line) == [100_000, 100_000, 0, 0]


def test_without_an_amount_it_is_known_what_waits_but_not_how_much() -> None:
    line = cash({"po": 50, "invoice": 60}, amount_minor=None)
    assert money(line) == [None] * 4
    assert waits(line) == [("payment", None, 60)]
    assert line.overdue and line.overdue.overdue_days == 15


def test_steps_tell_plan_day_and_time_since_the_one_before() -> None:
    targets = {"po": ago(-9)}
    line = cash({"proposal": 70, "kickoff": -3}, targets=targets, sow_estimated_on=ago(60))
    steps = {step.key: step for step in line.steps}
    assert [step.key for step in line.steps][:4] == ["created", "proposal", "sow", "po"]
    assert (steps["proposal"].actual_on, steps["proposal"].days) == (ago(70), 30)
    assert (steps["sow"].days, steps["sow"].is_estimate) == (10, True)
    assert (steps["po"].planned_on, steps["po"].actual_on) == (ago(-9), None)
    assert (steps["kickoff"].planned_on, steps["kickoff"].actual_on) == (ago(-3), None)
