"""What the CRM has now of the records to be changed: how it is asked, and what a glance can tell.

Ids that lie close together are read by one query of their range, others fifty a call. A record that
has not changed since it was stored, and holds what each edit was made on, need not go through the
door to be told so: everything else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from crm.mapping import convert
from crm.mapping.apply import Mapper, canonical
from crm.models import outbox
from crm.sync.modules import Module
from crm.sync.reading import id_of
from crm.writeback.answers import IDS_A_READING, Reading, chunks
from crm.writeback.claims import Work
from crm.writeback.conflicts import same
from crm.zoho.client import RawRecord, ZohoClient
from crm.zoho.errors import FixFields, FixRequest, NotPermitted, QueryRefused, ScopeMissing

# Ids of one range: as many rows as a query gives for one credit.
IDS_A_RANGE = 200
# A range is worth it while at most every so manieth of its records is wanted.
ROWS_A_WANTED = 2
NO_QUERIES = (QueryRefused, ScopeMissing, NotPermitted, FixFields, FixRequest)


def portions(
    module: Module, works: Sequence[Work], *, takes_queries: bool
) -> Iterator[tuple[list[Work], bool]]:
    """The records of each call, and whether they are read as a range."""
    works = sorted(works, key=lambda work: work.zoho_id or 0)
    for some in chunks(works, IDS_A_RANGE):
        # Whether queries show converted leads is nowhere said.
        may_be_range = takes_queries and module.converted is None and len(some) > IDS_A_READING
        if may_be_range and _is_dense(module, some):
            yield some, True
        else:
            for few in chunks(some, IDS_A_READING):
                yield few, False


def _is_dense(module: Module, works: Sequence[Work]) -> bool:
    span = (works[0].zoho_id, works[-1].zoho_id)
    rows: Any = module.model.objects
    return rows.filter(zoho_id__range=span).count() <= ROWS_A_WANTED * len(works)


def read_range(
    client: ZohoClient,
    module: Module,
    ids: Sequence[int],
    names: Sequence[str],
    read_at: datetime,
) -> Reading | None:
    """The records of these ids, sorted, by a query of their range; None where it takes no query."""
    try:
        page = client.id_range(module.name, names, after=ids[0] - 1, upto=ids[-1])
    except NO_QUERIES:
        return None
    wanted = set(ids)
    return Reading(read_at, [record for record in page.records if id_of(record) in wanted])


class Glance:
    """Whether a record is as the edits of it were made on, seen without storing it."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self._readers: dict[str, tuple[str, Callable[[Any], Any]] | None] = {}

    def shows_base(self, work: Work, record: RawRecord | None) -> bool:
        """False where there is more to find out."""
        if work.kind != outbox.EDIT or record is None or not isinstance(record.value, dict):
            return False
        value = record.value
        if (
            work.modified_at is None
            or convert.moment(value.get("Modified_Time")) != work.modified_at
        ):
            return False
        return all(self._is_base(entry, value) for entry in work.entries)

    def _is_base(self, entry: Any, value: dict[str, Any]) -> bool:
        if entry.field not in self._readers:
            self._readers[entry.field] = self._mapper.plain_reader(entry.field)
        reader = self._readers[entry.field]
        if reader is None or entry.theirs is not None or reader[0] not in value:
            return False
        theirs = value[reader[0]]
        found = None if theirs is None else reader[1](theirs)
        return found.__class__ is not convert.Noted and same(canonical(found), entry.base_value)
