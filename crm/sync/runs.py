"""The run ledger: ask for a run, open, advance and close it. No reading and no storing here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Sum
from django.utils import timezone

from crm.errors import CrmNotConfigured, LeaseLost, SyncUnderWay
from crm.models import MirrorState, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync import modules, reachability, watermark
from crm.sync.page import Counts

FULL, DELTA, RECONCILE, REPLAY = "full", "delta", "reconcile", "replay"
# Long runs, between whose pages a due delta goes.
LETS_DELTAS_IN = (FULL, RECONCILE)
# How long an interrupted full run is worth going on with: page tokens live 24 hours.
RESUMABLE_FOR = timedelta(hours=20)
# Deaths of workers, without a page stored between them, after which a page is stored in halves.
MAX_DEATHS = 3
ASKED_BY_PEOPLE = ("user", "api")
COUNTERS = ("seen", "created", "updated", "unchanged", "failed", "deleted", "restored")


def request_run(
    *,
    kind: str,
    trigger: str,
    user: Any = None,
    module_names: Sequence[str] = (),
    since: datetime | None = None,
    method: str = "auto",
    slot: datetime | None = None,
    nudge: bool = True,
) -> SyncRun:
    """Queue a run of the lease (full, delta, reconcile, replay) and wake a worker.

    A delta of a mirror that was never completely read becomes a full run. A full run that was
    stopped in the last hours is opened again instead of starting from nothing. Raises
    CrmNotConfigured, SyncUnderWay with the run that stands in the way, and for people (page, API)
    CrmUnreachable while the CRM is known to be down: a schedule asks anyway and keeps trying.
    """
    if settings.ZOHO is None:
        raise CrmNotConfigured
    if trigger in ASKED_BY_PEOPLE and kind != REPLAY and active_run() is None:
        reachability.raise_if_known_down()
    names = [m.name for m in modules.ORDER if not module_names or m.name in module_names]
    if kind == DELTA and not is_mirrored(names):
        kind = FULL
    try:
        return _queued(kind, trigger, user, names, since, method, slot, nudge=nudge)
    except IntegrityError:
        under_way = active_run()
        if under_way is None and slot is not None:
            under_way = SyncRun.objects.filter(kind=kind, slot=slot).first()
        if under_way is None:  # the one in the way has just ended
            return _queued(kind, trigger, user, names, since, method, slot, nudge=nudge)
        raise SyncUnderWay(under_way) from None


def _queued(
    kind: str,
    trigger: str,
    user: Any,
    names: list[str],
    since: datetime | None,
    method: str,
    slot: datetime | None,
    *,
    nudge: bool,
) -> SyncRun:
    """A run in the ledger. Raises IntegrityError where one is active or the slot has its run."""
    with transaction.atomic():
        asked: dict[str, Any] = {
            "trigger": trigger,
            "requested_by": user if user is not None and user.is_authenticated else None,
        }
        run = None
        if kind == FULL:
            run = _reopened(names, method, asked if slot is None else {**asked, "slot": slot})
        run = run or SyncRun.objects.create(
            kind=kind,
            requested_at=timezone.now(),
            modules=names,
            since=since,
            method=method,
            slot=slot,
            **asked,
        )
        if nudge:
            transaction.on_commit(lambda: _wake(run.pk))
        return run


def _reopened(names: list[str], method: str, asked: dict[str, Any]) -> SyncRun | None:
    """The last full run, if it can go on as what is asked for now; it then tells who asked."""
    last = SyncRun.objects.filter(lane="sync", kind=FULL).order_by("-requested_at").first()
    if (
        last is None
        or not is_resumable(last)
        or last.modules != names
        or last.method != method
        or last.ended_at is None
        or last.ended_at < timezone.now() - RESUMABLE_FOR
    ):
        return None
    opened = SyncRun.objects.filter(pk=last.pk, status=last.status).update(
        status=ledger.QUEUED,
        ended_at=None,
        message="",
        error_code="",
        can_resume=False,
        **asked,
    )
    last.refresh_from_db()
    return last if opened else None  # somebody else was first: the ledger's constraint says so


def is_resumable(run: SyncRun) -> bool:
    """Interrupted, or stopped over something that passes: network, limits, the database."""
    return run.status == ledger.ABORTED or (run.status == ledger.FAILED and run.can_resume)


def _wake(run_id: int) -> None:
    from crm.tasks import nudge, run_sync

    nudge(run_sync, run_id)


def active_run() -> SyncRun | None:
    """The full or delta run that is queued or running, if any."""
    return SyncRun.objects.filter(lane="sync", status__in=[ledger.QUEUED, ledger.RUNNING]).first()


def is_mirrored(names: Iterable[str]) -> bool:
    """Whether each of these modules was completely read once, as far as the CRM lets us."""
    read = set(MirrorState.objects.filter(watermark__isnull=False).values_list("module", flat=True))
    wanted = set(names)
    return bool(wanted & read) and wanted <= read | set(watermark.unreadable())


def open_run(run: SyncRun, fence: int) -> bool:
    """Mark the run as running under this fence; False if it has ended meanwhile."""
    now = timezone.now()
    opened = SyncRun.objects.filter(pk=run.pk, status__in=[ledger.QUEUED, ledger.RUNNING]).update(
        status=ledger.RUNNING,
        fence=fence,
        heartbeat_at=now,
        started_at=run.started_at or now,
        attempts=F("attempts") + 1,
    )
    if opened != 1:
        return False
    run.refresh_from_db()
    if not run.parts.exists():
        SyncRunModule.objects.bulk_create(
            SyncRunModule(run=run, module=name, position=at) for at, name in enumerate(run.modules)
        )
    return True


def advance(
    run: SyncRun, part: SyncRunModule, counts: Counts, *, cursor: dict, api: dict[str, int]
) -> None:
    """The checkpoint, called inside the page's transaction: counters and cursor move together."""
    is_swept = part.state == SyncRunModule.SWEEPING
    added = {name: F(name) + getattr(counts, name) for name in COUNTERS}
    SyncRunModule.objects.filter(pk=part.pk).update(
        cursor=cursor,
        state=SyncRunModule.SWEEPING if is_swept else SyncRunModule.READING,
        pages=F("pages") + 1,
        **added,
    )
    SyncRun.objects.filter(pk=run.pk).update(
        heartbeat_at=timezone.now(), attempts=0, pages=F("pages") + 1, **added, **api
    )


def count_deletions(run: SyncRun, part: SyncRunModule, counts: Counts) -> None:
    """Deletions count apart from what was seen; inside their transaction."""
    for rows in (
        SyncRunModule.objects.filter(pk=part.pk),
        SyncRun.objects.filter(pk=run.pk),
    ):
        rows.update(deleted=F("deleted") + counts.deleted)


def close_run(
    run: SyncRun, status: str, *, code: str = "", message: str = "", can_resume: bool = False
) -> bool:
    """End the run; False, and nothing done, if another process has taken it over meanwhile."""
    closed = SyncRun.objects.filter(pk=run.pk, fence=run.fence, status=ledger.RUNNING).update(
        status=status,
        ended_at=timezone.now(),
        error_code=code[:64],
        message=message,
        can_resume=can_resume,
    )
    if closed:
        run.refresh_from_db()
    return closed == 1


def note_superseded(run: SyncRun) -> None:
    """This process was held up past its lease, and another one went on with the run: a line of its
    own in the ledger says so, the run's own line is the other's. Nothing, if nobody has yet."""
    if not SyncRun.objects.filter(pk=run.pk).exclude(fence=run.fence).exists():
        return
    now = timezone.now()
    SyncRun.objects.create(
        kind=run.kind,
        trigger=run.trigger,
        status=ledger.SUPERSEDED,
        lane=None,
        requested_by=run.requested_by,
        requested_at=now,
        started_at=run.heartbeat_at,  # when this process took the run up
        ended_at=now,
        modules=run.modules,
        since=run.since,
        method=run.method,
        fence=run.fence,
        error_code=LeaseLost.code,
        message=f"A process was held up for longer than its lease; another one went on with run "
        f"{run.pk} meanwhile. What the late one still held was not written.",
    )


def set_aside(run: SyncRun) -> None:
    """Stopped between two pages by a deploy: queued again, for whoever takes it up."""
    SyncRun.objects.filter(pk=run.pk, fence=run.fence, status=ledger.RUNNING).update(
        status=ledger.QUEUED, attempts=0
    )


def failed_beyond_reason(seen: int, failed: int) -> bool:
    """More than max(10, 1 %) of the records could not be stored."""
    return failed > max(10, seen // 100)


def totals(run: SyncRun) -> dict[str, int]:
    """The counters summed over the run's parts."""
    sums = run.parts.aggregate(**{name: Sum(name) for name in COUNTERS})
    return {name: value or 0 for name, value in sums.items()}
