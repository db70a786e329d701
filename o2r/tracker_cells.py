"""Reads the tracker's roll-ups for a selection: cells of a standing, and counts of days.

Decides what the roll-ups can answer (margins without filters; cells by territory, service line,
owner, phase and signal) and counts the rest from the opportunities, as the same cells. What a
figure makes of them is `tracker_metrics.py`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
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
from o2r.filters import NONE, PHASES, Selection
from o2r.models import DayCount, PipelineCell, RecomputeState, TrackerCell, TrackerMargin
from o2r.permissions import owner_pks_of
from o2r.phases import ACTIVE, LOST
from o2r.tracker_rollups import CYCLE, KINDS, STAYS


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
    deals: int
    sgd: int
    weighted: int
    no_amount: int
    no_rate: int

    @property
    def phase_key(self) -> str:
        return PHASES[self.phase - 1]


Sums = dict[str, list[int]]


def sums_of(cells: Iterable[Cell], key_of: Callable[[Cell], str]) -> Sums:
    sums: Sums = defaultdict(lambda: [0, 0, 0])
    for cell in cells:
        held = sums[key_of(cell)]
        held[0] += cell.deals
        held[1] += cell.sgd
        held[2] += cell.weighted
    return sums


@dataclass
class Kept:
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
            return sums_of(
                (cell for cell in cells if cell.first == dimension),
                lambda cell: NONE if cell.second in none else cell.second,
            )
        return sums_of(cells, _KEYS[dimension])

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


def read_cells(selection: Selection) -> Kept:
    """One query; tells the selection whom its owners are, too."""
    given = set(selection.given) - set(_IGNORED)
    if not given:
        cells = _margins()
    elif given <= _IN_CELLS:
        cells = _kept_cells(selection)
    else:
        cells = _live_cells(selection)
    found, named = Kept(not given, [], {}), []
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


def read_days(selection: Selection) -> dict[str, Counter[int]]:
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
