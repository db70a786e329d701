"""Deals and milestones → opportunities, history, roll-ups. The same twice is a no-op.

Follows the mirror by `Deal.change_seq`, whose numbers appear in commit order, with a watermark of
its own: what a lost nudge missed is found by the next call. The daily turn looks at those alone
whose day has come. One batch is one transaction; killed anywhere, the next call goes on.

Lock order of whoever writes: the gate of the deals, then `hold`, then rows of opportunities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from crm import failpoints
from crm.models import Deal, MirrorState
from crm.sync.metadata import business_day
from crm.sync.modules import DEALS
from o2r.gather import deal_rows
from o2r.models import RecomputeState
from o2r.rewriting import Rewriting

BATCH = 1000
# What a notice waits for at most, beside its own deals.
FEW = 100
Stop = Callable[[], bool]


def _never() -> bool:
    return False


def catch_up(should_stop: Stop = _never) -> int:
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


def refresh(opportunity_pks: Iterable[int], *, now: datetime, author: Any = None) -> int:
    """Recompute some at once, in the caller's transaction; returns how many changed.

    `author` is whom the history names. Whoever writes to opportunities before calls `hold` first.
    """
    with transaction.atomic():
        state = hold()
        deals = deal_rows(Deal.objects.filter(opportunity__in=list(opportunity_pks)))
        changed = _rewriting(state, now, author).write(deals) if deals else 0
        if changed:
            state.revision += 1
            state.save(update_fields=["revision"])
    return changed


def turn(now: datetime, should_stop: Stop = _never) -> int:
    """The daily turn: what time alone changes by the business day of `now`. Returns how many were
    looked at; `turned_on` moves when none is left, and until then figures say the day before."""
    looked_at = 0
    while not should_stop():
        count = _turn_batch(now)
        looked_at += count
        if count < BATCH:
            break
    return looked_at


def start_over() -> None:
    """Have every opportunity looked at again by the next calls: thresholds or stages changed.

    In the transaction that changes those, so that no batch of the old ones comes after.
    """
    RecomputeState.objects.update_or_create(pk=1, defaults={"deal_seq": 0})


def hold() -> RecomputeState:
    """Lock the state until commit: one writer of opportunities and roll-ups. (SQLite lets in one
    writer anyway, from the beginning of the transaction.) Inside a transaction."""
    state = RecomputeState.objects.select_for_update().filter(pk=1).first()
    if state is None:
        RecomputeState.objects.get_or_create(pk=1)
        state = RecomputeState.objects.select_for_update().get(pk=1)
    return state


def _rewriting(state: RecomputeState, now: datetime, author: Any = None) -> Rewriting:
    """Reads the rules, behind the state's lock."""
    return Rewriting(now, business_day(now), _day_of_moves(state, now), author)


def _one_batch(*, most: int | None = None, first: Sequence[int] = ()) -> int:
    """`first` out of turn, then what is due; returns how many of the latter."""
    most = most or BATCH
    with transaction.atomic():
        state = hold()
        now = timezone.now()
        # Asked before the deals are read: a mirror that is whole by now is read whole below.
        is_whole = state.moves_from is not None or _is_mirror_whole()
        due = Deal.objects.filter(change_seq__gt=state.deal_seq).order_by("change_seq")
        deals = deal_rows(due[:most])
        early = set(first).difference(deal.pk for deal in deals)
        both = [*deal_rows(Deal.objects.filter(pk__in=early)), *deals] if early else deals
        changed = _rewriting(state, now).write(both) if both else 0
        failpoints.pass_by("recompute.after_rows")
        if len(deals) < most:
            state.caught_up_at = timezone.now()
            if is_whole and state.moves_from is None:
                state.moves_from = business_day(now)
        state.deal_seq = deals[-1].change_seq if deals else state.deal_seq
        state.revision += bool(changed)
        state.save(update_fields=["caught_up_at", "deal_seq", "revision", "moves_from"])
    failpoints.pass_by("recompute.after_commit")
    return len(deals)


def _turn_batch(now: datetime) -> int:
    """Each row that is looked at has a later day afterwards: what is due grows less, no cursor."""
    today = business_day(now)
    if RecomputeState.objects.filter(pk=1, turned_on=today).exists():
        return 0
    with transaction.atomic():
        state = hold()
        due = Q(opportunity__turns_on__lte=today)
        if state.turned_on is not None and state.turned_on > today:
            # A clock was set back: what was said of days that have not come is taken back.
            due |= Q(opportunity__as_of__gt=today)
        deals = deal_rows(Deal.objects.filter(due).order_by("opportunity__turns_on", "pk")[:BATCH])
        changed = _rewriting(state, now).write(deals) if deals else 0
        failpoints.pass_by("turn.after_rows")
        if len(deals) < BATCH:
            state.turned_on = today
        state.revision += bool(changed)
        state.save(update_fields=["turned_on", "revision"])
    failpoints.pass_by("turn.after_commit")
    return len(deals)


def _is_mirror_whole() -> bool:
    """Whether every deal of the CRM was mirrored once."""
    return MirrorState.objects.filter(module=DEALS.name, complete_s0__isnull=False).exists()


def _day_of_moves(state: RecomputeState, now: datetime) -> date | None:
    """The day that changes count for; never before the first one, should a clock be set back."""
    if state.moves_from is None:
        return None
    return max(state.moves_from, business_day(now))
