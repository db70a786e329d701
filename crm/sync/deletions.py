"""Records that the CRM no longer has: asked for by id first, then marked, never removed.

Two ways lead here: the CRM's list of deleted records, and ids that a full run did not meet where
they should have been. More at once than is plausible are held for ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from django.db import transaction
from django.utils import timezone

from crm.mapping import convert
from crm.models import DeletionHold
from crm.sync.modules import Module
from crm.sync.reading import id_of
from crm.zoho.client import RawRecord, ZohoClient
from crm.zoho.errors import FixRequest, NotPermitted

IDS_PER_CALL = 50
UNKNOWN_ID = "INVALID_DATA"  # the code with which the CRM may refuse ids that it does not have
# How often a window is read again because records were deleted meanwhile.
MAX_READINGS = 3
# The CRM's machines need not agree to the second on when a run began and a record went.
CLOCK_SLACK = timedelta(minutes=1)
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
    since = s0 - CLOCK_SLACK if s0 is not None else None
    return any(
        since is None or row.deleted_at is None or row.deleted_at >= since for row in deleted
    )


def marked_since(module: Module, since: datetime) -> list[int]:
    """Records whose deletion the CRM told of, with a time since then."""
    told = ("list", "webhook")
    rows = module.model.objects.filter(deleted_at__gte=since, deleted_source__in=told)
    return [zoho_id for zoho_id in rows.values_list("zoho_id", flat=True) if zoho_id is not None]


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
    """What asking by id said: `alive` records as the CRM sent them, the ids it has not, and those
    of which it said nothing that could be understood: they stay as they are."""

    alive: list[RawRecord]
    gone: list[int]
    read_at: datetime
    unclear: list[int] = field(default_factory=list)


def verify(
    client: ZohoClient, module: Module, fields: Sequence[str], zoho_ids: Sequence[int]
) -> Iterator[Verdict]:
    """Ask for the ids in fifties; one by one where such an answer leaves some of them open."""
    for at in range(0, len(zoho_ids), IDS_PER_CALL):
        chunk = list(zoho_ids[at : at + IDS_PER_CALL])
        verdict = _asked_together(client, module, fields, chunk)
        yield replace(verdict, unclear=[])
        for zoho_id in verdict.unclear:
            yield _asked_alone(client, module, zoho_id)


def _asked_together(
    client: ZohoClient, module: Module, fields: Sequence[str], zoho_ids: list[int]
) -> Verdict:
    read_at = timezone.now()
    try:
        page = client.by_ids(module.name, zoho_ids, fields, converted=module.converted)
    except FixRequest as error:
        if error.code != UNKNOWN_ID:
            raise
        return Verdict([], [], read_at, unclear=zoho_ids)
    wanted, found = set(zoho_ids), {id_of(record) for record in page.records}
    alive = [record for record in page.records if id_of(record) in {*wanted, None}]
    rest = [zoho_id for zoho_id in zoho_ids if zoho_id not in found]
    # A record without id may be any of the rest; one that was not asked for, or a page that is not
    # the last, shows that this is no answer to the question.
    if found <= wanted and not page.more:
        return Verdict(alive, rest, read_at)
    return Verdict(alive, [], read_at, unclear=rest)


def _asked_alone(client: ZohoClient, module: Module, zoho_id: int) -> Verdict:
    read_at = timezone.now()
    try:
        record = client.record(module.name, zoho_id)
    except NotPermitted:
        raise
    except FixRequest:
        return Verdict([], [], read_at, unclear=[zoho_id])
    if record is None:
        return Verdict([], [zoho_id], read_at)
    if id_of(record) != zoho_id:
        return Verdict([], [], read_at, unclear=[zoho_id])
    return Verdict([record], [], read_at)


def is_too_many(gone: int, live: int) -> bool:
    """More than max(50, 2 %) of a module at once."""
    return gone > max(50, live // 50)


def hold(
    module: Module,
    run_id: int | None,
    gone: Sequence[int],
    live: int,
    *,
    unasked: Sequence[int] = (),
) -> DeletionHold:
    """Keep the ids for ops to confirm; one open hold a module, which grows.

    `unasked`: missed like the others, but not asked for by id once there were too many anyway.
    A hold that grows counts from now: what was read since it was begun leaves it first.
    """
    now = timezone.now()
    held, is_new = DeletionHold.objects.get_or_create(
        module=module.name,
        status=DeletionHold.HELD,
        defaults={
            "run_id": run_id,
            "zoho_ids": sorted({*gone, *unasked}),
            "unasked_ids": sorted(unasked),
            "live_before": live,
            "held_at": now,
        },
    )
    if not is_new:
        still = {*held.zoho_ids}.difference(_read_since(module, held.zoho_ids, held.held_at))
        asked = still.difference(held.unasked_ids).union(gone)
        held.zoho_ids = sorted({*still, *gone, *unasked})
        held.unasked_ids = sorted({*held.zoho_ids} - asked)
        held.run_id, held.live_before, held.held_at = run_id, live, now
        held.save(update_fields=["zoho_ids", "unasked_ids", "run_id", "live_before", "held_at"])
    return held


def _read_since(module: Module, zoho_ids: Iterable[int], since: datetime) -> set[int]:
    found: set[int] = set()
    ids = iter(zoho_ids)
    while chunk := list(islice(ids, 1000)):
        rows = module.model.objects.live().filter(zoho_id__in=chunk, read_at__gt=since)
        found.update(zoho_id for zoho_id in rows.values_list("zoho_id", flat=True) if zoho_id)
    return found


def cut_hold(module: Module, missed: set[int]) -> int:
    """A complete reading missed these ids alone: what else is held was seen, and leaves the hold.

    An unchanged record is not marked as read, so nothing else would tell at the confirmation that
    the CRM has it after all. Returns how many were seen.
    """
    with transaction.atomic():
        held = (
            DeletionHold.objects.select_for_update()
            .filter(module=module.name, status=DeletionHold.HELD)
            .first()
        )
        if held is None:
            return 0
        seen = [zoho_id for zoho_id in held.zoho_ids if zoho_id not in missed]
        kept = live_ids(module, [zoho_id for zoho_id in held.zoho_ids if zoho_id in missed])
        if not kept:
            held.status, held.decided_at = DeletionHold.CLEARED, timezone.now()
        else:
            held.zoho_ids = sorted(kept)
            held.unasked_ids = sorted({*kept}.intersection(held.unasked_ids))
        held.save(update_fields=["zoho_ids", "unasked_ids", "status", "decided_at"])
    return len(seen)
