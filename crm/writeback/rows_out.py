"""Entries → what a call carries, and a call's answer → rows and entries.

What may not go is sorted out before the CRM is asked: authors who may not any more, fields that the
CRM keeps changing back, references to records that the CRM does not have yet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction

from crm import permissions
from crm.mapping import convert, profiles
from crm.models import CrmUser, Deal, OutboxEntry, outbox
from crm.sync.batch import canonical_stored
from crm.sync.gate import pass_gate
from crm.sync.modules import BY_NAME, DEALS, LEADS, Module
from crm.sync.tombstones import announce
from crm.writeback import money, results, settle
from crm.writeback.claims import Work
from crm.writeback.context import WritingContext
from crm.writeback.echoes import FLIP_WINDOW, FLIPS, drop_edits
from crm.writeback.outbox import EXTERNAL_ID
from crm.zoho.client import WriteResult, ZohoClient

Refusals = dict[int, tuple[OutboxEntry, tuple[str, str], dict[str, Any]]]
FLIPS_CODE = "changed_back"
FLIPS_WHY = (
    f"The CRM changed this field back {FLIPS} times within ten minutes, by a workflow for all that "
    "is known. It is not sent again; ask who keeps the CRM's workflows."
)
ROWS_A_CALL = 100
AUTHOR_CODE = "author_not_allowed"
# More than any clock is wrong by.
CLOCKS_DIFFER = timedelta(days=1)
_PARTS = {"Accounts": "account_id", "Contacts": "contact_id"}


@dataclass
class Prepared:
    """`fields`: by entry, what it adds to its record's row. `rows`: whole rows, by record."""

    works: list[Work]
    not_ready: list[Work] = field(default_factory=list)
    fields: dict[int, tuple[str, Any]] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    modified_at: dict[int, datetime | None] = field(default_factory=dict)


def checked(
    module: Module, works: Sequence[Work], now: datetime
) -> Iterator[tuple[Work, Refusals]]:
    """Each work with the entries that may go, and the others with the reason why not."""
    pks = [work.record_id for work in works]
    fought = Counter(
        OutboxEntry.objects.filter(
            module=module.name, record_id__in=pks, flipped_at__gt=now - FLIP_WINDOW
        ).values_list("record_id", "field")
    )
    author_ids = {entry.author_id for work in works for entry in work.entries}
    authors = get_user_model().objects.in_bulk([pk for pk in author_ids if pk is not None])
    # A rule's change is nobody's to be asked for: its record is not looked at.
    asked = [w.record_id for w in works if any(e.author_id is not None for e in w.entries)]
    records = module.model.objects.in_bulk(asked) if asked else {}
    for work in works:
        refused: Refusals = {}
        for entry in work.entries:
            why = _why_not(entry, authors, records.get(work.record_id))
            if why:
                refused[entry.pk] = (entry, (AUTHOR_CODE, why), {})
            elif fought[(work.record_id, entry.field)] >= FLIPS:
                refused[entry.pk] = (entry, (FLIPS_CODE, FLIPS_WHY), {})
        work.entries = [entry for entry in work.entries if entry.pk not in refused]
        yield work, refused


def _why_not(entry: OutboxEntry, authors: dict[int, Any], record: Any) -> str:
    if entry.author_id is None:
        # A rule's change has no author; a person's whose account was removed has lost one.
        return f"{entry.author_name} has no account here any more." if entry.author_name else ""
    author = authors.get(entry.author_id)
    if author is None or not author.is_active:
        return f"{entry.author_name}'s account is switched off."
    decision = permissions.may_write_back(author, entry.kind, record)
    return "" if decision else decision.why


# -- what a call carries ---------------------------------------------------------------------------


def prepare(module: Module, kind: str, works: Sequence[Work], context: WritingContext) -> Prepared:
    """The parts of the call's rows. `not_ready`: the CRM lacks a record that they refer to."""
    prepared = Prepared([])
    model = module.model.objects
    # A record that goes by itself is guarded by its time.
    goes_alone = len(works) % ROWS_A_CALL == 1 or any(work.goes_alone for work in works)
    if kind == outbox.EDIT and goes_alone:
        pks = [work.record_id for work in works]
        prepared.modified_at = dict(model.filter(pk__in=pks).values_list("pk", "crm_modified_at"))
    if kind in (outbox.DELETE, outbox.CONVERT):
        for work in works:
            ready = work.zoho_id is not None
            if ready and kind == outbox.CONVERT:
                row = _conversion(work, context)
                ready = row is not None
                prepared.rows[work.record_id] = row or {}
            (prepared.works if ready else prepared.not_ready).append(work)
        return prepared
    if kind == outbox.CREATE:
        values = {work.record_id: _whole_row(module, work.record_id, context) for work in works}
    else:
        amounts = {s.ours for s in context.specs(module.name) if s.kind == profiles.MONEY}
        priced = [w.record_id for w in works if any(e.field in amounts for e in w.entries)]
        currencies = _currencies(module, priced, context) if priced else {}
        values = {
            work.record_id: {e.field: json.loads(e.new or "null") for e in work.entries}
            for work in works
        }
    ids = _zoho_ids(module, values.values(), context)
    writer = context.writer(module.name)
    for work in works:
        row, is_ready = {}, True
        own = {e.field: found for e in work.entries
               if (found := e.details.get(money.NEW_CURRENCY))}  # fmt: skip
        for name, value in values[work.record_id].items():
            spec = writer.spec(name)
            if spec.kind == profiles.REF and value is not None:
                value = ids.get((spec.target, value))
                is_ready = is_ready and value is not None
            currency = (
                values[work.record_id].get("currency") or context.home_currency
                if kind == outbox.CREATE
                else currencies.get(work.record_id, "")
            )
            row[name] = (spec.api, writer.payload(name, value, own.get(name, currency)))
        (prepared.works if is_ready else prepared.not_ready).append(work)
        if kind == outbox.CREATE:
            prepared.rows[work.record_id] = dict(row.values())
        else:
            prepared.fields |= {e.pk: row[e.field] for e in work.entries if e.field in row}
    return prepared


def call_of(
    module: Module,
    kind: str,
    works: Sequence[Work],
    prepared: Prepared,
    context: WritingContext,
) -> Callable[[ZohoClient], list[WriteResult]]:
    """The call for these records, in their order."""
    name = module.name
    if kind == outbox.DELETE:
        ids = [work.zoho_id or 0 for work in works]
        return lambda client: client.delete(name, ids, repeatable=False)
    if kind == outbox.CONVERT:
        (work,) = works
        wishes = prepared.rows[work.record_id]
        return lambda client: [client.convert(work.zoho_id or 0, wishes)]
    if kind == outbox.CREATE:
        key = context.writer(name).api_name(EXTERNAL_ID)
        new = [prepared.rows[work.record_id] for work in works]
        # What was sent before and has arrived after all is not overwritten but named.
        guard = unseen_before(works) if any(work.may_be_there for work in works) else None
        return lambda client: client.upsert(
            name,
            new,
            duplicate_check_fields=[key],
            unmodified_since=guard,
            repeatable=False,
        )
    rows = [
        {"id": str(work.zoho_id), **dict(prepared.fields[e.pk] for e in work.entries)}
        for work in works
    ]
    # One time for the whole call: it helps where one record goes, and only there.
    since = prepared.modified_at.get(works[0].record_id) if len(works) == 1 else None
    return lambda client: client.update(name, rows, unmodified_since=since, repeatable=False)


def _currencies(module: Module, pks: Sequence[int], context: WritingContext) -> dict[int, str]:
    if module is not DEALS:
        return {}
    return dict(Deal.objects.filter(pk__in=pks).values_list("pk", "currency"))


def _whole_row(module: Module, pk: int, context: WritingContext) -> dict[str, Any]:
    """What a creation sends: every writable field that holds something, and the external id."""
    writer = context.writer(module.name)
    columns = context.mapper(module.name).columns
    values = module.model.objects.filter(pk=pk).values(*columns).get()
    return {
        name: canonical_stored(value)
        for name, value in values.items()
        if value not in (None, "") and (name == EXTERNAL_ID or not writer.why_not_writable(name))
    }


def _zoho_ids(
    module: Module, rows: Any, context: WritingContext
) -> dict[tuple[str, int], int | None]:
    """The CRM's ids of all records that these rows refer to, by target module and our key."""
    writer = context.writer(module.name)
    wanted: dict[str, set[int]] = {}
    for row in rows:
        for name, value in row.items():
            spec = writer.spec(name)
            if spec.kind == profiles.REF and value is not None:
                wanted.setdefault(spec.target, set()).add(value)
    found: dict[tuple[str, int], int | None] = {}
    for target, pks in wanted.items():
        model: Any = CrmUser if target == "Users" else BY_NAME[target].model
        for pk, zoho_id in model.objects.filter(pk__in=pks).values_list("pk", "zoho_id"):
            found[(target, pk)] = zoho_id
    return found


def _conversion(work: Work, context: WritingContext) -> dict[str, Any] | None:
    """The CRM's form of a conversion; None while a record that it goes into is not there yet."""
    details = work.entries[0].details
    wishes: dict[str, Any] = {
        "overwrite": False,
        "notify_lead_owner": False,
        "notify_new_entity_owner": False,
    }
    for part, key in _PARTS.items():
        if details.get(key) is not None:
            zoho_id = (
                BY_NAME[part]
                .model.objects.filter(pk=details[key])
                .values_list("zoho_id", flat=True)
                .first()
            )
            if zoho_id is None:
                return None
            wishes[part] = {"id": str(zoho_id)}
    if details.get("deal_id") is not None:
        row = _whole_row(DEALS, details["deal_id"], context)
        ids = _zoho_ids(DEALS, [row], context)
        writer, deal = context.writer("Deals"), {}
        for name, value in row.items():
            spec = writer.spec(name)
            if name in _PARTS.values():
                continue  # the conversion ties them together
            if spec.kind == profiles.REF:
                value = ids.get((spec.target, value))
                if value is None:
                    return None
            deal[spec.api] = writer.payload(name, value, row.get("currency", ""))
        wishes["Deals"] = deal
    return wishes


# -- what the answer comes to ----------------------------------------------------------------------


def modified_at(answer: WriteResult) -> datetime | None:
    found = convert.moment(answer.details.get("Modified_Time"))
    return found if isinstance(found, datetime) else None


def refusals(
    module: Module, work: Work, outcome: results.Outcome, context: WritingContext
) -> tuple[Refusals, list[Work]]:
    """Which entries are refused, and those that go again without them."""
    writer = context.writer(module.name)
    by_api = {}
    if work.kind == outbox.EDIT:
        by_api = {writer.api_name(entry.field): entry for entry in work.entries}
    named = {
        by_api[api].pk: (by_api[api], reason, dict(outcome.details))
        for api, reason in outcome.fields.items()
        if api in by_api
    }
    if not named:
        reason = (outcome.code, outcome.message)
        return {e.pk: (e, reason, dict(outcome.details)) for e in work.entries}, []
    rest = [entry for entry in work.entries if entry.pk not in named]
    waits = [Work(module, work.record_id, work.kind, rest, work.zoho_id)] if rest else []
    return named, waits


def conclude(work: Work, answer: WriteResult, answered_at: datetime) -> None:
    """A creation, deletion or conversion that the CRM has done."""
    if work.kind == outbox.CREATE:
        if answer.id is None:
            reason = ("no_id", "The CRM made the record and did not say which.")
            settle.unknown(work.module, work.entries, until=answered_at, reason=reason)
            return
        with transaction.atomic():
            bind(work.module, work.record_id, answer.id, answered_at)
            settle.finish(work.module, work.entries, answered_at)
    elif work.kind == outbox.DELETE:
        with transaction.atomic():
            pass_gate(work.module.name, 0)
            # Pages that were read before this must not bring it back.
            work.module.model.objects.filter(pk=work.record_id).update(read_at=answered_at)
            drop_edits(work.module, work.record_id, answered_at)
            settle.finish(work.module, work.entries, answered_at)
    else:
        conclude_conversion(work, _id_of(answer.details.get("Deals")), answered_at)


def conclude_conversion(work: Work, deal_zoho_id: int | None, now: datetime) -> None:
    deal_id = work.entries[0].details.get("deal_id")
    if deal_id is not None and deal_zoho_id is not None:
        bind(DEALS, deal_id, deal_zoho_id, now)
    settle.finish(LEADS, work.entries, now)


def bind(module: Module, pk: int, zoho_id: int, now: datetime) -> None:
    """Our record is that one of the CRM."""
    with transaction.atomic():
        seq = pass_gate(module.name, 1)
        changed = module.model.objects.filter(pk=pk, zoho_id__isnull=True).update(
            zoho_id=zoho_id, change_seq=seq + 1, updated_at=now
        )
        if changed:
            announce(module, [pk])


def unseen_before(works: Sequence[Work]) -> datetime:
    """A time by the CRM's clock, however wrong ours is, at which it had none of these."""
    return min(entry.created_at for work in works for entry in work.entries) - CLOCKS_DIFFER


def _id_of(value: Any) -> int | None:
    return convert.record_id(value.get("id")) if isinstance(value, dict) else None
