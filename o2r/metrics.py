"""Every figure of the dashboard, each defined once: page, API and export read it here.

Reads the roll-up that o2r keeps beside its own rows (`rollups.py`); equal to a live GROUP BY over
the mirror once the recompute of a sync has ended. Money is whole SGD cents; no float anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from django.db.models import Case, CharField, Count, Exists, OuterRef, Q, Sum, Value, When
from django.db.models.functions import Cast, Coalesce

from crm import stages
from crm.currency import divide_half_up
from crm.models import ChangeEvent, CrmUser, Deal
from crm.words import users_named
from o2r import trends
from o2r.filters import (
    CHANGE_FIELDS,
    CHANGE_KINDS,
    NONE,
    Selection,
    changed_deals,
    period_bounds,
    signal_changes,
)
from o2r.models import PipelineCell, RecomputeState
from o2r.permissions import owner_pks_of
from o2r.trends import Closed, Past, Trend


@dataclass(frozen=True)
class Bucket:
    """One bar of a breakdown: `key` is its value in the filter of the list behind it."""

    key: str
    label: str
    count: int
    value_sgd_cents: int
    weighted_sgd_cents: int


@dataclass(frozen=True)
class LeftOut:
    """Open deals that a value leaves out, by reason."""

    no_amount: int
    no_rate: int


@dataclass(frozen=True)
class Trends:
    """What each figure was at the end of the last days, as far as that is known."""

    total_pipeline: Trend | None  # SGD cents; None: not kept for these filters together
    weighted: Trend | None
    win_rate: Trend | None  # of the period that ended on that day, by closing dates known today
    average_deal_size: Trend | None


@dataclass(frozen=True)
class PipelineFigures:
    """Figures of `/` and `/api/opportunities/stats` for one selection of deals."""

    open_count: int
    won_count: int  # closed in the period
    lost_count: int
    total_pipeline_cents: int
    weighted_cents: int
    average_deal_size_cents: int | None  # won in the period
    win_rate: Decimal | None  # won ÷ (won + lost) by count, a share of one with four decimals
    win_rate_value: Decimal | None  # the same by value
    period_from: date | None  # None: all time
    period_to: date
    by_stage: list[Bucket]  # our open stages in order, other, closed_won, closed_lost (all time)
    by_territory: list[Bucket]  # open deals
    by_service_line: list[Bucket]
    by_owner: list[Bucket]
    left_out: LeftOut
    as_of: datetime | None  # end of the last recompute
    recompute_pending: bool
    moves_from: date | None  # what the pipeline was is known from the end of this day on
    trends: Trends


@dataclass(frozen=True)
class Change:
    """How many deals changed in one way since a moment, and what they are worth now."""

    kind: str  # new | stage | amount | closing_date | won | lost | signal
    count: int
    value_sgd_cents: int


def pipeline_figures(selection: Selection, *, today: date) -> PipelineFigures:
    """Two queries, however many deals there are: the roll-up as it is, and its last days.

    Filters count everywhere; the stage filter everywhere but in the breakdown by stage itself and
    in what is told of closed deals. Filters that the roll-up does not keep (search, dates,
    amounts, …) are counted from the deals.
    """
    kept = _roll_up(selection)
    cells = kept.cells
    chosen = [c for c in cells if not selection.stage or c.stage in selection.stage]
    still_open = [c for c in chosen if c.stage in stages.OPEN_STAGES]
    past = _past(selection, cells, today)
    won, lost = past.backwards[0]
    start, end = period_bounds(selection.period, today)
    total = sum(c.sgd for c in still_open)
    weighted = sum(c.weighted for c in still_open)
    return PipelineFigures(
        open_count=sum(c.deals for c in still_open),
        won_count=won.deals,
        lost_count=lost.deals,
        total_pipeline_cents=total,
        weighted_cents=weighted,
        average_deal_size_cents=average_of(won),
        win_rate=win_rate_of(won, lost),
        win_rate_value=_share(won.sgd, won.sgd + lost.sgd),
        period_from=start,
        period_to=end,
        by_stage=_by_stage(cells),
        by_territory=_buckets(still_open, lambda c: c.territory or NONE, _word_label),
        by_service_line=_buckets(still_open, lambda c: c.service_line or NONE, _word_label),
        by_owner=_by_owner(still_open, kept.owners),
        left_out=LeftOut(sum(c.no_amount for c in still_open), sum(c.no_rate for c in still_open)),
        as_of=kept.as_of,
        recompute_pending=kept.is_behind,
        moves_from=kept.moves_from,
        trends=Trends(
            total_pipeline=past.pipeline("sgd", total, kept.moves_from),
            weighted=past.pipeline("weighted", weighted, kept.moves_from),
            win_rate=past.closed(win_rate_of),
            average_deal_size=past.closed(lambda won, lost: average_of(won)),
        ),
    )


def win_rate_of(won: Closed, lost: Closed) -> Decimal | None:
    """Won ÷ (won + lost) by count."""
    return _share(won.deals, won.deals + lost.deals)


def average_of(won: Closed) -> int | None:
    """SGD cents of a won deal that has a value."""
    return divide_half_up(won.sgd, won.with_value) if won.with_value else None


class Cell(NamedTuple):
    """Live deals of one stage, territory, service line and owner; "" and 0: none given."""

    stage: str
    territory: str
    service_line: str
    owner_id: int
    deals: int
    sgd: int
    weighted: int
    no_amount: int
    no_rate: int


@dataclass
class _RollUp:
    """What one look at the roll-up tells: cells, names of owners, how far it has followed."""

    cells: list[Cell]
    owners: dict[int, str]
    as_of: datetime | None = None
    is_behind: bool = False
    moves_from: date | None = None


# What the roll-up can answer; any other filter needs the deals themselves.
_ROLLED_UP = frozenset(["stage", "territory", "service_line", "owner", "mine", "period"])


def _is_rolled_up(selection: Selection) -> bool:
    return selection.given.keys() <= _ROLLED_UP


def _counted(selection: Selection) -> Any:
    """The deals behind figures that the roll-up does not keep; stage and period apply later."""
    rows = selection.without("stage", "period").deals(default_outcome="all")
    return rows.select_related(None).order_by()


def _live_cells(selection: Selection) -> Any:
    """The cells of a selection by GROUP BY, as the roll-up would hold them."""
    no_value = Q(amount_sgd_minor__isnull=True)
    return (
        _counted(selection)
        .annotate(
            part=Value("cell"),
            cell_territory=Coalesce("territory", Value("")),
            cell_line=Coalesce("service_line", Value("")),
            cell_owner=Coalesce("owner_id", Value(0)),
        )
        .values_list("part", "stage", "cell_territory", "cell_line", "cell_owner")
        .annotate(
            deals=Count("pk"),
            value=Coalesce(Sum("amount_sgd_minor"), Value(0)),
            weighted=Coalesce(Sum("weighted_sgd_minor"), Value(0)),
            no_amount=Count("pk", filter=no_value & Q(amount_minor__isnull=True)),
            no_rate=Count("pk", filter=no_value & Q(amount_minor__isnull=False)),
        )
    )


def _kept_cells(selection: Selection) -> Any:
    """The same from the roll-up."""
    rows = PipelineCell.objects.exclude(count=0).order_by()
    for name in ("territory", "service_line"):
        words = getattr(selection, name)
        if words:
            rows = rows.filter(**{f"{name}__in": ["" if w == NONE else w for w in words]})
    if selection.owner:
        named = Q(owner_id__in=users_named(selection.owner).values("pk"))
        rows = rows.filter(named | Q(owner_id=0) if NONE in selection.owner else named)
    if selection.mine:
        rows = rows.filter(owner_id__in=owner_pks_of(selection.user))
    return rows.values_list(
        Value("cell"),
        "stage",
        "territory",
        "service_line",
        "owner_id",
        "count",
        "sgd_minor",
        "weighted_minor",
        "no_amount",
        "no_rate",
    )


_NOUGHTS = (Value(0), Value(0), Value(0))


def _owner_rows(selection: Selection) -> Any:
    """The owners that deals have and those that the selection names, as rows of the same shape."""
    named = Q(pk__in=users_named(selection.owner).values("pk"))
    rows = CrmUser.objects.filter(named | Q(pk__in=PipelineCell.objects.values("owner_id")))
    return rows.order_by().values_list(
        Value("owner"),
        "name",
        "email",
        Value(""),
        "pk",
        "zoho_id",
        Case(When(named, then=Value(1)), default=Value(0)),
        *_NOUGHTS,
    )


def _state_rows() -> Any:
    """When the roll-up last caught up with the mirror, whether it is behind now, and since when
    it keeps moves."""
    state = RecomputeState.objects.order_by()
    newer = Deal.objects.filter(change_seq__gt=OuterRef("deal_seq"))
    is_behind = Case(When(Exists(newer), then=Value(1)), default=Value(0))
    return state.values_list(
        Value("state"),
        Cast("caught_up_at", CharField()),
        Cast("moves_from", CharField()),
        Value(""),
        is_behind,
        Value(0),
        Value(0),
        *_NOUGHTS,
    )


def _roll_up(selection: Selection) -> _RollUp:
    """One query; tells the selection whom its owners are, too."""
    is_kept = _is_rolled_up(selection)
    cells = _kept_cells(selection) if is_kept else _live_cells(selection)
    found, named = _RollUp([], {}), []
    for row in cells.union(_owner_rows(selection), _state_rows(), all=True):
        if row[0] == "cell":
            found.cells.append(Cell._make(row[1:]))
        elif row[0] == "owner":
            _, name, email, _, pk, zoho_id, is_named, *_ = row
            user = CrmUser(pk=pk, name=name, email=email, zoho_id=zoho_id)
            found.owners[pk] = str(user)
            if is_named:
                named.append(user)
        else:
            _, as_of, moves_from, _, is_behind, *_ = row
            found.as_of = _as_moment(as_of)
            found.moves_from = date.fromisoformat(moves_from) if moves_from else None
            found.is_behind = bool(is_behind)
    if not is_kept:  # sums that the database made just now may be decimals
        found.cells = [Cell(*cell[:3], *map(int, cell[3:])) for cell in found.cells]
    selection.know_owners(named)
    return found


def _as_moment(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _past(selection: Selection, cells: list[Cell], today: date) -> Past:
    """What the last days tell of won, lost and the pipeline: one query."""
    dimension, values = _one_dimension(selection)
    window = trends.Window(selection.period, today)
    if dimension is None:
        return trends.past_of_deals(_deals_of(selection), cells, window)
    is_chosen = Q(dimension=dimension, value__in=values)
    return trends.past_of_roll_up(is_chosen, selection.stage, cells, window)


def _one_dimension(selection: Selection) -> tuple[str | None, list[str]]:
    """The single dimension that filters, with its values as the roll-up keeps them."""
    if not _is_rolled_up(selection):
        return None, []
    used: list[tuple[str, list[str]]] = [
        (name, ["" if w == NONE else w for w in getattr(selection, name)])
        for name in ("territory", "service_line")
        if getattr(selection, name)
    ]
    owners = selection.owner_keys
    if owners is not None:
        used.append(("owner", [str(pk) for pk in owners]))
    if not used:
        return "all", [""]
    return used[0] if len(used) == 1 else (None, [])


def _deals_of(selection: Selection) -> Any:
    """Live deals of the selection, whatever their stage."""
    if not _is_rolled_up(selection):
        return _counted(selection)
    rows = Deal.objects.live()
    for name in ("territory", "service_line"):
        words = getattr(selection, name)
        if words:
            found = Q(**{f"{name}__in": [w for w in words if w != NONE]})
            if NONE in words:
                found |= Q(**{f"{name}__isnull": True})
            rows = rows.filter(found)
    owners = selection.owner_keys
    if owners is not None:
        found = Q(owner__in=owners)
        if 0 in owners:
            found |= Q(owner__isnull=True)
        rows = rows.filter(found)
    return rows


def _share(part: int, whole: int) -> Decimal | None:
    if whole <= 0:
        return None
    return (Decimal(part) / Decimal(whole)).quantize(Decimal("0.0001"), ROUND_HALF_UP)


def _by_stage(cells: list[Cell]) -> list[Bucket]:
    """Every stage of ours, empty ones too, in order."""
    found = {b.key: b for b in _buckets(cells, lambda c: c.stage, stages.LABELS.__getitem__)}
    return [
        found.get(stage) or Bucket(stage, stages.LABELS[stage], 0, 0, 0) for stage in stages.STAGES
    ]


def _by_owner(cells: list[Cell], names: Mapping[int, str]) -> list[Bucket]:
    return _buckets(
        cells,
        lambda c: str(c.owner_id or NONE),
        lambda key: "No owner" if key == NONE else names.get(int(key), "Unknown"),
    )


def _word_label(key: str) -> str:
    return "None given" if key == NONE else key


def _buckets(
    cells: list[Cell], key_of: Callable[[Cell], str], label_of: Callable[[str], str]
) -> list[Bucket]:
    """Largest value first."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for cell in cells:
        held = sums[key_of(cell)]
        held[0] += cell.deals
        held[1] += cell.sgd
        held[2] += cell.weighted
    buckets = [Bucket(key, label_of(key), *values) for key, values in sums.items()]
    return sorted(buckets, key=lambda b: (-b.value_sgd_cents, b.label))


def changes_since(selection: Selection, since: datetime) -> list[Change]:
    """One query: deals by the ways in which they changed since, by the time in the CRM.

    A deal that was won counts under won, not under stage as well.
    """
    deals = _deals_of(selection).filter(changed_deals(CHANGE_KINDS, since))
    events = ChangeEvent.objects.filter(
        module="Deals", kind=ChangeEvent.CHANGED, changed_at__gte=since, record_id=OuterRef("pk")
    )
    marks = {
        f"has_{kind}": Exists(events.filter(field=name)) for kind, name in CHANGE_FIELDS.items()
    }
    turned = signal_changes(since).filter(opportunity__deal=OuterRef("pk"))
    marks["has_signal"] = Exists(turned)
    found: dict[str, list[int]] = {kind: [0, 0] for kind in CHANGE_KINDS}
    for created_at, value, stage_type, *has in deals.annotate(**marks).values_list(
        "crm_created_at", "amount_sgd_minor", "stage_type", *marks
    ):
        kinds = [kind for kind, is_so in zip((*CHANGE_FIELDS, "signal"), has, strict=True) if is_so]
        if "stage" in kinds and stage_type != stages.OPEN:
            kinds[kinds.index("stage")] = stage_type
        if created_at is not None and created_at >= since:
            kinds.append("new")
        for kind in kinds:
            found[kind][0] += 1
            found[kind][1] += value or 0
    return [Change(kind, *values) for kind, values in found.items()]
