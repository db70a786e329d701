"""A module read whole: by id ranges, by bulk read where that is cheaper, or by pages where COQL may
not be used; then the sweep.

Records of ours that the reading did not meet where they should be are asked for by id; those that
are gone become tombstones, unless there are implausibly many.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from crm import failpoints
from crm.models import SweepCandidate, SyncRunModule
from crm.sync import bulk_read, deletions, inbox, runs, watermark, ways
from crm.sync.modules import Module
from crm.sync.reading import NO_QUERIES, Batch, RangeReader, ids_of, read_by_id
from crm.sync.session import Session
from crm.sync.store import Store
from crm.sync.tombstones import tell_deletions
from crm.sync.ways import BULK, PAGES, RANGES
from crm.zoho.errors import FixFields, FixRequest, PagingLimit, ScopeMissing


def read_module(session: Session, part: SyncRunModule) -> None:
    """Read, sweep, and move the watermark. Raises the client's errors and LeaseLost."""
    module = session.module_of(part)
    store = session.make_store(module)
    if part.state != SyncRunModule.SWEEPING:
        prepare(session, part)
        if said := watermark.doubt(module.name):
            session.mark(part, message=said)
        if not _read(session, part, module, store):
            session.mark(part, state=SyncRunModule.UNSTABLE, message=deletions.UNSTABLE_WINDOW)
            return
        session.mark(part, state=SyncRunModule.SWEEPING)
    failpoints.pass_by("full.before_sweep")
    _sweep(session, part, module, store)
    failpoints.pass_by("full.before_watermark")
    part.refresh_from_db()
    mark = None
    s0 = session.s0_or_newest(module)
    if s0 is not None and not runs.failed_beyond_reason(part.seen, part.failed):
        mark = session.move_watermark(module, s0, is_full=True)
    failpoints.pass_by("full.after_watermark")
    session.mark(part, state=SyncRunModule.DONE, watermark_after=mark)


def prepare(session: Session, part: SyncRunModule) -> None:
    """How many records there are, and how they will be read; before the first page of a run."""
    module = session.module_of(part)
    if part.expected is None:
        try:
            expected = session.client.count(module.name)
        except (FixRequest, FixFields, ScopeMissing):
            expected = None  # progress then shows what is done, without "of"
        session.mark(
            part,
            expected=expected,
            watermark_before=watermark.watermark_of(module.name),
        )
    if not part.method:
        session.mark(part, method=_method_for(session, module, part.expected))


def _method_for(
    session: Session, module: Module, expected: int | None, *, bulk_failed: bool = False
) -> str:
    # Converted records are only promised by the list call.
    asked = session.run.method
    if asked == PAGES or module.converted:
        return PAGES
    has_queries = module.name not in session.coql_refused
    if not bulk_failed and asked == BULK:
        return BULK
    if bulk_failed or asked == RANGES:
        return RANGES if has_queries else PAGES
    configured = settings.ZOHO
    limits = (configured.rate_limit_per_minute, configured.concurrency) if configured else (1, 1)
    pace = ways.Pace(*limits, bulk_read.last_job(module.name))
    return ways.cheapest(expected, pace, has_queries=has_queries)


def _read(session: Session, part: SyncRunModule, module: Module, store: Store) -> bool:
    """False if so much was deleted meanwhile that records may still be missing."""
    if part.method == BULK:
        try:
            bulk_read.read(session, part, module, store)
            return True
        except bulk_read.NOT_BY_BULK as error:
            session.count_anew(part)
            method = _method_for(session, module, part.expected, bulk_failed=True)
            note = f"Read by {method}: {error.message}"[:500]
            session.mark(part, method=method, cursor={}, message=note)
    if part.method == RANGES:
        try:
            for batch in _ranges(session, part, module):
                session.store_batch(part, store, batch)
            return True
        except NO_QUERIES as error:
            if part.cursor:
                raise  # it worked until here: not a matter of rights or syntax
            session.coql_refused.add(module.name)
            method = _method_for(session, module, part.expected)
            session.mark(part, method=method, message=f"Read by {method}: {error.message}"[:500])
            if method == BULK:
                return _read(session, part, module, store)
    return _read_pages(session, part, module, store)


def _read_pages(session: Session, part: SyncRunModule, module: Module, store: Store) -> bool:
    """Pages in the order of ids, again from the first while records were deleted meanwhile."""
    fields = session.context.api_names(module.name)
    known: set[int] | None = None
    session.count_once(part)
    for _ in range(deletions.MAX_READINGS):
        for batch in _pages(session, part, module, fields):
            session.store_batch(part, store, batch)
        s0 = session.s0()
        since = watermark.read_from(s0) if s0 is not None else None
        deleted = list(deletions.deleted_since(session.client, module, since))
        if not deletions.may_have_shifted(deleted, s0, known):
            return True
        known = {row.zoho_id for row in deleted}
        session.mark(part, cursor={})
    return False


def _pages(
    session: Session, part: SyncRunModule, module: Module, fields: list[str]
) -> Iterator[Batch]:
    """By page tokens as far as they reach, the rest by id ranges."""
    if "open" not in part.cursor:
        try:
            yield from read_by_id(
                session.client, module, fields, clock=timezone.now, cursor=part.cursor
            )
            return
        except PagingLimit:
            if module.name in session.coql_refused or "after" not in part.cursor:
                raise
            session.mark(part, cursor={"open": [[part.cursor["after"], None]]})
    yield from _ranges(session, part, module)


def _ranges(session: Session, part: SyncRunModule, module: Module) -> Iterator[Batch]:
    reader = RangeReader(
        session.client,
        module,
        session.context.api_names(module.name),
        workers=settings.ZOHO.concurrency if settings.ZOHO else 1,
        clock=timezone.now,
        cursor=part.cursor,
        expected=part.expected,
        is_shared=lambda: inbox.is_told_of(module.name, timezone.now()),
    )
    return reader.batches()


def _sweep(session: Session, part: SyncRunModule, module: Module, store: Store) -> None:
    candidates = list(
        SweepCandidate.objects.filter(part=part).values_list("zoho_id", flat=True).order_by("id")
    )
    missed = settle(session, part, module, store, candidates, source="full")
    with transaction.atomic():
        session.lease.renew()
        shown = deletions.cut_hold(module, missed)
    if shown:
        _note(
            session,
            part,
            f"{shown} of the {module.label} that were held for deletion are in the CRM after all.",
        )
    # Those of interrupted runs that nobody went on with are answered by this one as well.
    left_behind = Q(part__run__kind=runs.FULL, part__module=part.module, part__lt=part.pk)
    SweepCandidate.objects.filter(Q(part=part) | left_behind).delete()


def settle(
    session: Session,
    part: SyncRunModule,
    module: Module,
    store: Store,
    zoho_ids: list[int],
    *,
    source: str,
    told: dict[int, deletions.Deleted] | None = None,
) -> set[int]:
    """Ask the CRM for these ids: what is alive is stored, what is gone becomes a tombstone.

    Returns those that the CRM did not show, gone or not.
    """
    told = told or {}
    zoho_ids = deletions.live_ids(module, zoho_ids)
    live_before = module.model.objects.live().count() if len(zoho_ids) > 50 else 0
    gone: list[int] = []
    unclear: list[int] = []
    open_ids, missed = set(zoho_ids), set(zoho_ids)
    fields = session.context.api_names(module.name)
    for verdict in deletions.verify(session.client, module, fields, zoho_ids):
        if verdict.alive:
            batch = Batch(verdict.alive, verdict.read_at, None, part.cursor)
            session.store_batch(part, store, batch)
            missed.difference_update(ids_of(verdict.alive))
        else:
            session.breathe()
        gone += verdict.gone
        unclear += verdict.unclear
        open_ids.intersection_update(missed)
        open_ids.difference_update(verdict.gone, verdict.unclear)
        if deletions.is_too_many(len(gone), live_before):
            _hold(session, part, module, gone, sorted(open_ids), live_before)
            return missed
    if unclear:
        _note(
            session,
            part,
            f"Whether {len(unclear)} of our {module.label} still exist could not be learnt: the "
            "CRM's answers about them cannot be understood. They were kept.",
        )
    if not gone:
        return missed
    tell_deletions(
        module,
        gone,
        source=source,
        lease=session.lease,
        run_id=session.run.pk,
        told={row.zoho_id: (row.deleted_at, row.deleted_by) for row in told.values()},
        checkpoint=lambda counts: runs.count_deletions(session.run, part, counts),
    )
    return missed


def _hold(
    session: Session,
    part: SyncRunModule,
    module: Module,
    gone: list[int],
    unasked: list[int],
    live_before: int,
) -> None:
    """Leave it to ops. Asking for the rest too would change nothing about that."""
    deletions.hold(module, session.run.pk, gone, live_before, unasked=unasked)
    asked = f" ({len(gone)} of them were asked for one by one)" if unasked else ""
    _note(
        session,
        part,
        f"{len(gone) + len(unasked)} of {live_before} {module.label} are no longer visible in the "
        f"CRM{asked}. They were kept; ops must confirm the deletion in the admin.",
    )


def _note(session: Session, part: SyncRunModule, text: str) -> None:
    if text not in part.message:
        session.mark(part, message=f"{part.message} {text}".strip())
