"""Who sends what: entries are taken by compare-and-set, and taken over when their worker is dead.

Order is decided here: a record's creation before its edits, these before its conversion, nothing
beside its deletion; of one field the next only when the outcome of the one before is known.
"""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from crm.models import OutboxEntry, outbox
from crm.sync.bulk_write import among
from crm.sync.gate import pass_gate
from crm.sync.modules import BY_NAME, Module

log = structlog.get_logger(__name__)
# Records whose workers died go alone, so that one of them does not hold up a hundred others.
ALONE_AFTER_DEATHS, DEAD_AFTER_DEATHS = 2, 5
# What a sender does not look at; ten thousand entries take half as long to load without.
_NOT_NEEDED = (
    *("theirs_by", "theirs_at", "code", "message", "claimed_until", "sent_at"),
    *("sent_modified_at", "settled_at", "flipped_at", "decided_by", "undoes"),
)
# Longer than any answer of the CRM has a change wait (four hours, `results.py`).
LONGEST_WAIT = timedelta(hours=5)
DIED_CODE = "workers_died"
DIED = "Workers died again and again while they sent this. Look at their logs, then try again."


@dataclass
class Work:
    """What is to be done to one record: `kind` as of its entries."""

    module: Module
    record_id: int
    kind: str
    entries: list[OutboxEntry]
    zoho_id: int | None = None
    modified_at: datetime | None = None  # as the mirror holds it
    may_be_there: bool = False  # of a creation: it was sent before, and may have arrived

    @property
    def attempts(self) -> int:
        return max(entry.attempts for entry in self.entries)

    @property
    def goes_alone(self) -> bool:
        return any(e.deaths >= ALONE_AFTER_DEATHS for e in self.entries) or self.attempts > 3


class Claim:
    """One worker's hold on its entries; `kept_alive` renews it while calls are under way."""

    def __init__(self) -> None:
        self.token = uuid.uuid4().hex

    def take(
        self,
        module: Module,
        *,
        now: datetime,
        most: int,
        record_ids: Iterable[int] | None = None,
        fields: Iterable[str] | None = None,
    ) -> list[Work]:
        """Up to `most` records whose changes are due, oldest first; of these records alone, or
        these fields of them, where they are named."""
        if not _due(module, now, record_ids).exists():
            return []
        with transaction.atomic():
            pass_gate(module.name, 0)
            works = due_works(module, now=now, most=most, record_ids=record_ids, fields=fields)
            pks = [entry.pk for work in works for entry in work.entries]
            until = now + timedelta(seconds=settings.SYNC_LEASE_SECONDS)
            taken = OutboxEntry.objects.filter(
                pk__in=among(pks), status__in=(outbox.PENDING, outbox.UNKNOWN)
            ).update(
                status=outbox.READING,
                claim=self.token,
                claimed_until=until,
                attempts=F("attempts") + 1,
            )
            if taken != len(pks):
                raise RuntimeError("entries were taken by another behind the module's gate")
        for work in works:
            for entry in work.entries:
                entry.status, entry.attempts = outbox.READING, entry.attempts + 1
                entry.claim = self.token
        return works

    def begin_sending(self, works: Sequence[Work], now: datetime) -> list[Work]:
        """The works whose entries are still ours, marked as being sent. What was settled, turned
        into a conflict or was taken over meanwhile is left out."""
        pks = [entry.pk for work in works for entry in work.entries]
        if not pks:
            return []
        module = works[0].module
        with transaction.atomic():
            pass_gate(module.name, 0)
            mine = OutboxEntry.objects.filter(pk__in=among(pks), claim=self.token)
            mine.filter(status=outbox.READING).update(
                status=outbox.SENDING,
                has_left=True,
                claimed_until=now + timedelta(seconds=settings.SYNC_LEASE_SECONDS),
            )
            sending = set(mine.filter(status=outbox.SENDING).values_list("pk", flat=True))
        left = []
        for work in works:
            # Nobody changes what a claimed entry is to do: later edits have entries of their own.
            work.entries = [entry for entry in work.entries if entry.pk in sending]
            for entry in work.entries:
                entry.status, entry.has_left = outbox.SENDING, True
            if work.entries:
                left.append(work)
        return left

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=settings.SYNC_HEARTBEAT_SECONDS + 1)

    def _beat(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(settings.SYNC_HEARTBEAT_SECONDS):
                until = timezone.now() + timedelta(seconds=settings.SYNC_LEASE_SECONDS)
                try:
                    OutboxEntry.objects.filter(
                        claim=self.token, status__in=(outbox.READING, outbox.SENDING)
                    ).update(claimed_until=until)
                except DatabaseError as error:
                    log.warning("claim_not_renewed", reason=type(error).__name__)
        finally:
            connections.close_all()


def due_works(
    module: Module,
    *,
    now: datetime,
    most: int,
    record_ids: Iterable[int] | None = None,
    fields: Iterable[str] | None = None,
) -> list[Work]:
    """Up to `most` records whose changes may go, oldest first."""
    # More than wanted: some of them wait for another.
    oldest = _due(module, now, record_ids).order_by("id").values_list("record_id", flat=True)
    found = list(dict.fromkeys(oldest[: most * 3]))
    works: list[Work] = []
    for some in _chunks(found):
        if len(works) >= most:
            break
        rows = OutboxEntry.objects.filter(
            module=module.name, record_id__in=among(some), status__in=outbox.OPEN
        ).exclude(status=outbox.SENT)
        rows = rows.defer(*_NOT_NEEDED)
        by_record: dict[int, list[OutboxEntry]] = defaultdict(list)
        for entry in rows.order_by("id"):
            by_record[entry.record_id].append(entry)
        for record_id in some:
            kind, entries = _first_in_order(by_record[record_id])
            if fields is not None and kind == outbox.EDIT:
                wanted = set(fields)
                entries = [entry for entry in entries if entry.field in wanted]
            if record_ids is None:
                entries = [entry for entry in entries if entry.next_attempt_at <= now]
            if entries:
                may_be_there = kind == outbox.CREATE and any(e.has_left for e in entries)
                works.append(Work(module, record_id, kind, entries, may_be_there=may_be_there))
    works = works[:most]
    records = module.model.objects.filter(pk__in=among(work.record_id for work in works))
    known = {row[0]: row[1:] for row in records.values_list("pk", "zoho_id", "crm_modified_at")}
    for work in works:
        work.zoho_id, work.modified_at = known.get(work.record_id, (None, None))
    return works


def _due(module: Module, now: datetime, record_ids: Iterable[int] | None) -> QuerySet:
    due = OutboxEntry.objects.filter(
        module=module.name, status__in=(outbox.PENDING, outbox.UNKNOWN)
    )
    if record_ids is None:
        return due.filter(next_attempt_at__lte=now)
    return due.filter(record_id__in=list(record_ids))


def take_over(now: datetime) -> int:
    """What dead workers held: read only, it waits again; under way, its outcome is unknown.

    Returns how many entries that were. A claim that lies further ahead than a claim can was made by
    a clock that has been set back since.
    """
    from crm.writeback import settle

    ahead = now + timedelta(seconds=settings.SYNC_LEASE_SECONDS * 2)
    held = OutboxEntry.objects.filter(status__in=(outbox.READING, outbox.SENDING))
    lost = [
        entry
        for entry in held
        if entry.claimed_until is None or not now < entry.claimed_until <= ahead
    ]
    by_module: dict[str, list[OutboxEntry]] = defaultdict(list)
    for entry in lost:
        by_module[entry.module].append(entry)
    for name, entries in by_module.items():
        settle.release_lost(BY_NAME[name], entries, now)
    return len(lost)


def end_impossible_waits(now: datetime) -> int:
    """What is due later than anything can be was written by a clock that has been set back since:
    it is due now. Returns how many entries that were."""
    return OutboxEntry.objects.filter(
        status__in=(outbox.PENDING, outbox.UNKNOWN), next_attempt_at__gt=now + LONGEST_WAIT
    ).update(next_attempt_at=now)


def _first_in_order(entries: Sequence[OutboxEntry]) -> tuple[str, list[OutboxEntry]]:
    """The kind of what may go next, and its entries; none while something is under way."""
    if any(entry.status in (outbox.READING, outbox.SENDING) for entry in entries):
        return "", []
    unknown = [entry for entry in entries if entry.status == outbox.UNKNOWN]
    if unknown:
        return unknown[0].kind, [e for e in unknown if e.kind == unknown[0].kind]
    edits = [e for e in entries if e.kind == outbox.EDIT]
    for kind in (outbox.CREATE, outbox.DELETE, outbox.CONVERT):
        of_kind = [entry for entry in entries if entry.kind == kind]
        if of_kind and not (kind == outbox.CONVERT and edits):
            return kind, [e for e in of_kind if e.status == outbox.PENDING]
    return outbox.EDIT, [entry for entry in edits if entry.status == outbox.PENDING]


def _chunks(pks: Sequence[int], size: int = 500) -> Iterator[Sequence[int]]:
    for at in range(0, len(pks), size):
        yield pks[at : at + size]
