"""What would be sent, and what it would cost; nothing is asked of the CRM and nothing changes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from crm.models import OutboxEntry, outbox
from crm.sync.modules import ORDER, Module
from crm.writeback.answers import IDS_A_READING
from crm.writeback.claims import Work, due_works
from crm.writeback.context import WritingContext
from crm.writeback.rows_out import ROWS_A_CALL, checked, prepare
from crm.zoho.v8 import plain

ROWS_A_CREDIT, CONVERT_CREDITS = 10, 5
MOST = 1000


@dataclass
class PreviewRow:
    """One record: what the call would carry (`payload`), as the CRM is sent it, and the entries
    that this comes from. `why_not`: this would be refused or has to wait."""

    module: str
    record_id: int
    zoho_id: int | None
    kind: str
    payload: dict[str, Any]
    why_not: str = ""
    entries: list[OutboxEntry] = field(default_factory=list)


@dataclass
class Preview:
    """`credits` are what the calls cost, by the CRM's price list. `is_whole` False: there is more
    than is shown."""

    rows: list[PreviewRow] = field(default_factory=list)
    calls: int = 0
    credits: int = 0
    is_whole: bool = True


def preview(now: datetime, *, most: int = MOST) -> Preview:
    """The next `most` records of each module, in the order in which they would go."""
    context, found = WritingContext(now), Preview()
    for module in ORDER:
        works = due_works(module, now=now, most=most + 1)
        found.is_whole = found.is_whole and len(works) <= most
        sendable: dict[str, int] = defaultdict(int)
        for row in _rows_of(module, works[:most], context, now):
            found.rows.append(row)
            sendable[row.kind] += not row.why_not
        _add_cost(found, sendable)
    return found


def _rows_of(
    module: Module, works: list[Work], context: WritingContext, now: datetime
) -> Iterator[PreviewRow]:
    fit: dict[str, list[Work]] = defaultdict(list)
    for work, refused in checked(module, works, now):
        for entry, (_, why), _ in refused.values():
            payload = {entry.field: json.loads(entry.new or "null")}
            yield _row(work, payload, why, [entry])
        if work.entries:
            fit[work.kind].append(work)
    for kind, some in fit.items():
        prepared = prepare(module, kind, some, context)
        for work in prepared.works:
            payload = prepared.rows.get(work.record_id) or dict(
                prepared.fields[entry.pk] for entry in work.entries if entry.pk in prepared.fields
            )
            yield _row(work, plain(payload))
        for work in prepared.not_ready:
            yield _row(work, {}, "A record that it refers to is not in the CRM yet.")


def _row(
    work: Work, payload: dict[str, Any], why_not: str = "", entries: list[OutboxEntry] | None = None
) -> PreviewRow:
    return PreviewRow(
        work.module.name,
        work.record_id,
        work.zoho_id,
        work.kind,
        payload,
        why_not,
        list(work.entries if entries is None else entries),
    )


def _add_cost(found: Preview, sendable: dict[str, int]) -> None:
    """Reading costs one a call; writing one for every ten records of a call."""
    read = sum(count for kind, count in sendable.items() if kind != outbox.CREATE)
    readings = -(-read // IDS_A_READING)
    found.calls += readings
    found.credits += readings
    for kind, count in sendable.items():
        if kind == outbox.CONVERT:
            found.calls += count
            found.credits += count * CONVERT_CREDITS
            continue
        for at in range(0, count, ROWS_A_CALL):
            rows = min(ROWS_A_CALL, count - at)
            found.calls += 1
            found.credits += -(-rows // ROWS_A_CREDIT)
