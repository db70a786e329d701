"""How old the mirror is and how the connection to the CRM stands, for pages and API.

Freshness is now minus the CRM's clock at the start of the last complete run that covers a module;
of several modules the oldest counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from django_celery_beat.models import PeriodicTask

from crm.models import CrmConnection, MirrorState, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync import modules
from crm.tasks import DELTA_TASK

CONNECTED, DELAYED, DISCONNECTED, NOT_CONFIGURED, NEVER_SYNCED = (
    "connected",
    "delayed",
    "disconnected",
    "not_configured",
    "never_synced",
)
DELAYED_AFTER = timedelta(minutes=20)
DISCONNECTED_AFTER = timedelta(minutes=60)


@dataclass(frozen=True)
class RunProgress:
    """A run under way. `expected` is None while the CRM has not said how many there are."""

    id: int
    kind: str
    status: str
    started_at: datetime | None
    module: str
    done: int
    expected: int | None
    rate_per_s: float | None
    eta_seconds: int | None


@dataclass(frozen=True)
class RunSummary:
    """A run that has ended."""

    id: int
    kind: str
    status: str
    ended_at: datetime | None
    seen: int
    created: int
    updated: int
    unchanged: int
    deleted: int
    failed: int
    message: str


@dataclass(frozen=True)
class SyncState:
    """One look at connection, runs and freshness; times are aware."""

    state: str
    sentence: str
    advice: str
    last_success_at: datetime | None
    last_attempt_at: datetime | None
    next_sync_at: datetime | None
    freshness_seconds: int | None
    error_count: int
    run: RunProgress | None
    last_run: RunSummary | None
    api_version: str
    crm_name: str
    is_write_back: str

    @property
    def is_configured(self) -> bool:
        return self.state != NOT_CONFIGURED

    @property
    def is_connected(self) -> bool:
        return self.state in (CONNECTED, DELAYED)


def freshness_seconds(now: datetime) -> int | None:
    """Whole seconds; None before every module that the CRM lets us read was read once."""
    return _freshness(_connection(), now)


def _connection() -> Any:
    """The connection with what the mirror's states and the schedule say: one query."""
    states = MirrorState.objects.filter(module__in=modules.BY_NAME).order_by()
    schedule = PeriodicTask.objects.filter(
        task=DELTA_TASK, enabled=True, interval__isnull=False
    ).order_by("pk")

    def number_of(rows: QuerySet) -> Coalesce:
        counted = rows.annotate(group=Value(1)).values("group").annotate(n=Count("pk")).values("n")
        return Coalesce(Subquery(counted), 0)

    oldest = states.filter(complete_s0__isnull=False).order_by("complete_s0")
    refused = states.filter(complete_s0__isnull=True).exclude(skipped_message="")
    found = CrmConnection.objects.annotate(
        oldest_s0=Subquery(oldest.values("complete_s0")[:1]),
        modules_read=number_of(oldest.order_by()),
        modules_refused=number_of(refused),
        schedule_ran_at=Subquery(schedule.values("last_run_at")[:1]),
        schedule_every=Subquery(schedule.values("interval__every")[:1]),
        schedule_period=Subquery(schedule.values("interval__period")[:1]),
    ).first()
    return found or _never_tried()


def _never_tried() -> Any:
    """Before the first attempt there is no row; looking at a page makes none."""
    connection: Any = CrmConnection()
    for name in ("oldest_s0", "schedule_ran_at", "schedule_every", "schedule_period"):
        setattr(connection, name, None)
    connection.modules_read = connection.modules_refused = 0
    return connection


def _freshness(connection: Any, now: datetime) -> int | None:
    known = connection.modules_read + connection.modules_refused
    if connection.oldest_s0 is None or known < len(modules.ORDER):
        return None
    return max(0, int((now - connection.oldest_s0).total_seconds()))


def _runs() -> tuple[Any, SyncRun | None]:
    """The run under way, with the sums of its parts, and the last that ended: one query."""
    ended = SyncRun.objects.exclude(
        status__in=[ledger.QUEUED, ledger.RUNNING, ledger.SKIPPED]
    ).order_by("-requested_at")
    active = Q(lane="sync", status__in=[ledger.QUEUED, ledger.RUNNING])
    unread = SyncRunModule.objects.filter(
        run=OuterRef("pk"), state__in=["reading", "sweeping", "pending"]
    ).order_by("position")
    rows = SyncRun.objects.filter(active | Q(pk=Subquery(ended.values("pk")[:1]))).annotate(
        expected=Sum("parts__expected"),
        uncounted=Count("parts", filter=Q(parts__expected__isnull=True)),
        module=Coalesce(Subquery(unread.values("module")[:1]), Value("")),
    )
    found = list(rows)
    return (
        next((run for run in found if run.is_active), None),
        next((run for run in found if not run.is_active), None),
    )


def progress_of(run: Any, now: datetime) -> RunProgress:
    """`run` as `_runs` annotates it."""
    expected = run.expected if not run.uncounted else None
    elapsed = (now - run.started_at).total_seconds() if run.started_at else 0
    rate = run.seen / elapsed if elapsed > 0 and run.seen else None
    left = max(0, expected - run.seen) if expected is not None else None
    return RunProgress(
        id=run.pk,
        kind=run.kind,
        status=run.status,
        started_at=run.started_at,
        module=run.module,
        done=run.seen,
        expected=expected,
        rate_per_s=round(rate, 1) if rate else None,
        eta_seconds=int(left / rate) if rate and left is not None else None,
    )


def sync_state(now: datetime) -> SyncState:
    """Two queries; neither waits for the CRM."""
    connection = _connection()
    run, last = _runs()
    fresh = _freshness(connection, now)
    state = _state(connection, fresh)
    return SyncState(
        state=state,
        sentence=_sentence(state, connection, fresh),
        advice=_advice(state, connection),
        last_success_at=connection.last_success_at,
        last_attempt_at=connection.last_attempt_at,
        next_sync_at=_next_sync_at(connection, now) if state != NOT_CONFIGURED else None,
        freshness_seconds=fresh,
        error_count=_error_count(last),
        run=progress_of(run, now) if run else None,
        last_run=_summary(last) if last else None,
        api_version=settings.ZOHO.api_version if settings.ZOHO else "",
        crm_name=connection.org_name,
        is_write_back=settings.WRITE_BACK,
    )


def _state(connection: CrmConnection, fresh: int | None) -> str:
    if settings.ZOHO is None:
        return NOT_CONFIGURED
    if connection.error_code:
        return DISCONNECTED
    if fresh is None:
        return NEVER_SYNCED
    if fresh > DISCONNECTED_AFTER.total_seconds():
        return DISCONNECTED
    return DELAYED if fresh > DELAYED_AFTER.total_seconds() else CONNECTED


def _sentence(state: str, connection: CrmConnection, fresh: int | None) -> str:
    if state == NOT_CONFIGURED:
        return "No CRM is connected yet."
    if state == DISCONNECTED:
        return connection.error_message or "The CRM has not been read for over an hour."
    if state == NEVER_SYNCED:
        return "The first sync has not finished yet."
    name = connection.org_name or "the CRM"
    if state == DELAYED:
        return f"The mirror of {name} is older than it should be."
    return f"Connected to {name}."


def _advice(state: str, connection: CrmConnection) -> str:
    if state == NOT_CONFIGURED:
        return "Set the ZOHO_… variables (.env.example explains each) and start again."
    if state == DISCONNECTED and not connection.error_code:
        return "Check that the worker and beat processes run."
    if state == DISCONNECTED:
        return (
            "The figures are the last known state; the sync goes on by itself when the CRM is back."
        )
    if state == DELAYED:
        return "It catches up with the next sync; “Sync now” does it at once."
    return ""


def _error_count(last: SyncRun | None) -> int:
    """What the last run could not do: records set aside, and the run itself if it failed."""
    if last is None:
        return 0
    return last.failed + (last.status == ledger.FAILED)


def _summary(run: SyncRun) -> RunSummary:
    return RunSummary(
        run.pk,
        run.kind,
        run.status,
        run.ended_at,
        run.seen,
        run.created,
        run.updated,
        run.unchanged,
        run.deleted,
        run.failed,
        run.message,
    )


def _next_sync_at(connection: Any, now: datetime) -> datetime | None:
    """When the next scheduled delta is due; None if the schedule is switched off."""
    if connection.schedule_every is None:
        return None
    every = timedelta(**{connection.schedule_period: connection.schedule_every})
    return max((connection.schedule_ran_at or now) + every, now)
