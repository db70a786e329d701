"""Signals: both sides of each threshold, what ends each rule, several at once, words, worse-on."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from o2r import health_signals as signals
from o2r.facts import Block, Facts
from o2r.health_signals import DEFAULTS, RULES, Threshold
from o2r.milestones import BUILT_IN

TODAY = date(2026, 11, 24)
ALL_ON = {key: threshold._replace(is_on=True) for key, threshold in DEFAULTS.items()}


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def facts(**given: Any) -> Facts:
    dates = {key: ago(given.pop(key)) for key in list(given) if key in BUILT_IN or key == "own"}
    return Facts(first_seen_on=ago(0), created_on=ago(0), dates=dates, **given)


def only(*keys: str) -> dict[str, Threshold]:
    return {key: DEFAULTS[key]._replace(is_on=key in keys) for key in DEFAULTS}


def told(found: signals.Signal) -> list[tuple]:
    return [(r.rule, r.severity, r.days, r.since, r.worse_on) for r in found.reasons]


# rule, days ago, signal: by default
EDGES = [
    ("proposal", 0, "green"),
    ("proposal", 14, "green"),
    ("proposal", 15, "yellow"),
    ("proposal", 30, "yellow"),
    ("proposal", 31, "red"),
    ("proposal", 4000, "red"),
    ("po", 14, "green"),
    ("po", 15, "yellow"),
    ("po", 4000, "yellow"),
    ("kickoff", 60, "green"),
    ("kickoff", 61, "yellow"),
    ("kickoff", 4000, "yellow"),
    ("invoice", 45, "green"),
    ("invoice", 46, "red"),
    ("invoice", -3, "green"),
    ("signoff", 4000, "green"),
    ("payment", 4000, "green"),
    ("sow", 4000, "green"),
    ("qualified", 4000, "green"),
]


@pytest.mark.parametrize(("key", "days", "expected"), EDGES)
def test_both_sides_of_each_threshold(key: str, days: int, expected: str) -> None:
    assert signals.signal_of(facts(**{key: days}), TODAY, DEFAULTS).signal == expected


FURTHER = [
    ("won_no_po", {"stage_type": "won", "stage_since": ago(14)}, "green"),
    ("won_no_po", {"stage_type": "won", "stage_since": ago(15)}, "yellow"),
    ("won_no_po", {"stage_type": "won", "stage_since": ago(30)}, "yellow"),
    ("won_no_po", {"stage_type": "won", "stage_since": ago(31)}, "red"),
    ("won_no_po", {"stage_type": "won", "closing_date": ago(31)}, "red"),
    ("won_no_po", {"stage_type": "won", "closing_date": ago(-1)}, "green"),
    ("won_no_po", {"stage_type": "open", "stage_since": ago(31)}, "green"),
    ("signoff_no_invoice", {"signoff": 14}, "green"),
    ("signoff_no_invoice", {"signoff": 15}, "yellow"),
    ("signoff_no_invoice", {"signoff": 4000}, "yellow"),
    ("paid_no_revenue", {"payment": 30}, "green"),
    ("paid_no_revenue", {"payment": 31}, "yellow"),
    ("milestone_delayed", {"targets": {"kickoff": ago(0)}}, "green"),
    ("milestone_delayed", {"targets": {"kickoff": ago(1)}}, "yellow"),
    ("milestone_delayed", {"targets": {"kickoff": ago(1)}, "kickoff": 0}, "green"),
    ("milestone_delayed", {"targets": {"kickoff": ago(1)}, "invoice": 0}, "green"),
    ("milestone_delayed", {"targets": {"kickoff": ago(1)}, "po": 0}, "yellow"),
    ("milestone_delayed", {"targets": {"kickoff": ago(1)}, "kickoff": -1}, "yellow"),
    ("closing_date_past", {"closing_date": ago(0)}, "green"),
    ("closing_date_past", {"closing_date": ago(1)}, "yellow"),
    ("closing_date_past", {"closing_date": ago(1), "stage_type": "won"}, "green"),
    ("unchanged", {"last_change_on": ago(30)}, "green"),
    ("unchanged", {"last_change_on": ago(31)}, "yellow"),
    ("unchanged", {"last_change_on": ago(31), "stage_type": "won"}, "green"),
]


@pytest.mark.parametrize(("rule", "given", "expected"), FURTHER)
def test_further_rules_are_off_and_turn_where_they_are_on(
    rule: str, given: dict, expected: str
) -> None:
    assert signals.signal_of(facts(**given), TODAY, only()).signal == "green"
    assert not DEFAULTS[rule].is_on
    assert signals.signal_of(facts(**given), TODAY, only(rule)).signal == expected


AFTER_PO = {"po", "kickoff", "signoff", "invoice", "payment", "revenue"}
ENDED_BY = {
    "proposal_no_po": ({"proposal": 99}, AFTER_PO),
    "po_no_kickoff": ({"po": 99}, AFTER_PO - {"po"}),
    "kickoff_no_invoice": ({"kickoff": 99}, {"invoice", "payment", "revenue"}),
    "invoice_no_payment": ({"invoice": 99}, {"payment"}),
    "won_no_po": ({"stage_type": "won", "stage_since": ago(99)}, AFTER_PO),
    "signoff_no_invoice": ({"signoff": 99}, {"invoice", "payment", "revenue"}),
    "paid_no_revenue": ({"payment": 99}, {"revenue"}),
}


@pytest.mark.parametrize("rule", ENDED_BY)
@pytest.mark.parametrize("key", [*BUILT_IN, "own"])
def test_what_ends_a_rule_and_what_does_not(rule: str, key: str) -> None:
    start, enders = ENDED_BY[rule]
    if key in start:
        return
    # An unpaid invoice keeps it active where revenue is recognised.
    still = {"invoice": 0} if key == "revenue" and rule == "invoice_no_payment" else {}
    found = signals.signal_of(facts(**{**still, **start, key: 1}), TODAY, only(rule))
    if key == "revenue" and rule != "invoice_no_payment":
        assert found.signal == ""  # realized: no signal at all
    else:
        assert (found.signal == "green") is (key in enders)
    planned = signals.signal_of(facts(**{**start, key: -1}), TODAY, only(rule))
    assert planned.signal != "green", "a plan ends nothing"


@pytest.mark.parametrize("stage", ["open", "won"])
def test_the_stage_of_the_crm_ends_none_of_the_first_four(stage: str) -> None:
    for key in ("proposal", "po", "kickoff", "invoice"):
        given = facts(**{key: 99}, stage_type=stage, least_phase=3)
        assert signals.signal_of(given, TODAY, DEFAULTS).reasons


def test_several_hold_at_once_and_the_worst_wins() -> None:
    given = facts(
        kickoff=61,
        signoff=20,
        targets={"sow": ago(9), "invoice": ago(5), "revenue": ago(2)},
        closing_date=ago(8),
        last_change_on=ago(40),
    )
    found = signals.signal_of(given, TODAY, ALL_ON)
    assert found.signal == "yellow"
    assert [r.rule for r in found.reasons] == [
        "unchanged", "closing_date_past", "signoff_no_invoice", "milestone_delayed",
        "kickoff_no_invoice",
    ]  # fmt: skip
    delayed = next(r for r in found.reasons if r.rule == "milestone_delayed")
    assert (delayed.milestone, delayed.date) == ("invoice", ago(5)), "the sow is passed"


def test_red_stands_before_yellow_and_blocked_before_red() -> None:
    given = facts(invoice=46, closing_date=ago(1), blocked=(Block("", "Legal", ago(2)),))
    found = signals.signal_of(given, TODAY, ALL_ON)
    assert found.signal == "blocked"
    assert [r.severity for r in found.reasons] == ["blocked", "red", "yellow"]
    assert found.worse_on is None


@pytest.mark.parametrize(
    ("block", "given", "expected"),
    [
        (Block("", "Legal", ago(5)), {}, "blocked"),
        (Block("", "Legal", ago(0)), {"revenue": 1, "invoice": 2}, "blocked"),
        (Block("po", "Legal", ago(5)), {}, "blocked"),
        (Block("po", "Legal", ago(5)), {"po": 1}, "green"),
        (Block("po", "Legal", ago(5)), {"kickoff": 1}, "green"),
        (Block("po", "Legal", ago(5)), {"sow": 1}, "blocked"),
        (Block("po", "Legal", ago(5)), {"po": -1}, "blocked"),
        (Block("own", "Legal", ago(5)), {"execution_started": 1}, "blocked"),
        (Block("own", "Legal", ago(5)), {"signoff": 1}, "green"),
    ],
)
def test_blocked_until_unmarked_or_passed(block: Block, given: dict, expected: str) -> None:
    found = signals.signal_of(facts(blocked=(block,), **given), TODAY, DEFAULTS)
    assert found.signal == expected
    if expected == "blocked":
        reason = found.reasons[0]
        assert (reason.milestone, reason.since, reason.text) == (block.milestone, block.on, "Legal")


def test_one_reason_a_rule_that_of_the_longest_block() -> None:
    given = facts(blocked=(Block("sow", "A", ago(2)), Block("po", "B", ago(7))))
    found = signals.signal_of(given, TODAY, DEFAULTS)
    assert [(r.rule, r.milestone) for r in found.reasons] == [("milestone_blocked", "po")]


@pytest.mark.parametrize(
    "given",
    [
        {"stage_type": "lost", "proposal": 99},
        {"is_deleted": True, "proposal": 99},
        {"revenue": 1, "proposal": 99},
    ],
)
def test_what_has_ended_has_no_signal(given: dict) -> None:
    found = signals.signal_of(facts(**given), TODAY, ALL_ON)
    assert found == signals.Signal("", (), None, None)


@pytest.mark.parametrize(
    ("given", "signal", "worse_on"),
    [
        ({}, "green", None),
        ({"proposal": 0}, "green", ago(-15)),
        ({"proposal": 14}, "green", ago(-1)),
        ({"proposal": 15}, "yellow", ago(-16)),
        ({"proposal": 30}, "yellow", ago(-1)),
        ({"proposal": 31}, "red", None),
        ({"po": 20}, "yellow", None),
        ({"kickoff": 0}, "green", ago(-61)),
        ({"invoice": 45}, "green", ago(-1)),
        ({"invoice": 46}, "red", None),
        # a plan is not counted, also if it would end the rule
        ({"proposal": 20, "po": -2}, "yellow", ago(-11)),
        ({"proposal": -2}, "green", None),
        # two rules: the first day on which the whole is worse
        ({"kickoff": 58, "payment": -9, "signoff": 3}, "green", ago(-3)),
        ({"invoice": 20, "kickoff": 3}, "green", ago(-26)),
        ({"blocked": (Block("", "x", ago(1)),), "proposal": 0}, "blocked", None),
    ],
)
def test_the_day_it_gets_worse(given: dict, signal: str, worse_on: date | None) -> None:
    found = signals.signal_of(facts(**given), TODAY, DEFAULTS)
    assert (found.signal, found.worse_on) == (signal, worse_on)
    if worse_on is not None:
        order = signals.SEVERITY
        day_before = signals.signal_of(_frozen(given), worse_on - timedelta(days=1), DEFAULTS)
        on_the_day = signals.signal_of(_frozen(given), worse_on, DEFAULTS)
        assert order[day_before.signal] == order[signal] < order[on_the_day.signal]


def _frozen(given: dict) -> Facts:
    """Without the plans: as if nothing came."""
    return facts(**{k: v for k, v in given.items() if not (isinstance(v, int) and v < 0)})


def test_a_reason_tells_its_evidence() -> None:
    found = signals.signal_of(facts(proposal=20), TODAY, DEFAULTS)
    assert told(found) == [("proposal_no_po", "yellow", 20, ago(5), ago(-11))]
    reason = found.reasons[0]
    assert reason.as_dict() == {
        "rule": "proposal_no_po",
        "severity": "yellow",
        "milestone": "proposal",
        "date": "2026-11-04",
        "days": 20,
        "since": "2026-11-19",
        "worse_on": "2026-12-05",
    }
    assert signals.evidence(reason) == "Proposal sent 4 Nov, 20 days, no PO"
    assert signals.evidence(reason.as_dict()) == signals.evidence(reason)
    assert signals.advice(reason).startswith("Ask the customer")


def test_a_kept_reason_has_no_days_of_its_own() -> None:
    reason = signals.signal_of(facts(proposal=20), TODAY, DEFAULTS).reasons[0]
    assert "days" not in reason.stored()
    assert signals.reasons_on([reason.stored()], TODAY) == [reason]
    later = signals.reasons_on([reason.stored()], TODAY + timedelta(days=3))
    assert later[0].days == 23


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"proposal": 49}, "Proposal sent 6 Oct, 49 days, no PO"),
        ({"po": 400}, "PO received 20 Oct 2025, 400 days, no kickoff"),
        ({"kickoff": 61}, "Kickoff 24 Sep, 61 days, no invoice"),
        ({"invoice": 46}, "Invoiced 9 Oct, 46 days, no payment"),
        ({"blocked": (Block("", "Legal", ago(1)),)}, "Blocked since 23 Nov, 1 day: Legal"),
        (
            {"blocked": (Block("my-part", "Legal", ago(0)),)},
            "My part blocked since 24 Nov, 0 days: Legal",
        ),
        ({"stage_type": "won", "stage_since": ago(15)}, "Won 9 Nov, 15 days, no PO"),
        ({"signoff": 15}, "Signed off 9 Nov, 15 days, no invoice"),
        ({"payment": 31}, "Paid 24 Oct, 31 days, revenue not recognised"),
        ({"targets": {"sow": ago(3)}}, "SOW approved was due 21 Nov, 3 days ago"),
        ({"closing_date": ago(1)}, "Should have closed 23 Nov, 1 day ago"),
        ({"last_change_on": ago(31)}, "Last change 24 Oct, 31 days ago"),
    ],
)
def test_evidence_of_each_rule(given: dict, expected: str) -> None:
    found = signals.signal_of(facts(**given), TODAY, ALL_ON)
    assert [signals.evidence(reason) for reason in found.reasons] == [expected]


def test_thresholds_can_be_changed() -> None:
    rules = {**DEFAULTS, "proposal_no_po": Threshold(True, None, 3)}
    assert signals.signal_of(facts(proposal=3), TODAY, rules).signal == "green"
    assert signals.signal_of(facts(proposal=4), TODAY, rules).signal == "red"
    off = {**DEFAULTS, "proposal_no_po": Threshold(False, 14, 30)}
    assert signals.signal_of(facts(proposal=99), TODAY, off).signal == "green"
    endless = {**DEFAULTS, "proposal_no_po": Threshold(True, 2**31 - 1, None)}
    assert signals.signal_of(facts(proposal=99), TODAY, endless).worse_on is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"invoice": 45}, False),
        ({"invoice": 46}, True),
        ({"invoice": 46, "payment": 0}, False),
        ({"invoice": 46, "payment": -1}, True),
        ({"invoice": 46, "revenue": 9}, True),
        ({"invoice": 46, "stage_type": "lost"}, False),
        ({"invoice": 46, "stage_type": "lost", "revenue": 9}, True),
        ({"invoice": 46, "is_deleted": True}, False),
    ],
)
def test_overdue_payment(given: dict, expected: bool) -> None:
    assert signals.is_overdue(facts(**given), TODAY, DEFAULTS) is expected


def test_every_rule_of_the_specification_is_there() -> None:
    shipped = {key: tuple(rule.default) for key, rule in RULES.items()}
    assert shipped == {
        "proposal_no_po": (True, 14, 30),
        "po_no_kickoff": (True, 14, None),
        "kickoff_no_invoice": (True, 60, None),
        "invoice_no_payment": (True, None, 45),
        "milestone_blocked": (True, None, None),
        "blocked_by_person": (True, None, None),
        "won_no_po": (False, 14, 30),
        "signoff_no_invoice": (False, 14, None),
        "paid_no_revenue": (False, 30, None),
        "milestone_delayed": (False, 0, None),
        "closing_date_past": (False, 0, None),
        "unchanged": (False, 30, None),
    }
