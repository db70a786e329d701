"""What changed in a module since its watermark, deletions included.

By COQL keyset where that may be used; else by pages, newest first, with a certificate: only a
deletion can hide a record from that order, so the CRM is asked for deletions since the run began,
and the window is read again while there are any.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from crm.models import MirrorState, SyncRunModule
from crm.sync import deletions, full, watermark
from crm.sync.modules import Module
from crm.sync.reading import NO_QUERIES, Batch, read_changed, read_changed_by_pages
from crm.sync.session import Session
from crm.sync.store import Store

# Times of the CRM are whole seconds, and a run's length is measured by our clock.
_CLOCK_GRAIN = timedelta(seconds=2)


def read_module(session: Session, part: SyncRunModule) -> None:
    """Read changes and deletions, move the watermark. A module without a mark is read whole."""
    module = session.module_of(part)
    mark = watermark.watermark_of(module.name)
    if mark is None:
        full.read_module(session, part)
        return
    since = session.run.since or watermark.read_from(mark)
    session.mark(part, watermark_before=mark)
    store = session.make_store(module)
    stable = _read(session, part, module, store, since)
    moved = None
    s0 = session.s0_or_newest(module)
    # A reading that starts behind the mark would leave a gap below the new one.
    if stable and s0 is not None and since <= mark:
        moved = session.move_watermark(module, s0, is_full=False)
    session.mark(
        part,
        state=SyncRunModule.DONE if stable else SyncRunModule.UNSTABLE,
        watermark_after=moved,
        **({} if stable else {"message": deletions.UNSTABLE_WINDOW}),
    )


def _read(
    session: Session, part: SyncRunModule, module: Module, store: Store, since: datetime
) -> bool:
    fields = session.context.api_names(module.name)
    if not module.converted and module.name not in session.coql_refused:
        try:
            for batch in read_changed(
                session.client,
                module,
                fields,
                since=since,
                clock=timezone.now,
                cursor=part.cursor,
            ):
                session.store_batch(part, store, batch)
            deleted = list(deletions.deleted_since(session.client, module, since))
            _settle(session, part, module, store, since, deleted)
            return True
        except NO_QUERIES:
            if part.cursor:
                raise
            session.coql_refused.add(module.name)
    return _read_certified(session, part, module, store, since)


def _read_certified(
    session: Session, part: SyncRunModule, module: Module, store: Store, since: datetime
) -> bool:
    """Stable once no deletion happened that the reading could have been shifted by."""
    fields = session.context.api_names(module.name)
    known: set[int] | None = None
    session.count_anew(part)
    for _ in range(deletions.MAX_READINGS):
        for batch in read_changed_by_pages(
            session.client, module, fields, since=since, clock=timezone.now
        ):
            session.store_batch(part, store, batch)
        deleted = list(deletions.deleted_since(session.client, module, since))
        earlier = _certified_too_soon(part, module, deleted)
        if earlier is not None and earlier < since:
            # Nothing is marked before it was read again: marked, it would be no reason any more
            # for the run that goes on if this one dies here.
            since, known = earlier, {row.zoho_id for row in deleted}
            continue
        _settle(session, part, module, store, since, deleted)
        if not deletions.may_have_shifted(deleted, session.s0(), known):
            return True
        known = {row.zoho_id for row in deleted}
    return False


def _certified_too_soon(
    part: SyncRunModule, module: Module, deleted: list[deletions.Deleted]
) -> datetime | None:
    """From where to read again because the last run's certificate was worth nothing.

    The list of deletions may lag: a record that went while the last run read by pages, and that it
    was not told of, may have hidden another from it.
    """
    last = (
        SyncRunModule.objects.filter(
            module=module.name, watermark_after=part.watermark_before, method__in=["", full.PAGES]
        )
        .exclude(pk=part.pk)
        .select_related("run")
        .order_by("-pk")
        .first()
    )
    state = MirrorState.objects.filter(module=module.name).first()
    if last is None or state is None or state.previous_watermark is None:
        return None
    s0, began, ended = last.watermark_after, last.run.started_at, last.run.ended_at
    if s0 is None or began is None or ended is None:
        return None
    until = s0 + (ended - began) + _CLOCK_GRAIN
    suspects = {r.zoho_id for r in deleted if r.deleted_at and s0 <= r.deleted_at <= until}
    marked = module.model.objects.filter(zoho_id__in=suspects, deleted_at__isnull=False)
    known = set(marked.values_list("zoho_id", flat=True))
    return watermark.read_from(state.previous_watermark) if suspects - known else None


def _settle(
    session: Session,
    part: SyncRunModule,
    module: Module,
    store: Store,
    since: datetime,
    deleted: list[deletions.Deleted],
) -> None:
    """What the CRM's list of deletions since then means for our rows."""
    told = {row.zoho_id: row for row in deleted}
    full.settle(session, part, module, store, list(told), source="list", told=told)
    # No longer in the list: back from the recycle bin, as old as it was.
    back = [zoho_id for zoho_id in deletions.marked_since(module, since) if zoho_id not in told]
    fields = session.context.api_names(module.name)
    for verdict in deletions.verify(session.client, module, fields, back):
        if verdict.alive:
            session.store_batch(
                part, store, Batch(verdict.alive, verdict.read_at, None, part.cursor)
            )
        else:
            session.breathe()
