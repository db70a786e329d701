"""Every figure of the O2R tracker, each defined once: page, API and export read it here.

Formulas, populations and rounding are told in `docs/METRICS.md`. Read from roll-ups, however many
opportunities there are; filters that those do not keep are counted from the opportunities. Money is
whole SGD cents, days are whole; no float anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal

from o2r.filters import NONE, PHASES, SIGNALS, Selection
from o2r.metrics import Bucket, LeftOut
from o2r.phases import ACTIVE, LOST
from o2r.tracker_cells import Cell, Sums, read_cells, read_days, sums_of
from o2r.tracker_rollups import CYCLE, STAYS

PHASE_LABELS = {
    "phase1": "I · Opportunity to proposal",
    "phase2": "II · Proposal to commitment",
    "phase3": "III · Execution",
    "phase4": "IV · Revenue realization",
}
SIGNAL_LABELS = {
    "green": "On Track",
    "yellow": "Need Attention",
    "red": "At Risk",
    "blocked": "Blocked",
}
AT_RISK = ("red", "blocked")


@dataclass(frozen=True)
class Total:
    """So many opportunities, worth so much."""

    count: int
    value_sgd_cents: int


@dataclass(frozen=True)
class Days:
    """Days that something took. `count` were counted, `left_out` were not (`docs/METRICS.md`);
    average half up and median to one decimal, None without any."""

    count: int
    left_out: int
    average: Decimal | None
    median: Decimal | None


@dataclass(frozen=True)
class Conversion:
    """Of `reached`, the share (of one, four decimals) that `went_on`; None without any."""

    reached: int
    went_on: int
    share: Decimal | None


@dataclass(frozen=True)
class TrackerFigures:
    """Figures of `/o2r` and `/api/o2r/dashboard` for one selection.

    Breakdowns are of active opportunities; `by_phase` and `by_signal` always have all four.
    """

    total_opportunities: int
    total_value_sgd_cents: int
    weighted_sgd_cents: int
    by_phase: list[Bucket]
    by_signal: list[Bucket]
    by_phase_and_signal: dict[tuple[str, str], Total]
    by_territory: list[Bucket]
    by_service_line: list[Bucket]
    by_owner: list[Bucket]
    at_risk: Total
    overdue_payments: Total
    cycle: Days  # proposal to revenue recognised
    time_in_phase: dict[str, Days]
    conversion: dict[str, Conversion]
    left_out: LeftOut  # active ones without a value
    as_of: date | None  # the business day as of which phases and signals stand
    computed_at: datetime | None  # end of the last recompute
    recompute_pending: bool


def tracker_figures(selection: Selection, *, today: date) -> TrackerFigures:
    """Two queries. All filters count but outcome and period: each figure has a population of its
    own. `as_of` is before `today` until the daily turn has run."""
    kept = read_cells(selection)
    active = [cell for cell in kept.cells if cell.outcome == ACTIVE]
    whole = [cell for cell in active if kept.is_whole(cell)]
    everything = [cell for cell in kept.cells if kept.is_whole(cell)]
    days = read_days(selection)
    return TrackerFigures(
        total_opportunities=sum(c.deals for c in whole),
        total_value_sgd_cents=sum(c.sgd for c in whole),
        weighted_sgd_cents=sum(c.weighted for c in whole),
        by_phase=_all_of(PHASES, PHASE_LABELS, sums_of(whole, lambda c: c.phase_key)),
        by_signal=_all_of(SIGNALS, SIGNAL_LABELS, sums_of(whole, lambda c: c.signal)),
        by_phase_and_signal=_crossed(whole),
        by_territory=_buckets(kept.along(active, "territory"), _word_label),
        by_service_line=_buckets(kept.along(active, "service_line"), _word_label),
        by_owner=_buckets(kept.along(active, "owner"), kept.owner_label),
        at_risk=_total(c for c in whole if c.signal in AT_RISK),
        overdue_payments=_total(c for c in everything if c.is_overdue and c.outcome != LOST),
        cycle=_cycle(everything, days[CYCLE]),
        time_in_phase={kind: days_of(days[kind]) for kind in STAYS},
        conversion=_conversion(everything),
        left_out=LeftOut(sum(c.no_amount for c in whole), sum(c.no_rate for c in whole)),
        as_of=kept.turned_on,
        computed_at=kept.caught_up_at,
        recompute_pending=kept.is_behind or (kept.turned_on or date.min) < today,
    )


# -- one figure each ------------------------------------------------------------------------------


def days_of(counts: Mapping[int, int], *, left_out: int = 0) -> Days:
    """Average (half up) and median of so many of so many days."""
    count = sum(counts.values())
    if not count:
        return Days(0, left_out, None, None)
    total = sum(days * n for days, n in counts.items())
    middles = _at(counts, (count - 1) // 2) + _at(counts, count // 2)
    return Days(count, left_out, _tenths(total, count), _tenths(middles, 2))


def _at(counts: Mapping[int, int], place: int) -> int:
    """The value at a place, from 0, if all stood in a row by size."""
    for days in sorted(counts):
        place -= counts[days]
        if place < 0:
            return days
    raise IndexError(place)


def _tenths(part: int, whole: int) -> Decimal:
    return (Decimal(part) / Decimal(whole)).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _cycle(everything: Iterable[Cell], counts: Mapping[int, int]) -> Days:
    """Revenue recognised and not lost; those without a proposal date before it are left out."""
    recognised = sum(c.deals for c in everything if c.is_recognised and c.outcome != LOST)
    return days_of(counts, left_out=recognised - sum(counts.values()))


def _conversion(everything: list[Cell]) -> dict[str, Conversion]:
    """By the highest phase ever reached, lost included; of phase 4, revenue recognised."""
    found = {}
    for at, phase in enumerate(PHASES, start=1):
        reached = [c for c in everything if c.highest_phase >= at]
        if at < len(PHASES):
            went_on = sum(c.deals for c in reached if c.highest_phase > at)
        else:
            went_on = sum(c.deals for c in reached if c.is_recognised)
        count = sum(c.deals for c in reached)
        share = (
            (Decimal(went_on) / Decimal(count)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
            if count
            else None
        )
        found[phase] = Conversion(count, went_on, share)
    return found


def _total(cells: Iterable[Cell]) -> Total:
    cells = list(cells)
    return Total(sum(c.deals for c in cells), sum(c.sgd for c in cells))


def _all_of(keys: Iterable[str], labels: Mapping[str, str], sums: Sums) -> list[Bucket]:
    return [Bucket(key, labels[key], *sums.get(key, (0, 0, 0))) for key in keys]


def _crossed(cells: Iterable[Cell]) -> dict[tuple[str, str], Total]:
    sums = sums_of(cells, lambda c: f"{c.phase_key} {c.signal}")
    return {
        (phase, signal): Total(*sums.get(f"{phase} {signal}", (0, 0))[:2])
        for phase in PHASES
        for signal in SIGNALS
    }


def _buckets(sums: Sums, label_of: Callable[[str], str]) -> list[Bucket]:
    """Largest value first; empty values are a bucket of their own."""
    found = [Bucket(key, label_of(key), *values) for key, values in sums.items() if values[0]]
    return sorted(found, key=lambda b: (-b.value_sgd_cents, b.label))


def _word_label(key: str) -> str:
    return "None given" if key == NONE else key
