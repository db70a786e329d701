"""Reasons → action items: which to propose, which have ended with their reason. Pure.

One open item a rule. A spell is a rule from the day it started: one that a person ticked is not
proposed again in the same spell; one that the rule closed is, should the reason come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import NamedTuple

from o2r.health_signals import Reason
from o2r.milestones import title_of

USUAL = timedelta(days=7)
_TEXTS = {
    "proposal_no_po": "Ask for the purchase order",
    "po_no_kickoff": "Agree on the kickoff date",
    "kickoff_no_invoice": "Get the work signed off and invoice it",
    "invoice_no_payment": "Remind the customer of the unpaid invoice",
    "milestone_blocked": "Clear what blocks: {milestone}",
    "blocked_by_person": "Clear what blocks this opportunity",
    "won_no_po": "Ask for the purchase order of the deal won",
    "signoff_no_invoice": "Send the invoice for the work signed off",
    "paid_no_revenue": "Have the revenue recognised",
    "milestone_delayed": "Record or re-plan: {milestone}",
    "closing_date_past": "Close the deal or move its closing date",
    "unchanged": "Take the next step, or close the deal",
}


class Item(NamedTuple):
    """An item that a rule proposed before. `is_ticked`: a person did it, not the rule."""

    pk: int
    rule: str
    reason_since: date | None
    is_open: bool
    is_ticked: bool


class Proposal(NamedTuple):
    """To be owned by the deal's owner."""

    rule: str
    text: str
    due_on: date
    reason_since: date


class Decided(NamedTuple):
    """`moved`: open items whose reason now starts on another day, with that day."""

    proposed: list[Proposal]
    closed: list[int]
    moved: list[tuple[int, date]]


def decide(reasons: Iterable[Reason], items: Iterable[Item], today: date) -> Decided:
    decided = Decided([], [], [])
    items = list(items)
    still_open = {item.rule: item for item in items if item.is_open}
    ticked = {(item.rule, item.reason_since) for item in items if item.is_ticked}
    held = set()
    for reason in reasons:
        held.add(reason.rule)
        known = still_open.get(reason.rule)
        if known is not None:
            if known.reason_since != reason.date:
                decided.moved.append((known.pk, reason.date))
        elif (reason.rule, reason.date) not in ticked:
            decided.proposed.append(proposal_for(reason, today))
    decided.closed.extend(item.pk for rule, item in still_open.items() if rule not in held)
    return decided


def proposal_for(reason: Reason, today: date) -> Proposal:
    """Due on the day the reason gets worse, else in a week."""
    due_on = reason.worse_on or _in_a_week(today)
    text = _TEXTS[reason.rule].format(milestone=title_of(reason.milestone))
    return Proposal(reason.rule, text, due_on, reason.date)


def _in_a_week(today: date) -> date:
    return today + USUAL if today <= date.max - USUAL else today
