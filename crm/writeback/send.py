"""What waits goes to the CRM: read as it is now, compared, sent in batches, each result settled.

Reading goes through the one door, so that comparing base, theirs and ours happens in one place
(`echoes`). Calls run side by side in threads, the database is this thread's alone. A change whose
outcome is not known is read again before anything else; nothing is sent twice unread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils import timezone

from crm import failpoints
from crm.models import OutboxEntry, outbox
from crm.sync.modules import ORDER, Module
from crm.sync.reading import id_of
from crm.writeback import claims, results, rows_out, settle, switch
from crm.writeback.answers import (
    IDS_A_READING,
    NOT_OURS_PAUSE,
    OUTAGE_PAUSE,
    Reading,
    Report,
    Stop,
    SwitchedOff,
    chunks,
)
from crm.writeback.claims import Claim, Work
from crm.writeback.context import WritingContext
from crm.writeback.creations import Creations, unreadable
from crm.writeback.looking import Glance, portions, read_range
from crm.writeback.rows_out import ROWS_A_CALL
from crm.zoho.client import RawRecord, WriteResult, ZohoClient
from crm.zoho.errors import (
    RetryLater,
    ZohoError,
)
from crm.zoho.factory import client_from_settings

# Records of one round: enough for every connection, few enough to be claimed for a short time.
ROUND = 1000


_NOT_READY = results.Outcome(
    results.WAIT, "refers_to_none", "A record that it refers to is not in the CRM yet."
)


def _writing_client() -> ZohoClient:
    return client_from_settings(purpose="write")


def send_due(
    *,
    make_client: Callable[[], ZohoClient] = _writing_client,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], datetime] = timezone.now,
    record_ids: tuple[Module, Sequence[int]] | None = None,
    fields: Iterable[str] | None = None,
) -> Report:
    """Send everything that is due, or these records' changes at once. Does nothing unless the
    switch is on. Raises nothing of the CRM: what cannot go now waits, and says why."""
    report = Report()
    if switch.mode() != switch.ON or settings.ZOHO is None:
        report.stopped = "off"
        return report
    if not switch.is_same_crm():
        report.stopped = "other_organisation"  # the next sync says whether it is
        return report
    claims.take_over(clock())
    claims.end_impossible_waits(clock())
    if not OutboxEntry.objects.filter(status__in=(outbox.PENDING, outbox.UNKNOWN)).exists():
        return report
    client = make_client()
    try:
        claim = Claim()
        with claim.kept_alive():
            context = WritingContext(clock())
            threads = max(1, settings.ZOHO.concurrency)
            sending = _Sending(client, clock, report, context, claim, should_stop, threads)
            sending.run(record_ids, None if fields is None else list(fields))
    finally:
        report.calls = client.calls
        client.close()
    return report


@dataclass
class _Sending(Creations):
    claim: Claim
    should_stop: Callable[[], bool]
    threads: int
    takes_queries: bool = True
    readings: dict[Future, list[Work]] = field(default_factory=dict)
    writings: dict[Future, list[Work]] = field(default_factory=dict)
    ready: list[Work] = field(default_factory=list)  # as their edits were made on, to be written

    def run(
        self, record_ids: tuple[Module, Sequence[int]] | None, fields: list[str] | None
    ) -> None:
        with _calls_side_by_side(self.threads) as pool:
            self.pool = pool
            for module in ORDER:
                if record_ids is not None and record_ids[0] is not module:
                    continue
                try:
                    self._send_module(module, record_ids[1] if record_ids else None, fields)
                except Stop as stop:
                    self.report.stopped = stop.why
                    self._let_go(module, stop)
                    return

    def _send_module(
        self, module: Module, pks: Sequence[int] | None, fields: list[str] | None
    ) -> None:
        """Rounds overlap: the next is claimed and read while the last is being written."""
        self.glance = Glance(self.context.mapper(module.name))
        may_claim = True
        try:
            while True:
                if not self.readings and len(self.writings) < self.threads:
                    self._tell_vanished(module)
                    if may_claim and self._begin(module, pks, fields):
                        # Asked for once: what has to wait is told, not waited for.
                        may_claim = pks is None
                    else:
                        self._start(module, self._next_ready(least=1))
                        if not self.writings:
                            return
                if self.readings or self.writings:
                    self._go_on(module)
        except Stop:
            for reading in self.readings:
                reading.cancel()
            # What is under way is settled, whatever stopped it.
            self._finish(module, self.writings)
            raise

    # -- a round ----------------------------------------------------------------------------------

    def _begin(self, module: Module, pks: Sequence[int] | None, fields: list[str] | None) -> bool:
        """Claim what is due, make what is to be made, begin to read the rest; False: nothing is
        due."""
        if self.should_stop():
            return False
        if switch.mode() != switch.ON:
            raise Stop(None, "off", timedelta(0))
        works = self.claim.take(module, now=self.clock(), most=ROUND, record_ids=pks, fields=fields)
        if not works:
            return False
        failpoints.pass_by("send.after_claim")
        works = self._refuse_unfit(module, works)
        self._create(module, [work for work in works if work.kind == outbox.CREATE])
        rest = [work for work in works if work.kind != outbox.CREATE]
        self._without_record(module, [work for work in rest if work.zoho_id is None])
        rest = [work for work in rest if work.zoho_id is not None]
        for some, is_range in portions(module, rest, self.glance, takes_queries=self.takes_queries):
            self.readings[self.pool.submit(self._look_at, module, some, is_range)] = some
        return True

    def _look_at(self, module: Module, works: list[Work], is_range: bool) -> Reading:
        """In a thread. What is as it was needs no more than a glance. Raises as `_read`."""
        whole, left = Reading(self.clock()), works
        if is_range:
            names = self.glance.api_names(works)
            seen = read_range(self.client, module, works, names)
            self.takes_queries = seen is not None
            left = self._changed(whole, works, seen or {})
        for some in chunks(left, IDS_A_READING):
            whole.add(self._read(module, [work.zoho_id for work in some]))
        found = {id_of(record): record for record in whole.records}
        self._changed(whole, left, found)
        whole.records = [r for key, r in found.items() if key not in whole.as_it_was]
        return whole

    def _changed(
        self, reading: Reading, works: list[Work], found: Mapping[Any, RawRecord]
    ) -> list[Work]:
        """Those that have to be compared; the others are noted in the reading."""
        same = {w.zoho_id for w in works if self.glance.shows_base(w, found.get(w.zoho_id))}
        reading.as_it_was |= same
        return [work for work in works if work.zoho_id not in same]

    def _go_on(self, module: Module) -> None:
        """Wait until some call has ended; what it brought is compared and written, or settled."""
        done, _ = wait([*self.readings, *self.writings], return_when=FIRST_COMPLETED)
        if read := [call for call in done if call in self.readings]:
            works = [work for call in read for work in self.readings.pop(call)]
            reading = self._result_of(read[0])
            for call in read[1:]:
                reading.add(self._result_of(call))
            self.ready += self._still_to_send(module, works, reading)
            self._start(module, self._next_ready(least=ROWS_A_CALL))
        if written := [call for call in done if call in self.writings]:
            self._answered(module, self.writings, written)

    def _next_ready(self, *, least: int) -> list[Work]:
        """Whole calls of what is ready; the last one may be smaller where `least` is."""
        whole = len(self.ready) if least == 1 else len(self.ready) // least * least
        ready, self.ready = self.ready[:whole], self.ready[whole:]
        return ready

    def _still_to_send(self, module: Module, works: list[Work], reading: Reading) -> list[Work]:
        """What is as it was, and what the door leaves of the rest: through it together, as if all
        had been read when the first was."""
        left = [work for work in works if work.zoho_id in reading.as_it_was]
        others = [work for work in works if work.zoho_id not in reading.as_it_was]
        if others:
            left += self._compare(module, others, reading)
        else:
            failpoints.pass_by("send.after_reading")
        return left

    def _refuse_unfit(self, module: Module, works: list[Work]) -> list[Work]:
        """Without asking the CRM: whose author may not any more, what the CRM keeps changing back,
        what has died or failed too often."""
        refused: rows_out.Refusals = {}
        left = []
        for work, why in rows_out.checked(module, works, self.clock()):
            refused.update(why)
            if work.entries:
                left.append(work)
        if refused:
            settle.refuse(module, refused, self.context, self.clock())
            self.report.refused += len(refused)
        return left

    def _compare(self, module: Module, works: list[Work], reading: Reading) -> list[Work]:
        """Through the door; what is still to be sent comes back."""
        self._store(module, reading.records, reading.read_at)
        failpoints.pass_by("send.after_reading")
        statuses = dict(
            OutboxEntry.objects.filter(
                pk__in=[e.pk for work in works for e in work.entries]
            ).values_list("pk", "status")
        )
        self._count_settled(statuses.values())
        values = {id_of(record): record.value for record in reading.records}
        left = []
        for work in works:
            work.entries = [e for e in work.entries if statuses.get(e.pk) == outbox.READING]
            if not work.entries:
                continue
            if work.zoho_id in reading.gone:
                self.vanished.append(work)
                continue
            if work.zoho_id in reading.unclear:
                self._later(module, work, unreadable(reading.unclear[work.zoho_id]))
                continue
            if work.kind == outbox.CONVERT and self._is_converted(work, values.get(work.zoho_id)):
                continue
            left.append(work)
        return left

    def _count_settled(self, statuses: Iterable[str]) -> None:
        for status in statuses:
            self.report.settled += status == outbox.DONE
            self.report.conflicts += status == outbox.CONFLICT
            self.report.refused += status == outbox.REFUSED

    # -- calls ------------------------------------------------------------------------------------

    def _start(self, module: Module, works: list[Work]) -> None:
        """Begin the calls for these records; those that must not drag others down go alone."""
        if not works:
            return
        if switch.mode() != switch.ON:
            raise Stop(None, "off", timedelta(0))
        for kind in (outbox.EDIT, outbox.DELETE, outbox.CONVERT):
            self._call(module, kind, [work for work in works if work.kind == kind], self.writings)

    def _call(
        self, module: Module, kind: str, works: list[Work], writings: dict[Future, list[Work]]
    ) -> None:
        """Marked as being sent all at once, in one transaction; then as many calls as it takes."""
        if not works:
            return
        prepared = rows_out.prepare(module, kind, works, self.context)
        for work in prepared.not_ready:
            self._later(module, work, _NOT_READY)
        sending = self.claim.begin_sending(prepared.works, self.clock())
        is_alone = [work.goes_alone or kind == outbox.CONVERT for work in sending]
        batches = [[work] for work, alone in zip(sending, is_alone, strict=True) if alone]
        many = [work for work, alone in zip(sending, is_alone, strict=True) if not alone]
        for is_again in (False, True):
            some = [work for work in many if work.may_be_there is is_again]
            batches += chunks(some, ROWS_A_CALL)
        for batch in batches:
            failpoints.pass_by("send.before_call")
            call = rows_out.call_of(module, kind, batch, prepared, self.context)
            writings[self.pool.submit(self._ask_and_call, call)] = batch

    def _ask_and_call(self, call: Callable[[ZohoClient], list[WriteResult]]) -> list[WriteResult]:
        """In a thread: nothing leaves once the switch is off. Raises SwitchedOff, ZohoError."""
        if switch.mode() != switch.ON:
            raise SwitchedOff("off")
        if self.should_stop():
            raise SwitchedOff("stopped")
        return call(self.client)

    def _finish(self, module: Module, writings: dict[Future, list[Work]]) -> None:
        stop: Stop | None = None
        for done in _as_they_come(writings):
            try:
                self._answered(module, writings, done)
            except Stop as again:
                stop = again
        self._tell_vanished(module)
        if stop is not None:
            raise stop

    def _answered(
        self, module: Module, writings: dict[Future, list[Work]], done: Sequence[Future]
    ) -> None:
        stop: Stop | None = None
        taken: list[tuple[Work, WriteResult]] = []
        for writing in done:
            works = writings.pop(writing)
            failpoints.pass_by("send.after_call")
            try:
                taken += zip(works, writing.result(), strict=True)
            except ZohoError as error:
                try:
                    self._fail(module, works, error)
                except Stop as again:
                    stop = again
        if taken:
            self._settle(module, [work for work, _ in taken], [said for _, said in taken])
        if stop is not None:
            raise stop

    def _let_go(self, module: Module, stop: Stop) -> None:
        """What was claimed and not sent is free again at once; what was sent is settled by now."""
        held = OutboxEntry.objects.filter(claim=self.claim.token, status=outbox.READING)
        settle.wait(
            module,
            held,
            until=self.clock() + stop.pause,
            reason=(stop.error.code, stop.error.message) if stop.error else ("", ""),
            uncounted=True,
            only=(outbox.READING,),
        )

    def _result_of(self, reading: Future) -> Reading:
        try:
            return reading.result()
        except RetryLater as error:
            seconds = error.retry_after_s or OUTAGE_PAUSE.total_seconds()
            raise Stop(error, error.code, timedelta(seconds=seconds)) from error
        except ZohoError as error:
            raise Stop(error, error.code, NOT_OURS_PAUSE) from error


def _as_they_come(calls: Iterable[Future]) -> Iterator[list[Future]]:
    """All that are done by now, together; then those that are done by then."""
    left = set(calls)
    while left:
        done, left = wait(left, return_when=FIRST_COMPLETED)
        yield list(done)


@contextmanager
def _calls_side_by_side(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for calls. Clients keep tokens and permits in the database: when all is done each
    thread closes what it opened."""
    begun: list[int] = []
    pool = ThreadPoolExecutor(max_workers=threads, initializer=lambda: begun.append(1))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True) if not begun else _close(pool, len(begun))


def _close(pool: ThreadPoolExecutor, threads: int) -> None:
    together = threading.Barrier(threads)

    def close() -> None:
        together.wait(timeout=60)
        connections.close_all()

    for _ in range(threads):
        pool.submit(close)
    pool.shutdown(wait=True)
