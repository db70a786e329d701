"""What people decide about a change on its way: ours or theirs, try again, dismiss, undo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from crm.errors import EditConflict, NotInConflict
from crm.models import OutboxEntry, outbox
from crm.sync.modules import BY_NAME
from crm.writeback import money
from crm.writeback.conflicts import same
from crm.writeback.context import WritingContext
from crm.writeback.local import LOCAL, LocalRows
from crm.writeback.outbox import Kept, delete, edit, send_beside, wake
from crm.writeback.settle import known_there, last_read, take_back_deal

OURS, THEIRS = "ours", "theirs"
# A restored record comes back with its old time, so that no delta need tell it.
RESTORE_THERE = (
    "The CRM has deleted this record. Restore it there, in Setup → Data Administration → Recycle "
    "Bin, within 60 days; it is here again after the next nightly check, or a full sync."
)


def resolve(entry_id: int, keep: str, *, by: Any, now: datetime) -> OutboxEntry:
    """Decide a conflict. *ours*: it is sent over what the CRM has, unless that changes again.
    *theirs*: the row takes the CRM's value and nothing is sent.

    Raises NotInConflict if it is none, or none any more; ValueError for another word.
    """
    if keep not in (OURS, THEIRS):
        raise ValueError(f"keep ours or theirs, not {keep!r}")
    found = OutboxEntry.objects.get(pk=entry_id)
    context = WritingContext(now)
    with transaction.atomic():
        rows = _rows(found, context, by, now)
        entry = OutboxEntry.objects.get(pk=entry_id)
        if entry.status != outbox.CONFLICT:
            raise NotInConflict("This is not in conflict any more; look at the record as it is.")
        # An amount and its currency are decided together.
        decided = [entry, *_conflicts_beside(entry, rows)]
        theirs: dict[str, Any] = {}
        for each in decided:
            each.decided_by = by
            if keep == OURS:
                _keep_ours(each, by, now)
            else:
                theirs |= (
                    json.loads(each.theirs or "{}")
                    if each.kind == outbox.DELETE
                    else (money.theirs_of(each))
                )
                each.status, each.settled_at = outbox.WITHDRAWN, now
                each.save()
        if keep == THEIRS:
            _take(rows, entry, theirs)
        rows.save()
        if keep == OURS:
            wake([entry])
    return entry


def _conflicts_beside(entry: OutboxEntry, rows: LocalRows) -> list[OutboxEntry]:
    pair = {money.CURRENCY, *rows.mapper.money_columns}
    if entry.kind != outbox.EDIT or entry.field not in pair:
        return []
    beside = OutboxEntry.objects.filter(
        module=entry.module,
        record_id=entry.record_id,
        kind=outbox.EDIT,
        field__in=pair,
        status=outbox.CONFLICT,
    )
    return list(beside.exclude(pk=entry.pk))


def _keep_ours(entry: OutboxEntry, by: Any, now: datetime) -> None:
    """It is sent over what the CRM has, with what belongs to it."""
    if entry.kind == outbox.DELETE:
        base = json.loads(entry.base or "{}")
        entry.base = json.dumps({**base, **(entry.theirs_value or {})})
        entry.theirs = None
    else:
        send_beside(entry, by, now)
    entry.status, entry.next_attempt_at, entry.attempts = outbox.PENDING, now, 0
    entry.save()


def _take(rows: LocalRows, entry: OutboxEntry, values: Mapping[str, Any]) -> None:
    """The row as the CRM has it, by column."""
    pk = entry.record_id
    if entry.kind == outbox.DELETE:
        rows.restore(pk)
    held = OutboxEntry.objects.filter(
        module=entry.module, record_id=pk, kind=outbox.EDIT, status__in=outbox.OPEN
    )
    kept = set(held.values_list("field", flat=True))
    wanted = {name: value for name, value in values.items() if name not in kept}
    rows.put(pk, rows.values_of([pk])[pk], wanted)


def try_again(entry_id: int, *, by: Any, now: datetime) -> OutboxEntry:
    """A dead letter goes back in line; a refused change is made once more, by who asks for it.

    Raises NotInConflict where there is nothing to try again, and what `edit` raises.
    """
    entry = OutboxEntry.objects.get(pk=entry_id)
    if entry.status == outbox.REFUSED and entry.kind == outbox.EDIT:
        record = BY_NAME[entry.module].model.objects.get(pk=entry.record_id)
        edit(record, {entry.field: json.loads(entry.new or "null")}, author=by, now=now)
        entry.refresh_from_db()
        return entry
    with transaction.atomic():
        changed = OutboxEntry.objects.filter(
            pk=entry_id, status__in=(outbox.DEAD, outbox.PENDING, outbox.UNKNOWN)
        ).update(next_attempt_at=now, decided_by=by, attempts=0, deaths=0)
        if not changed:
            raise NotInConflict("There is nothing to try again here.")
        OutboxEntry.objects.filter(pk=entry_id, status=outbox.DEAD).update(status=outbox.PENDING)
        entry.refresh_from_db()
        wake([entry])
    return entry


def dismiss(entry_id: int, *, by: Any, now: datetime) -> OutboxEntry:
    """A draft is put away; of a dead letter the row takes the CRM's value again.

    Raises NotInConflict for one that is on its way.
    """
    found = OutboxEntry.objects.get(pk=entry_id)
    context = WritingContext(now)
    with transaction.atomic():
        rows = _rows(found, context, by, now)
        entry = OutboxEntry.objects.get(pk=entry_id)
        if entry.status not in (outbox.REFUSED, outbox.DEAD):
            raise NotInConflict("Only what was refused or given up can be dismissed.")
        was_dead = entry.status == outbox.DEAD
        if was_dead and entry.kind == outbox.CREATE and entry.has_left:
            return _delete_wherever_it_is(entry, by=by, now=now, context=context)
        entry.status, entry.settled_at, entry.decided_by = outbox.DISMISSED, now, by
        entry.save()
        if was_dead and entry.kind == outbox.EDIT:
            _take(rows, entry, known_there(entry, rows))
        elif was_dead and entry.kind == outbox.DELETE:
            _take(rows, entry, last_read(entry))
        elif was_dead and entry.kind == outbox.CREATE:
            rows.mark_deleted(entry.record_id, by.get_username() if by else "")
        elif was_dead:
            _take(rows, entry, {entry.field: False})
            take_back_deal(entry, context, now)
        rows.save()
    return entry


def _delete_wherever_it_is(
    entry: OutboxEntry, *, by: Any, now: datetime, context: WritingContext
) -> OutboxEntry:
    """A creation that was sent may be in the CRM, whatever was heard of it: it is looked for, and
    what is found is deleted there."""
    record = BY_NAME[entry.module].model.objects.get(pk=entry.record_id)
    delete(record, author=by, now=now, context=context)
    OutboxEntry.objects.filter(pk=entry.pk).update(decided_by=by)
    entry.refresh_from_db()
    return entry


def undo(entry_id: int, *, by: Any, now: datetime) -> Kept:
    """Take a change back that was sent: a change to what it was before, sent like any other.

    Raises NotInConflict if it was not sent, EditConflict if the value is another by now.
    """
    entry = OutboxEntry.objects.get(pk=entry_id)
    if entry.kind == outbox.DELETE and entry.sent_at is not None:
        raise NotInConflict(RESTORE_THERE)
    if entry.kind != outbox.EDIT or entry.sent_at is None:
        raise NotInConflict("Only a change that was sent can be undone.")
    module = BY_NAME[entry.module]
    context = WritingContext(now)
    with transaction.atomic():
        rows = _rows(entry, context, by, now)
        (values,) = rows.values_of([entry.record_id]).values()
        shown = values[rows.mapper.index[entry.field]]
        if not same(json.loads(entry.new or "null"), shown):
            raise EditConflict("This field was changed again since; undoing would lose that.")
        record = module.model.objects.get(pk=entry.record_id)
        return edit(
            record,
            {entry.field: json.loads(entry.base or "null")},
            author=by,
            now=now,
            context=context,
            undoes=entry,
        )


def _rows(entry: OutboxEntry, context: WritingContext, by: Any, now: datetime) -> LocalRows:
    return LocalRows(
        BY_NAME[entry.module],
        context,
        source=LOCAL,
        author_id=by.pk if by is not None else None,
        now=now,
        most=4,
    )
