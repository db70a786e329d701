"""Records that the CRM no longer has are marked, never removed; their history stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from crm import failpoints, signals
from crm.models import ChangeEvent
from crm.sync import bulk_write
from crm.sync.batch import EVENT_COLUMNS
from crm.sync.gate import pass_gate
from crm.sync.lease import Lease
from crm.sync.modules import DEALS, Module
from crm.sync.page import Counts
from crm.writeback import echoes


def tell_deletions(
    module: Module,
    zoho_ids: Sequence[int],
    *,
    source: str,
    lease: Lease | None = None,
    run_id: int | None = None,
    told: dict[int, tuple[datetime | None, str]] | None = None,
    checkpoint: Callable[[Counts], None] | None = None,
) -> Counts:
    """Mark these records as deleted; those already marked stay as they are.

    `told` gives when and by whom, where the CRM said so. Raises LeaseLost.
    """
    now, told, counts = timezone.now(), told or {}, Counts()
    with transaction.atomic():
        if lease is not None:
            lease.renew()
        seq = pass_gate(module.name, len(zoho_ids) + 1)
        rows = list(
            module.model.objects.live()
            .filter(zoho_id__in=zoho_ids)
            .order_by("pk")
            .values_list("pk", "zoho_id")
        )
        to_db = bulk_write.moment_writer()
        now_db = to_db(now)
        updates, events = [], []
        for pk, zoho_id in rows:
            when, by = told.get(zoho_id, (None, ""))
            seq += 1
            updates.append((to_db(when or now), source, by[:255], seq, now_db, now_db, pk))
            events.append(
                (
                    module.name,
                    pk,
                    ChangeEvent.DELETED,
                    "",
                    None,
                    None,
                    to_db(when),
                    now_db,
                    source,
                    run_id,
                )
            )
        bulk_write.update(
            module.model,
            # read_at: a page that was read before this and stored after it must not revive the row
            ("deleted_at", "deleted_source", "deleted_by", "change_seq", "read_at", "updated_at"),
            updates,
        )
        bulk_write.insert(ChangeEvent, EVENT_COLUMNS, events)
        if echoes.has_open(module.name):
            echoes.record_gone(module, zoho_ids, now)
        counts.deleted = len(rows)
        counts.changed_pks = [pk for pk, _ in rows]
        if checkpoint is not None:
            checkpoint(counts)
        announce(module, counts.changed_pks, is_awaited=lease is None)
        failpoints.pass_by("tombstones.before_commit")
    failpoints.pass_by("tombstones.after_commit")
    return counts


def announce(module: Module, pks: list[int], *, is_awaited: bool = False) -> None:
    """Tell those above, after commit, that deals changed."""
    if module is DEALS and pks:
        transaction.on_commit(
            lambda: signals.deals_changed.send_robust(
                sender=module.model, pks=pks, is_awaited=is_awaited
            )
        )
