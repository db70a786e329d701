"""Ways to read a module: parallel id ranges, a keyset of what changed, pages with tokens.

Each yields `Batch`es. `Batch.cursor` is the state to keep once the batch is stored: a reader made
with it goes on behind the stored batches, whatever was under way when the process died. Nothing
here touches the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from crm.mapping import convert
from crm.sync.modules import Module
from crm.zoho.client import Page, RawRecord, ZohoClient
from crm.zoho.errors import (
    BadList,
    BadPayload,
    FixFields,
    FixRequest,
    NotPermitted,
    PageTokenRejected,
    QueryRefused,
    ScopeMissing,
)

Clock = Callable[[], datetime]
Interval = tuple[int, int | None]  # (after, upto]; upto None: to the end
RANGE_ROWS = 2000
# Records of one page where a module is read by pages: the most that the CRM gives.
PAGE_ROWS = 200
BODIES_WAITING = 2
# Rows of one transaction: a quarter of a second at most that a person's edit waits for it. Half
# as many cost a quarter more of the whole: each commit writes the same pages of the indexes anew.
STORED_AT_ONCE = 2000
# While notices of the module come: they wait at its gate for a piece, and that is no second then.
STORED_BESIDE_NOTICES = 250
_TRIES = 3
# What says that a module cannot be read by queries; by pages it may be.
NO_QUERIES = (QueryRefused, ScopeMissing, NotPermitted, FixFields)
# What says that a module cannot be read, and nothing of the others.
ONE_MODULE = (ScopeMissing, FixRequest, FixFields, BadList)


@dataclass
class Batch:
    """One page. `id_span`: the page holds all records of these ids (None: nothing is said).
    `server_date`: the CRM's clock when it answered."""

    records: Sequence[RawRecord]
    read_at: datetime
    id_span: Interval | None
    cursor: dict[str, Any]
    server_date: datetime | None = None


def ids_of(records: Sequence[RawRecord]) -> list[int]:
    """The ids that can be read."""
    found = map(id_of, records)
    return [zoho_id for zoho_id in found if zoho_id is not None]


def rows_at_once(is_shared: bool) -> int:
    """How many rows a transaction stores."""
    return min(STORED_BESIDE_NOTICES, STORED_AT_ONCE) if is_shared else STORED_AT_ONCE


class RangeReader:
    """Every record of a module by COQL over id ranges, several calls at once.

    Ranges are followed by key (`id > last`), so nothing shifts whatever is edited or deleted
    meanwhile. While fewer ranges than workers are open, the rest of a range is split by the
    density seen so far. Bodies wait unparsed: memory is `workers` bodies and one parsed page.
    """

    def __init__(
        self,
        client: ZohoClient,
        module: Module,
        fields: Sequence[str],
        *,
        workers: int,
        clock: Clock,
        cursor: dict[str, Any] | None = None,
        expected: int | None = None,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_shared` says before each piece whether others want to store beside this reading."""
        self.client = client
        self.module = module
        self.fields = fields
        self.is_shared = is_shared
        self.workers = max(1, workers)
        self.clock = clock
        saved = (cursor or {}).get("open")
        self.is_resumed = saved is not None
        self.open: deque[Interval] = deque((lo, hi) for lo, hi in saved or ())
        self.expected = expected
        self.floor = 0
        self.highest: int | None = None
        self.in_flight: dict[Future, Interval] = {}

    def batches(self) -> Iterator[Batch]:
        """Raises the client's errors; what was yielded before stays valid."""
        if not self.is_resumed:
            self._plan()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="crm-read")
        try:
            while self.open or self.in_flight:
                self._submit(pool)
                done, _ = wait(self.in_flight, return_when=FIRST_COMPLETED)
                future = next(iter(done))
                page, read_at = future.result()
                interval = self.in_flight.pop(future)
                page, read_at = self._parsed(page, read_at, interval)
                span = self._follow(page, interval)
                # The next calls are under way while this page is stored.
                self._submit(pool)
                yield from self._slices(page, read_at, span)
                page.release()
        finally:
            # Calls that wait out a pause end when the client is closed; nobody waits for them here.
            pool.shutdown(wait=False, cancel_futures=True)

    def _slices(self, page: Page, read_at: datetime, span: Interval) -> Iterator[Batch]:
        """A page in pieces, each with the part of the span that it settles."""
        records, after, start = page.records, span[0], 0
        while start + (size := rows_at_once(self.is_shared())) < len(records):
            piece = records[start : start + size]
            upto = _last_id(piece, (after, span[1])) or after
            cursor = {"open": [[upto, span[1]], *self._uncovered()]}
            yield Batch(piece, read_at, (after, upto), cursor, page.server_date)
            after, start = upto, start + size
        cursor = {"open": self._uncovered()}
        yield Batch(records[start:], read_at, (after, span[1]), cursor, page.server_date)

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        """More calls, unless bodies wait already: then storing is what takes the time."""
        waiting = sum(future.done() for future in self.in_flight)
        while self.open and len(self.in_flight) < self.workers and waiting < BODIES_WAITING:
            interval = self.open.popleft()
            self.in_flight[pool.submit(self._fetch, interval)] = interval

    def _fetch(self, interval: Interval) -> tuple[Page, datetime]:
        read_at = self.clock()
        page = self.client.id_range(
            self.module.name,
            self.fields,
            after=interval[0],
            upto=interval[1],
            converted=self.module.converted,
            limit=RANGE_ROWS,
        )
        return page, read_at

    def _parsed(self, page: Page, read_at: datetime, interval: Interval) -> tuple[Page, datetime]:
        for attempt in range(_TRIES):
            try:
                _ = page.records
                return page, read_at
            except BadPayload:
                if attempt == _TRIES - 1:
                    raise
                page, read_at = self._fetch(interval)
        raise AssertionError("unreachable")

    def _plan(self) -> None:
        """First ranges: from the lowest to the highest id in equal widths."""
        name = self.module.name
        lowest, highest = (
            ids_of(
                self.client.coql(
                    f"select id from {name} where id is not null order by id {order} limit 0, 1"  # noqa: S608 COQL, from our own module names
                ).records
            )
            for order in ("asc", "desc")
        )
        if not lowest or not highest:
            self.open.append((0, None))
            return
        self.highest = highest[0]
        count = self.expected if self.expected is not None else RANGE_ROWS * self.workers
        parts = min(self.workers, max(1, -(-count // RANGE_ROWS)))
        self.floor = lowest[0] - 1
        (_, end), *rest = _split(self.floor, self.highest, parts)
        # From zero on: what we hold below the lowest id that is left was deleted.
        self.open += [(0, end), *rest]
        # Records made while we read have higher ids.
        self.open.append((self.highest, None))

    def _follow(self, page: Page, interval: Interval) -> Interval:
        """What the page covers; the rest of its range is opened again, split where it pays."""
        after, upto = interval
        if not page.more:
            return interval
        last = _last_id(page.records, interval)
        if last is None:
            raise _leads_nowhere(self.module)
        end = upto if upto is not None else self.highest
        free = self.workers - len(self.open) - len(self.in_flight)
        if end is None or end <= last or free <= 1:
            self.open.append((last, upto))
        else:
            left = (end - last) * page.count // max(1, last - max(after, self.floor))
            parts = min(free, max(1, left // RANGE_ROWS))
            rest: list[Interval] = list(_split(last, end, parts))
            if upto is None:
                rest.append((end, None))
            self.open.extend(rest)
        return after, last

    def _uncovered(self) -> list[list[int | None]]:
        return [[lo, hi] for lo, hi in (*self.in_flight.values(), *self.open)]


def _split(after: int, upto: int, parts: int) -> Iterator[Interval]:
    """(after, upto] in `parts` ranges of about the same width."""
    edges = [after + (upto - after) * at // parts for at in range(parts + 1)]
    for lo, hi in pairwise(edges):
        if hi > lo:
            yield lo, hi


def read_changed(
    client: ZohoClient,
    module: Module,
    fields: Sequence[str],
    *,
    since: datetime,
    clock: Clock,
    cursor: dict[str, Any] | None = None,
) -> Iterator[Batch]:
    """What changed since (inclusive), by COQL keyset over ids: no shift is possible."""
    after = int((cursor or {}).get("after") or 0)
    while True:
        read_at = clock()
        page = _with_retry(
            lambda after=after: client.id_range(
                module.name, fields, after=after, upto=None, modified_since=since, limit=RANGE_ROWS
            )
        )
        last = _last_id(page.records, (after, None))
        if page.records:
            yield Batch(page.records, read_at, None, {"after": last or after}, page.server_date)
        if not page.more:
            return
        if last is None:
            raise _leads_nowhere(module)
        after = last


def read_by_id(
    client: ZohoClient,
    module: Module,
    fields: Sequence[str],
    *,
    clock: Clock,
    cursor: dict[str, Any] | None = None,
) -> Iterator[Batch]:
    """Every record by pages in id order. A token that has run out starts the chain again; records
    up to the last stored id are then passed over, so that none is counted twice."""
    cursor = cursor or {}
    stored_upto, token = int(cursor.get("after") or 0), cursor.get("token")
    restarted_at = None
    while True:
        try:
            for batch in _pages_from(client, module, fields, clock, stored_upto, token):
                yield batch
                stored_upto, token = batch.cursor["after"], batch.cursor["token"]
            return
        except PageTokenRejected:
            if restarted_at == stored_upto:
                raise  # not even one page further since the last time
            restarted_at, token = stored_upto, None


def _pages_from(
    client: ZohoClient,
    module: Module,
    fields: Sequence[str],
    clock: Clock,
    stored_upto: int,
    token: str | None,
) -> Iterator[Batch]:
    after, read_at, is_end = stored_upto, clock(), False
    pages = client.list_pages(
        module.name,
        fields,
        sort_by="id",
        sort_order="asc",
        converted=module.converted,
        page_token=token,
        per_page=PAGE_ROWS,
    )
    for page in pages:
        records = page.records
        ids = ids_of(records)
        if ids and min(ids) <= stored_upto:
            records = [r for r in records if (id_of(r) or stored_upto + 1) > stored_upto]
        last = max([after, *ids])
        is_end = not page.more
        if records or is_end:
            cursor = {"after": last, "token": page.next_token}
            span = (after, None if is_end else last)
            yield Batch(records, read_at, span, cursor, page.server_date)
            after = last
        read_at = clock()
    if not is_end:  # an empty module answers without any page
        yield Batch([], read_at, (after, None), {"after": after, "token": None})


def _last_id(records: Sequence[RawRecord], span: Interval) -> int | None:
    """The last readable id within the span that was asked for, in the order of ids."""
    after, upto = span
    for record in reversed(records):
        found = id_of(record)
        if found is not None and found > after and (upto is None or found <= upto):
            return found
    return None


def _leads_nowhere(module: Module) -> BadList:
    return BadList(
        f"The CRM sent a page of {module.name} in which no record has an id that was asked for, "
        "and says that there are more. Nothing was changed; the next sync tries again.",
        code="unreadable_page",
    )


def id_of(record: RawRecord) -> int | None:
    """The record's id, or None if it has none that can be read."""
    return convert.record_id(record.value.get("id")) if isinstance(record.value, dict) else None


def read_changed_by_pages(
    client: ZohoClient,
    module: Module,
    fields: Sequence[str],
    *,
    since: datetime,
    clock: Clock,
) -> Iterator[Batch]:
    """What changed since, newest first. Edits only repeat records; a deletion meanwhile may hide
    one: the caller asks for deletions afterwards and reads again if there were any.

    A CRM that does not heed the time sends everything: behind a page that is older than that as a
    whole, nothing is left to be read.
    """
    read_at, order = clock(), _NewestFirst(since)
    for page in client.list_pages(
        module.name,
        fields,
        sort_by="Modified_Time",
        sort_order="desc",
        modified_since=since,
        converted=module.converted,
        per_page=PAGE_ROWS,
    ):
        if order.is_past(page.records):
            return
        yield Batch(page.records, read_at, None, {}, page.server_date)
        read_at = clock()


class _NewestFirst:
    """Whether a list has passed a moment, as long as it really comes newest first."""

    def __init__(self, since: datetime) -> None:
        self._since = since.replace(microsecond=0)  # as it is asked for
        self._oldest: datetime | None = None
        self._is_sorted = True

    def is_past(self, records: Sequence[RawRecord]) -> bool:
        times = [_modified_at(record) for record in records]
        known = [time for time in times if time is not None]
        so_far = [self._oldest, *known] if self._oldest is not None else known
        self._is_sorted &= all(newer >= older for newer, older in pairwise(so_far))
        if known:
            self._oldest = known[-1]
        return (
            self._is_sorted and bool(times) and len(known) == len(times) and known[0] < self._since
        )


def _modified_at(record: RawRecord) -> datetime | None:
    value = record.value.get("Modified_Time") if isinstance(record.value, dict) else None
    found = convert.moment(value)
    return found if isinstance(found, datetime) else None


def _with_retry(fetch: Callable[[], Page]) -> Page:
    """A body that passed the transport's check and still cannot be parsed is asked for again."""
    for attempt in range(_TRIES):
        page = fetch()
        try:
            _ = page.records
            return page
        except BadPayload:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
