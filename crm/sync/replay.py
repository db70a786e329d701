"""The mapping as it is now over the records as they were received: no download.

Each kept record is mapped again and goes through the one door, in the order of our keys, with the
time at which it was read; so a newer state is never overwritten and a deleted row stays deleted.
Resumable: the cursor moves with each stored page.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from crm import failpoints
from crm.models import MirrorState, ReceivedRecord, SyncRunModule
from crm.sync.modules import ORDER, Module
from crm.sync.reading import STORED_AT_ONCE, Batch
from crm.sync.session import Session
from crm.zoho.client import RawRecord
from crm.zoho.errors import BadPayload
from crm.zoho.paging import parse_rows

KIND = "replay"


def queue(*names: str) -> None:
    """The mapping of these modules (all, if none is named) changed: replay what is kept.

    The sweeper starts the run once nothing else is under way. Inside the caller's transaction.
    """
    for name in names or [module.name for module in ORDER]:
        MirrorState.objects.update_or_create(module=name, defaults={"replay_needed": True})


def needed() -> list[str]:
    """The modules that wait for it, in the order of reading."""
    found = set(MirrorState.objects.filter(replay_needed=True).values_list("module", flat=True))
    return [module.name for module in ORDER if module.name in found]


def replay_module(session: Session, part: SyncRunModule) -> None:
    """Map and store all that is kept of one module. Raises LeaseLost and StopRequested."""
    module = session.module_of(part)
    if not part.cursor:
        # Changed once more from here on, it is due once more.
        MirrorState.objects.filter(module=module.name).update(replay_needed=False)
        kept = ReceivedRecord.objects.filter(module=module.name).count()
        session.mark(part, expected=kept, cursor={"after": 0})
    store = session.make_store(module)
    absent: set[str] = set()
    wanted = session.context.mapper(module.name).api_names
    for batch in _batches(module, int(part.cursor["after"])):
        sample = next((r.value for r in batch.records if isinstance(r.value, dict)), {})
        absent.update(name for name in wanted if name not in sample)
        session.store_batch(part, store, batch)
        failpoints.pass_by("replay.after_page")
    note = ""
    if absent:
        names = ", ".join(sorted(absent))
        note = f"The kept records do not hold {names}: a full sync reads what is missing."
    session.mark(part, state=SyncRunModule.DONE, message=note)


def _batches(module: Module, after: int) -> Iterator[Batch]:
    """Pages by our keys; records that were read together stay together."""
    live = module.model.objects.live().filter(is_stub=False)
    while True:
        rows = list(
            ReceivedRecord.objects.filter(
                module=module.name, record_id__gt=after, record_id__in=live.values("pk")
            )
            .order_by("record_id")
            .values_list("record_id", "received_at", "body")[:STORED_AT_ONCE]
        )
        for received_at, group in groupby(rows, key=itemgetter(1)):
            page = list(group)
            after = page[-1][0]
            records = read_back([body for _, _, body in page])
            yield _batch(records, received_at, after)
        if len(rows) < STORED_AT_ONCE:
            return


def _batch(records: list[RawRecord], received_at: datetime, after: int) -> Batch:
    return Batch(records, received_at, None, {"after": after})


def read_back(bodies: list[str]) -> list[RawRecord]:
    """Kept texts as records; one that is no JSON comes as its text, and is set aside again."""
    try:
        found = parse_rows('{"data":[' + ",".join(bodies) + "]}", "data")
        if len(found) == len(bodies):
            return found
    except BadPayload:
        pass
    return [_one(body) for body in bodies]


def _one(body: str) -> RawRecord:
    try:
        (record,) = parse_rows('{"data":[' + body + "]}", "data")
        return record
    except (BadPayload, ValueError):
        return RawRecord(body, body)
