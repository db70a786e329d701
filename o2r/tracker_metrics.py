"""Every figure of the O2R tracker, each defined once: page, API and export read it here.

Formulas, populations and rounding are told in `docs/METRICS.md`. Read from roll-ups, however many
opportunities there are; filters that those do not keep are counted from the opportunities. Money is
whole SGD cents, days are whole; no float anywhere.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from django.db.models import (
    Case,
    CharField,
    Count,
    Exists,
    F,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Cast, Coalesce

from crm.models import CrmUser, Deal
from crm.words import users_named
from o2r.filters import NONE, PHASES, SIGNALS, Selection
from o2r.metrics import Bucket, LeftOut
from o2r.models import DayCount, PipelineCell, RecomputeState, TrackerCell, TrackerMargin
from o2r.permissions import owner_pks_of
from o2r.phases import ACTIVE, LOST
from o2r.tracker_rollups import CYCLE, KINDS, STAYS

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
    kept = _read(selection)
    active = [cell for cell in kept.cells if cell.outcome == ACTIVE]
    whole = [cell for cell in active if kept.is_whole(cell)]
    everything = [cell for cell in kept.cells if kept.is_whole(cell)]
    days = _days(selection)
    return TrackerFigures(
        total_opportunities=sum(c.count for c in whole),
        total_value_sgd_cents=sum(c.sgd for c in whole),
        weighted_sgd_cents=sum(c.weighted for c in whole),
        by_phase=_all_of(PHASES, PHASE_LABELS, _sums(whole, lambda c: c.phase_key)),
        by_signal=_all_of(SIGNALS, SIGNAL_LABELS, _sums(whole, lambda c: c.signal)),
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
    recognised = sum(c.count for c in everything if c.is_recognised and c.outcome != LOST)
    return days_of(counts, left_out=recognised - sum(counts.values()))


def _conversion(everything: list[Cell]) -> dict[str, Conversion]:
    """By the highest phase ever reached, lost included; of phase 4, revenue recognised."""
    found = {}
    for at, phase in enumerate(PHASES, start=1):
        reached = [c for c in everything if c.highest_phase >= at]
        if at < len(PHASES):
            went_on = sum(c.count for c in reached if c.highest_phase > at)
        else:
            went_on = sum(c.count for c in reached if c.is_recognised)
        count = sum(c.count for c in reached)
        share = (
            (Decimal(went_on) / Decimal(count)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
            if count
            else None
        )
        found[phase] = Conversion(count, went_on, share)
    return found


def _total(cells: Iterable[Cell]) -> Total:
    cells = list(cells)
    return Total(sum(c.count for c in cells), sum(c.sgd for c in cells))


Sums = dict[str, list[int]]


def _sums(cells: Iterable[Cell], key_of: Callable[[Cell], str]) -> Sums:
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    for cell in cells:
        held = sums[key_of(cell)]
        held[0] += cell.count
        held[1] += cell.sgd
        held[2] += cell.weighted
    return sums


def _all_of(keys: Iterable[str], labels: Mapping[str, str], sums: Sums) -> list[Bucket]:
    return [Bucket(key, labels[key], *sums.get(key, (0, 0, 0))) for key in keys]


def _crossed(cells: Iterable[Cell]) -> dict[tuple[str, str], Total]:
    sums = _sums(cells, lambda c: f"{c.phase_key} {c.signal}")
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


# -- reading ------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """Live opportunities of one standing. `first` to `owner_id`: territory, service line and owner;
    or of a margin its dimension and value."""

    first: str
    second: str
    signal: str
    outcome: str
    owner_id: int
    phase: int
    highest_phase: int
    is_overdue: int
    is_recognised: int
    count: int
    sgd: int
    weighted: int
    no_amount: int
    no_rate: int

    @property
    def phase_key(self) -> str:
        return PHASES[self.phase - 1]


@dataclass
class _Kept:
    """What one look at the roll-ups tells. `are_margins`: the cells are those of one dimension at
    a time, and the ones of *all* are the whole."""

    are_margins: bool
    cells: list[Cell]
    owners: dict[int, str]
    caught_up_at: datetime | None = None
    turned_on: date | None = None
    is_behind: bool = False

    def is_whole(self, cell: Cell) -> bool:
        return not self.are_margins or cell.first == "all"

    def along(self, cells: Iterable[Cell], dimension: str) -> Sums:
        if self.are_margins:
            none = ("", "0") if dimension == "owner" else ("",)
            return _sums(
                (cell for cell in cells if cell.first == dimension),
                lambda cell: NONE if cell.second in none else cell.second,
            )
        return _sums(cells, _KEYS[dimension])

    def owner_label(self, key: str) -> str:
        return "No owner" if key == NONE else self.owners.get(int(key), "Unknown")


_KEYS: dict[str, Callable[[Cell], str]] = {
    "territory": lambda cell: cell.first or NONE,
    "service_line": lambda cell: cell.second or NONE,
    "owner": lambda cell: str(cell.owner_id or NONE),
}
# Said of the list, not of the figures: each figure has a population of its own.
_IGNORED = ("outcome", "period")
_IN_CELLS = frozenset(["territory", "service_line", "owner", "mine", "phase", "health_signal"])
_IN_DAYS = frozenset(["territory", "service_line", "owner", "mine"])


def _read(selection: Selection) -> _Kept:
    """One query; tells the selection whom its owners are, too."""
    given = set(selection.given) - set(_IGNORED)
    if not given:
        cells = _margins()
    elif given <= _IN_CELLS:
        cells = _kept_cells(selection)
    else:
        cells = _live_cells(selection)
    found, named = _Kept(not given, [], {}), []
    for part, *row in cells.union(_owner_rows(selection), _state_rows(), all=True):
        if part == "cell":
            found.cells.append(Cell(*row[:4], *map(int, row[4:])))
        elif part == "owner":
            user = CrmUser(pk=row[4], name=row[0], email=row[1], zoho_id=row[9])
            found.owners[user.pk] = str(user)
            if row[5]:
                named.append(user)
        else:
            found.caught_up_at = datetime.fromisoformat(row[0]) if row[0] else None
            found.turned_on = date.fromisoformat(row[1]) if row[1] else None
            found.is_behind = bool(row[4])
    selection.know_owners(named)
    return found


def _flag(name: str) -> Case:
    """A boolean as a number: parts of one union agree on types."""
    return Case(When(**{name: True}, then=Value(1)), default=Value(0), output_field=IntegerField())


_SUMS = ("count", "sgd_minor", "weighted_minor", "no_amount", "no_rate")


def _margins() -> QuerySet:
    rows = TrackerMargin.objects.filter(Q(dimension="all") | Q(outcome=ACTIVE))
    return rows.exclude(count=0).order_by().values_list(
        Value("cell"), "dimension", "value", "signal", "outcome", Value(0), "phase",
        "highest_phase", _flag("is_overdue"), _flag("is_recognised"), *_SUMS,
    )  # fmt: skip


def _kept_cells(selection: Selection) -> QuerySet:
    rows = TrackerCell.objects.exclude(count=0).order_by()
    for name in ("territory", "service_line"):
        if words := getattr(selection, name):
            rows = rows.filter(**{f"{name}__in": ["" if w == NONE else w for w in words]})
    if selection.owner:
        named = Q(owner_id__in=users_named(selection.owner).values("pk"))
        rows = rows.filter(named | Q(owner_id=0) if NONE in selection.owner else named)
    if selection.mine:
        rows = rows.filter(owner_id__in=owner_pks_of(selection.user))
    if selection.phase:
        rows = rows.filter(phase__in=[PHASES.index(word) + 1 for word in selection.phase])
    if selection.health_signal:
        rows = rows.filter(signal__in=selection.health_signal)
    return rows.values_list(
        Value("cell"), "territory", "service_line", "signal", "outcome", "owner_id", "phase",
        "highest_phase", _flag("is_overdue"), _flag("is_recognised"), *_SUMS,
    )  # fmt: skip


def _counted(selection: Selection) -> QuerySet:
    """The opportunities behind figures that the roll-ups do not keep."""
    rows = selection.without(*_IGNORED).deals(default_outcome="all")
    return rows.select_related(None).order_by().filter(opportunity__as_of__isnull=False)


def _live_cells(selection: Selection) -> QuerySet:
    """The cells of a selection by GROUP BY, as the roll-up would hold them."""
    no_value = Q(amount_sgd_minor__isnull=True)
    return (
        _counted(selection)
        .annotate(
            part=Value("cell"),
            cell_territory=Coalesce("territory", Value("")),
            cell_line=Coalesce("service_line", Value("")),
            cell_owner=Coalesce("owner_id", Value(0)),
            overdue=_flag("opportunity__is_overdue"),
            recognised=_flag("opportunity__is_recognised"),
        )
        .values_list(
            "part", "cell_territory", "cell_line", "opportunity__health_signal",
            "opportunity__outcome", "cell_owner", "opportunity__current_phase",
            "opportunity__highest_phase", "overdue", "recognised",
        )
        .annotate(
            deals=Count("pk"),
            value=Coalesce(Sum("amount_sgd_minor"), Value(0)),
            weighted=Coalesce(Sum("weighted_sgd_minor"), Value(0)),
            no_amount=Count("pk", filter=no_value & Q(amount_minor__isnull=True)),
            no_rate=Count("pk", filter=no_value & Q(amount_minor__isnull=False)),
        )
    )  # fmt: skip


def _owner_rows(selection: Selection) -> QuerySet:
    """The owners that opportunities have and those that the selection names."""
    named = Q(pk__in=users_named(selection.owner).values("pk"))
    rows = CrmUser.objects.filter(named | Q(pk__in=PipelineCell.objects.values("owner_id")))
    return rows.order_by().values_list(
        Value("owner"), "name", "email", Value(""), Value(""), "pk",
        Case(When(named, then=Value(1)), default=Value(0)),
        Value(0), Value(0), Value(0), "zoho_id", Value(0), Value(0), Value(0), Value(0),
    )  # fmt: skip


def _state_rows() -> QuerySet:
    newer = Deal.objects.filter(change_seq__gt=OuterRef("deal_seq"))
    nought = (Value(0),) * 9
    return RecomputeState.objects.order_by().values_list(
        Value("state"), Cast("caught_up_at", CharField()), Cast("turned_on", CharField()),
        Value(""), Value(""), Case(When(Exists(newer), then=Value(1)), default=Value(0)), *nought,
    )  # fmt: skip


def _days(selection: Selection) -> dict[str, Counter[int]]:
    """How many took how many days, by kind: one query."""
    dimension, values = _one_dimension(selection)
    found: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    if dimension is None:
        for kind, days, count in _live_days(selection):
            found[kind][days] += count
        return found
    kept = DayCount.objects.filter(dimension=dimension, value__in=values)
    for kind, counts in kept.values_list("kind", "counts"):
        for days, count in (json.loads(counts) if isinstance(counts, str) else counts).items():
            found[kind][int(days)] += count
    return found


def _one_dimension(selection: Selection) -> tuple[str | None, list[str]]:
    """The single dimension that filters, with its values as day counts keep them."""
    if set(selection.given) - set(_IGNORED) - _IN_DAYS:
        return None, []
    used: list[tuple[str, list[str]]] = [
        (name, ["" if word == NONE else word for word in getattr(selection, name)])
        for name in ("territory", "service_line")
        if getattr(selection, name)
    ]
    owners = selection.owner_keys
    if owners is not None:
        used.append(("owner", [str(pk) for pk in owners]))
    if not used:
        return "all", [""]
    return used[0] if len(used) == 1 else (None, [])


def _live_days(selection: Selection) -> QuerySet:
    rows = _counted(selection)
    cycle = rows.exclude(opportunity__outcome=LOST)
    parts = [_grouped(cycle, CYCLE, "opportunity__cycle_days")]
    parts += [_grouped(rows, kind, f"opportunity__{kind}_days") for kind in STAYS]
    return parts[0].union(*parts[1:], all=True)


def _grouped(rows: QuerySet, kind: str, column: str) -> QuerySet:
    return (
        rows.filter(**{f"{column}__isnull": False})
        .annotate(kind=Value(kind), took=F(column))
        .values_list("kind", "took")
        .annotate(n=Count("pk"))
    )
