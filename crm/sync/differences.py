"""Both sides of a record: what the CRM sent, what our tables hold, and what to call a difference.

A row is a tuple of created, modified and read times, our key, and what is compared from `FIRST` on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from crm.mapping.apply import Mapped, Unusable
from crm.models import MirrorDifference, OutboxEntry, Reconciliation, outbox
from crm.sync.compare import Fields
from crm.sync.modules import Module
from crm.writeback import echoes
from crm.zoho.client import RawRecord

_MONEY = {"amount_minor", "given_sgd_minor"}
FIRST = 4


def mapped_of(fields: Fields, records: Sequence[RawRecord]) -> dict[int, Mapped]:
    found = {}
    for record in records:
        try:
            mapped = fields.mapper.apply(record.value)
        except Unusable:
            continue  # the full sync keeps it aside
        found[mapped.zoho_id] = mapped
    return found


def rows_of(
    module: Module, fields: Fields, span: tuple[int, int | None] | Sequence[int]
) -> dict[int, tuple]:
    """Live rows by the CRM's id: (created, modified, read, our key, then what is compared)."""
    rows = module.model.objects.live().filter(is_stub=False)
    if isinstance(span, tuple):
        rows = rows.filter(zoho_id__gt=span[0])
        if span[1] is not None:
            rows = rows.filter(zoho_id__lte=span[1])
    else:
        rows = rows.filter(zoho_id__in=list(span))
    columns = ("crm_created_at", "crm_modified_at", "read_at", "pk", *fields.paths)
    return {row[0]: row[1:] for row in rows.values_list("zoho_id", *columns).iterator(5_000)}


def held_by_us(module: Module, rows: dict[int, tuple]) -> defaultdict[int, set[str]]:
    """By the CRM's id, our fields that show a change of ours on its way to the CRM."""
    held: defaultdict[int, set[str]] = defaultdict(set)
    if not echoes.has_open(module.name):
        return held
    by_pk = {row[3]: zoho_id for zoho_id, row in rows.items()}
    entries = OutboxEntry.objects.filter(
        module=module.name, status__in=outbox.OPEN, record_id__in=list(by_pk)
    )
    for pk, name in entries.values_list("record_id", "field"):
        # Amounts are told in the decimals of the currency.
        held[by_pk[pk]].update({name, *(_MONEY if name == "currency" else ())})
    return held


def leaving(module: Module) -> set[int]:
    """The CRM's ids of records whose deletion here is on its way there."""
    deleted = OutboxEntry.objects.filter(
        module=module.name, kind=outbox.DELETE, status__in=outbox.OPEN
    )
    rows = module.model.objects.filter(pk__in=deleted.values("record_id"), zoho_id__isnull=False)
    return set(rows.values_list("zoho_id", flat=True))


def is_younger(row: tuple, read_at: datetime) -> bool:
    """Stored after the page was read, by a notice or a delta in between."""
    return row[2] is not None and row[2] >= read_at


def judge(
    fields: Fields, theirs: Mapped, row: tuple, ours: set[str]
) -> tuple[str, dict[str, list[Any]]]:
    """The kind of a difference, or nothing. `ours`: fields that hold a change of ours."""
    told = fields.differing(theirs, row[FIRST:])
    told = {name: values for name, values in told.items() if name not in ours}
    if theirs.modified_at is not None and theirs.modified_at != row[1]:
        return MirrorDifference.STALE, told
    return (MirrorDifference.DRIFT if told else ""), told


def money_of(fields: Fields, values: Sequence[Any]) -> tuple[str, int | None]:
    index = fields.mapper.index
    if "amount_minor" not in index or "currency" not in index:
        return "", None
    minor, currency = values[index["amount_minor"]], values[index["currency"]]
    return (currency if isinstance(currency, str) else ""), (
        minor if isinstance(minor, int) else None
    )


def difference(
    result: Reconciliation, module: Module, zoho_id: int, kind: str, told: dict[str, list[Any]]
) -> MirrorDifference:
    return MirrorDifference(
        reconciliation=result, module=module.name, zoho_id=zoho_id, kind=kind, fields=told
    )
