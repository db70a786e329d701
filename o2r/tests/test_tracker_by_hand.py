"""The rules against a slow restatement of the specification, on drawn facts."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from o2r import health_signals, phases, standing
from o2r.facts import Block, Facts
from o2r.health_signals import DEFAULTS, SEVERITY, Threshold
from o2r.milestones import BUILT_IN
from o2r.tests import tracker_by_hand as by_hand

TODAY = date(2026, 3, 1)  # a February before it, a leap day two years back
KEYS = [*BUILT_IN, "own", "own-two"]

days = st.integers(-40, 120).map(lambda n: TODAY - timedelta(days=n))
past = st.integers(0, 120).map(lambda n: TODAY - timedelta(days=n))
few = st.dictionaries(st.sampled_from(KEYS), days, max_size=8)
blocks = st.builds(Block, st.sampled_from(["", "own", "po", "sow", "invoice"]), st.just("x"), past)
facts = st.builds(
    Facts,
    first_seen_on=past,
    created_on=st.none() | past,
    dates=few,
    targets=st.dictionaries(st.sampled_from(KEYS), days, max_size=3),
    stage_type=st.sampled_from(["open", "open", "won", "lost"]),
    least_phase=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    stage_since=st.none() | past | days,
    closing_date=st.none() | days,
    last_change_on=st.none() | past,
    is_deleted=st.sampled_from([False] * 9 + [True]),
    blocked=st.lists(blocks, max_size=2).map(tuple),
)


@st.composite
def rulebooks(draw: st.DrawFn) -> dict[str, Threshold]:
    """The shipped thresholds, or drawn ones (yellow before red); any rule on or off."""
    found = {}
    for key, usual in DEFAULTS.items():
        is_on = draw(st.booleans()) if draw(st.booleans()) else usual.is_on
        yellow, red = usual.yellow, usual.red
        if draw(st.integers(0, 4)) == 0:
            yellow = draw(st.none() | st.integers(0, 30))
            red = draw(st.none() | st.integers((yellow or 0) + 1, 60))
        found[key] = Threshold(is_on, yellow, red)
    return found


@settings(max_examples=1500, deadline=None)
@given(facts, rulebooks())
def test_rules_are_those_of_the_specification(known: Facts, rules: dict[str, Threshold]) -> None:
    state = phases.phase_of(known, TODAY)
    assert (state.current, state.entered_on) == by_hand.phase(known, TODAY)
    assert phases.outcome_of(known, TODAY) == by_hand.outcome(known, TODAY)
    assert _findings(known) == by_hand.findings(known, TODAY)
    signal = health_signals.signal_of(known, TODAY, rules)
    assert signal.signal == by_hand.signal(known, TODAY, rules)
    assert {r.rule: r.severity for r in signal.reasons} == by_hand.reasons(known, TODAY, rules)
    assert len({r.rule for r in signal.reasons}) == len(signal.reasons)
    severities = [SEVERITY[r.severity] for r in signal.reasons]
    assert severities == sorted(severities, reverse=True)
    for reason in signal.reasons:
        assert reason.since == by_hand.reached_severity(known, TODAY, reason.rule, rules)
        assert reason.days == (TODAY - reason.date).days
    assert health_signals.is_overdue(known, TODAY, rules) == by_hand.overdue(known, TODAY, rules)
    assert phases.cycle_days(known, TODAY) == by_hand.cycle(known, TODAY)


@settings(max_examples=600, deadline=None)
@given(facts, rulebooks())
@example(
    Facts(first_seen_on=TODAY, stage_type="won", closing_date=TODAY + timedelta(days=5)),
    {**DEFAULTS, "won_no_po": Threshold(True, 14, 30)},
)
def test_worse_on_is_the_first_worse_day(known: Facts, rules: dict[str, Threshold]) -> None:
    signal = health_signals.signal_of(known, TODAY, rules)
    assert signal.worse_on == by_hand.worse_on(known, TODAY, rules)


@settings(max_examples=600, deadline=None)
@given(facts)
def test_stays_are_those_of_a_walk_through_the_days(known: Facts) -> None:
    assert phases.stays_of(known, TODAY) == by_hand.stays(known, TODAY)


def ahead(**known: Any) -> Facts:
    return Facts(first_seen_on=TODAY - timedelta(days=50), **known)


OFF = {key: usual._replace(is_on=False) for key, usual in DEFAULTS.items()}
WON_NO_PO = {**OFF, "won_no_po": Threshold(True, 14, 30)}
SOON = TODAY + timedelta(days=5)


@settings(max_examples=400, deadline=None)
@given(facts, rulebooks())
@example(ahead(dates={"invoice": TODAY - timedelta(days=40)}), OFF)
@example(ahead(stage_type="won", least_phase=3, stage_since=SOON), OFF)
@example(ahead(stage_type="won", least_phase=3, closing_date=SOON), OFF)
@example(ahead(stage_type="won", closing_date=SOON), WON_NO_PO)
def test_until_turns_on_nothing_follows_otherwise(
    known: Facts, rules: dict[str, Threshold]
) -> None:
    """The daily turn looks at no row before its day."""
    today, _ = standing.standing_of(known, TODAY, rules)
    for n in range(1, 75):
        day = TODAY + timedelta(days=n)
        later, _ = standing.standing_of(known, day, rules)
        if today.turns_on is not None and day.isoformat() >= today.turns_on:
            break
        assert later == today, day


@settings(max_examples=400, deadline=None)
@given(facts)
def test_steps_lead_to_the_phase(known: Facts) -> None:
    steps = phases.steps_of(known, TODAY)
    reached = [1, *(step.phase for step in steps)]
    assert reached == sorted(set(reached))
    assert reached[-1] == phases.phase_of(known, TODAY).current
    assert [step.on for step in steps] == sorted(step.on for step in steps)


def _findings(known: Facts) -> set[tuple[str, str]]:
    return {
        (f.kind, f"{f.milestone}<{f.other}" if f.kind == "order" else f.milestone)
        for f in phases.findings_of(known, TODAY)
    }
