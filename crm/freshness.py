"""How old the mirror is and how the connection to the CRM stands, for pages and API.

Freshness is now minus the CRM's clock at the start of the last complete run that covers a module;
of several modules the oldest counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django_celery_beat.models import PeriodicTask

from crm.models import CrmConnection, MirrorState, SyncRun
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
    rows = MirrorState.objects.values_list("module", "complete_s0", "skipped_message")
    known = {module: (s0, refused) for module, s0, refused in rows}
    times: list[datetime] = []
    for module in modules.ORDER:
        s0, refused = known.get(module.name, (None, ""))
        if s0 is not None:
            times.append(s0)
        elif not refused:
            return None
    return max(0, int((now - min(times)).total_seconds())) if times else None


def progress_of(run: SyncRun, now: datetime) -> RunProgress:
    parts = list(run.parts.all())
    current = next((p for p in parts if p.state in ("reading", "sweeping", "pending")), None)
    known = [p.expected for p in parts]
    expected = sum(known) if parts and None not in known else _expected_so_far(parts)
    elapsed = (now - run.started_at).total_seconds() if run.started_at else 0
    rate = run.seen / elapsed if elapsed > 0 and run.seen else None
    left = max(0, expected - run.seen) if expected is not None else None
    return RunProgress(
        id=run.pk,
        kind=run.kind,
        status=run.status,
        started_at=run.started_at,
        module=current.module if current else "",
        done=run.seen,
        expected=expected,
        rate_per_s=round(rate, 1) if rate else None,
        eta_seconds=int(left / rate) if rate and left is not None else None,
    )


def _expected_so_far(parts: list) -> int | None:
    """Modules are counted one after another; until then what the mirror holds is the best guess."""
    if not any(p.expected for p in parts):
        return None
    return sum(
        p.expected
        if p.expected is not None
        else modules.BY_NAME[p.module].model.objects.live().count()
        for p in parts
    )


def sync_state(now: datetime) -> SyncState:
    """Five small queries; none of them waits for the CRM."""
    connection = CrmConnection.objects.filter(pk=1).first() or CrmConnection()
    run = (
        SyncRun.objects.filter(lane="sync", status__in=[ledger.QUEUED, ledger.RUNNING])
        .prefetch_related("parts")
        .first()
    )
    last = (
        SyncRun.objects.exclude(status__in=[ledger.QUEUED, ledger.RUNNING, ledger.SKIPPED])
        .order_by("-requested_at")
        .first()
    )
    fresh = freshness_seconds(now)
    state = _state(connection, fresh)
    return SyncState(
        state=state,
        sentence=_sentence(state, connection, fresh),
        advice=_advice(state, connection),
        last_success_at=connection.last_success_at,
        last_attempt_at=connection.last_attempt_at,
        next_sync_at=next_sync_at(now) if state != NOT_CONFIGURED else None,
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


def next_sync_at(now: datetime) -> datetime | None:
    """When the next scheduled delta is due; None if the schedule is switched off."""
    task = (
        PeriodicTask.objects.filter(task=DELTA_TASK, enabled=True)
        .select_related("interval")
        .first()
    )
    if task is None or task.interval is None:
        return None
    due = (task.last_run_at or now) + task.interval.schedule.run_every
    return max(due, now)
