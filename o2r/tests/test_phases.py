"""Facts → phase, outcome, findings, stays: tables of cases, days as offsets from one today."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import combinations, permutations
from typing import Any

import pytest

from o2r import phases
from o2r.facts import Facts
from o2r.milestones import BUILT_IN, MAPPED, is_passed, status_of
from o2r.phases import Finding, PhaseState, Step

TODAY = date(2026, 11, 24)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def facts(*, created: int = 100, **given: Any) -> Facts:
    """Milestones as days ago (negative: ahead); the rest by name."""
    dates = {key: ago(given.pop(key)) for key in list(given) if key in BUILT_IN or key == "own"}
    return Facts(first_seen_on=ago(3), created_on=ago(created), dates=dates, **given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, ago(100), "")),
        ({"qualified": 9}, (1, ago(100), "")),
        ({"proposal": 9}, (2, ago(9), "proposal")),
        ({"proposal": 0}, (2, TODAY, "proposal")),
        ({"proposal": -1}, (1, ago(100), "")),
        ({"proposal_accepted": 9, "sow_initiated": 8, "sow": 7}, (1, ago(100), "")),
        ({"po": 9}, (3, ago(9), "po")),
        ({"kickoff": 9}, (3, ago(9), "kickoff")),
        ({"po": 9, "kickoff": 12}, (3, ago(12), "kickoff")),
        ({"po": 9, "kickoff": 9}, (3, ago(9), "po")),
        ({"po": 9, "kickoff": -3}, (3, ago(9), "po")),
        ({"execution_started": 3, "own": 2}, (1, ago(100), "")),
        ({"signoff": 9}, (4, ago(9), "signoff")),
        ({"invoice": 9}, (4, ago(9), "invoice")),
        ({"payment": 9}, (4, ago(9), "payment")),
        ({"revenue": 9}, (4, ago(9), "revenue")),
        ({"proposal": 1, "revenue": 9, "invoice": 7}, (4, ago(9), "revenue")),
        ({"proposal": 50, "po": 40, "revenue": -1}, (3, ago(40), "po")),
        # the stage gives the least phase
        ({"least_phase": 3, "stage_since": ago(5)}, (3, ago(5), "stage")),
        ({"least_phase": 3, "closing_date": ago(7)}, (3, ago(7), "stage")),
        ({"least_phase": 3, "closing_date": ago(0)}, (3, ago(0), "stage")),
        ({"least_phase": 3, "closing_date": ago(-1)}, (3, ago(3), "stage")),
        ({"least_phase": 3}, (3, ago(3), "stage")),
        ({"least_phase": 3, "proposal": 20, "stage_since": ago(5)}, (3, ago(5), "stage")),
        ({"least_phase": 3, "po": 20, "stage_since": ago(30)}, (3, ago(20), "po")),
        ({"least_phase": 3, "invoice": 2, "stage_since": ago(30)}, (4, ago(2), "invoice")),
        ({"least_phase": 1}, (1, ago(100), "")),
        # phase still follows when it has ended
        ({"proposal": 9, "stage_type": "lost"}, (2, ago(9), "proposal")),
        ({"proposal": 9, "is_deleted": True}, (2, ago(9), "proposal")),
    ],
)
def test_the_furthest_fact_or_the_stage_gives_the_phase(given: dict, expected: tuple) -> None:
    assert phases.phase_of(facts(**given), TODAY) == PhaseState(*expected)


def test_without_a_creation_date_phase_1_begins_when_first_seen() -> None:
    unknown = Facts(first_seen_on=ago(3))
    assert phases.phase_of(unknown, TODAY) == PhaseState(1, ago(3), "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "active"),
        ({"stage_type": "won"}, "active"),
        ({"stage_type": "lost"}, "lost"),
        ({"stage_type": "lost", "revenue": -1}, "lost"),
        ({"stage_type": "lost", "revenue": 0}, "realized"),
        ({"stage_type": "lost", "revenue": 9, "invoice": 9}, "active"),
        ({"revenue": 0}, "realized"),
        ({"revenue": -1}, "active"),
        ({"revenue": 9, "invoice": 9}, "active"),
        ({"revenue": 9, "invoice": -9}, "realized"),
        ({"revenue": 9, "invoice": 9, "payment": 0}, "realized"),
        ({"revenue": 9, "invoice": 9, "payment": -1}, "active"),
        ({"invoice": 9, "payment": 9}, "active"),
        ({"is_deleted": True}, "lost"),
        ({"is_deleted": True, "revenue": 9}, "lost"),
    ],
)
def test_outcome(given: dict, expected: str) -> None:
    assert phases.outcome_of(facts(**given), TODAY) == expected


def gaps_by_hand(reached: set[str]) -> set[str]:
    missing = set()
    chain = ["proposal", "po", "kickoff", "invoice", "revenue"]
    for at, key in enumerate(chain):
        if key not in reached and any(later in reached for later in chain[at + 1 :]):
            missing.add(key)
    if "payment" in reached and "invoice" not in reached:
        missing.add("invoice")
    return missing


def test_every_gap() -> None:
    """Each set of dated milestones: what is missing before what."""
    for size in range(len(MAPPED) + 1):
        for given in combinations(MAPPED, size):
            found = phases.findings_of(facts(**dict.fromkeys(given, 9)), TODAY)
            assert {f.milestone for f in found} == gaps_by_hand(set(given)), given
            assert all(f.kind == "gap" and f.other in given for f in found), given


def test_a_plan_fills_no_gap_and_makes_none() -> None:
    assert phases.findings_of(facts(proposal=9, po=-2, kickoff=1), TODAY) == [
        Finding("gap", "po", "kickoff")
    ]
    assert phases.findings_of(facts(proposal=9, kickoff=-2), TODAY) == []


def test_every_order() -> None:
    for order in permutations(phases.CHAIN):
        given = {key: 50 - 10 * at for at, key in enumerate(order)}
        expected = {
            (later, earlier)
            for at, earlier in enumerate(phases.CHAIN)
            for later in phases.CHAIN[at + 1 :]
            if order.index(later) < order.index(earlier) and (later, earlier) != ("kickoff", "po")
        }
        found = phases.findings_of(facts(**given), TODAY)
        assert {(f.milestone, f.other) for f in found if f.kind == "order"} == expected, order
        assert len(found) == len(expected), order


def test_equal_days_are_in_order() -> None:
    assert phases.findings_of(facts(**dict.fromkeys(phases.CHAIN, 5)), TODAY) == []


def test_before_the_creation_and_lost_with_revenue_are_findings() -> None:
    early = facts(created=10, proposal=11, sow=12, po=10)
    assert phases.findings_of(early, TODAY) == [
        Finding("before_creation", "proposal"),
        Finding("before_creation", "sow"),
    ]
    lost = facts(proposal=9, po=8, kickoff=7, invoice=6, revenue=5, stage_type="lost")
    assert phases.findings_of(lost, TODAY) == [Finding("lost_with_revenue", "revenue")]


@pytest.mark.parametrize(
    ("phase", "given", "expected"),
    [
        (1, {}, "proposal"),
        (2, {"proposal": 3}, "po"),
        (3, {"po": 3}, "signoff"),
        (3, {"po": 3, "signoff": -3}, "signoff"),
        (4, {"invoice": 3}, "revenue"),
        (4, {"revenue": 3}, "revenue"),
    ],
)
def test_gate(phase: int, given: dict, expected: str) -> None:
    assert phases.gate_of(phase, facts(**given), TODAY) == expected


def test_a_phase_is_complete_by_any_of_its_gates() -> None:
    assert phases.is_complete(3, facts(invoice=1), TODAY)
    assert phases.is_complete(3, facts(signoff=1), TODAY)
    assert not phases.is_complete(3, facts(kickoff=1, signoff=-1), TODAY)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"proposal": 30}, [(2, 30, "proposal")]),
        (
            {"proposal": 30, "po": 20, "kickoff": 15, "invoice": 5, "payment": 2, "revenue": 1},
            [(2, 30, "proposal"), (3, 20, "po"), (4, 5, "invoice")],
        ),
        ({"proposal": 10, "po": 20}, [(3, 20, "po")]),
        ({"proposal": 10, "po": 10}, [(2, 10, "proposal"), (3, 10, "po")]),
        ({"proposal": 10, "po": -1}, [(2, 10, "proposal")]),
        (
            {"proposal": 10, "least_phase": 3, "stage_since": ago(4)},
            [(2, 10, "proposal"), (3, 4, "stage")],
        ),
        ({"po": 10, "least_phase": 3, "stage_since": ago(40)}, [(3, 10, "po")]),
    ],
)
def test_the_steps_that_led_to_the_phase(given: dict, expected: list) -> None:
    steps = [Step(phase, ago(days), by) for phase, days, by in expected]
    assert phases.steps_of(facts(**given), TODAY) == steps


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"proposal": 30}, {1: 70}),
        ({"proposal": 30, "po": 20}, {1: 70, 2: 10}),
        ({"po": 20}, {1: 80}),
        ({"proposal": 10, "po": 20}, {1: 80}),
        ({"proposal": 20, "po": 20}, {1: 80, 2: 0}),
        ({"proposal": 30, "po": 20, "kickoff": 25, "invoice": 5}, {1: 70, 2: 5, 3: 20}),
        ({"invoice": 9, "payment": 4, "revenue": 2}, {1: 91, 4: 7}),
        ({"invoice": 9, "revenue": -2}, {1: 91}),
        ({"proposal": 120}, {}),
        ({"proposal": 30, "least_phase": 3, "stage_since": ago(12)}, {1: 70, 2: 18}),
        ({"proposal": 30, "stage_type": "lost"}, {1: 70}),
    ],
)
def test_completed_stays(given: dict, expected: dict) -> None:
    assert phases.stays_of(facts(**given), TODAY) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"proposal": 50, "revenue": 8}, 42),
        ({"proposal": 8, "revenue": 8}, 0),
        ({"proposal": 7, "revenue": 8}, None),
        ({"revenue": 8}, None),
        ({"proposal": 8}, None),
        ({"proposal": 50, "revenue": -1}, None),
    ],
)
def test_cycle(given: dict, expected: int | None) -> None:
    assert phases.cycle_days(facts(**given), TODAY) == expected


@pytest.mark.parametrize(
    ("said", "completed", "target", "expected"),
    [
        ("pending", None, None, "pending"),
        ("pending", 0, None, "completed"),
        ("pending", -1, None, "pending"),
        ("blocked", None, 5, "blocked"),
        ("blocked", 1, None, "completed"),
        ("pending", None, 0, "pending"),
        ("pending", None, 1, "delayed"),
        ("delayed", None, -5, "delayed"),
        ("delayed", 1, 5, "completed"),
        ("completed", None, None, "pending"),
    ],
)
def test_status(said: str, completed: int | None, target: int | None, expected: str) -> None:
    days = [None if n is None else ago(n) for n in (completed, target)]
    assert status_of(said, *days, TODAY) == expected


@pytest.mark.parametrize(
    ("key", "reached", "expected"),
    [
        ("po", ["po"], True),
        ("po", ["kickoff"], True),
        ("po", ["sow", "proposal"], False),
        ("kickoff", ["po"], False),
        ("own", ["execution_started"], False),
        ("own", ["signoff"], True),
        ("own", ["another-own"], False),
        ("kickoff", ["own"], True),
        ("revenue", ["payment"], False),
    ],
)
def test_a_milestone_is_passed_by_itself_or_a_later_one(
    key: str, reached: list[str], expected: bool
) -> None:
    assert is_passed(key, reached) is expected
