"""What the CRM says of records that have changes of ours on their way: the overlay in the one door.

For each field with an open entry the row keeps our value or takes theirs, as `conflicts.judge`
says; our own change coming back is recognised by its value and makes no news. Works inside the
transaction of a page's store, behind the module's gate; a page costs one query while nothing of its
module is open, and one more while something is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from django.db.models import Q

from crm.mapping.apply import MISSING, Mapped, Mapper, canonical
from crm.models import OutboxEntry, outbox
from crm.sync.modules import DEALS, LEADS, Module
from crm.sync.page import Existing, Incoming
from crm.writeback import money
from crm.writeback.conflicts import judge, same

# A value that the CRM changes again within this time was not left alone: see `FLIPS`.
FLIP_WINDOW = timedelta(minutes=10)
FLIPS = 3
GONE_CODE, GONE = (
    "record_deleted",
    "The record was deleted in the CRM. The change is kept as a note.",
)
# What records made here begin their external id with.
KEY_PREFIX = "pulse-"
_SAVED = (
    "status",
    "base",
    "details",
    "theirs",
    "theirs_by",
    "theirs_at",
    "settled_at",
    "flipped_at",
)
_JUDGED_DELETIONS = (outbox.PENDING, outbox.READING, outbox.UNKNOWN, outbox.CONFLICT, outbox.DEAD)


def has_open(module: str) -> bool:
    """Whether anything of this module is on its way (a conversion makes a deal); one query."""
    concerned = Q(module=module)
    if module == DEALS.name:
        concerned |= Q(module=LEADS.name, kind=outbox.CONVERT)
    return OutboxEntry.objects.filter(concerned, status__in=outbox.OPEN).exists()


class Overlay:
    """The open entries of one page's records. `apply` each record, then `write`."""

    def __init__(self, mapper: Mapper, read_at: datetime, now: datetime) -> None:
        self.mapper, self.read_at, self.now = mapper, read_at, now
        self._by_record: dict[int, list[OutboxEntry]] = defaultdict(list)
        self._changed: dict[int, OutboxEntry] = {}

    @classmethod
    def load(
        cls, module: str, pks: Sequence[int], mapper: Mapper, read_at: datetime, now: datetime
    ) -> Overlay | None:
        """None if no record of these has anything open."""
        overlay = cls(mapper, read_at, now)
        found = OutboxEntry.objects.filter(
            module=module, record_id__in=list(pks), status__in=outbox.OPEN
        )
        for entry in found.order_by("id"):
            overlay._by_record[entry.record_id].append(entry)
        return overlay if overlay._by_record else None

    def apply(self, mapped: Mapped, known: Existing) -> bool:
        """Put what the row keeps in the place of what came; False: the row is to stay as it is,
        because its deletion is on the way."""
        entries = self._by_record.get(known.pk)
        if not entries:
            return True
        deletion = next((e for e in entries if e.kind == outbox.DELETE), None)
        if deletion is not None:
            # Edits may be under way beside it: they are compared like any other.
            self._follow_all(entries, mapped)
            self._judge_deletion(deletion, mapped, entries)
            return False
        ours = self._follow_all(entries, mapped)
        if ours:
            self.mapper.overlay(mapped.values, ours)
        return True

    def _follow_all(self, entries: list[OutboxEntry], mapped: Mapped) -> dict[str, Any]:
        """Judge each field's entries; what the row keeps of ours, by column."""
        chains: dict[str, list[OutboxEntry]] = defaultdict(list)
        for entry in entries:
            if entry.field in self.mapper.index:
                chains[entry.field].append(entry)
        ours, held = {}, {}
        for name, chain in chains.items():
            theirs = mapped.values[self.mapper.index[name]]
            if theirs is MISSING:
                continue  # the row's value stays, and that is ours
            if self.mapper.lacks_currency(mapped.values, name):
                # An amount in no currency cannot be compared; what we hold stays.
                mapped.values[self.mapper.index[name]] = MISSING
                continue
            shown, by = self._follow(chain, canonical(theirs), mapped, chains)
            if by is None:
                continue
            if by.status == outbox.CONFLICT or not same(shown, canonical(theirs)):
                ours[name], held[name] = shown, by
        return self._with_money(ours, held, mapped) if self.mapper.money_columns else ours

    def _with_money(
        self, ours: dict[str, Any], held: dict[str, OutboxEntry], mapped: Mapped
    ) -> dict[str, Any]:
        """Amounts in the currency that the row shows; in a conflict both are ours."""
        for entry in held.values():
            if entry.status == outbox.CONFLICT:
                ours = {**money.shown_with(entry), **ours}
        currency = ours.get(money.CURRENCY, self._currency(mapped))
        for name in self.mapper.money_columns:
            if name in held:
                ours[name] = money.new_in(held[name], currency)
        return ours

    def _currency(self, mapped: Mapped) -> str:
        """In which the CRM's amounts are."""
        if not self.mapper.money_columns:
            return ""
        found = mapped.values[self.mapper.index[money.CURRENCY]]
        return "" if found is MISSING else found or ""

    def has_settled(self, pk: int) -> bool:
        """Whether a change of ours came back with this reading: what was received is kept, also
        where its Modified_Time says nothing new."""
        return any(entry.status == outbox.DONE for entry in self._by_record.get(pk, ()))

    def write(self) -> None:
        OutboxEntry.objects.bulk_update(self._changed.values(), _SAVED, batch_size=500)

    def _follow(
        self,
        chain: list[OutboxEntry],
        theirs: Any,
        mapped: Mapped,
        chains: dict[str, list[OutboxEntry]],
    ) -> tuple[Any, OutboxEntry | None]:
        """Through the entries of a field, oldest first: each stands on the one before. What the
        row shows, and whose it is: of an entry, or the CRM's."""
        shown, by = theirs, None
        for entry, later in zip_longest(chain, chain[1:]):
            before = shown, by
            shown, by = self._judge(entry, shown, mapped, chains if by is None else None)
            if entry.status == outbox.CONFLICT and later is not None:
                # A later edit of the field waits: one conflict, of that with the CRM's value.
                entry.status, entry.settled_at = outbox.WITHDRAWN, self.now
                money.stand_on(later, entry)
                self._changed[later.pk] = later
                shown, by = before
        return shown, by

    def _judge(
        self,
        entry: OutboxEntry,
        theirs: Any,
        mapped: Mapped,
        chains: dict[str, list[OutboxEntry]] | None,
    ) -> tuple[Any, OutboxEntry | None]:
        """`chains`: the record's entries; None where `theirs` is what another entry holds."""
        if entry.kind == outbox.CONVERT:
            # Whether it happened is for the sender to find out, with what came of it.
            return entry.new_value, entry
        currency = self._currency(mapped)
        base, new = money.base_in(entry, currency), money.new_in(entry, currency)
        beside = money.theirs_with(self.mapper, entry, mapped.values) if chains else {}
        verdict = judge(
            entry.status,
            base,
            new,
            theirs,
            is_after_answer=self._is_after_answer(entry, mapped.modified_at),
            has_moved=bool(beside) and money.has_moved(entry, beside, chains or {}, currency),
        )
        told = json.dumps(theirs) if verdict.has_theirs else None
        details = money.noted(entry, beside, currency, has_theirs=verdict.has_theirs)
        if (verdict.status, told, details) != (entry.status, entry.theirs, entry.details):
            entry.status, entry.theirs, entry.details = verdict.status, told, details
            by = mapped.modified_by
            entry.theirs_by = by.name if told is not None and by is not None else ""
            entry.theirs_at = mapped.modified_at if told is not None else None
            if verdict.status == outbox.DONE:
                entry.settled_at = self.now
            if verdict.was_overwritten and self._is_soon(entry):
                entry.flipped_at = self.now
            self._changed[entry.pk] = entry
        return verdict.shown, (entry if same(verdict.shown, new) else None)

    def _is_after_answer(self, entry: OutboxEntry, modified_at: datetime | None) -> bool:
        """A reading that began after the CRM had answered holds our value or a later one; one of a
        later Modified_Time too. One of an earlier time is a copy that lags."""
        if entry.sent_at is None:
            return False
        sent_as = entry.sent_modified_at
        if modified_at is None or sent_as is None or modified_at == sent_as:
            return self.read_at >= entry.sent_at
        return modified_at > sent_as

    def _is_soon(self, entry: OutboxEntry) -> bool:
        return entry.sent_at is not None and self.now - entry.sent_at <= FLIP_WINDOW

    def _judge_deletion(
        self, entry: OutboxEntry, mapped: Mapped, entries: list[OutboxEntry]
    ) -> None:
        """A record that changed in the CRM after it was deleted here: a person decides. An edit
        of ours that arrived after all is no such change."""
        if entry.status not in _JUDGED_DELETIONS:
            return
        base = json.loads(entry.base or "{}")
        arrived = {
            e.field: json.loads(e.new or "null")
            for e in entries
            if e.kind == outbox.EDIT and e.status == outbox.DONE and e.theirs is None
        }
        if arrived:
            base |= arrived
            entry.base = json.dumps(base)
            self._changed[entry.pk] = entry
        theirs = {
            name: canonical(mapped.values[self.mapper.index[name]])
            for name in self.mapper.columns
            if mapped.values[self.mapper.index[name]] is not MISSING
        }
        differs = {k: v for k, v in theirs.items() if not same(base.get(k), v)}
        status = entry.status
        if differs:
            status = outbox.CONFLICT
        elif status == outbox.CONFLICT:
            status = outbox.PENDING
        told = json.dumps(differs, default=str) if differs else None
        if (status, told) != (entry.status, entry.theirs):
            entry.status, entry.theirs = status, told
            entry.theirs_by = mapped.modified_by.name if mapped.modified_by else ""
            entry.theirs_at = mapped.modified_at
            self._changed[entry.pk] = entry


def adopt(
    module: Module,
    mapper: Mapper,
    incoming: Sequence[Incoming],
    existing: dict[int, Existing],
    now: datetime,
) -> None:
    """A record made here that the CRM tells back before its answer was read: known by its external
    id, it is ours and no second one. `existing` grows by it.

    Also where nothing waits any more: an answer may be lost for longer than anybody waits.
    """
    at = mapper.index.get("external_id")
    if at is None:
        return
    unknown = {
        key: item.mapped
        for item in incoming
        if (key := item.mapped.values[at]).__class__ is str
        and key.startswith(KEY_PREFIX)
        and item.mapped.zoho_id not in existing
    }
    if not unknown:
        return
    rows: Any = module.model.objects
    found = rows.filter(zoho_id__isnull=True, external_id__in=list(unknown))
    for pk, key, told, is_deleted in found.values_list(
        "pk", "external_id", "content_hash", "deleted_at"
    ):
        zoho_id = unknown[key].zoho_id
        rows.filter(pk=pk).update(zoho_id=zoho_id)
        existing[zoho_id] = Existing(pk, told, None, None, is_deleted is not None, False)
        OutboxEntry.objects.filter(
            module=module.name, record_id=pk, kind=outbox.CREATE, status__in=outbox.OPEN
        ).update(status=outbox.DONE, settled_at=now, sent_at=now)
        if is_deleted is not None:
            _delete_there_too(module, pk, mapper, unknown[key], now)


def _delete_there_too(
    module: Module, pk: int, mapper: Mapper, mapped: Mapped, now: datetime
) -> None:
    """It was deleted here before anybody knew that the CRM has it: the deletion follows it there.

    What was empty here and is not there was filled by the CRM, and is no change of somebody's.
    """
    deletions = OutboxEntry.objects.filter(module=module.name, record_id=pk, kind=outbox.DELETE)
    deletion = deletions.filter(status__in=(*outbox.OPEN, outbox.WITHDRAWN)).last()
    if deletion is None:
        return
    base = json.loads(deletion.base or "{}")
    for name, at in mapper.index.items():
        if base.get(name) in (None, "") and mapped.values[at] is not MISSING:
            base[name] = canonical(mapped.values[at])
    deletion.base = json.dumps(base)
    if deletion.status == outbox.WITHDRAWN:
        deletion.status, deletion.next_attempt_at, deletion.settled_at = outbox.PENDING, now, None
    deletion.save()


def drop_edits(module: Module, pk: int, now: datetime) -> None:
    """The record was deleted at our wish: its other changes are no drafts, nobody wants them."""
    edits = OutboxEntry.objects.filter(
        module=module.name, record_id=pk, kind=outbox.EDIT, status__in=outbox.OPEN
    )
    edits.filter(status=outbox.SENT).update(status=outbox.DONE, settled_at=now)
    edits.update(status=outbox.WITHDRAWN, settled_at=now)


def record_gone(module: Module, zoho_ids: Sequence[int], now: datetime) -> None:
    """The CRM deleted these: changes that wait are kept as notes, deletions of ours are done."""
    pks = module.model.objects.filter(zoho_id__in=list(zoho_ids)).values("pk")
    gone = OutboxEntry.objects.filter(module=module.name, record_id__in=pks)
    deleted = gone.filter(status__in=outbox.OPEN, kind=outbox.DELETE)
    for pk in deleted.values_list("record_id", flat=True):
        drop_edits(module, pk, now)
    gone.filter(status__in=outbox.OPEN, kind=outbox.DELETE).update(
        status=outbox.DONE, settled_at=now
    )
    gone.filter(status=outbox.SENT).update(status=outbox.DONE, settled_at=now)
    gone.filter(status__in=outbox.OPEN).update(
        status=outbox.REFUSED, code=GONE_CODE, message=GONE, settled_at=now
    )
