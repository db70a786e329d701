"""What a sync would change, without storing anything and without the lease.

Each page goes through the real store inside a transaction that is rolled back, so the counts are
those that a run would make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from crm.errors import NotSynced
from crm.models import ChangeEvent
from crm.sync import deletions, metadata, modules, runs, watermark
from crm.sync.context import SyncContext
from crm.sync.modules import Module
from crm.sync.page import Counts
from crm.sync.reading import (
    NO_QUERIES,
    ONE_MODULE,
    Batch,
    RangeReader,
    read_by_id,
    read_changed,
    read_changed_by_pages,
)
from crm.sync.store import Store
from crm.zoho.client import ZohoClient
from crm.zoho.factory import client_from_settings

EXAMPLES = 5


@dataclass
class Preview:
    """Per module: counts, ids that would be marked deleted, and a few of the changes."""

    counts: dict[str, Counts] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        for name, counts in self.counts.items():
            yield (
                f"{name}: {counts.seen} read; would make {counts.created} new, change "
                f"{counts.updated}, leave {counts.unchanged}, set {counts.failed} aside, "
                f"mark {counts.deleted} deleted"
            )
        for name, why in self.refused.items():
            yield f"{name}: would not be read. {why}"
        yield from self.examples
        yield "Dry run: nothing was stored."


def preview(kind: str, module_names: Sequence[str], *, since: datetime | None) -> Preview:
    """Read as a run would and roll every page back. Raises the client's errors, and
    OtherOrganisation as a run would."""
    chosen = [m for m in modules.ORDER if not module_names or m.name in module_names]
    result = Preview()
    client = client_from_settings()
    context = SyncContext(timezone.now())
    try:
        metadata.check_organisation(client)
        for module in chosen:
            try:
                result.counts[module.name] = _module(client, context, module, kind, since, result)
            except ONE_MODULE as error:
                result.refused[module.name] = error.message
    finally:
        client.close()
    return result


def _module(
    client: ZohoClient,
    context: SyncContext,
    module: Module,
    kind: str,
    since: datetime | None,
    result: Preview,
) -> Counts:
    total = Counts()
    mark = since or watermark.watermark_of(module.name)
    is_full = kind == runs.FULL or mark is None
    if is_full and since is not None:
        raise NotSynced("A delta needs a first full sync: run sync_zoho --full.")
    fields = context.api_names(module.name)
    store = Store(module, context.mapper(module.name), source=kind, deriver=context.deriver)
    start = since or (watermark.read_from(mark) if mark else None)
    gone: list[int] = []
    for batch in _batches(client, module, fields, None if is_full else start):
        counts = _rolled_back(store, batch, result)
        gone += counts.gone_ids
        for name in runs.COUNTERS:
            setattr(total, name, getattr(total, name) + getattr(counts, name))
    if not is_full:
        gone = [row.zoho_id for row in deletions.deleted_since(client, module, start)]
    live = deletions.live_ids(module, gone)
    total.deleted = sum(
        len(verdict.gone) for verdict in deletions.verify(client, module, fields, live)
    )
    return total


def _batches(
    client: ZohoClient, module: Module, fields: list[str], since: datetime | None
) -> Iterator[Batch]:
    """By queries where they may be used, else by pages, as a run would."""
    clock, is_begun = timezone.now, False
    if not module.converted:
        try:
            for batch in (
                RangeReader(client, module, fields, workers=4, clock=clock).batches()
                if since is None
                else read_changed(client, module, fields, since=since, clock=clock)
            ):
                is_begun = True
                yield batch
            return
        except NO_QUERIES:
            if is_begun:
                raise
    if since is None:
        yield from read_by_id(client, module, fields, clock=clock)
    else:
        yield from read_changed_by_pages(client, module, fields, since=since, clock=clock)


def _rolled_back(store: Store, batch: Batch, result: Preview) -> Counts:
    with transaction.atomic():
        before = ChangeEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        counts = store.store(batch.records, read_at=batch.read_at, id_span=batch.id_span)
        wanted = EXAMPLES - len(result.examples)
        if wanted > 0:
            changes = ChangeEvent.objects.filter(pk__gt=before, kind=ChangeEvent.CHANGED)
            result.examples += [
                f"  {event.module} {event.record_id} {event.field}: {event.old} → {event.new}"
                for event in changes[:wanted]
            ]
        transaction.set_rollback(True)
    store.references.forget()
    return counts
