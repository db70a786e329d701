"""What changed in a module since its watermark, deletions included.

By COQL keyset where that may be used; else by pages, newest first, with a certificate: only a
deletion can hide a record from that order, so the CRM is asked for deletions since the run began,
and the window is read again while there are any.
"""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone

from crm.models import SyncRunModule
from crm.sync import deletions, full, watermark
from crm.sync.modules import Module
from crm.sync.reading import Batch, read_changed, read_changed_by_pages
from crm.sync.session import Session
from crm.sync.store import Store
from crm.zoho.errors import FixFields, NotPermitted, QueryRefused, ScopeMissing

_NO_COQL = (QueryRefused, ScopeMissing, NotPermitted, FixFields)


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
        moved = watermark.move(module.name, s0, is_full=False)
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
    if not module.converted and not session.coql_refused:
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
            _settle_deletions(session, part, module, store, since)
            return True
        except _NO_COQL:
            if part.cursor:
                raise
            session.coql_refused = True
    return _read_certified(session, part, module, store, since)


def _read_certified(
    session: Session, part: SyncRunModule, module: Module, store: Store, since: datetime
) -> bool:
    """Stable once no deletion happened that the reading could have been shifted by."""
    fields = session.context.api_names(module.name)
    known: set[int] | None = None
    for _ in range(deletions.MAX_READINGS):
        for batch in read_changed_by_pages(
            session.client, module, fields, since=since, clock=timezone.now
        ):
            session.store_batch(part, store, batch)
        deleted = _settle_deletions(session, part, module, store, since)
        if not deletions.may_have_shifted(deleted, session.s0(), known):
            return True
        known = {row.zoho_id for row in deleted}
    return False


def _settle_deletions(
    session: Session, part: SyncRunModule, module: Module, store: Store, since: datetime
) -> list[deletions.Deleted]:
    deleted = list(deletions.deleted_since(session.client, module, since))
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
    return deleted
