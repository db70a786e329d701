"""What one execution of a run carries along: client, lease, context, checkpoints, when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from django.db import DatabaseError, transaction
from django.db.models import F, Max
from django.utils import timezone

from crm.errors import LeaseLost
from crm.models import ChangeEvent, FailedRecord, SweepCandidate, SyncRun, SyncRunModule
from crm.sync import credits, runs, watermark
from crm.sync.context import SyncContext
from crm.sync.isolation import CODE, Isolation, NoRecordKills
from crm.sync.lease import Lease
from crm.sync.modules import BY_NAME, Module
from crm.sync.page import Counts
from crm.sync.reading import Batch, id_of, ids_of
from crm.sync.store import Store
from crm.zoho.client import RawRecord, ZohoClient

BETWEEN_CHECKS_S = 2.0


class StopRequested(Exception):
    """The process is asked to end: between two pages is the moment."""


class Session:
    """`should_stop` is asked between pages; `on_page` hears of each stored page."""

    def __init__(
        self,
        run: SyncRun,
        lease: Lease,
        client: ZohoClient,
        *,
        should_stop: Callable[[], bool],
        on_page: Callable[[SyncRun, SyncRunModule], None],
        run_nested: Callable[[Session], None] | None = None,
    ) -> None:
        self.run = run
        self.lease = lease
        self.client = client
        self.should_stop = should_stop
        self.on_page = on_page
        self.run_nested = run_nested
        self.context: SyncContext
        self.notes: list[str] = []  # what the run says of itself besides its parts
        self.coql_refused: set[str] = set()  # names of modules
        # Workers died before a page of this run was stored.
        self.is_suspicious = run.attempts > runs.MAX_DEATHS
        self._isolations: dict[int, Isolation] = {}
        self._met: dict[int, set[int | str]] = {}
        self._calls_told = client.calls
        self._retries_told = client.retries
        self._bytes_told = client.bytes_received
        self._checked = time.monotonic()
        self._crm_clock: datetime | None = None

    def nested(self, run: SyncRun) -> Session:
        """The same lease and client for a delta that is due while a full run goes on.

        Its S0 is the CRM's clock as last heard, not that of the client's first answer: else the
        mirror would look no fresher for it.
        """
        if self._crm_clock is not None:
            run.s0 = self._crm_clock
            SyncRun.objects.filter(pk=run.pk).update(s0=run.s0)
        session = Session(
            run, self.lease, self.client, should_stop=self.should_stop, on_page=self.on_page
        )
        session.context = self.context
        session.coql_refused = self.coql_refused
        return session

    def make_store(self, module: Module, source: str | None = None) -> Store:
        return Store(
            module,
            self.context.mapper(module.name),
            source=source or self.run.kind,
            run_id=self.run.pk,
            lease=self.lease,
            deriver=self.context.deriver,
        )

    def module_of(self, part: SyncRunModule) -> Module:
        return BY_NAME[part.module]

    def count_once(self, part: SyncRunModule) -> None:
        """Of this part, a record that is stored again within this run is not counted again."""
        self._met.setdefault(part.pk, set())

    def count_anew(self, part: SyncRunModule) -> None:
        """`count_once` for a reading that cannot go on in the middle: of what was counted before
        this run was stopped, only what it changed stays counted."""
        self.count_once(part)
        if not part.seen:
            return
        if "stored" in part.isolation:  # else what is met again would be passed over
            self._isolations.pop(part.pk, None)
            note = {name: keys for name, keys in part.isolation.items() if name != "stored"}
            self.mark(part, isolation=note)
        uncounted = {"seen": part.unchanged + part.failed, "unchanged": part.unchanged,
                     "failed": part.failed}  # fmt: skip
        lower = {name: F(name) - number for name, number in uncounted.items()}
        with transaction.atomic():
            self.lease.renew()
            SyncRunModule.objects.filter(pk=part.pk).update(**lower)
            SyncRun.objects.filter(pk=self.run.pk).update(**lower)
        for name, number in uncounted.items():
            setattr(part, name, getattr(part, name) - number)
        changed = ChangeEvent.objects.filter(run_id=self.run.pk, module=part.module).exclude(
            kind=ChangeEvent.DELETED
        )
        rows = self.module_of(part).model.objects.filter(pk__in=changed.values("record_id"))
        self._met[part.pk].update(rows.values_list("zoho_id", flat=True))

    def store_batch(self, part: SyncRunModule, store: Store, batch: Batch) -> None:
        """One page with its checkpoint, then a moment to stop or to let a due delta through."""
        # Kept before the first page: a run that goes on after a kill must not believe that its
        # first pages are as young as its later ones.
        self.s0()
        self._crm_clock = batch.server_date or self._crm_clock
        if self.is_suspicious or part.isolation:
            self._store_in_pieces(part, store, batch)
        else:
            self._store_page(part, store, batch)
        self.on_page(self.run, part)
        self.breathe()

    def _store_page(
        self,
        part: SyncRunModule,
        store: Store,
        batch: Batch,
        *,
        condemned: Sequence[RawRecord] = (),
        also: Callable[[Counts], None] = lambda counts: None,
    ) -> None:
        met = self._met.get(part.pk)
        names = [_name_of(r) for r in (*batch.records, *condemned)] if met is not None else []

        def checkpoint(counts: Counts) -> None:
            also(counts)
            if met is not None:
                _uncount(counts, names, met)
            runs.advance(self.run, part, counts, cursor=batch.cursor, api=self._spent())
            SweepCandidate.objects.bulk_create(
                [SweepCandidate(part=part, zoho_id=zoho_id) for zoho_id in counts.gone_ids],
                ignore_conflicts=True,
            )
            if part.state == SyncRunModule.SWEEPING:
                # A sweep that is stopped again and again must still come to its end.
                SweepCandidate.objects.filter(part=part, zoho_id__in=ids_of(batch.records)).delete()

        counts = store.store(
            batch.records,
            read_at=batch.read_at,
            id_span=batch.id_span,
            checkpoint=checkpoint,
            condemned=condemned,
        )
        if met is not None:
            met.update(names)
        part.cursor = batch.cursor
        part.seen += counts.seen
        part.failed += counts.failed

    def _store_in_pieces(self, part: SyncRunModule, store: Store, batch: Batch) -> None:
        """Workers died over this page or one near it: see `isolation`."""
        found = self._isolations.setdefault(part.pk, Isolation(part))
        if found.is_hopeless:
            self._acquit(part, found)
            raise NoRecordKills(part.module)
        here = set(ids_of(batch.records))
        for piece in found.pieces(batch.records):
            # Ours only once it is committed: what is rolled back was not stored.
            after = found.after(piece, batch.records)

            def also(counts: Counts, after: Isolation = after) -> None:
                counts.gone_ids = [zoho_id for zoho_id in counts.gone_ids if zoho_id not in here]
                SyncRunModule.objects.filter(pk=part.pk).update(isolation=after.note())

            small = replace(batch, records=piece.records)
            if not piece.is_last:
                small = replace(small, id_span=None, cursor=part.cursor)
            if piece.keys:
                self.mark(part, isolation=found.note(piece.keys))
                # A death from here on says something; only those that say nothing are counted.
                SyncRun.objects.filter(pk=self.run.pk).update(attempts=runs.MAX_DEATHS)
            try:
                self._store_page(part, store, small, condemned=piece.condemned, also=also)
            except (Exception, KeyboardInterrupt):
                self._isolations.pop(part.pk, None)
                with suppress(LeaseLost, DatabaseError):  # nobody died here
                    part.refresh_from_db(fields=["isolation"])
                    if "trial" in part.isolation:  # else it was committed all the same
                        self.mark(part, isolation=found.note())
                raise
            found = self._isolations[part.pk] = after
            part.isolation = found.note()
        if not part.isolation:
            self.is_suspicious = False
            del self._isolations[part.pk]

    def _acquit(self, part: SyncRunModule, found: Isolation) -> None:
        """Those in doubt are tried again by the next run, as if nothing had been said of them."""
        ids = [int(key) for key in found.in_doubt if key.isdecimal()]
        self.mark(part, isolation={})
        FailedRecord.objects.filter(
            module=part.module, code=CODE, run_id=self.run.pk, zoho_id__in=ids
        ).update(resolved_at=timezone.now())

    def breathe(self) -> None:
        """Between two pages: StopRequested, or CreditsExhausted, or a due delta goes in."""
        if self.should_stop():
            raise StopRequested
        self.look_at_credits()
        if self.run_nested and time.monotonic() - self._checked > BETWEEN_CHECKS_S:
            self.run_nested(self)
            self._checked = time.monotonic()

    def look_at_credits(self) -> None:
        """Raises CreditsExhausted once what is left must be left to others."""
        credits.raise_if_low(self.run.kind, self.client.credits_remaining, timezone.now())

    def mark(self, part: SyncRunModule, **values: object) -> None:
        """Change a part outside a page; refused once the lease is lost."""
        with transaction.atomic():
            self.lease.renew()
            SyncRunModule.objects.filter(pk=part.pk).update(**values)
        for name, value in values.items():
            setattr(part, name, value)

    def move_watermark(self, module: Module, s0: datetime, *, is_full: bool) -> datetime:
        """Everything up to `s0` is stored: see `watermark.move`. Refused once the lease is lost."""
        with transaction.atomic():
            self.lease.renew()
            return watermark.move(module.name, s0, is_full=is_full, covered_at=self.covered_at())

    def s0(self) -> datetime | None:
        """The CRM's clock at the first answer of this run, kept over a resume."""
        if self.run.s0 is None and self.client.first_server_date is not None:
            self.run.s0 = self.client.first_server_date
            SyncRun.objects.filter(pk=self.run.pk, s0__isnull=True).update(s0=self.run.s0)
        return self.run.s0

    def s0_or_newest(self, module: Module) -> datetime | None:
        """S0, or without any Date header the newest Modified_Time seen."""
        found = self.s0()
        if found is None:
            found = module.model.objects.aggregate(newest=Max("crm_modified_at"))["newest"]
        return found

    def covered_at(self) -> datetime | None:
        """What freshness counts from: S0, or our clock at the start where the CRM has none."""
        return self.s0() or self.run.started_at

    def leave_out_spent(self) -> None:
        """What a nested run told of calls and bytes is not ours to tell again."""
        self._spent()

    def save_spent(self) -> None:
        """API calls, retries and bytes since the last checkpoint."""
        SyncRun.objects.filter(pk=self.run.pk).update(heartbeat_at=timezone.now(), **self._spent())

    def _spent(self) -> dict:
        """Increments as F() expressions; what was told is not told again."""
        calls, retries, received = (
            self.client.calls,
            self.client.retries,
            self.client.bytes_received,
        )
        spent = {
            "api_calls": F("api_calls") + calls - self._calls_told,
            "retries": F("retries") + retries - self._retries_told,
            "received_bytes": F("received_bytes") + received - self._bytes_told,
        }
        self._calls_told, self._retries_told, self._bytes_told = calls, retries, received
        return spent


def _name_of(record: RawRecord) -> int | str:
    """What tells a record from others: its id, or its text where none can be read."""
    found = id_of(record)
    return record.text if found is None else found


def _uncount(counts: Counts, names: Sequence[int | str], met: set[int | str]) -> None:
    """Take what was met before out of the counts of a page, which still add up."""
    here: set[int | str] = set()
    again = []
    for name in names:
        if name in met or name in here:
            again.append(name)
        here.add(name)
    unreadable = sum(isinstance(name, str) for name in again)
    _take(counts, unreadable, "failed")
    _take(counts, len(again) - unreadable, "unchanged", "updated", "created")


def _take(counts: Counts, number: int, *kinds: str) -> None:
    for kind in kinds:
        taken = min(number, getattr(counts, kind))
        setattr(counts, kind, getattr(counts, kind) - taken)
        counts.seen -= taken
        number -= taken
