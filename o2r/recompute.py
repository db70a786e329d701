"""Deals → opportunities and roll-up. The same twice is a no-op; killed anywhere, it goes on.

Follows the mirror by `Deal.change_seq`, whose numbers appear in commit order, with a watermark of
its own: what a lost nudge missed is found by the next call. One batch is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

from django.db import transaction
from django.utils import timezone

from crm import failpoints
from crm.models import Deal, MirrorState
from crm.sync import bulk_write
from crm.sync.metadata import business_day
from crm.sync.modules import DEALS
from o2r.models import Opportunity, RecomputeState
from o2r.rollups import CLOSED, Contribution, Difference

BATCH = 2000
# What a notice waits for at most, beside its own deals.
FEW = 100
_DEAL = (
    "pk",
    "change_seq",
    "deleted_at",
    "is_stub",
    "stage",
    "territory",
    "service_line",
    "owner_id",
    "closing_date",
    "amount_sgd_minor",
    "weighted_sgd_minor",
    "amount_minor",
)
_COUNTED = (
    "is_counted",
    "counted_stage",
    "counted_territory",
    "counted_service_line",
    "counted_owner_id",
    "counted_closed_on",
    "counted_sgd_minor",
    "counted_weighted_minor",
    "counted_has_amount",
)


def catch_up(should_stop: Callable[[], bool] = lambda: False) -> int:
    """Recompute every deal that changed since the last call; returns how many were looked at."""
    looked_at = 0
    while not should_stop():
        count = _one_batch()
        looked_at += count
        if count < BATCH:
            break
    return looked_at


def take_along(pks: Sequence[int]) -> bool:
    """These few deals at once, whatever waits before them; of that, a few too.

    They are met again where their number is due, and are then as they should be. True if nothing
    else waits: nobody need be woken.
    """
    return _one_batch(most=FEW, first=pks) < FEW


def start_over() -> None:
    """Have every opportunity looked at again by the next calls."""
    RecomputeState.objects.update_or_create(pk=1, defaults={"deal_seq": 0})


def _one_batch(*, most: int | None = None, first: Sequence[int] = ()) -> int:
    """`first` out of turn, then what is due; returns how many of the latter."""
    most = most or BATCH
    with transaction.atomic():
        # Locks the row until commit: one writer of opportunities and roll-ups. (SQLite lets in one
        # writer anyway, from the beginning of the transaction.)
        state = RecomputeState.objects.select_for_update().filter(pk=1).first()
        if state is None:
            RecomputeState.objects.get_or_create(pk=1)
            state = RecomputeState.objects.select_for_update().get(pk=1)
        now = timezone.now()
        # Asked before the deals are read: a mirror that is whole by now is read whole below.
        is_whole = state.moves_from is not None or _is_mirror_whole()
        deals = list(
            Deal.objects.filter(change_seq__gt=state.deal_seq)
            .order_by("change_seq")
            .values_list(*_DEAL)[:most]
        )
        early = set(first).difference(deal[0] for deal in deals)
        both = [*Deal.objects.filter(pk__in=early).values_list(*_DEAL), *deals] if early else deals
        changed = _recompute(both, _day_of_moves(state, now)) if both else 0
        failpoints.pass_by("recompute.after_rows")
        if len(deals) < most:
            state.caught_up_at = timezone.now()
            if is_whole and state.moves_from is None:
                state.moves_from = business_day(now)
        state.deal_seq = deals[-1][1] if deals else state.deal_seq
        state.revision += bool(changed)
        state.save(update_fields=["caught_up_at", "deal_seq", "revision", "moves_from"])
    failpoints.pass_by("recompute.after_commit")
    return len(deals)


def _is_mirror_whole() -> bool:
    """Whether every deal of the CRM was mirrored once."""
    return MirrorState.objects.filter(module=DEALS.name, complete_s0__isnull=False).exists()


def _day_of_moves(state: RecomputeState, now: datetime) -> date | None:
    """The day that changes count for; never before the first one, should a clock be set back."""
    if state.moves_from is None:
        return None
    return max(state.moves_from, business_day(now))


def _recompute(deals: list[tuple], day: date | None) -> int:
    known = {
        row[1]: row
        for row in Opportunity.objects.filter(deal_id__in=[deal[0] for deal in deals]).values_list(
            "pk", "deal_id", *_COUNTED
        )
    }
    difference = Difference(day)
    new_rows, changed_rows = [], []
    for deal in deals:
        row = known.get(deal[0])
        old = Contribution(*row[3:]) if row is not None and row[2] else None
        new = contribution_of(deal)
        if row is not None and old == new:
            continue
        difference.move(old, new)
        values = _columns(new)
        if row is None:
            new_rows.append((deal[0], *values))
        else:
            changed_rows.append((*values, row[0]))
    bulk_write.insert(Opportunity, ("deal_id", *_COUNTED), new_rows)
    bulk_write.update(Opportunity, _COUNTED, changed_rows)
    difference.write()
    return len(new_rows) + len(changed_rows)


def contribution_of(deal: tuple) -> Contribution | None:
    """What the deal adds to the roll-up; nothing if it is deleted or was never really read."""
    _, _, deleted_at, is_stub, stage, territory, line, owner_id, closing, sgd, weighted, amount = (
        deal
    )
    if deleted_at is not None or is_stub:
        return None
    return Contribution(
        stage,
        territory or "",
        line or "",
        owner_id or 0,
        closing if stage in CLOSED else None,
        sgd,
        weighted,
        amount is not None,
    )


def _columns(new: Contribution | None) -> tuple:
    if new is None:
        return (False, "", "", "", 0, None, None, None, False)
    closed_on = new.closed_on.isoformat() if new.closed_on else None
    return (True, *new[:4], closed_on, *new[5:])
