"""Celery shells of the mirror: load, call one function. A task is a nudge, the row is the truth."""

from __future__ import annotations

import itertools
import mmap
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog
from celery import Task, shared_task
from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

from crm import heartbeat
from crm.errors import CrmError, CrmUnreachable, SyncUnderWay
from crm.models import ExchangeRate, MirrorState, SyncRun
from crm.models import runs as ledger
from crm.sync import (
    channel_state,
    channels,
    events,
    inbox,
    lease,
    listening,
    modules,
    reachability,
    rederive,
    replay,
    runs,
    watermark,
)
from crm.sync.execute import execute
from crm.sync.metadata import business_day, queue_derive
from crm.writeback import send, settle

log = structlog.get_logger(__name__)
FIRST_PAUSE, MAX_DOUBLINGS = timedelta(minutes=15), 6
CAME_TO_NOTHING = (ledger.FAILED, ledger.SKIPPED)
DELTA_TASK, FULL_TASK = "crm.tasks.scheduled_delta", "crm.tasks.scheduled_full"
RECONCILE_TASK = "crm.tasks.scheduled_reconcile"
SCHEDULES = {runs.DELTA: DELTA_TASK, runs.FULL: FULL_TASK, runs.RECONCILE: RECONCILE_TASK}
# One byte that a worker shares with the processes it forks: the signal reaches the parent alone.
_stopping = mmap.mmap(-1, 1)


# How many tasks this worker does at once, and how many that must be for one of them to do nothing
# but listen for notices.
PLACES_TO_LISTEN = 3
_places = 0


@celeryd_after_setup.connect
def _note_places(instance: Any, **kwargs: Any) -> None:
    global _places
    _places = instance.concurrency


@worker_shutting_down.connect
def _note_shutdown(**kwargs: Any) -> None:
    _stopping[0] = 1


def is_stopping() -> bool:
    """Whether this worker was told to end: a sync then stops after the page it is at."""
    return _stopping[0] == 1


def stopper() -> Callable[[], bool]:
    """Also ends a long run at a page well before the task's time limit: the sweeper goes on."""
    deadline = time.monotonic() + settings.CELERY_TASK_SOFT_TIME_LIMIT * 0.8
    return lambda: is_stopping() or time.monotonic() > deadline


def nudge(task: Task, *args: Any) -> bool:
    """Queue a task if the broker is there; if not, the sweeper finds the row later."""
    try:
        task.apply_async(args, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("broker_unreachable", task=task.name, reason=type(error).__name__)
        return False
    return True


@shared_task
def run_sync(run_id: int) -> None:
    execute(run_id, should_stop=stopper())


@shared_task
def scheduled_delta() -> None:
    request_scheduled(runs.DELTA, timezone.now())


@shared_task
def scheduled_full() -> None:
    request_scheduled(runs.FULL, timezone.now())


@shared_task
def scheduled_reconcile() -> None:
    """The nightly proof; of a mirror that was never read whole there is nothing to prove."""
    if runs.is_mirrored(m.name for m in modules.ORDER):
        request_scheduled(runs.RECONCILE, timezone.now())


def request_scheduled(kind: str, now: datetime) -> SyncRun | None:
    """The run of this slot, once however often the schedule fires. A delta that meets a full run
    goes in between its pages; anything else that is under way makes the slot *skipped*."""
    if settings.ZOHO is None:
        return None
    with transaction.atomic():
        lease.lock_row()  # two beats at once: the second sees the run of the first
        return _request_slot(kind, now)


def _request_slot(kind: str, now: datetime) -> SyncRun | None:
    slot = slot_of(kind, now)
    if slot is None:
        return None
    try:
        return runs.request_run(kind=kind, trigger="schedule", slot=slot)
    except SyncUnderWay as error:
        is_nested = (
            kind == runs.DELTA
            and error.run.kind in runs.LETS_DELTAS_IN
            and runs.is_mirrored(m.name for m in modules.ORDER)
        )
        return _record_slot(kind, slot, now, error, is_nested=is_nested)
    except CrmError as error:
        return _record_slot(kind, slot, now, error, is_nested=False)


def _record_slot(
    kind: str, slot: datetime, now: datetime, error: CrmError, *, is_nested: bool
) -> SyncRun | None:
    try:
        with transaction.atomic():
            return SyncRun.objects.create(
                kind=kind,
                trigger="schedule",
                lane=None,
                slot=slot,
                status=ledger.QUEUED if is_nested else ledger.SKIPPED,
                requested_at=now,
                ended_at=None if is_nested else now,
                modules=[m.name for m in modules.ORDER],
                error_code="" if is_nested else error.code,
                message="" if is_nested else error.message,
            )
    except IntegrityError:
        return None  # another beat was first


def slot_of(kind: str, now: datetime) -> datetime | None:
    """The slot that `now` begins, or None if the schedule has already had its run for it."""
    near = _half_a_slot(kind)
    # A slot further ahead was given by a clock that has been set back since.
    given = SyncRun.objects.filter(kind=kind, slot__gt=now - near, slot__lt=now + 2 * near)
    if given.exists():
        return None
    return now.replace(microsecond=0)


def _half_a_slot(kind: str) -> timedelta:
    """How near two firings must be to count as one.

    Beat fires some time around the full interval, never twice within half of one; a grid of clock
    times would let two neighbours fall into one slot. Crontabs and the like know minutes.
    """
    task = PeriodicTask.objects.filter(task=SCHEDULES[kind]).first()
    if task is None:
        return timedelta(minutes=7)
    if task.interval is None:
        return timedelta(seconds=30)
    every: timedelta = task.interval.schedule.run_every
    return every / 2


@shared_task
def sweep() -> None:
    """What a nudge missed: queued runs, runs whose worker died, the first full sync, derivation."""
    heartbeat.beat(timezone.now())
    if settings.ZOHO is None:
        return
    run = runs.active_run()
    if run is not None:
        if lease.is_free_or_orphaned():
            execute(run.pk, should_stop=stopper())
        return
    _close_orphans()
    if not SyncRun.objects.filter(lane="sync").exists():
        first = runs.request_run(kind=runs.FULL, trigger="startup", nudge=False)
        execute(first.pk, should_stop=stopper())
        return
    turn_of_the_day()
    if _is_full_to_repeat(timezone.now()) and not _is_at_rest():
        repeated = runs.request_run(kind=runs.FULL, trigger="schedule", nudge=False)
        execute(repeated.pk, should_stop=stopper())
    elif (doubted := watermark.impossible()) and not (_has_full_failed() or _is_at_rest()):
        # Checked from the start on: nothing before such a mark would ever be read again.
        whole = runs.request_run(
            kind=runs.FULL, trigger="startup", module_names=list(doubted), nudge=False
        )
        execute(whole.pk, should_stop=stopper())
    elif waiting := replay.needed():
        again = runs.request_run(
            kind=runs.REPLAY, trigger="schedule", module_names=waiting, nudge=False
        )
        execute(again.pk, should_stop=stopper())
    elif rederive.is_needed():
        rederive_deals()


def _is_full_to_repeat(now: datetime) -> bool:
    """A full run that failed, or met a CRM that is left alone, is repeated after a pause that
    doubles with each in a row."""
    newest = SyncRun.objects.filter(lane="sync", kind=runs.FULL).order_by("-pk")
    ended = list(newest.values_list("status", "ended_at")[:MAX_DOUBLINGS])
    failed = list(itertools.takewhile(lambda run: run[0] in CAME_TO_NOTHING, ended))
    if not failed or failed[0][1] is None:
        return False
    # Either way: a clock that was set back must not make it wait for the time it has seen.
    return abs(now - failed[0][1]) > FIRST_PAUSE * 2 ** (len(failed) - 1)


def _has_full_failed() -> bool:
    """Then its repetition has a pause of its own, and reads everything."""
    newest = SyncRun.objects.filter(lane="sync", kind=runs.FULL).order_by("-pk")
    return newest.values_list("status", flat=True).first() in CAME_TO_NOTHING


def _is_at_rest() -> bool:
    """The CRM is left alone for a minute: a run asked for now would only be skipped."""
    try:
        reachability.raise_if_known_down()
    except CrmUnreachable as error:
        return error.retry_after_s is not None
    return False


def _close_orphans() -> None:
    """A delta queued into a full run that has ended meanwhile: the next slot covers it."""
    nested = SyncRun.objects.filter(kind=runs.DELTA, lane__isnull=True)
    nested.filter(status__in=[ledger.QUEUED, ledger.RUNNING]).update(
        status=ledger.SKIPPED,
        ended_at=timezone.now(),
        message="The full sync that it waited in has ended.",
    )


@shared_task
def rederive_deals() -> None:
    held = lease.acquire()
    if held is None:
        return  # the run under way does it at its end
    try:
        with held.kept_alive():
            rederive.run_if_needed(held)
    finally:
        held.release()


@shared_task
def turn_of_the_day() -> None:
    """Rates that hold since the open deals were last derived: have them computed anew."""
    today = business_day(timezone.now())
    state = MirrorState.objects.filter(module="Deals").first()
    if state is None or state.derived_on == today:
        return
    newer = ExchangeRate.objects.filter(day__lte=today)
    if state.derived_on is not None:
        newer = newer.filter(day__gt=state.derived_on)
    if newer.exists():
        queue_derive()
    else:
        MirrorState.objects.filter(module="Deals").update(derived_on=today)


# -- notices ------------------------------------------------------------------------------------


@shared_task(expires=60)
def take_notices() -> None:
    """The records that waiting notices name; then this process waits for more where it can."""
    if _places < PLACES_TO_LISTEN:
        events.take_waiting(should_stop=stopper())
    elif listening.listen(should_stop=is_stopping):
        nudge(take_notices)


@shared_task
def sweep_notices() -> None:
    """Notices whose nudge or worker was lost."""
    events.sweep(timezone.now(), should_stop=stopper())
    if _places >= PLACES_TO_LISTEN and listening.is_wanted():
        nudge(take_notices)


@shared_task
def keep_channels() -> None:
    """Notification channels: renewed, made anew, watched for silence; old rows forgotten."""
    now = timezone.now()
    channels.keep(now=now)
    channel_state.note_silence(now)
    inbox.forget_old(now)


@worker_ready.connect
def _look_after_channels(**kwargs: Any) -> None:
    """At each start: our address may be another one than before, and nobody listens yet."""
    nudge(keep_channels)
    nudge(sweep_notices)


# -- write-back ---------------------------------------------------------------------------------


@shared_task(expires=60)
def send_changes() -> None:
    """What waits in the outbox and is due."""
    send.send_due(should_stop=stopper())


@shared_task
def sweep_changes() -> None:
    """Changes whose nudge or worker was lost, and those whose waiting time is over."""
    settle.close_old(timezone.now())
    send.send_due(should_stop=stopper())
