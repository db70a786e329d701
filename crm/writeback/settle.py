"""What the outcome of sending comes to: sent, wait, unknown, refused, given up.

Each function is one transaction behind the module's gate and moves only entries that are still
where the sender left them; what a page settled meanwhile stays settled.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from crm import failpoints
from crm.models import OutboxEntry, outbox
from crm.sync.bulk_write import among
from crm.sync.gate import pass_gate
from crm.sync.modules import DEALS, Module
from crm.writeback import claims, money
from crm.writeback.context import WritingContext
from crm.writeback.local import WRITE_BACK, LocalRows

Reason = tuple[str, str]
_MINE = (outbox.READING, outbox.SENDING)
NO_CLAIM = {"claim": "", "claimed_until": None}


def mark_sent(
    module: Module, taken: Sequence[tuple[OutboxEntry, datetime | None]], answered_at: datetime
) -> list[OutboxEntry]:
    """The CRM has taken these, with these Modified_Times. Returns those of which a reading has
    seen another value meanwhile: they are to be read again."""
    by_time: dict[datetime | None, list[int]] = defaultdict(list)
    for entry, modified_at in taken:
        by_time[modified_at].append(entry.pk)
    with transaction.atomic():
        pass_gate(module.name, 0)
        failpoints.pass_by("settle.before_sent")
        for modified_at, pks in by_time.items():
            OutboxEntry.objects.filter(pk__in=among(pks), status=outbox.SENDING).update(
                status=outbox.SENT,
                sent_at=answered_at,
                sent_modified_at=modified_at,
                code="",
                message="",
                **NO_CLAIM,
            )
        # Settled by a page while the answer was on its way.
        every = [pk for pks in by_time.values() for pk in pks]
        told = OutboxEntry.objects.filter(pk__in=among(every))
        told.filter(status=outbox.DONE, sent_at__isnull=True).update(
            sent_at=answered_at, **NO_CLAIM
        )
        return list(told.filter(status=outbox.SENT, theirs__isnull=False))


def finish(module: Module, entries: Sequence[OutboxEntry], now: datetime) -> None:
    """Nothing comes back that would tell it: a creation, a deletion, a conversion is done."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        OutboxEntry.objects.filter(
            pk__in=[e.pk for e in entries], status__in=(*_MINE, outbox.UNKNOWN)
        ).update(status=outbox.DONE, sent_at=now, settled_at=now, code="", message="", **NO_CLAIM)


def wait(
    module: Module,
    entries: Iterable[OutboxEntry],
    *,
    until: datetime,
    reason: Reason,
    uncounted: bool = False,
    only: Sequence[str] = _MINE,
) -> None:
    """Back in line. `uncounted`: it was not the entry's fault, the attempt does not count."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        for entry in _still(entries, only):
            entry.code, entry.message = reason[0][:64], reason[1]
            entry.next_attempt_at = until
            entry.attempts -= bool(uncounted and entry.attempts)
            _back_in_line(entry)


def unknown(
    module: Module, entries: Iterable[OutboxEntry], *, until: datetime, reason: Reason
) -> None:
    """It may have happened: read before anything else."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        OutboxEntry.objects.filter(pk__in=[e.pk for e in entries], status=outbox.SENDING).update(
            status=outbox.UNKNOWN,
            next_attempt_at=until,
            code=reason[0][:64],
            message=reason[1],
            **NO_CLAIM,
        )


def release_lost(module: Module, entries: Iterable[OutboxEntry], now: datetime) -> None:
    """Their worker is dead."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        for entry in _still(entries, _MINE):
            entry.deaths += 1
            entry.next_attempt_at = now
            if entry.deaths >= claims.DEAD_AFTER_DEATHS:
                entry.code, entry.message = claims.DIED_CODE, claims.DIED
                _give_up(entry)
            elif entry.status == outbox.SENDING:
                entry.status, entry.claim, entry.claimed_until = outbox.UNKNOWN, "", None
                entry.save()
            else:
                _back_in_line(entry)


def give_up(module: Module, entries: Iterable[OutboxEntry], reason: Reason) -> None:
    """A dead letter: it stays ours and visible until somebody tries again or dismisses it."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        for entry in _still(entries, _MINE):
            entry.code, entry.message = reason
            _give_up(entry)


def refuse(
    module: Module,
    refused: Mapping[int, tuple[OutboxEntry, Reason, dict[str, Any]]],
    context: WritingContext,
    now: datetime,
) -> None:
    """For good: the CRM's value shows again, ours stays as a draft beside the reason.

    `refused`: by the entry's key. A creation stays here, for its author to mend; a deletion is
    undone; a conversion too, with the deal that it had made here.
    """
    with transaction.atomic():
        rows = LocalRows(
            module,
            context,
            source=WRITE_BACK,
            author_id=None,
            now=now,
            most=2 * len(refused) + 1,
        )
        back: dict[int, dict[str, Any]] = defaultdict(dict)
        for entry in _still([item[0] for item in refused.values()], (*_MINE, outbox.UNKNOWN)):
            _, (code, message), details = refused[entry.pk]
            entry.code, entry.message = code[:64], message
            if entry.kind == outbox.CREATE:
                if _is_leaving(entry):
                    _back_in_line(entry)  # to be looked for; nobody wants it made any more
                else:
                    _give_up(entry)
                continue
            entry.details = {**entry.details, "crm": details} if details else entry.details
            later = _later(entry)
            entry.status, entry.settled_at = outbox.REFUSED, now
            entry.claim, entry.claimed_until = "", None
            entry.save()
            if entry.kind == outbox.DELETE:
                rows.restore(entry.record_id)
                back[entry.record_id] |= last_read(entry)
            elif later is not None:
                money.stand_on(later, entry)
                later.save(update_fields=["base", "details"])
            else:
                back[entry.record_id] |= known_there(entry, rows)
            if entry.kind == outbox.CONVERT:
                take_back_deal(entry, context, now)
        before = rows.values_of(back)
        for pk, values in back.items():
            rows.put(pk, before[pk], values)
        rows.save()


def withdraw_creation(module: Module, work: claims.Work, now: datetime) -> None:
    """The CRM does not have what was made and deleted here: nothing is to be sent of it."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        if _still(work.entries, _MINE):
            OutboxEntry.objects.filter(
                module=module.name, record_id=work.record_id, status__in=outbox.OPEN
            ).update(status=outbox.WITHDRAWN, settled_at=now, **NO_CLAIM)


def withdraw(module: Module, entries: Sequence[OutboxEntry], reason: Reason, now: datetime) -> None:
    """Nothing is to be done in the CRM, and nothing changes here."""
    with transaction.atomic():
        pass_gate(module.name, 0)
        pks = [entry.pk for entry in _still(entries, _MINE)]
        said = {"code": reason[0], "message": reason[1]}
        OutboxEntry.objects.filter(pk__in=pks).update(
            status=outbox.WITHDRAWN, settled_at=now, **said, **NO_CLAIM
        )


def known_there(entry: OutboxEntry, rows: LocalRows) -> dict[str, Any]:
    """What the CRM was last seen to hold of a field that shows the CRM's value again."""
    if entry.theirs is not None:
        return money.theirs_of(entry)
    if entry.field not in rows.mapper.money_columns:
        return {entry.field: entry.base_value}
    values = rows.values_of([entry.record_id])[entry.record_id]
    return {entry.field: money.base_in(entry, values[rows.mapper.index[money.CURRENCY]] or "")}


def last_read(deletion: OutboxEntry) -> dict[str, Any]:
    """What the CRM was last seen to hold, of a record whose deletion is undone: while it waited
    the row took nothing. Fields with a change on its way keep ours."""
    held = OutboxEntry.objects.filter(
        module=deletion.module,
        record_id=deletion.record_id,
        kind=outbox.EDIT,
        status__in=outbox.OPEN,
    )
    ours = set(held.values_list("field", flat=True))
    known = {**json.loads(deletion.base or "{}"), **json.loads(deletion.theirs or "{}")}
    return {name: value for name, value in known.items() if name not in ours}


def take_back_deal(entry: OutboxEntry, context: WritingContext, now: datetime) -> None:
    """A conversion does not happen: the deal that it had made here goes, with its changes."""
    deal_id = entry.details.get("deal_id")
    if deal_id is not None:
        deals = LocalRows(DEALS, context, source=WRITE_BACK, author_id=None, now=now, most=1)
        deals.mark_deleted(deal_id, "")
        deals.save()
        OutboxEntry.objects.filter(
            module=DEALS.name, record_id=deal_id, status__in=outbox.OPEN
        ).update(status=outbox.WITHDRAWN, settled_at=now)


def close_old(now: datetime, *, after: timedelta = timedelta(days=1)) -> int:
    """Sent long ago, and no reading has told it back: nothing is waited for any more."""
    return OutboxEntry.objects.filter(status=outbox.SENT, sent_at__lt=now - after).update(
        status=outbox.DONE, settled_at=now
    )


# -- inside ----------------------------------------------------------------------------------------


def _still(entries: Iterable[OutboxEntry], statuses: Sequence[str]) -> list[OutboxEntry]:
    """As they are now, of those that nobody else has settled; oldest first."""
    claimed = {entry.pk: entry.claim for entry in entries}
    found = OutboxEntry.objects.filter(pk__in=list(claimed), status__in=statuses).order_by("id")
    # A worker that was taken over must not move what is another's by now.
    return [entry for entry in found if entry.claim == claimed[entry.pk]]


def _later(entry: OutboxEntry) -> OutboxEntry | None:
    return (
        OutboxEntry.objects.filter(
            module=entry.module,
            record_id=entry.record_id,
            kind=entry.kind,
            field=entry.field,
            status__in=outbox.WAITING,
        )
        .exclude(pk=entry.pk)
        .first()
    )


def _back_in_line(entry: OutboxEntry) -> None:
    """Waiting again; where a later edit of the field waits already, that one carries both."""
    entry.claim, entry.claimed_until = "", None
    later = _later(entry)
    if later is not None:
        entry.status = outbox.WITHDRAWN
        entry.save()
        money.stand_on(later, entry)
        later.save(update_fields=["base", "details"])
        return
    entry.status = outbox.PENDING
    entry.save()
    if entry.kind == outbox.CREATE:
        # A creation sends the record as it is by then.
        OutboxEntry.objects.filter(
            module=entry.module,
            record_id=entry.record_id,
            kind=outbox.EDIT,
            status__in=outbox.WAITING,
        ).update(status=outbox.WITHDRAWN)


def _is_leaving(creation: OutboxEntry) -> bool:
    return OutboxEntry.objects.filter(
        module=creation.module,
        record_id=creation.record_id,
        kind=outbox.DELETE,
        status__in=outbox.OPEN,
    ).exists()


def _give_up(entry: OutboxEntry) -> None:
    _back_in_line(entry)
    if entry.status == outbox.PENDING:
        entry.status = outbox.DEAD
        entry.save()


def doubled(first: timedelta, attempts: int, cap: timedelta) -> timedelta:
    """Waiting times grow with each attempt."""
    return min(cap, first * 2 ** min(max(attempts - 1, 0), 20))
