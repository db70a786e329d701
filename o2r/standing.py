"""Where an opportunity stands on a day: all its derived columns, from its facts alone. Pure.

Puts together what `phases.py` and `health_signals.py` decide, and tells the next day on which any
of it changes by time alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

from o2r import health_signals, phases
from o2r.facts import Facts
from o2r.health_signals import Signal, Threshold

Rules = Mapping[str, Threshold]


class Standing(NamedTuple):
    """The columns of an opportunity that follow from facts; dates as ISO text, JSON as lists."""

    current_phase: int
    phase_entered_on: str
    outcome: str
    health_signal: str
    reasons: list[dict[str, Any]]
    worse_on: str | None
    turns_on: str | None
    findings: list[dict[str, Any]]
    sow_estimated_on: str | None
    cycle_days: int | None
    phase1_days: int | None
    phase2_days: int | None
    phase3_days: int | None
    phase4_days: int | None
    is_recognised: bool
    is_overdue: bool


COLUMNS = Standing._fields


def standing_of(facts: Facts, today: date, rules: Rules) -> tuple[Standing, Signal]:
    """Also the signal with its reasons, for the history."""
    state = phases.phase_of(facts, today)
    signal = health_signals.signal_of(facts, today, rules)
    stays = phases.stays_of(facts, today)
    revenue_on = facts.dates.get("revenue")
    standing = Standing(
        state.current,
        state.entered_on.isoformat(),
        phases.outcome_of(facts, today),
        signal.signal,
        [reason.stored() for reason in signal.reasons],
        _iso(signal.worse_on),
        _iso(turns_on(facts, signal, today, rules)),
        [finding._asdict() for finding in phases.findings_of(facts, today)],
        _iso(facts.sow_estimated_on),
        phases.cycle_days(facts, today),
        stays.get(1),
        stays.get(2),
        stays.get(3),
        stays.get(4),
        revenue_on is not None and revenue_on <= today,
        health_signals.is_overdue(facts, today, rules),
    )
    return standing, signal


def turns_on(facts: Facts, signal: Signal, today: date, rules: Rules) -> date | None:
    """The next day on which anything follows otherwise from the same facts: a threshold, a plan
    that becomes a fact, a payment that gets overdue, a closing date that stands for the day of the
    stage. None: it stays so for ever."""
    days = [on for on in facts.dates.values() if on > today]
    days += [
        on
        for on in (
            signal.turns_on,
            health_signals.overdue_on(facts, today, rules),
            facts.stage_since,
            facts.closing_date if _is_stage_day_open(facts, today) else None,
        )
        if on is not None and on > today
    ]
    return min(days, default=None)


def _is_stage_day_open(facts: Facts, today: date) -> bool:
    """Whether the closing date, once it comes, tells since when the stage holds."""
    seen = facts.stage_since
    return (facts.least_phase > 0 or facts.stage_type == "won") and (seen is None or seen > today)


def path_of(
    facts: Facts, turned_on: date | None, today: date, rules: Rules
) -> Iterator[tuple[date, Signal]]:
    """What the signal was on each day before today on which it may have turned: a machine that was
    off for a month still tells the days. `turned_on` is the first of them, if it is past."""
    day = turned_on
    while day is not None and day < today:
        signal = health_signals.signal_of(facts, day, rules)
        yield day, signal
        day = turns_on(facts, signal, day, rules)


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
