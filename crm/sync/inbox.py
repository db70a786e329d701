"""The inbox as a queue: claim what is due, settle it, put it back; who may be at it.

Decides the states of a notice. What is done with the records is decided in `events`. A claim is a
row state with an end, fenced by the run's number: a worker that comes back late settles nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Case, F, QuerySet, Value, When
from django.utils import timezone

from crm.models import Notice, NotificationChannel, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync.modules import ORDER

KIND = "webhook"
CLAIM_ROWS = 500
# How many times a notice is tried that fails for a reason of its own.
MAX_TRIES = 8
# While somebody took something so recently, everybody else leaves the rest to them.
FRESH = timedelta(seconds=3)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=2), timedelta(minutes=5)
# The CRM is down, or we are: the notice is not to blame, and the delta will tell the same.
REST = timedelta(seconds=30)

KEPT_FOR = timedelta(days=30)
LATELY = timedelta(hours=1)


@dataclass
class Claim:
    """Notices that are ours until `until`; `hints` are record ids with the last operation told."""

    run: SyncRun
    parts: list[SyncRunModule]
    oldest: datetime
    hints: dict[str, dict[int, str]] = field(default_factory=dict)
    # As they were before we took them.
    notices: list[Notice] = field(default_factory=list)

    def rows(self, module: str) -> QuerySet[Notice]:
        """What of it is still ours."""
        return Notice.objects.filter(run_id=self.run.pk, status=Notice.TAKEN, module=module)


def due(now: datetime) -> QuerySet[Notice]:
    """What waits and may be tried."""
    return Notice.objects.filter(status=Notice.WAITING, next_attempt_at__lte=now)


def claim_due(now: datetime) -> Claim | None:
    """Take what is due, with a run of its own in the ledger. None if nothing is, or while another
    worker is at it: it looks again when it is done.

    What failed before is taken in ever smaller parts, so that one bad record is alone in the end.
    """
    if _is_somebody_at_it(now):
        return None
    with transaction.atomic():
        rows = due(now).order_by("attempts", "next_attempt_at")
        if connection.features.has_select_for_update_skip_locked:
            rows = rows.select_for_update(skip_locked=True)
        found = list(rows[:CLAIM_ROWS])
        if not found:
            return None
        attempts = found[0].attempts
        found = [row for row in found if row.attempts == attempts][: _most(attempts)]
        run, parts = _open_run(now, [row.module for row in found])
        Notice.objects.filter(pk__in=[row.pk for row in found]).update(
            status=Notice.TAKEN,
            run_id=run.pk,
            taken_until=now + _life(),
            taken_times=F("times"),
        )
    claim = Claim(run, parts, min(row.first_received_at for row in found))
    for row in found:
        claim.hints.setdefault(row.module, {})[row.zoho_id] = row.operation
        claim.notices.append(row)
    return claim


def _most(attempts: int) -> int:
    return CLAIM_ROWS if attempts == 0 else max(1, CLAIM_ROWS >> (2 * attempts))


def _life() -> timedelta:
    return timedelta(seconds=settings.SYNC_LEASE_SECONDS)


def _is_somebody_at_it(now: datetime) -> bool:
    fresh = now + _life() - min(FRESH, _life() / 2)
    return Notice.objects.filter(status=Notice.TAKEN, taken_until__gt=fresh).exists()


def _open_run(now: datetime, names: Iterable[str]) -> tuple[SyncRun, list[SyncRunModule]]:
    wanted = set(names)
    modules = [module.name for module in ORDER if module.name in wanted]
    run = SyncRun.objects.create(
        kind=KIND,
        trigger=KIND,
        lane=None,
        status=ledger.RUNNING,
        requested_at=now,
        started_at=now,
        heartbeat_at=now,
        modules=modules,
    )
    parts = SyncRunModule.objects.bulk_create(
        SyncRunModule(run=run, module=name, position=at) for at, name in enumerate(modules)
    )
    return run, parts


def note_events(claim: Claim) -> None:
    """When each channel last told of something; here, because the webhook writes one row alone."""
    newest: dict[str, datetime] = {}
    number: Counter[str] = Counter()
    for row in claim.notices:
        newest[row.channel_id] = max(row.received_at, newest.get(row.channel_id, row.received_at))
        number[row.channel_id] += row.times - row.taken_times
    for channel_id, received_at in newest.items():
        if number[channel_id]:  # else it is an old one, tried again
            NotificationChannel.objects.filter(channel_id=channel_id).update(
                last_event_at=received_at,
                events=F("events") + number[channel_id],
                silent_since=None,
            )


def _change(rows: QuerySet[Notice], **values: Any) -> int:
    """Update them in the order in which the webhook takes rows: in another one a notice of many
    ids and a worker wait for each other. Returns how many."""
    with transaction.atomic(savepoint=False):
        pks = list(rows.order_by("zoho_id").select_for_update().values_list("pk", flat=True))
        return Notice.objects.filter(pk__in=pks).update(**values)


def is_told_of(module: str, now: datetime) -> bool:
    """Whether notices of the module came lately and more may wait for the rows of a long sync.

    Never on SQLite: its one writer at a time lets nobody in sooner for smaller pieces.
    """
    lately = NotificationChannel.objects.filter(module=module, last_event_at__gt=now - LATELY)
    return connection.vendor == "postgresql" and lately.exists()


def keep(claim: Claim, now: datetime) -> None:
    """Prolong what is still ours."""
    _change(
        Notice.objects.filter(run_id=claim.run.pk, status=Notice.TAKEN), taken_until=now + _life()
    )
    SyncRun.objects.filter(pk=claim.run.pk).update(heartbeat_at=now)


def settle(claim: Claim, module: str, zoho_ids: Sequence[int]) -> None:
    """Done; what was told again meanwhile waits again. Best within the transaction that stores."""
    now = timezone.now()
    again = When(times__gt=F("taken_times"), then=Value(Notice.WAITING))
    _change(
        claim.rows(module).filter(zoho_id__in=zoho_ids),
        status=Case(again, default=Value(Notice.DONE)),
        first_received_at=F("received_at"),
        next_attempt_at=now,
        settled_at=now,
        taken_until=None,
        attempts=0,
        error_code="",
        message="",
    )


def put_back(claim: Claim, module: str, *, code: str, message: str, wait_s: float | None) -> None:
    """They wait for a better time, for a reason that is not theirs."""
    rest = REST if wait_s is None else timedelta(seconds=max(1.0, wait_s))
    _change(
        claim.rows(module),
        status=Notice.WAITING,
        next_attempt_at=timezone.now() + min(rest, LONGEST_PAUSE),
        taken_until=None,
        error_code=code[:64],
        message=message,
    )


def blame(
    claim: Claim, module: str, *, code: str, message: str, zoho_ids: Sequence[int] | None = None
) -> int:
    """They failed: tried again later, and dead after `MAX_TRIES`. Returns how many died."""
    rows = claim.rows(module)
    return _failed(rows if zoho_ids is None else rows.filter(zoho_id__in=zoho_ids), code, message)


def _failed(rows: QuerySet[Notice], code: str, message: str) -> int:
    now, dead = timezone.now(), 0
    for row in list(rows):
        attempts = row.attempts + 1
        is_dead = attempts >= MAX_TRIES
        pause = min(FIRST_PAUSE * 2**row.attempts, LONGEST_PAUSE)
        dead += (
            Notice.objects.filter(pk=row.pk, run_id=row.run_id, status=Notice.TAKEN).update(
                status=Notice.DEAD if is_dead else Notice.WAITING,
                attempts=attempts,
                next_attempt_at=now + pause,
                settled_at=now if is_dead else None,
                taken_until=None,
                error_code=code[:64],
                message=message,
            )
            * is_dead
        )
    return dead


def release_lapsed(now: datetime) -> int:
    """What a worker took and never settled waits again; returns how many rows.

    Counted as a try: a record that kills its worker each time is dead in the end.
    """
    lapsed = Notice.objects.filter(status=Notice.TAKEN, taken_until__lte=now)
    number = lapsed.count()
    if number:
        _failed(lapsed, "worker_died", "The worker that fetched it ended before it was done.")
    held = Notice.objects.filter(status=Notice.TAKEN).values("run_id")
    SyncRun.objects.filter(
        kind=KIND, status=ledger.RUNNING, heartbeat_at__lte=now - _life()
    ).exclude(pk__in=held).update(
        status=ledger.ABORTED,
        ended_at=now,
        error_code="worker_died",
        message="Its worker ended before it was done; the notices are taken up again.",
    )
    return number


def forget_old(now: datetime) -> None:
    """Rounds and ignored notices of long ago; records' own rows stay, one each."""
    old = SyncRun.objects.filter(kind=KIND, requested_at__lt=now - KEPT_FOR)
    old.exclude(status=ledger.RUNNING).delete()
    Notice.objects.filter(zoho_id__isnull=True, received_at__lt=now - KEPT_FOR).delete()


def retry(notices: QuerySet[Notice], now: datetime) -> int:
    """Ops want dead notices tried again; returns how many."""
    return _change(
        notices.filter(status=Notice.DEAD),
        status=Notice.WAITING,
        attempts=0,
        next_attempt_at=now,
        settled_at=None,
    )


def dismiss(notices: QuerySet[Notice], now: datetime) -> int:
    """Ops have looked at dead notices and let them be; the next notice of the record counts again.
    Returns how many."""
    return _change(
        notices.filter(status=Notice.DEAD), status=Notice.DONE, attempts=0, settled_at=now
    )
