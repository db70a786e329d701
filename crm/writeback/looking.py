"""What the CRM has now of the records to be changed: how it is asked, and what a glance can tell.

Ids that lie close together are looked at by one query of their range, others fifty a call. A record
that has not changed since it was stored, and holds what each edit was made on, need not go through
the door to be told so: everything else is read whole and does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from crm.mapping import convert
from crm.mapping.apply import Mapper, canonical
from crm.models import outbox
from crm.sync.modules import Module
from crm.sync.reading import id_of
from crm.writeback.answers import IDS_A_READING, chunks
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
    module: Module, works: Sequence[Work], glance: Glance, *, takes_queries: bool
) -> Iterator[tuple[list[Work], bool]]:
    """The records of each call, and whether they are read as a range."""
    # Whether queries show converted leads is nowhere said.
    takes_queries = takes_queries and module.converted is None
    plain = [work for work in works if takes_queries and glance.api_names([work])]
    rest = [work for work in works if not takes_queries or not glance.api_names([work])]
    plain.sort(key=lambda work: work.zoho_id or 0)
    for some in chunks(plain, IDS_A_RANGE):
        if len(some) > IDS_A_READING and _is_dense(module, some):
            yield some, True
        else:
            rest += some
    for few in chunks(rest, IDS_A_READING):
        yield few, False


def _is_dense(module: Module, works: Sequence[Work]) -> bool:
    span = (works[0].zoho_id, works[-1].zoho_id)
    rows: Any = module.model.objects
    return rows.filter(zoho_id__range=span).count() <= ROWS_A_WANTED * len(works)


def read_range(
    client: ZohoClient, module: Module, works: Sequence[Work], names: Sequence[str]
) -> dict[Any, RawRecord] | None:
    """These fields of these records, sorted by id, by a query of their range; None where the CRM
    takes no query."""
    first, last = works[0].zoho_id or 0, works[-1].zoho_id or 0
    try:
        page = client.id_range(module.name, names, after=first - 1, upto=last)
    except NO_QUERIES:
        return None
    return {id_of(record): record for record in page.records}


class Glance:
    """Whether a record is as the edits of it were made on, seen without storing it."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self._readers: dict[str, tuple[str, Callable[[Any], Any]] | None] = {}

    def api_names(self, works: Sequence[Work]) -> list[str]:
        """The fields that a glance at these records needs; none where a glance cannot do."""
        names = {"Modified_Time": None}
        for work in works:
            if work.kind != outbox.EDIT or work.modified_at is None:
                return []
            for entry in work.entries:
                reader = self._reader(entry.field)
                if reader is None or entry.theirs is not None:
                    return []
                names[reader[0]] = None
        return list(names)

    def shows_base(self, work: Work, record: RawRecord | None) -> bool:
        """False where there is more to find out."""
        value = record.value if record is not None else None
        if not isinstance(value, dict) or not self.api_names([work]):
            return False
        if convert.moment(value.get("Modified_Time")) != work.modified_at:
            return False
        return all(self._is_base(entry, value) for entry in work.entries)

    def _reader(self, field: str) -> tuple[str, Callable[[Any], Any]] | None:
        if field not in self._readers:
            self._readers[field] = self._mapper.plain_reader(field)
        return self._readers[field]

    def _is_base(self, entry: Any, value: dict[str, Any]) -> bool:
        api, read = self._readers[entry.field] or ("", None)
        if read is None or api not in value:
            return False
        theirs = value[api]
        found = None if theirs is None else read(theirs)
        return found.__class__ is not convert.Noted and same(canonical(found), entry.base_value)
