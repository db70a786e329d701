"""How old the mirror is and how the connection to the CRM stands, for pages and API.

Freshness is now minus the CRM's clock at the start of the last complete run that covers a module;
of several modules the oldest counts. Modules that the CRM does not let us read any more are left
out of that number, and named: they stand still, the others do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from crm import heartbeat
from crm.models import (
    CrmConnection,
    DeletionHold,
    MirrorState,
    Reconciliation,
    SharedValue,
    SyncRun,
    SyncRunModule,
    WriteBack,
)
from crm.models import runs as ledger
from crm.sync import credits, modules
from crm.sync.drift import StaleField, stale_fields
from crm.tasks import DELTA_TASK
from crm.writeback import switch
from crm.zoho import breaker

CONNECTED, DELAYED, DISCONNECTED, NOT_CONFIGURED, NEVER_SYNCED = (
    "connected",
    "delayed",
    "disconnected",
    "not_configured",
    "never_synced",
)
DELAYED_AFTER = timedelta(minutes=20)
DISCONNECTED_AFTER = timedelta(minutes=60)
# One call that fails may be a hiccup; two in a row are an outage.
OUTAGE_FAILURES = 2
# Codes of ours for a CRM that gives no answer to work with; its own faults have a status.
NO_ANSWER = frozenset({"unreachable", "breaker_open", "bad_payload", "token_wait", "token_pause"})


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
class Proof:
    """What the last reconcile said of the mirror."""

    sentence: str
    is_exact: bool
    ended_at: datetime


@dataclass(frozen=True)
class SyncState:
    """One look at connection, runs and freshness; times are aware.

    `sentence` and `advice` are for everybody; `cause` is what ops need to mend it ("" if there is
    nothing to mend). `failures` calls in a row have failed by now: 0 while the CRM answers.
    `work_delayed_since`: since when no worker was heard of, if that is too long. `stale_fields`
    keep their last values: the CRM has lost them. `proof` is None before the first reconcile.
    `has_holds`: deletions wait for ops to confirm them.
    """

    state: str
    sentence: str
    advice: str
    cause: str
    failures: int
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
    work_delayed_since: datetime | None = None
    stale_fields: tuple[StaleField, ...] = ()
    proof: Proof | None = None
    has_holds: bool = False

    @property
    def is_configured(self) -> bool:
        return self.state != NOT_CONFIGURED

    @property
    def is_connected(self) -> bool:
        return self.state in (CONNECTED, DELAYED)

    @property
    def message(self) -> str:
        """For who can act on it: the cause, if there is one."""
        return self.cause or self.sentence


def freshness_seconds(now: datetime) -> int | None:
    """Whole seconds; None before every module that the CRM lets us read was read once."""
    return _freshness(_connection(now), now)


def _connection(now: datetime) -> Any:
    """The connection with what the mirror's states, the schedule and the breaker say: one query,
    and one more before the first attempt."""
    found = CrmConnection.objects.annotate(
        **_states(),
        weather=Subquery(_weather(now).values("value")[:1]),
        worker_at=Subquery(_worker().values("set_at")[:1]),
        has_holds=Exists(DeletionHold.objects.filter(status=DeletionHold.HELD)),
        **{f"proof_{name}": Subquery(_proofs().values(name)[:1]) for name in PROOF},
        **{name: Subquery(WriteBack.objects.values(column)[:1]) for name, column in SWITCH},
        **{name: Subquery(_schedule().values(name)[:1]) for name in SCHEDULE},
    ).first()
    return found or _never_tried()


def _states() -> dict[str, Subquery]:
    """What each module's row says, by names that `_readings` takes apart."""
    return {
        f"{name}_{column}": Subquery(
            MirrorState.objects.filter(module=name).order_by().values(column)[:1]
        )
        for name in modules.BY_NAME
        for column in ("complete_s0", "skipped_message", "lost_fields")
    }


@dataclass(frozen=True)
class _Reading:
    """How far the mirror of a module reaches; `refusal` is why the CRM lets it reach no further."""

    module: str
    s0: datetime | None
    refusal: str


def _readings(connection: Any) -> list[_Reading]:
    return [
        _Reading(
            name,
            getattr(connection, f"{name}_complete_s0"),
            getattr(connection, f"{name}_skipped_message") or "",
        )
        for name in modules.BY_NAME
    ]


def _behind(connection: Any, now: datetime) -> list[_Reading]:
    """Modules that are older than they should be while another one is not: they have a reason of
    their own. One that the CRM never let us read has nothing to be old."""
    old: list[_Reading] = []
    young: list[_Reading] = []
    for each in _readings(connection):
        if each.s0 is not None:
            (old if now - each.s0 > DELAYED_AFTER else young).append(each)
    return old if young else []


SWITCH = (("write_mode", "mode"), ("write_killed", "is_killed"), ("write_org", "org_id"))
SCHEDULE = ("counts_from", "every", "period", "crontab_id")


def _schedule() -> QuerySet:
    """The schedule of the delta, if it is on. Beat counts a task that it never sent from the
    moment the row was made or changed."""
    return (
        PeriodicTask.objects.filter(task=DELTA_TASK, enabled=True)
        .exclude(interval=None, crontab=None)
        .annotate(
            counts_from=Coalesce("last_run_at", "date_changed"),
            every=F("interval__every"),
            period=F("interval__period"),
        )
        .order_by("pk")
    )


def _weather(now: datetime) -> QuerySet:
    """What the processes that call the CRM share about its failures."""
    name = breaker.shared_name(settings.ZOHO.base_url) if settings.ZOHO else ""
    return SharedValue.objects.filter(name=name, expires_at__gt=now.timestamp())


PROOF = ("sentence", "is_exact", "ended_at")


def _proofs() -> QuerySet:
    """The reconciles that came to their end, the newest first."""
    return Reconciliation.objects.filter(ended_at__isnull=False).order_by("-pk")


def _worker() -> QuerySet:
    """When a worker was last heard of."""
    return SharedValue.objects.filter(name=heartbeat.NAME)


def _never_tried() -> Any:
    """Before the first attempt there is no row; looking at a page makes none."""
    connection: Any = CrmConnection()
    connection.weather = None
    connection.worker_at = _worker().values_list("set_at", flat=True).first()
    connection.has_holds = False
    for name in PROOF:
        setattr(connection, f"proof_{name}", None)  # a reconcile is an attempt
    for name, column in SWITCH:
        setattr(connection, name, WriteBack.objects.values_list(column, flat=True).first())
    for name in _states():
        setattr(connection, name, None)
    schedule = _schedule().values(*SCHEDULE).first() or dict.fromkeys(SCHEDULE)
    for name, value in schedule.items():
        setattr(connection, name, value)
    return connection


def _freshness(connection: Any, now: datetime) -> int | None:
    readings = _readings(connection)
    if any(each.s0 is None and not each.refusal for each in readings):
        return None
    read = [(each.s0, each.refusal) for each in readings if each.s0 is not None]
    # All refused: how old they are is all there is to say.
    counted = [s0 for s0, refusal in read if not refusal] or [s0 for s0, _ in read]
    return max(0, int((now - min(counted)).total_seconds())) if counted else None


def _runs() -> tuple[Any, SyncRun | None]:
    """The run under way, with the sums of its parts, and the last that ended: one query."""
    ended = (
        # Notices come all day: the last of them says nothing about the last sync. A replay asks
        # the CRM for nothing.
        SyncRun.objects.exclude(kind__in=["webhook", "replay"])
        .exclude(status__in=[ledger.QUEUED, ledger.RUNNING, ledger.SKIPPED, ledger.SUPERSEDED])
        .order_by("-requested_at")
    )
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
    """Two queries, and one for each module that lost a field; none waits for the CRM."""
    connection = _connection(now)
    run, last = _runs()
    fresh = _freshness(connection, now)
    failures = breaker.failures_in(connection.weather)
    state = _state(connection, fresh, failures, now)
    behind = _behind(connection, now)
    sentence, advice = _words(state, connection, last, failures, behind)
    return SyncState(
        state=state,
        sentence=sentence,
        advice=advice,
        cause=_cause(state, connection, behind),
        failures=failures,
        last_success_at=connection.last_success_at,
        last_attempt_at=connection.last_attempt_at,
        next_sync_at=_next_sync_at(connection, now) if state != NOT_CONFIGURED else None,
        freshness_seconds=fresh,
        error_count=_error_count(last),
        run=progress_of(run, now) if run else None,
        last_run=_summary(last) if last else None,
        api_version=settings.ZOHO.api_version if settings.ZOHO else "",
        crm_name=connection.org_name,
        is_write_back=switch.mode_of(
            connection.write_mode,
            connection.write_killed,
            connection.write_org,
            connection.org_id,
        ),
        work_delayed_since=heartbeat.silent_since(connection.worker_at, now),
        has_holds=connection.has_holds,
        proof=Proof(connection.proof_sentence, connection.proof_is_exact, connection.proof_ended_at)
        if connection.proof_ended_at
        else None,
        stale_fields=stale_fields(
            connection.profile,
            {name: getattr(connection, f"{name}_lost_fields") for name in modules.BY_NAME},
        ),
    )


def _state(connection: Any, fresh: int | None, failures: int, now: datetime) -> str:
    if settings.ZOHO is None:
        return NOT_CONFIGURED
    if connection.error_code or failures >= OUTAGE_FAILURES:
        return DISCONNECTED
    if fresh is None:
        return NEVER_SYNCED
    if _behind(connection, now):
        return DELAYED  # the CRM is read, but not all of it
    if fresh > DISCONNECTED_AFTER.total_seconds():
        return DISCONNECTED
    return DELAYED if fresh > DELAYED_AFTER.total_seconds() else CONNECTED


def _words(
    state: str,
    connection: CrmConnection,
    last: SyncRun | None,
    failures: int,
    behind: list[_Reading],
) -> tuple[str, str]:
    """What everybody is told: how it stands, and what comes of it."""
    if state == NOT_CONFIGURED:
        return (
            "No CRM is connected yet.",
            "Set the ZOHO_… variables (.env.example explains each) and start again.",
        )
    if state == DISCONNECTED:
        return _outage(connection, last, failures)
    if state == NEVER_SYNCED:
        return "The first sync has not finished yet.", ""
    name = connection.org_name or "the CRM"
    if state == DELAYED and behind:
        return _partly(behind)
    if state == DELAYED:
        return (
            f"The mirror of {name} is older than it should be.",
            "It catches up with the next sync; “Sync now” does it at once.",
        )
    return f"Connected to {name}.", ""


def _partly(behind: list[_Reading]) -> tuple[str, str]:
    names = _listed([each.module for each in behind])
    refused = _listed([each.module for each in behind if each.refusal])
    return (
        f"{names} are older than they should be; the rest is up to date.",
        f"The CRM does not let us read {refused}: ops can see why and mend it."
        if refused
        else "They catch up with a later sync; ops can see what keeps them.",
    )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _outage(connection: CrmConnection, last: SyncRun | None, failures: int) -> tuple[str, str]:
    code = connection.error_code
    if code == credits.CODE and last is not None and last.ended_at is not None:
        return f"The sync is paused until about {credits.until(last.ended_at)}.", (
            "It leaves the CRM's last credits of the day to others, and goes on by itself."
        )
    if failures >= OUTAGE_FAILURES or code in NO_ANSWER or code.startswith("http_5"):
        return "The CRM does not answer.", "It catches up by itself."
    if not code:
        return "The CRM has not been read for over an hour.", "Ops can see what to check."
    if last is not None and last.can_resume:
        return "The sync has stopped for now.", "It goes on by itself."
    return "The sync has stopped.", "Ops can see why and mend it."


def _cause(state: str, connection: CrmConnection, behind: list[_Reading]) -> str:
    """The error itself says what to do about it."""
    if state == DELAYED:
        return " ".join(f"{each.module}: {each.refusal}" for each in behind if each.refusal)
    if state != DISCONNECTED:
        return ""
    if not connection.error_code and _is_silent(connection):
        return "Check that the worker and beat processes run."
    return connection.error_message


def _is_silent(connection: Any) -> bool:
    """Nothing failed: nobody asks."""
    return breaker.failures_in(connection.weather) < OUTAGE_FAILURES


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
    """When the next scheduled delta is due; None if the schedule is switched off. One query more
    where ops have given times of the clock."""
    if connection.every is not None:
        every = timedelta(**{connection.period: connection.every})
        return max(connection.counts_from + every, now)
    by_clock = CrontabSchedule.objects.filter(pk=connection.crontab_id).first()
    if by_clock is None:
        return None
    start, ends_in, _ = by_clock.schedule.remaining_delta(connection.counts_from)
    due: datetime = start + ends_in
    return max(due, now)
