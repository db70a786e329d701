"""Changes made here: the row takes our value, the event is told, the outbox keeps what is to go.

All three in the caller's transaction. What may be changed by whom is asked before, by pages and
API; whether the CRM can take it (mapped, writable, fitting) is asked here. Sending is `send.py`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from crm import failpoints
from crm.errors import CreateNotPossible, EditConflict, FieldsRefused, RecordGone
from crm.mapping import profiles
from crm.mapping.apply import canonical
from crm.mapping.payload import Unfit
from crm.models import MirroredRecord, OutboxEntry, outbox
from crm.sync.batch import encode
from crm.sync.modules import BY_NAME, DEALS, LEADS, Module
from crm.writeback import money
from crm.writeback.conflicts import same
from crm.writeback.context import WritingContext, module_of
from crm.writeback.echoes import KEY_PREFIX
from crm.writeback.local import LOCAL, LocalRows

STALE = (
    "Somebody changed this record after you opened it. Look at it as it is now, then edit again."
)
EXTERNAL_ID = "external_id"


@dataclass
class Kept:
    """What became of an edit: `changed` columns, and the entries that wait to be sent."""

    record_id: int
    changed: list[str] = field(default_factory=list)
    entries: list[OutboxEntry] = field(default_factory=list)


def edit(
    record: MirroredRecord,
    changes: Mapping[str, Any],
    *,
    author: Any,
    now: datetime,
    expected_version: int | None = None,
    context: WritingContext | None = None,
    undoes: OutboxEntry | None = None,
) -> Kept:
    """Give a record our values, by column: text, whole numbers, booleans, dates (or ISO text),
    money in minor units, references as our primary keys; None clears.

    `author` None: a rule. `expected_version` is the `change_seq` that the editor saw. Raises
    FieldsRefused (each field with its reason; nothing is kept), EditConflict, RecordGone.
    """
    module, context = module_of(record), context or WritingContext(now)
    with transaction.atomic():
        rows = _open_rows(module, context, author, now)
        state = _state_of(module, record.pk)
        if expected_version is not None and state["change_seq"] != expected_version:
            raise EditConflict(STALE)
        before = rows.values_of([record.pk])[record.pk]
        wanted = _fitting(
            module, context, changes, dict(zip(rows.layout.mapped, before, strict=True))
        )
        held = _open_entries(module, record.pk)
        _refuse_while_leaving(held)
        changed = rows.put(record.pk, before, wanted)
        was = dict(zip(rows.layout.mapped, before, strict=True))
        becomes = {**was, **{name: new for name, (_, new) in changed.items()}}
        rows.save()
        failpoints.pass_by("outbox.between_writes")
        kept = Kept(record.pk, sorted(changed))
        creation = next((e for e in held if e.kind == outbox.CREATE), None)
        if creation is not None and creation.status in outbox.WAITING:
            _go_again(creation, now)  # it sends the record as it is by then
        else:
            for name in (name for name in wanted if name in changed):
                details = money.details_of(rows.mapper, name, was, becomes)
                entry = _keep_change(
                    module, record.pk, name, changed[name], held, author, now, details
                )
                if entry is not None:
                    entry.undoes = undoes
                    entry.save()
                    kept.entries.append(entry)
            for waiting in money.in_new_currency(held, changed, wanted):
                waiting.save(update_fields=["new", "details"])
        failpoints.pass_by("outbox.before_commit")
        wake(kept.entries or changed)
    return kept


def create(
    module: Module,
    values: Mapping[str, Any],
    *,
    author: Any,
    now: datetime,
    context: WritingContext | None = None,
) -> Kept:
    """A record that the CRM gets from here, once: by its external id. Raises FieldsRefused,
    CreateNotPossible where the CRM has no such field."""
    context = context or WritingContext(now)
    raise_if_cannot_create(module, context)
    with transaction.atomic():
        rows = _open_rows(module, context, author, now)
        wanted = _fitting(module, context, values, dict(values))
        pk = rows.add({**wanted, EXTERNAL_ID: _new_external_id()})
        rows.save()
        failpoints.pass_by("outbox.between_writes")
        entry = _entry(module, pk, outbox.CREATE, "", author, now)
        entry.save()
        failpoints.pass_by("outbox.before_commit")
        wake([entry])
    return Kept(pk, sorted(wanted), [entry])


def delete(
    record: MirroredRecord,
    *,
    author: Any,
    now: datetime,
    expected_version: int | None = None,
    context: WritingContext | None = None,
) -> Kept:
    """Delete here at once, in the CRM (its recycle bin) when it is sent; undone if it refuses.

    Raises EditConflict, RecordGone.
    """
    module, context = module_of(record), context or WritingContext(now)
    with transaction.atomic():
        rows = _open_rows(module, context, author, now)
        state = _state_of(module, record.pk)
        if expected_version is not None and state["change_seq"] != expected_version:
            raise EditConflict(STALE)
        held = _open_entries(module, record.pk)
        _refuse_while_leaving(held)
        (values,) = rows.values_of([record.pk]).values()
        before = dict(zip(rows.layout.mapped, values, strict=True))
        rows.mark_deleted(record.pk, _name_of(author))
        rows.save()
        failpoints.pass_by("outbox.between_writes")
        creation = next((e for e in held if e.kind == outbox.CREATE), None)
        if creation is not None and creation.status in outbox.WAITING:
            if not creation.has_left:
                _close(held, outbox.WITHDRAWN, now)  # the CRM never heard of it
                return Kept(record.pk)
            # It may have arrived: the sender looks for it, and what it finds is deleted.
            _go_again(creation, now)
        base = {name: canonical(value) for name, value in before.items()}
        for held_entry in reversed(held):
            if held_entry.kind == outbox.EDIT and held_entry.status != outbox.SENT:
                base[held_entry.field] = json.loads(held_entry.base or "null")
        entry = _entry(module, record.pk, outbox.DELETE, "", author, now)
        entry.base = json.dumps(base)
        entry.save()
        failpoints.pass_by("outbox.before_commit")
        wake([entry])
    return Kept(record.pk, [], [entry])


def convert(
    lead: MirroredRecord,
    *,
    deal: Mapping[str, Any] | None,
    account_id: int | None = None,
    contact_id: int | None = None,
    author: Any,
    now: datetime,
    context: WritingContext | None = None,
) -> Kept:
    """Convert a lead here and in the CRM: into these records (our primary keys) or new ones, with
    this deal (columns as in `create`) or none. `record_id` of what is returned is the deal's, or
    the lead's without one.

    Account and contact that the CRM makes appear here with its answer; the deal at once.
    Raises FieldsRefused, RecordGone, CreateNotPossible.
    """
    context = context or WritingContext(now)
    if deal is not None:
        raise_if_cannot_create(DEALS, context)
    with transaction.atomic():
        _state_of(LEADS, lead.pk)
        leads = _open_rows(LEADS, context, author, now)
        held = _open_entries(LEADS, lead.pk)
        _refuse_while_leaving(held)
        before = leads.values_of([lead.pk])[lead.pk]
        if before[leads.mapper.index["is_converted"]]:
            raise EditConflict("This lead is converted already.")
        details: dict[str, Any] = {"account_id": account_id, "contact_id": contact_id}
        if deal is not None:
            deals = _open_rows(DEALS, context, author, now)
            wanted = _fitting(DEALS, context, deal, dict(deal))
            parts = {"account_id": account_id, "contact_id": contact_id}
            parts = {name: pk for name, pk in parts.items() if pk is not None}
            own = {**parts, **wanted, EXTERNAL_ID: _new_external_id()}
            details["deal_id"] = deals.add(own)
            deals.save()
        leads.put(lead.pk, before, {"is_converted": True})
        leads.save()
        failpoints.pass_by("outbox.between_writes")
        entry = _entry(LEADS, lead.pk, outbox.CONVERT, "is_converted", author, now)
        entry.base, entry.new, entry.details = "false", "true", details
        entry.save()
        wake([entry])
    return Kept(details.get("deal_id", lead.pk), ["is_converted"], [entry])


def raise_if_cannot_create(module: Module, context: WritingContext) -> None:
    """CreateNotPossible, with the step that makes it possible."""
    specs = [spec for spec in context.specs(module.name) if spec.ours == EXTERNAL_ID]
    mapped = profiles.builtin_mapping(module.name, context.profile)
    api = next((spec.api for spec in specs or mapped if spec.ours == EXTERNAL_ID), "")
    if not api:
        raise CreateNotPossible(
            f"{module.name} are made in the CRM; only deals are made from here."
        )
    how = (
        f"In the CRM: Setup → Modules and Fields → {module.name}, add a single-line text field "
        f"with the API name {api}, tick “Do not allow duplicate values”, then start a full sync."
    )
    if not specs:
        raise CreateNotPossible(f"Creating {module.label} from here needs a field {api}. {how}")
    fact = context.writer(module.name).fact(EXTERNAL_ID)
    if fact.data_type and not fact.is_unique:
        raise CreateNotPossible(
            f"The CRM's field {api} allows duplicates, so a lost answer could make a second record."
            f" {how}"
        )


# -- inside ----------------------------------------------------------------------------------------


def _open_rows(module: Module, context: WritingContext, author: Any, now: datetime) -> LocalRows:
    return LocalRows(
        module,
        context,
        source=LOCAL,
        author_id=author.pk if author is not None else None,
        now=now,
        most=4,
    )


def _state_of(module: Module, pk: int) -> dict[str, Any]:
    """What must hold for a record to be changed. Raises RecordGone."""
    found = module.model.objects.live().filter(pk=pk).values("change_seq", "zoho_id").first()
    if found is None:
        raise RecordGone("This record is deleted; it cannot be changed any more.")
    return found


def _fitting(
    module: Module, context: WritingContext, changes: Mapping[str, Any], row: Mapping[str, Any]
) -> dict[str, Any]:
    """The changes in canonical form. Raises FieldsRefused naming every field that is wrong."""
    writer, refused, wanted = context.writer(module.name), {}, {}
    currency = changes.get("currency") or row.get("currency") or context.home_currency
    for name, value in changes.items():
        why = writer.why_not_writable(name)
        if not why:
            try:
                wanted[name] = writer.canonical(name, value, currency)
                why = _why_no_record(writer.spec(name).target, wanted[name])
            except Unfit as unfit:
                why = str(unfit)
        if why:
            refused[name] = why
    if refused:
        raise FieldsRefused(refused)
    return wanted


def _why_no_record(target: str, pk: Any) -> str:
    if not target or pk is None:
        return ""
    if target == "Users":
        from crm.models import CrmUser

        found = CrmUser.objects.filter(pk=pk).exists()
    else:
        found = BY_NAME[target].model.objects.filter(pk=pk, deleted_at__isnull=True).exists()
    return "" if found else "There is no such record."


def _open_entries(module: Module, pk: int) -> list[OutboxEntry]:
    return list(
        OutboxEntry.objects.filter(
            Q(status__in=outbox.OPEN), module=module.name, record_id=pk
        ).order_by("id")
    )


def _refuse_while_leaving(held: Iterable[OutboxEntry]) -> None:
    if any(entry.kind == outbox.DELETE for entry in held):
        raise RecordGone("This record is being deleted; it cannot be changed any more.")
    if any(entry.kind == outbox.CONVERT for entry in held):
        raise RecordGone("This lead is being converted; it cannot be changed any more.")


def _keep_change(
    module: Module,
    pk: int,
    name: str,
    values: tuple[Any, Any],
    held: Iterable[OutboxEntry],
    author: Any,
    now: datetime,
    details: Mapping[str, Any],
) -> OutboxEntry | None:
    """The entry that carries this change: the one that waits already, or a new one.

    None if it folds back to where it began: nothing is to be sent.
    """
    old, new = (canonical(value) for value in values)
    drafts = OutboxEntry.objects.filter(
        module=module.name, record_id=pk, field=name, status=outbox.REFUSED
    )
    drafts.update(status=outbox.DISMISSED)  # the new edit is what its author wants now
    chain = [e for e in held if e.kind == outbox.EDIT and e.field == name]
    waiting = next((e for e in chain if e.status in outbox.WAITING), None)
    if waiting is None:
        entry = _entry(module, pk, outbox.EDIT, name, author, now)
        entry.base, entry.new, entry.details = encode(old), encode(new), dict(details)
        return entry
    details = money.folded(waiting, details)
    if waiting.status == outbox.CONFLICT:
        is_back = money.is_theirs(waiting, new, details)
    else:
        is_back = same(money.base_in(waiting, details.get(money.NEW_CURRENCY, "")), new)
    if is_back:
        _close([waiting], outbox.WITHDRAWN, now)
        return None
    if waiting.status == outbox.DEAD:
        waiting.status, waiting.attempts, waiting.deaths = outbox.PENDING, 0, 0
    waiting.new, waiting.details, waiting.next_attempt_at = encode(new), dict(details), now
    waiting.author, waiting.author_name = author, _name_of(author)
    waiting.code = waiting.message = ""
    return waiting


def send_beside(entry: OutboxEntry, author: Any, now: datetime) -> None:
    """A change in conflict stays ours: what belongs to it goes with it over what the CRM has,
    unless a change of that waits already. Inside a transaction."""
    beside = money.rebase(entry)
    held = _open_entries(BY_NAME[entry.module], entry.record_id) if beside else []
    taken = {e.field for e in held if e.kind == outbox.EDIT}
    for name, (base, new, details) in beside.items():
        if name not in taken:
            other = _entry(BY_NAME[entry.module], entry.record_id, outbox.EDIT, name, author, now)
            other.base, other.new, other.details = encode(base), encode(new), details
            other.save()


def _go_again(creation: OutboxEntry, now: datetime) -> None:
    """A creation that the CRM had refused is tried again once the record was mended."""
    if creation.status == outbox.DEAD:
        creation.status, creation.attempts, creation.deaths = outbox.PENDING, 0, 0
        creation.code = creation.message = ""
    creation.next_attempt_at = now
    creation.save()


def _entry(
    module: Module, pk: int, kind: str, name: str, author: Any, now: datetime
) -> OutboxEntry:
    return OutboxEntry(
        module=module.name,
        record_id=pk,
        kind=kind,
        field=name,
        author=author,
        author_name=_name_of(author),
        created_at=now,
        next_attempt_at=now,
    )


def _close(entries: Iterable[OutboxEntry], status: str, now: datetime) -> None:
    pks = [entry.pk for entry in entries]
    OutboxEntry.objects.filter(pk__in=pks).update(status=status, settled_at=now)


def _name_of(author: Any) -> str:
    return "" if author is None else (author.get_full_name() or author.get_username())[:255]


def _new_external_id() -> str:
    return f"{KEY_PREFIX}{uuid.uuid4()}"


def wake(entries: Any) -> None:
    """After commit, a nudge; if it is lost the sweeper finds what waits."""
    if entries:
        from crm.tasks import nudge, send_changes

        transaction.on_commit(lambda: nudge(send_changes))
