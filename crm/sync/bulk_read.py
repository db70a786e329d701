"""A module read whole by the CRM's bulk read: jobs of 200,000 records, each a zipped CSV.

Decides waiting, resuming and what a lost or broken job means. A job's file is as of the job's
run, so S0 is taken before the first job. Nothing is said about a file's order: what the files do
not name is found by comparing with our live rows. What may have slipped between two jobs (a record
that is deleted moves the rest up) is read by its ids, or the reading counts as unreliable.
"""

from __future__ import annotations

import json
import tempfile
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import BinaryIO, TypeVar

from django.db import transaction
from django.utils import timezone

from crm import failpoints, shared_state
from crm.models import CrmField, SweepCandidate, SyncRunModule
from crm.sync import deletions, inbox, watermark
from crm.sync.csv_records import Columns, read_rows
from crm.sync.modules import Module
from crm.sync.reading import NO_QUERIES, STORED_AT_ONCE, Batch, id_of, rows_at_once
from crm.sync.session import Session, StopRequested
from crm.sync.store import Store
from crm.zoho.bulk import BulkJob, JobFailed, JobLost
from crm.zoho.client import RawRecord
from crm.zoho.errors import BadList, BadPayload, FixFields, FixRequest, GiveUp, ScopeMissing

T = TypeVar("T")
FIRST_POLL_S, LONGEST_POLL_S = 0.5, 20.0
SLICE_S = 1.0  # a process that is asked to stop waits no longer
GIVE_UP_S = 1800.0
TRIES = 2


class Unreliable(GiveUp):
    """The files may lack records; read another way."""


# After any of these the module is read another way.
NOT_BY_BULK = (FixRequest, FixFields, ScopeMissing, JobFailed, BadList, Unreliable)


def read(
    session: Session,
    part: SyncRunModule,
    module: Module,
    store: Store,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Store every record, and note as candidates what we hold and the files do not name.

    Raises what is in NOT_BY_BULK, the client's other errors, StopRequested and LeaseLost.
    """
    for attempt in range(TRIES):
        reader = _Reader(session, part, module, sleep)
        try:
            for batch in reader.batches():
                session.store_batch(part, store, batch)
            break
        except JobLost:
            if attempt == TRIES - 1:
                raise
            # A day went by since: nothing of the other files is there to be read again.
            session.count_anew(part)
            session.mark(part, cursor={})
    reader.prove_whole()
    _note_unnamed(session, part, module, reader.named)


class _Reader:
    """The jobs of one module, one after the other; the next one runs while a file is stored.

    The cursor: `jobs` as [id, asked at], `done` how many of them are stored, `row` how many rows of
    the one at hand, `last` the highest id stored, `is_sorted` whether ids only rose so far.
    """

    def __init__(
        self,
        session: Session,
        part: SyncRunModule,
        module: Module,
        sleep: Callable[[float], None],
    ) -> None:
        self.session, self.part, self.module, self.sleep = session, part, module, sleep
        self.client = session.client
        self.fields = session.context.api_names(module.name)
        types = dict(
            CrmField.objects.filter(module=module.name).values_list("api_name", "data_type")
        )
        self.columns = Columns(session.context.specs(module.name), types)
        cursor = part.cursor
        self.jobs: list[list[str]] = [list(job) for job in cursor.get("jobs", ())]
        self.done = int(cursor.get("done", 0))
        self.row = int(cursor.get("row", 0))
        self.last = int(cursor.get("last", 0))
        self.is_sorted = bool(cursor.get("is_sorted", True))
        self.named = array("q")
        self.seen_tokens: set[str] = set()
        self.started_here: set[str] = set()

    # -- jobs ------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        if self.jobs:
            self._recall()
        else:
            self._start(page=1)
        while self.done < len(self.jobs):
            job_id, asked_at = self.jobs[self.done]
            job = self._wait_for(job_id, datetime.fromisoformat(asked_at))
            if job.more and len(self.jobs) == self.done + 1:
                self._follow(job)
            failpoints.pass_by("bulk.before_file")
            yield from self._stored(job, datetime.fromisoformat(asked_at))

    def _start(self, *, page: int, token: str | None = None) -> None:
        self.session.s0()  # before the job: what changes after it is for the next delta
        asked_at = timezone.now()
        job_id = self.client.bulk_start(self.module.name, self.fields, page=page, page_token=token)
        self.started_here.add(job_id)
        self.jobs.append([job_id, asked_at.isoformat()])
        self.session.mark(self.part, cursor=self._cursor())
        failpoints.pass_by("bulk.after_start")

    def _follow(self, job: BulkJob) -> None:
        if job.count == 0 or (job.next_token and job.next_token in self.seen_tokens):
            raise BadList(
                f"The CRM's bulk read of {self.module.name} does not end. Nothing is lost.",
                code="paging_loop",
            )
        if job.next_token:
            self.seen_tokens.add(job.next_token)
        self._start(page=len(self.jobs) + 1, token=job.next_token)

    def _wait_for(self, job_id: str, asked_at: datetime) -> BulkJob:
        """Polls ever more rarely; stops and due deltas are heeded meanwhile."""
        waited, pause = 0.0, FIRST_POLL_S
        while True:
            job = self.client.bulk_job(job_id)
            if job.is_done:
                if job_id in self.started_here:
                    seconds = (timezone.now() - asked_at).total_seconds()
                    remember_job(self.module.name, job.count, seconds)
                return job
            if waited > GIVE_UP_S:
                raise JobFailed(
                    f"The CRM's bulk job did not end within {GIVE_UP_S / 60:.0f} minutes.",
                    code="job_too_slow",
                )
            left = pause
            while left > 0:
                self.session.breathe()
                self.sleep(min(left, SLICE_S))
                left -= SLICE_S
            waited += pause
            pause = min(pause * 2, LONGEST_POLL_S)

    # -- files -----------------------------------------------------------------------------------

    def _records(self, job_id: str) -> Iterator[RawRecord]:
        """The rows of a job's file. One that cannot be read is taken once more."""
        for attempt in range(TRIES):
            with tempfile.TemporaryFile(prefix="pulse-bulk-") as file:
                self._download(job_id, file)
                rows = read_rows(file, self.columns)
                try:
                    first = next(rows, None)
                except BadPayload as error:
                    if attempt == TRIES - 1:
                        raise _unreadable(error) from None
                    continue
                if first is not None:
                    yield first
                try:
                    yield from rows
                except BadPayload as error:
                    raise _unreadable(error) from None
                return

    def _download(self, job_id: str, file: BinaryIO) -> None:
        self.client.bulk_download(job_id, file, between=self._stop_if_asked)
        file.seek(0)

    def _is_shared(self) -> bool:
        return inbox.is_told_of(self.module.name, timezone.now())

    def _stop_if_asked(self) -> None:
        """In the middle of a file nothing else may go in between."""
        if self.session.should_stop():
            raise StopRequested

    def _recall(self) -> None:
        """The ids of files that an earlier process has stored: the sweep needs them all."""
        for job_id, _ in self.jobs[: self.done]:
            for piece in _pieces(self._records(job_id)):
                self.named.extend(_ids(piece))
                self.session.breathe()

    def _stored(self, job: BulkJob, asked_at: datetime) -> Iterator[Batch]:
        """The file in pieces; of rows that are stored already only the ids are noted."""
        rows = 0
        for piece in _pieces(self._records(job.id), self._is_shared):
            rows += len(piece)
            self.named.extend(_ids(piece))
            if rows <= self.row:
                continue
            new = piece[self.row - rows :]
            if self.done and not self.row:
                yield from self._between(_ids(piece))
            self._learn_order(_ids(new))
            self.row = rows
            yield Batch(new, asked_at, None, self._cursor(), job.server_date)
            failpoints.pass_by("bulk.after_piece")
        if rows != job.count:
            raise Unreliable(
                f"The file of the CRM's bulk read of {self.module.name} has {rows} rows, "
                f"{job.count} were announced.",
                code="bulk_incomplete",
            )
        self.done, self.row = self.done + 1, 0

    def _learn_order(self, ids: list[int]) -> None:
        for zoho_id in ids:
            if zoho_id <= self.last:
                self.is_sorted = False
            else:
                self.last = zoho_id

    def _between(self, ids: list[int]) -> Iterator[Batch]:
        """Records that a deletion between two jobs moved from the later file into neither."""
        if not self.is_sorted or not ids or ids[0] <= self.last + 1:
            return
        if self.module.name in self.session.coql_refused:
            self.is_sorted = False
            return
        read_at = timezone.now()
        after = self.last
        while True:
            try:
                page = self.client.id_range(
                    self.module.name, self.fields, after=after, upto=ids[0] - 1
                )
            except NO_QUERIES:
                self.is_sorted = False
                return
            found = _ids(page.records)
            self.named.extend(found)
            if page.records:
                yield Batch(page.records, read_at, None, self._cursor(), page.server_date)
            if not page.more or not found or max(found) <= after:
                return
            after = max(found)

    def prove_whole(self) -> None:
        """Files in no known order: none was deleted while they were made, or records may lack."""
        if len(self.jobs) < 2 or self.is_sorted:
            return
        s0 = self.session.s0()
        since = watermark.read_from(s0) if s0 is not None else None
        deleted = list(deletions.deleted_since(self.client, self.module, since))
        if deletions.may_have_shifted(deleted, s0, None):
            raise Unreliable(
                f"Records of {self.module.name} were deleted between the CRM's bulk jobs.",
                code="bulk_shifted",
            )

    def _cursor(self) -> dict:
        return {
            "jobs": self.jobs,
            "done": self.done,
            "row": self.row,
            "last": self.last,
            "is_sorted": self.is_sorted,
        }


def _unreadable(error: BadPayload) -> Unreliable:
    return Unreliable(error.message, code="bulk_unreadable", details=error.details)


def _note_unnamed(session: Session, part: SyncRunModule, module: Module, named: array[int]) -> None:
    """Our live rows that no file names, as candidates of the sweep: asked for by id there."""
    ids = array("q", sorted(named))
    live = module.model.objects.live().filter(zoho_id__isnull=False, is_stub=False)
    rows = live.order_by("zoho_id").values_list("zoho_id", flat=True).iterator(10_000)
    unnamed = (zoho_id for zoho_id in rows if not _holds(ids, zoho_id))
    for chunk in _pieces(unnamed):
        with transaction.atomic():
            session.lease.renew()
            SweepCandidate.objects.bulk_create(
                [SweepCandidate(part=part, zoho_id=zoho_id) for zoho_id in chunk],
                ignore_conflicts=True,
            )


def _pieces(items: Iterable[T], is_shared: Callable[[], bool] = lambda: False) -> Iterator[list[T]]:
    rest = iter(items)
    while piece := list(islice(rest, min(STORED_AT_ONCE, rows_at_once(is_shared())))):
        yield piece


def _ids(records: Iterable[RawRecord]) -> list[int]:
    return [zoho_id for zoho_id in map(id_of, records) if zoho_id is not None]


def _holds(ids: array[int], zoho_id: int) -> bool:
    at = bisect_left(ids, zoho_id)
    return at < len(ids) and ids[at] == zoho_id


# -- how long jobs take --------------------------------------------------------------------------


def remember_job(module: str, rows: int, seconds: float) -> None:
    """For the choice of the way next time."""
    shared_state.durable().put(_name(module), json.dumps([rows, round(seconds, 1)]))


def last_job(module: str) -> tuple[int, float] | None:
    """Rows and seconds of the module's last bulk job, as far as it is remembered."""
    try:
        rows, seconds = json.loads(shared_state.durable().get(_name(module)) or "")
        return int(rows), float(seconds)
    except (ValueError, TypeError):
        return None


def _name(module: str) -> str:
    return f"bulk:job:{module}"
