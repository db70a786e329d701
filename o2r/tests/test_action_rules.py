"""Proposed action items: one open a rule, closed by itself, ticked ones left alone in a spell."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from o2r.action_rules import Decided, Item, Proposal, decide
from o2r.facts import Facts
from o2r.health_signals import DEFAULTS, Reason, signal_of

TODAY = date(2026, 11, 24)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def reasons(**days: int) -> tuple[Reason, ...]:
    dates = {key: ago(n) for key, n in days.items()}
    return signal_of(Facts(first_seen_on=TODAY, dates=dates), TODAY, DEFAULTS).reasons


YELLOW = reasons(proposal=20)
RED = reasons(proposal=31)


def test_a_reason_proposes_an_item_due_on_the_day_it_gets_worse() -> None:
    assert decide(YELLOW, [], TODAY).proposed == [
        Proposal("proposal_no_po", "Ask for the purchase order", ago(-11), ago(20))
    ]


def test_a_reason_that_cannot_get_worse_gives_a_week() -> None:
    assert [p.due_on for p in decide(RED, [], TODAY).proposed] == [ago(-7)]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        # open: one is enough
        (Item(1, "proposal_no_po", ago(20), True, False), Decided([], [], [])),
        # open, and the proposal's date was corrected: the same item, the new spell
        (Item(1, "proposal_no_po", ago(25), True, False), Decided([], [], [(1, ago(20))])),
        # ticked in this spell
        (Item(1, "proposal_no_po", ago(20), False, True), Decided([], [], [])),
    ],
)
def test_what_is_there_is_not_proposed_again(item: Item, expected: Decided) -> None:
    assert decide(YELLOW, [item], TODAY) == expected


@pytest.mark.parametrize(
    "item",
    [
        Item(1, "proposal_no_po", ago(90), False, True),  # ticked in an earlier spell
        Item(1, "proposal_no_po", ago(20), False, False),  # closed by its rule
        Item(1, "po_no_kickoff", ago(20), False, True),  # another rule's
    ],
)
def test_what_is_over_does_not_stand_in_the_way(item: Item) -> None:
    assert len(decide(YELLOW, [item], TODAY).proposed) == 1


def test_an_item_closes_with_its_reason() -> None:
    kept = Item(1, "proposal_no_po", ago(20), True, False)
    ended = Item(2, "po_no_kickoff", ago(20), True, False)
    long_done = Item(3, "invoice_no_payment", ago(90), False, True)
    assert decide(YELLOW, [kept, ended, long_done], TODAY) == Decided([], [2], [])
    assert decide((), [kept, ended, long_done], TODAY).closed == [1, 2]


def test_ticked_while_yellow_it_is_not_proposed_again_when_red() -> None:
    ticked = Item(1, "proposal_no_po", ago(31), False, True)
    assert decide(RED, [ticked], TODAY) == Decided([], [], [])
