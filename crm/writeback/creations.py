"""Records that the CRM gets from here: each once, whatever became of earlier attempts.

One that was never sent is upserted on its external id. One that was sent before may be there: it is
looked for by that id first, and sent again only under a guard that overwrites nothing. What was
deleted here meanwhile is not sent any more, and deleted there if it is found. A conversion whose
answer was lost is told by what became of its lead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

from crm.mapping import convert
from crm.models import OutboxEntry, outbox
from crm.sync.modules import DEALS, LEADS, Module
from crm.writeback import results, rows_out, settle, switch
from crm.writeback.answers import (
    IDS_A_READING,
    NOT_OURS_PAUSE,
    OUTAGE_PAUSE,
    RETRY,
    Answers,
    Reading,
    Stop,
    chunks,
)
from crm.writeback.claims import Work
from crm.writeback.outbox import EXTERNAL_ID
from crm.zoho.client import RawRecord
from crm.zoho.errors import (
    FixFields,
    NotPermitted,
    QueryRefused,
    Reauthenticate,
    RetryLater,
    ScopeMissing,
    ZohoError,
)

NOT_THERE = (
    "not_in_crm",
    "The CRM does not have this record, and nothing here is on its way to make it there. Make it "
    "again from here, or delete it.",
)
NOT_FOUND_OUT = results.Outcome(
    results.WAIT,
    "not_looked_for",
    "The CRM may have this record, and does not let it be looked for.",
    (NOT_OURS_PAUSE, timedelta(hours=4)),
)


class Creations(Answers):
    """The part of a sending that makes records."""

    @abstractmethod
    def _call(
        self, module: Module, kind: str, works: list[Work], writings: dict[Future, list[Work]]
    ) -> None: ...

    @abstractmethod
    def _finish(self, module: Module, writings: dict[Future, list[Work]]) -> None: ...

    @abstractmethod
    def _compare(self, module: Module, works: list[Work], reading: Reading) -> list[Work]: ...

    def _create(self, module: Module, works: list[Work]) -> None:
        if not works:
            return
        unsure: set[int] = set()
        for some in chunks([work for work in works if work.may_be_there], IDS_A_READING):
            if not self._look_for(module, some):
                unsure |= {work.record_id for work in some}
        alive = self._without_bound(module, self._compare(module, works, Reading(self.clock())))
        alive = self._without_deleted(module, alive, unsure)
        if alive and switch.mode() != switch.ON:
            raise Stop(None, "off", timedelta(0))
        writings: dict[Future, list[Work]] = {}
        try:
            self._call(module, outbox.CREATE, alive, writings)
        finally:
            self._finish(module, writings)  # what is under way is settled, whatever stopped it

    def _look_for(self, module: Module, works: Sequence[Work]) -> bool:
        """Bind those that are there, by the one door; False if the CRM could not be asked."""
        try:
            ids = self._ids_of(module, works)
            for some in chunks(ids, IDS_A_READING):
                reading = self._read(module, some)
                self._store(module, reading.records, reading.read_at)
        except (RetryLater, Reauthenticate) as error:
            pause = OUTAGE_PAUSE if isinstance(error, RetryLater) else NOT_OURS_PAUSE
            raise Stop(error, error.code, pause) from error
        except ZohoError:
            return False
        return True

    def _ids_of(self, module: Module, works: Sequence[Work]) -> list[int]:
        """The CRM's ids of those that it has, by a query on the external id. Where it takes none,
        by what changed there since they were made here: a search's index may lag."""
        rows = module.model.objects.filter(pk__in=[work.record_id for work in works])
        keys = {key for key in rows.values_list(EXTERNAL_ID, flat=True) if key}
        if not keys:
            return []
        api = self.context.writer(module.name).api_name(EXTERNAL_ID)
        words = ", ".join(f"'{key}'" for key in sorted(keys))
        # The keys are our own: letters, digits and dashes.
        query = f"select id from {module.name} where {api} in ({words}) limit 0, 200"  # noqa: S608
        try:
            return _ids_in(self.client.coql(query).records)
        except (QueryRefused, ScopeMissing, NotPermitted, FixFields):
            pass
        found: list[int] = []
        for page in self.client.list_pages(
            module.name,
            [api, "Modified_Time"],
            sort_by="Modified_Time",
            sort_order="desc",
            modified_since=rows_out.unseen_before(works),
            converted=module.converted,
        ):
            found += _ids_in(r for r in page.records if _key_in(r, api) in keys)
            if len(found) >= len(keys):
                break
        return found

    def _without_bound(self, module: Module, works: list[Work]) -> list[Work]:
        """Whose record the CRM has by now is made: sending it whole again would overwrite what
        somebody changed there since."""
        rows = module.model.objects.filter(pk__in=[work.record_id for work in works])
        bound = set(rows.filter(zoho_id__isnull=False).values_list("pk", flat=True))
        for work in works:
            if work.record_id in bound:
                settle.finish(module, work.entries, self.clock())
                self.report.settled += 1
        return [work for work in works if work.record_id not in bound]

    def _without_deleted(self, module: Module, works: list[Work], unsure: set[int]) -> list[Work]:
        """What was deleted here is not made; its deletion has nothing to do either, once the CRM
        is known not to have it."""
        deleted = _records_with(module, works, outbox.DELETE)
        for work in works:
            if work.record_id in deleted and work.record_id in unsure:
                self._later(module, work, NOT_FOUND_OUT)
            elif work.record_id in deleted:
                settle.withdraw_creation(module, work, self.clock())
                self.report.settled += 1
        return [work for work in works if work.record_id not in deleted]

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
                self._later(LEADS, work, unreadable(refusal, RETRY))
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

    def _without_record(self, module: Module, works: list[Work]) -> None:
        """Changes of records that have no id of the CRM: they wait for who makes the record. Where
        nobody does they are refused; what nobody has need not be deleted."""
        if not works:
            return
        pks = [work.record_id for work in works]
        coming = _records_with(module, works, outbox.CREATE)
        # Bound since these were claimed.
        rows = module.model.objects.filter(pk__in=pks, zoho_id__isnull=False)
        coming |= set(rows.values_list("pk", flat=True))
        if module is DEALS:
            conversions = OutboxEntry.objects.filter(
                module=LEADS.name, kind=outbox.CONVERT, status__in=outbox.OPEN
            )
            coming |= {d.get("deal_id") for d in conversions.values_list("details", flat=True)}
        waiting = [work for work in works if work.record_id in coming]
        self._wait(module, waiting, RETRY, uncounted=True)
        lost = [work for work in works if work.record_id not in coming]
        refused: rows_out.Refusals = {}
        for work in lost:
            if work.kind == outbox.DELETE:
                settle.withdraw(module, work.entries, NOT_THERE, self.clock())
            else:
                refused |= {entry.pk: (entry, NOT_THERE, {}) for entry in work.entries}
        if refused:
            settle.refuse(module, refused, self.context, self.clock())
            self.report.refused += len(refused)


def _records_with(module: Module, works: Sequence[Work], kind: str) -> set[int]:
    """Those of these records that have an entry of this kind on its way."""
    return set(
        OutboxEntry.objects.filter(
            module=module.name,
            record_id__in=[work.record_id for work in works],
            kind=kind,
            status__in=outbox.OPEN,
        ).values_list("record_id", flat=True)
    )


def _ids_in(records: Iterable[RawRecord]) -> list[int]:
    found = (convert.record_id(r.value.get("id")) for r in records if isinstance(r.value, dict))
    return [zoho_id for zoho_id in found if zoho_id is not None]


def _key_in(record: RawRecord, api: str) -> object:
    return record.value.get(api) if isinstance(record.value, dict) else None


def unreadable(error: ZohoError, first: timedelta = NOT_OURS_PAUSE) -> results.Outcome:
    pauses = (first, timedelta(hours=4))
    return results.Outcome(results.WAIT, error.code, error.message, pauses)
