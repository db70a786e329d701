"""What waits goes to the CRM: read as it is now, compared, sent in batches, each result settled.

Reading goes through the one door, so that comparing base, theirs and ours happens in one place
(`echoes`). Calls run side by side in threads, the database is this thread's alone. A change whose
outcome is not known is read again before anything else; nothing is sent twice unread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections
from django.utils import timezone

from crm import failpoints
from crm.mapping import convert
from crm.models import OutboxEntry, outbox
from crm.sync.modules import DEALS, LEADS, ORDER, Module
from crm.sync.reading import id_of
from crm.writeback import claims, results, rows_out, settle, switch
from crm.writeback.answers import (
    IDS_A_READING,
    NOT_OURS_PAUSE,
    OUTAGE_PAUSE,
    RETRY,
    ROWS_A_CALL,
    Reading,
    Report,
    Stop,
    SwitchedOff,
    chunks,
)
from crm.writeback.claims import Claim, Work
from crm.writeback.context import WritingContext
from crm.writeback.creations import Creations
from crm.zoho.client import WriteResult, ZohoClient
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
    held: list[Work] = field(default_factory=list)

    def run(
        self, record_ids: tuple[Module, Sequence[int]] | None, fields: list[str] | None
    ) -> None:
        with _calls_side_by_side(self.threads) as pool:
            self.pool = pool
            try:
                for module in ORDER:
                    if record_ids is not None and record_ids[0] is not module:
                        continue
                    self._send_module(module, record_ids[1] if record_ids else None, fields)
            except Stop as stop:
                self.report.stopped = stop.why
                self._let_go(stop)

    def _send_module(
        self, module: Module, pks: Sequence[int] | None, fields: list[str] | None
    ) -> None:
        while not self.should_stop():
            if switch.mode() != switch.ON:
                raise Stop(None, "off", timedelta(0))
            works = self.claim.take(
                module, now=self.clock(), most=ROUND, record_ids=pks, fields=fields
            )
            if not works:
                return
            failpoints.pass_by("send.after_claim")
            self.held = works
            self._round(module, works)
            self.held = []
            if pks is not None:
                return  # asked for once: what has to wait is told, not waited for

    # -- a round ----------------------------------------------------------------------------------

    def _round(self, module: Module, works: list[Work]) -> None:
        works = self._refuse_unfit(module, works)
        self._create(module, [work for work in works if work.kind == outbox.CREATE])
        rest = [work for work in works if work.kind != outbox.CREATE]
        self._without_record(module, [work for work in rest if work.zoho_id is None])
        rest = [work for work in rest if work.zoho_id is not None]
        readings = {
            self.pool.submit(self._read, module, [w.zoho_id for w in some]): some
            for some in chunks(rest, IDS_A_READING)
        }
        writings: dict[Future, list[Work]] = {}
        ready: list[Work] = []
        try:
            for done in _as_they_come(readings):
                read = [self._result_of(reading) for reading in done]
                # Through the door together, as if all had been read when the first was.
                ready += self._compare(
                    module,
                    [work for reading in done for work in readings[reading]],
                    Reading(
                        min(one.read_at for one in read),
                        [record for one in read for record in one.records],
                        set().union(*(one.gone for one in read)),
                        {zoho_id: why for one in read for zoho_id, why in one.unclear.items()},
                    ),
                )
                full = len(ready) // ROWS_A_CALL * ROWS_A_CALL
                self._start(module, ready[:full], writings)
                ready = ready[full:]
            self._start(module, ready, writings)
        except Stop:
            for reading in readings:
                reading.cancel()
            self._finish(module, writings)  # what is under way is settled, whatever stopped it
            raise
        self._finish(module, writings)

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
                self._later(module, work, _unreadable(reading.unclear[work.zoho_id]))
                continue
            if work.kind == outbox.CONVERT and self._is_converted(work, values.get(work.zoho_id)):
                continue
            left.append(work)
        return left

    def _is_converted(self, work: Work, lead: Any) -> bool:
        """A conversion whose answer was lost, or that somebody in the CRM was quicker with."""
        writer = self.context.writer(LEADS.name)
        if not isinstance(lead, dict) or lead.get(writer.api_name("is_converted")) is not True:
            return False
        made = lead.get(writer.api_name("converted_deal_zoho_id"))
        deal_zoho_id = convert.record_id(made.get("id") if isinstance(made, dict) else made)
        if deal_zoho_id is not None:
            try:
                reading = self._read(DEALS, [deal_zoho_id])
            except ZohoError as error:
                reading = Reading(self.clock(), unclear={deal_zoho_id: error})
            # The door knows ours by its external id.
            self._store(DEALS, reading.records, reading.read_at)
            for refusal in reading.unclear.values():
                # Whose deal it is cannot be told: it waits, and is read first again.
                self._later(LEADS, work, _unreadable(refusal, RETRY))
                return True
        deal_id = work.entries[0].details.get("deal_id")
        is_ours = (
            deal_id is None
            or DEALS.model.objects.filter(pk=deal_id, zoho_id=deal_zoho_id or 0).exists()
        )
        now = self.clock()
        if is_ours:
            rows_out.conclude_conversion(work, deal_zoho_id, now)
            self.report.settled += 1
        else:
            why = ("already_converted", "Somebody converted this lead in the CRM before.")
            refused: rows_out.Refusals = {e.pk: (e, why, {}) for e in work.entries}
            settle.refuse(LEADS, refused, self.context, now)
            self.report.refused += len(refused)
            self._learn(LEADS, [work.zoho_id])
        return True

    def _count_settled(self, statuses: Iterable[str]) -> None:
        for status in statuses:
            self.report.settled += status == outbox.DONE
            self.report.conflicts += status == outbox.CONFLICT
            self.report.refused += status == outbox.REFUSED

    # -- calls ------------------------------------------------------------------------------------

    def _start(self, module: Module, works: list[Work], writings: dict[Future, list[Work]]) -> None:
        """Begin the calls for these records; those that must not drag others down go alone."""
        if not works:
            return
        if switch.mode() != switch.ON:
            raise Stop(None, "off", timedelta(0))
        for kind in (outbox.EDIT, outbox.DELETE, outbox.CONVERT):
            self._call(module, kind, [work for work in works if work.kind == kind], writings)

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
        self._tell_vanished(module)
        if stop is not None:
            raise stop

    def _let_go(self, stop: Stop) -> None:
        """What was claimed and not sent is free again at once; what was sent is settled by now."""
        if self.held:
            reason = (stop.error.code, stop.error.message) if stop.error else ("", "")
            settle.wait(
                self.held[0].module,
                [entry for work in self.held for entry in work.entries],
                until=self.clock() + stop.pause,
                reason=reason,
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


def _unreadable(error: ZohoError, first: timedelta = NOT_OURS_PAUSE) -> results.Outcome:
    pauses = (first, timedelta(hours=4))
    return results.Outcome(results.WAIT, error.code, error.message, pauses)
