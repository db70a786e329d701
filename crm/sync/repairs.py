"""What a reconcile found to differ is asked for by id: stored if alive, marked if gone.

Nothing is believed of the comparison but the ids. More gone than is plausible are held for ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from crm.models import MirrorDifference, Reconciliation, SweepCandidate, SyncRunModule
from crm.sync import deletions, full
from crm.sync.compare import Fields
from crm.sync.differences import difference, held_by_us, judge, mapped_of, rows_of
from crm.sync.modules import Module
from crm.sync.reading import Batch, id_of
from crm.sync.session import Session
from crm.zoho.client import RawRecord

SOURCE = "reconcile"
MOST_LISTED = 2_000


def take_over(result: Reconciliation, module: Module) -> None:
    """What the newest reconcile with a rest left of this module, to be tried again."""
    rest = [MirrorDifference.LEFT, MirrorDifference.FOUND, MirrorDifference.HELD]
    last = (
        MirrorDifference.objects.filter(module=module.name, state__in=rest)
        .exclude(reconciliation=result)
        .order_by("-reconciliation")
        .first()
    )
    if last is None:
        return
    left = MirrorDifference.objects.filter(
        reconciliation=last.reconciliation_id, module=module.name, state__in=rest
    )
    MirrorDifference.objects.bulk_create(
        [difference(result, module, d.zoho_id, d.kind, d.fields) for d in left],
        ignore_conflicts=True,
    )


def repair(session: Session, part: SyncRunModule, module: Module, result: Reconciliation) -> None:
    """Ask by id for all that differs: store what is alive, mark what is gone."""
    store = session.make_store(module)
    mine = MirrorDifference.objects.filter(reconciliation=result, module=module.name)
    open_ = mine.filter(state=MirrorDifference.FOUND).exclude(kind=MirrorDifference.GONE)
    fields = Fields.of(module, session.context.mapper(module.name))
    names = session.context.api_names(module.name)
    vanished: list[int] = []
    ids = list(open_.order_by("zoho_id").values_list("zoho_id", flat=True))
    for verdict in deletions.verify(session.client, module, names, ids):
        # Whatever made a row differ may have left its hash as it was: values are compared anew.
        found = [zoho_id for zoho_id in map(id_of, verdict.alive) if zoho_id is not None]
        module.model.objects.filter(zoho_id__in=found).update(content_hash="")
        batch = Batch(verdict.alive, verdict.read_at, None, part.cursor)
        session.store_batch(part, store, batch)
        _settle_stored(mine, module, fields, verdict.alive)
        mine.filter(zoho_id__in=verdict.unclear).update(
            state=MirrorDifference.LEFT, note="The CRM's answer about it cannot be understood."
        )
        vanished += verdict.gone
    _repair_gone(session, part, module, store, mine, vanished)


def _settle_stored(mine: Any, module: Module, fields: Fields, records: Sequence[RawRecord]) -> None:
    """Repaired is what now agrees."""
    theirs = mapped_of(fields, records)
    rows = rows_of(module, fields, list(theirs))
    ours = held_by_us(module, rows)
    good = [
        zoho_id
        for zoho_id, mapped in theirs.items()
        if zoho_id in rows and not judge(fields, mapped, rows[zoho_id], ours[zoho_id])[0]
    ]
    mine.filter(zoho_id__in=good).update(state=MirrorDifference.REPAIRED, note="")
    asked = [zoho_id for zoho_id in map(id_of, records) if zoho_id is not None]
    mine.filter(zoho_id__in=set(asked) - set(good)).update(
        state=MirrorDifference.LEFT,
        note="Read again and stored, it still differs.",
    )


def _repair_gone(
    session: Session,
    part: SyncRunModule,
    module: Module,
    store: Any,
    mine: Any,
    vanished: list[int],
) -> None:
    """Rows that the reading did not meet, and those that went while we asked."""
    result = Reconciliation.objects.get(run=session.run)
    listed = mine.filter(kind=MirrorDifference.GONE).values_list("zoho_id", flat=True)
    candidates = SweepCandidate.objects.filter(part=part).values_list("zoho_id", flat=True)
    ids = sorted({*candidates, *listed, *vanished})
    # One that is not here and not there any more is no difference.
    mine.filter(zoho_id__in=vanished).delete()
    live = deletions.live_ids(module, ids)
    missed = full.settle(session, part, module, store, live, source=SOURCE)
    still = set(deletions.live_ids(module, live))
    rows = [
        difference(result, module, zoho_id, MirrorDifference.GONE, {})
        for zoho_id in sorted(set(live) & ({*live} - still | set(missed)))[:MOST_LISTED]
    ]
    for row in rows:
        row.state = MirrorDifference.HELD if row.zoho_id in still else MirrorDifference.REPAIRED
    with transaction.atomic():
        session.lease.renew()
        mine.filter(zoho_id__in=[row.zoho_id for row in rows]).delete()
        MirrorDifference.objects.bulk_create(rows, ignore_conflicts=True)
        # Asked for by id the CRM has them: the list alone did not show them.
        mine.filter(kind=MirrorDifference.GONE, state=MirrorDifference.FOUND).delete()
        SweepCandidate.objects.filter(part=part).delete()
