"""Records that the CRM no longer has: asked for by id first, then marked, never removed.

Two ways lead here: the CRM's list of deleted records, and ids that a full run did not meet where
they should have been. More at once than is plausible are held for ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from django.utils import timezone

from crm.mapping import convert
from crm.models import DeletionHold
from crm.sync.modules import Module
from crm.zoho.client import RawRecord, ZohoClient

IDS_PER_CALL = 50
# How often a window is read again because records were deleted meanwhile.
MAX_READINGS = 3
UNSTABLE_WINDOW = "Records were deleted while reading; read again next time."


@dataclass(frozen=True)
class Deleted:
    """One row of the CRM's list of deleted records."""

    zoho_id: int
    deleted_at: datetime | None
    deleted_by: str


def deleted_since(client: ZohoClient, module: Module, since: datetime | None) -> Iterator[Deleted]:
    """The CRM's own list; it forgets after 60 (bin) or 120 days (for good)."""
    for page in client.deleted_pages(module.name, since=since, kind="all"):
        for record in page.records:
            value = record.value if isinstance(record.value, dict) else {}
            zoho_id = convert.record_id(value.get("id"))
            if zoho_id is None:
                continue
            when = convert.moment(value.get("deleted_time"))
            by = value.get("deleted_by")
            name = by.get("name") if isinstance(by, dict) else ""
            yield Deleted(
                zoho_id,
                when if isinstance(when, datetime) else None,
                convert.clean_text(str(name or "")),
            )


def may_have_shifted(
    deleted: Sequence[Deleted], s0: datetime | None, known: set[int] | None
) -> bool:
    """Whether a reading by pages may have missed a record: behind each record that goes, the rest
    moves up, and the first of the next page is never shown.

    First reading (`known` is None): any deletion since the run began. Later ones: any that is new
    in the list.
    """
    if known is not None:
        return any(row.zoho_id not in known for row in deleted)
    return any(s0 is None or row.deleted_at is None or row.deleted_at >= s0 for row in deleted)


def marked_since(module: Module, since: datetime) -> list[int]:
    """Records whose deletion the CRM told of, with a time since then."""
    rows = module.model.objects.filter(deleted_at__gte=since, deleted_source="list")
    return list(rows.values_list("zoho_id", flat=True))


def live_ids(module: Module, zoho_ids: Iterable[int]) -> list[int]:
    """Those of the ids that the mirror holds as live."""
    found: list[int] = []
    ids = iter(zoho_ids)
    while chunk := list(islice(ids, 1000)):
        found += (
            module.model.objects.live().filter(zoho_id__in=chunk).values_list("zoho_id", flat=True)
        )
    return found


@dataclass
class Verdict:
    """What asking by id said: `alive` records as the CRM sent them, and the ids it has not."""

    alive: list[RawRecord]
    gone: list[int]
    read_at: datetime


def verify(
    client: ZohoClient, module: Module, fields: Sequence[str], zoho_ids: Sequence[int]
) -> Iterator[Verdict]:
    """Ask for the ids in fifties; one by one where an answer holds a record without readable id."""
    for at in range(0, len(zoho_ids), IDS_PER_CALL):
        chunk = list(zoho_ids[at : at + IDS_PER_CALL])
        verdict, is_readable = _asked(client, module, fields, chunk)
        if is_readable:
            yield verdict
            continue
        yield Verdict(verdict.alive, [], verdict.read_at)
        for zoho_id in verdict.gone:
            single, is_readable = _asked(client, module, fields, [zoho_id])
            if is_readable:
                yield single


def _asked(
    client: ZohoClient, module: Module, fields: Sequence[str], zoho_ids: list[int]
) -> tuple[Verdict, bool]:
    """What the CRM has of these ids. False: some record of the answer could be any of the rest."""
    read_at = timezone.now()
    page = client.by_ids(module.name, zoho_ids, fields, converted=module.converted)
    found = {
        convert.record_id(record.value.get("id")) if isinstance(record.value, dict) else None
        for record in page.records
    }
    gone = [zoho_id for zoho_id in zoho_ids if zoho_id not in found]
    return Verdict(list(page.records), gone, read_at), None not in found


def is_too_many(gone: int, live: int) -> bool:
    """More than max(50, 2 %) of a module at once."""
    return gone > max(50, live // 50)


def hold(module: Module, run_id: int, gone: Sequence[int], live: int) -> DeletionHold:
    """Keep the ids for ops to confirm; one open hold a module, which grows."""
    held, is_new = DeletionHold.objects.get_or_create(
        module=module.name,
        status=DeletionHold.HELD,
        defaults={
            "run_id": run_id,
            "zoho_ids": sorted(gone),
            "live_before": live,
            "held_at": timezone.now(),
        },
    )
    if not is_new:
        held.zoho_ids = sorted({*held.zoho_ids, *gone})
        held.run_id, held.live_before = run_id, live
        held.save(update_fields=["zoho_ids", "run_id", "live_before"])
    return held
