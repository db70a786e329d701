"""Deletions that were held because too many came at once: a person says whether they are true."""

from __future__ import annotations

from itertools import islice

from django.utils import timezone

from crm.models import DeletionHold
from crm.sync.modules import BY_NAME
from crm.sync.tombstones import tell_deletions

SOURCE = "held"
BATCH = 500


def confirm(hold: DeletionHold) -> int:
    """Mark the held records as deleted; returns how many it were.

    Left out is what was read again since it was held: the CRM has it after all. Killed half-way,
    the hold stays and the same call goes on. What was decided meanwhile stays decided.
    """
    hold.refresh_from_db()
    if hold.status != DeletionHold.HELD:
        return 0
    module = BY_NAME[hold.module]
    deleted = 0
    ids = iter(hold.zoho_ids)
    while chunk := list(islice(ids, BATCH)):
        gone = (
            module.model.objects.live()
            .filter(zoho_id__in=chunk)
            .exclude(read_at__gt=hold.held_at)
            .values_list("zoho_id", flat=True)
        )
        counts = tell_deletions(module, list(gone), source=SOURCE, run_id=hold.run_id)
        deleted += counts.deleted
    _decide(hold, DeletionHold.APPLIED)
    return deleted


def dismiss(hold: DeletionHold) -> None:
    """The records stay. A later sync that misses them again holds them again."""
    _decide(hold, DeletionHold.DISMISSED)


def _decide(hold: DeletionHold, status: str) -> None:
    DeletionHold.objects.filter(pk=hold.pk, status=DeletionHold.HELD).update(
        status=status, decided_at=timezone.now()
    )
