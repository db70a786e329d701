"""Every figure of the dashboard, each defined once: page, API and export read it here.

Reads the roll-up that o2r keeps beside its own rows (`rollups.py`); equal to a live GROUP BY over
the mirror once the recompute of a sync has ended. Money is whole SGD cents; no float anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django.db.models import CharField, Count, Exists, OuterRef, Q, Subquery, Sum, Value
from django.db.models.functions import Cast, Coalesce

from crm import stages
from crm.currency import divide_half_up
from crm.models import ChangeEvent, CrmUser, Deal
from o2r.filters import CHANGE_FIELDS, CHANGE_KINDS, NONE, Selection, changed_deals, period_bounds
from o2r.models import ClosedDay, PipelineCell, RecomputeState


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


@dataclass(frozen=True)
class Change:
    """How many deals changed in one way since a moment, and what they are worth now."""

    kind: str  # new | stage | amount | closing_date | won | lost
    count: int
    value_sgd_cents: int


def pipeline_figures(selection: Selection, *, today: date) -> PipelineFigures:
    """Three queries, however many deals there are: cells with the state, closed days, owners.

    Filters count everywhere; the stage filter everywhere but in the breakdown by stage itself.
    Those that the roll-up does not keep (search, dates, amounts, …) are counted from the deals.
    """
    cells, state = _cells(selection)
    chosen = [c for c in cells if not selection.stage or c[_STAGE] in selection.stage]
    still_open = [c for c in chosen if c[_STAGE] in stages.OPEN_STAGES]
    start, end = period_bounds(selection.period, today)
    closed = _closed(selection, cells, start, end)
    won, lost = closed["closed_won"], closed["closed_lost"]
    return PipelineFigures(
        open_count=sum(c[_COUNT] for c in still_open),
        won_count=won[0],
        lost_count=lost[0],
        total_pipeline_cents=sum(c[_VALUE] for c in still_open),
        weighted_cents=sum(c[_WEIGHTED] for c in still_open),
        average_deal_size_cents=divide_half_up(won[1], won[2]) if won[2] else None,
        win_rate=_share(won[0], won[0] + lost[0]),
        win_rate_value=_share(won[1], won[1] + lost[1]),
        period_from=start,
        period_to=end,
        by_stage=_by_stage(cells),
        by_territory=_buckets(still_open, lambda c: c[_TERRITORY] or NONE, _word_label),
        by_service_line=_buckets(still_open, lambda c: c[_LINE] or NONE, _word_label),
        by_owner=_by_owner(still_open),
        left_out=LeftOut(
            sum(c[_NO_AMOUNT] for c in still_open), sum(c[_NO_RATE] for c in still_open)
        ),
        as_of=state[0],
        recompute_pending=state[1],
    )


# A cell as `values_list` gives it.
(
    _STAGE,
    _TERRITORY,
    _LINE,
    _OWNER,
    _COUNT,
    _VALUE,
    _WEIGHTED,
    _NO_AMOUNT,
    _NO_RATE,
) = range(9)
Cell = tuple[Any, ...]


# What the roll-up can answer; any other filter needs the deals themselves.
_ROLLED_UP = frozenset(["stage", "territory", "service_line", "owner", "mine", "period"])


def _is_rolled_up(selection: Selection) -> bool:
    return selection.given.keys() <= _ROLLED_UP


def _counted(selection: Selection) -> Any:
    """The deals behind figures that the roll-up does not keep; stage and period apply later."""
    rows = selection.without("stage", "period").deals(default_outcome="all")
    return rows.select_related(None).order_by()


def _live_cells(selection: Selection) -> list[Cell]:
    """The cells of a selection by GROUP BY, as the roll-up would hold them."""
    no_value = Q(amount_sgd_minor__isnull=True)
    return list(
        _counted(selection)
        .annotate(
            cell_territory=Coalesce("territory", Value("")),
            cell_line=Coalesce("service_line", Value("")),
            cell_owner=Coalesce("owner_id", Value(0)),
        )
        .values_list("stage", "cell_territory", "cell_line", "cell_owner")
        .annotate(
            deals=Count("pk"),
            value=Coalesce(Sum("amount_sgd_minor"), Value(0)),
            weighted=Coalesce(Sum("weighted_sgd_minor"), Value(0)),
            no_amount=Count("pk", filter=no_value & Q(amount_minor__isnull=True)),
            no_rate=Count("pk", filter=no_value & Q(amount_minor__isnull=False)),
        )
    )


# When the roll-up last caught up with the mirror, and whether it is behind now.
State = tuple[datetime | None, bool]


def _state_columns() -> dict[str, Any]:
    """Scalar subqueries: the database evaluates them once, whatever they stand beside."""
    state = RecomputeState.objects.order_by("pk")
    newer = Deal.objects.filter(change_seq__gt=Subquery(state.values("deal_seq")[:1]))
    return {
        # As text: a time beside two thousand cells would be parsed two thousand times.
        "as_of": Cast(Subquery(state.values("caught_up_at")[:1]), CharField()),
        "is_behind": Exists(newer),
    }


def _state() -> State:
    columns = _state_columns()
    found = RecomputeState.objects.annotate(**columns).values_list(*columns).first()
    return _as_state(*found) if found else (None, False)


def _as_state(as_of: str | None, is_behind: bool) -> State:
    moment = datetime.fromisoformat(as_of) if as_of else None
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment, bool(is_behind)


def _cells(selection: Selection) -> tuple[list[Cell], State]:
    if not _is_rolled_up(selection):
        return _live_cells(selection), _state()
    rows = PipelineCell.objects.exclude(count=0)
    for name in ("territory", "service_line"):
        words = getattr(selection, name)
        if words:
            rows = rows.filter(**{f"{name}__in": ["" if w == NONE else w for w in words]})
    owners = selection.owner_keys
    if owners is not None:
        rows = rows.filter(owner_id__in=owners)
    columns = _state_columns()
    found = list(
        rows.annotate(**columns).values_list(
            "stage",
            "territory",
            "service_line",
            "owner_id",
            "count",
            "sgd_minor",
            "weighted_minor",
            "no_amount",
            "no_rate",
            *columns,
        )
    )
    return found, (_as_state(*found[0][-2:]) if found else _state())


def _closed(
    selection: Selection, cells: list[Cell], start: date | None, end: date
) -> dict[str, tuple[int, int, int]]:
    """Count, SGD cents and deals with a value, won and lost in the period by closing date."""
    if start is None:
        return {
            stage: (
                sum(c[_COUNT] for c in cells if c[_STAGE] == stage),
                sum(c[_VALUE] for c in cells if c[_STAGE] == stage),
                sum(c[_COUNT] - c[_NO_AMOUNT] - c[_NO_RATE] for c in cells if c[_STAGE] == stage),
            )
            for stage in ("closed_won", "closed_lost")
        }
    dimension, values = _one_dimension(selection)
    found: dict[str, tuple[int, int, int]] = {
        "closed_won": (0, 0, 0),
        "closed_lost": (0, 0, 0),
    }
    rows: Iterable[tuple]
    if dimension is not None:
        rows = (
            ClosedDay.objects.filter(
                dimension=dimension, value__in=values, day__gte=start, day__lte=end
            )
            .order_by()
            .values_list("stage")
            .annotate(Sum("count"), Sum("sgd_minor"), Sum("with_value"))
        )
    else:
        rows = (
            _deals_of(selection)
            .filter(
                stage__in=["closed_won", "closed_lost"],
                closing_date__gte=start,
                closing_date__lte=end,
            )
            .order_by()
            .values_list("stage")
            .annotate(Count("pk"), Sum("amount_sgd_minor"), Count("amount_sgd_minor"))
        )
    for stage, count, value, with_value in rows:
        found[stage] = (count, value or 0, with_value)
    return found


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
    found = {b.key: b for b in _buckets(cells, lambda c: c[_STAGE], stages.LABELS.__getitem__)}
    return [
        found.get(stage) or Bucket(stage, stages.LABELS[stage], 0, 0, 0) for stage in stages.STAGES
    ]


def _by_owner(cells: list[Cell]) -> list[Bucket]:
    names = {
        user.pk: str(user) for user in CrmUser.objects.filter(pk__in={c[_OWNER] for c in cells})
    }
    return _buckets(
        cells,
        lambda c: str(c[_OWNER] or NONE),
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
        held[0] += cell[_COUNT]
        held[1] += cell[_VALUE]
        held[2] += cell[_WEIGHTED]
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
    found: dict[str, list[int]] = {kind: [0, 0] for kind in CHANGE_KINDS}
    for created_at, value, stage_type, *has in deals.annotate(**marks).values_list(
        "crm_created_at", "amount_sgd_minor", "stage_type", *marks
    ):
        kinds = [kind for kind, is_so in zip(CHANGE_FIELDS, has, strict=True) if is_so]
        if "stage" in kinds and stage_type != stages.OPEN:
            kinds[kinds.index("stage")] = stage_type
        if created_at is not None and created_at >= since:
            kinds.append("new")
        for kind in kinds:
            found[kind][0] += 1
            found[kind][1] += value or 0
    return [Change(kind, *values) for kind, values in found.items()]
