"""Facts → phase, outcome, gates, findings, stays. Pure: `today` is passed in.

The furthest fact decides, the CRM's stage gives the least phase; a day after today is a plan. What
is wrong with the dates is a finding and changes neither.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from o2r.facts import Facts
from o2r.milestones import in_order

ACTIVE, REALIZED, LOST = "active", "realized", "lost"
FIRST, LAST = 1, 4
PHASE_OF_FACT = {
    "proposal": 2,
    "po": 3,
    "kickoff": 3,
    "signoff": 4,
    "invoice": 4,
    "payment": 4,
    "revenue": 4,
}
# What completes a phase; one of them is enough.
GATES = {1: ("proposal",), 2: ("po",), 3: ("signoff", "invoice"), 4: ("revenue",)}
CHAIN = ("proposal", "po", "kickoff", "invoice", "revenue")
# Work that begins before the PO has come is normal.
_NORMAL = {("kickoff", "po")}
BY_STAGE = "stage"
GAP, ORDER, EARLY, LOST_WITH_REVENUE = "gap", "order", "before_creation", "lost_with_revenue"


class PhaseState(NamedTuple):
    """`by` is the milestone whose day is `entered_on`, "stage", or "" for phase 1."""

    current: int
    entered_on: date
    by: str


class Finding(NamedTuple):
    """`gap`: `milestone` is missing while `other` is a fact. `order`: `milestone` is dated before
    `other`, which comes first. `before_creation`, `lost_with_revenue`: of `milestone` alone."""

    kind: str
    milestone: str
    other: str = ""


class Step(NamedTuple):
    """The day on which a phase was first reached, and by what."""

    phase: int
    on: date
    by: str


def phase_of(facts: Facts, today: date) -> PhaseState:
    """Entered on the earliest day of that phase's facts; phase 1 on the day of creation; by the
    stage alone on the day of the stage change."""
    return _phase(facts, facts.reached(today), today)


def _phase(facts: Facts, reached: dict[str, date], today: date) -> PhaseState:
    current, entered_on, by = FIRST, facts.created_on or facts.first_seen_on, ""
    for key, phase in PHASE_OF_FACT.items():
        on = reached.get(key)
        if on is not None and (phase > current or (phase == current and on < entered_on)):
            current, entered_on, by = phase, on, key
    if facts.least_phase > current:
        return PhaseState(facts.least_phase, stage_day(facts, today), BY_STAGE)
    return PhaseState(current, entered_on, by)


def stage_day(facts: Facts, today: date) -> date:
    """Since when the deal is in its stage: the change seen, else the closing date, unless that
    lies ahead, else the day it was first seen."""
    for day in (facts.stage_since, facts.closing_date):
        if day is not None and day <= today:
            return day
    return facts.first_seen_on


def days_in_phase(entered_on: date, today: date) -> int:
    return max((today - entered_on).days, 0)


def outcome_of(facts: Facts, today: date) -> str:
    """Lost: deleted, or a lost stage without recognised revenue. Realized: revenue recognised and
    no dated invoice unpaid. Active: the rest."""
    reached = facts.reached(today)
    is_recognised = "revenue" in reached
    if facts.is_deleted or (facts.stage_type == "lost" and not is_recognised):
        return LOST
    if is_recognised and ("invoice" not in reached or "payment" in reached):
        return REALIZED
    return ACTIVE


def gate_of(phase: int, facts: Facts, today: date | None = None) -> str:
    """The milestone that completes a phase: the one that "Update phase" records.

    Of several the first without a day; `today` given, the first that is no fact yet. Where all
    have one, the last.
    """
    reached = facts.dates if today is None else facts.reached(today)
    return next((key for key in GATES[phase] if key not in reached), GATES[phase][-1])


def is_complete(phase: int, facts: Facts, today: date) -> bool:
    """Whether a gate of the phase is a fact."""
    reached = facts.reached(today)
    return any(key in reached for key in GATES[phase])


def findings_of(facts: Facts, today: date) -> list[Finding]:
    """Gaps, then days out of order, then days before the creation; each in the order of the way."""
    reached = facts.reached(today)
    found = [*_gaps(reached), *_disorder(reached)]
    if facts.created_on is not None:
        created_on = facts.created_on
        early = in_order(key for key, on in reached.items() if on < created_on)
        found += [Finding(EARLY, key) for key in early]
    if facts.stage_type == "lost" and "revenue" in reached:
        found.append(Finding(LOST_WITH_REVENUE, "revenue"))
    return found


def _gaps(reached: dict[str, date]) -> list[Finding]:
    """Each missing one once, beside the next that is a fact. Payment needs an invoice too."""
    found = []
    for at, key in enumerate(CHAIN):
        if key in reached:
            continue
        later = CHAIN[at + 1 :] if key != "invoice" else ("payment", *CHAIN[at + 1 :])
        other = next((other for other in later if other in reached), None)
        if other is not None:
            found.append(Finding(GAP, key, other))
    return found


def _disorder(reached: dict[str, date]) -> list[Finding]:
    known = [key for key in CHAIN if key in reached]
    return [
        Finding(ORDER, later, earlier)
        for at, earlier in enumerate(known)
        for later in known[at + 1 :]
        if reached[later] < reached[earlier] and (later, earlier) not in _NORMAL
    ]


def steps_of(facts: Facts, today: date) -> list[Step]:
    """How it came to its phase: by day, each fact (or the stage) that led further than all before.

    The last one's phase is the current one; empty in phase 1.
    """
    reached = facts.reached(today)
    moves = [Step(phase, reached[k], k) for k, phase in PHASE_OF_FACT.items() if k in reached]
    state = _phase(facts, reached, today)
    if state.by == BY_STAGE:
        moves.append(Step(*state))
    steps, furthest = [], FIRST
    for step in sorted(moves, key=lambda step: (step.on, step.phase)):
        if step.phase > furthest:
            furthest = step.phase
            steps.append(step)
    return steps


def stays_of(facts: Facts, today: date) -> dict[int, int]:
    """Days of each completed stay: from the day a phase was entered to the day on which a further
    one was; phase 4 until revenue was recognised. A phase passed over has none."""
    reached = facts.reached(today)
    entered: dict[int, date] = {}
    if facts.created_on is not None:
        entered[FIRST] = facts.created_on
    for key, phase in PHASE_OF_FACT.items():
        on = reached.get(key)
        if on is not None and (phase not in entered or on < entered[phase]):
            entered[phase] = on
    state = _phase(facts, reached, today)
    if state.by == BY_STAGE:
        entered[state.current] = state.entered_on
    stays = {}
    for phase, on in entered.items():
        further = [day for other, day in entered.items() if other > phase]
        left_on = min(further, default=None) if phase < LAST else reached.get("revenue")
        if left_on is not None and left_on >= on:
            stays[phase] = (left_on - on).days
    return stays


def cycle_days(facts: Facts, today: date) -> int | None:
    """Proposal to revenue recognised; None where it is not counted (`docs/METRICS.md`)."""
    reached = facts.reached(today)
    proposal, revenue = reached.get("proposal"), reached.get("revenue")
    if proposal is None or revenue is None or revenue < proposal:
        return None
    return (revenue - proposal).days
