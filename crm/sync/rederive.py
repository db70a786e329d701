"""Deals' derived columns computed anew after rates, stage table or mapping changed. Resumable.

Goes over the deals by primary key in batches; the cursor moves in the batch's transaction. Rows
whose values stay the same are not written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from crm.models import Deal, MirrorState
from crm.sync import bulk_write, derive
from crm.sync.bulk_write import db_moment
from crm.sync.context import SyncContext
from crm.sync.derive import Deriver
from crm.sync.gate import pass_gate
from crm.sync.lease import Lease
from crm.sync.modules import DEALS
from crm.sync.tombstones import announce

BATCH = 2000


def is_needed() -> bool:
    return MirrorState.objects.filter(module="Deals", derive_needed=True).exists()


def run_if_needed(lease: Lease | None = None, *, breathe: Callable[[], None] = lambda: None) -> int:
    """Recompute what is left; returns how many rows changed. Raises LeaseLost.

    `breathe` is called after each batch and may end it by raising: the next call goes on.
    """
    changed, deriver = 0, None
    while is_needed():
        batch = _one_batch(lease, deriver)
        if batch is None:
            break
        deriver = batch.deriver
        changed += batch.changed
        breathe()
    return changed


@dataclass
class _Batch:
    changed: int
    deriver: Deriver


def _one_batch(lease: Lease | None, deriver: Deriver | None) -> _Batch | None:
    """The next deals, or None when nothing is left. Whoever queues it again while it goes on sets
    the cursor back: from there on rates and stages are read anew."""
    now = timezone.now()
    with transaction.atomic():
        if lease is not None:
            lease.renew()
        seq = pass_gate("Deals", BATCH)
        state = MirrorState.objects.select_for_update().get(module="Deals")
        if not state.derive_needed:
            return None
        if deriver is None or state.derive_cursor == 0:
            deriver = SyncContext(now).deriver
        deals = list(
            Deal.objects.filter(pk__gt=state.derive_cursor)
            .order_by("pk")
            .values_list("pk", *derive.COLUMNS, *derive.INPUTS)[:BATCH]
        )
        rows = []
        width = len(derive.COLUMNS)
        for deal in deals:
            stored, given = deal[1 : 1 + width], deal[1 + width :]
            derived = deriver.derive(*given)
            if tuple(derived) != tuple(stored):
                seq += 1
                rows.append((*derived, seq, db_moment(now), deal[0]))
        bulk_write.update(Deal, (*derive.COLUMNS, "change_seq", "updated_at"), rows)
        if len(deals) < BATCH:
            MirrorState.objects.filter(module="Deals").update(
                derive_needed=False, derive_cursor=0, derived_on=deriver.today
            )
        else:
            MirrorState.objects.filter(module="Deals").update(derive_cursor=deals[-1][0])
        if rows:
            announce(DEALS, [row[-1] for row in rows])
    return _Batch(len(rows), deriver)
