"""Why deltas page backwards and ask for deletions: a model of a CRM that changes while it is read.

No network, no database: a list that people edit, fill and empty between two pages. Ascending pages
lose records without any deletion; descending ones only by deletions; with the certificate of
`crm.sync.deletions` nothing is lost, and few windows have to be held.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from crm.sync.deletions import MAX_READINGS, Deleted, may_have_shifted

PAGE, RECORDS = 20, 100
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Model:
    """A CRM of records (id → time of change) whose clock ticks with each request."""

    rng: random.Random
    edits: int = 0
    inserts: int = 0
    deletions: int = 0
    now: datetime = START
    records: dict[int, datetime] = field(default_factory=dict)
    deleted: list[Deleted] = field(default_factory=list)
    next_id: int = 1

    def insert(self) -> None:
        self.records[self.next_id] = self.now
        self.next_id += 1

    def tick(self) -> None:
        """What people do between two requests."""
        for _ in range(self.edits):
            self.now += timedelta(seconds=1)
            self.records[self.rng.choice(list(self.records))] = self.now
        for _ in range(self.inserts):
            self.now += timedelta(seconds=1)
            self.insert()
        for _ in range(self.deletions):
            self.now += timedelta(seconds=1)
            gone = self.rng.choice(list(self.records))
            del self.records[gone]
            self.deleted.append(Deleted(gone, self.now, ""))
        self.now += timedelta(seconds=1)

    def page(self, number: int, since: datetime, *, descending: bool) -> list[tuple]:
        window = [(when, i) for i, when in self.records.items() if when >= since]
        window.sort(reverse=descending)
        page = window[number * PAGE : (number + 1) * PAGE]
        self.tick()
        return page


def make(seed: int, **churn: int) -> Model:
    model = Model(random.Random(seed), **churn)
    for _ in range(RECORDS):
        model.now += timedelta(seconds=1)
        model.insert()
    model.now += timedelta(seconds=60)
    return model


def read(model: Model, mirror: dict, since: datetime, *, descending: bool) -> None:
    number = 0
    while page := model.page(number, since, descending=descending):
        for when, zoho_id in page:
            mirror[zoho_id] = max(when, mirror.get(zoho_id, when))
        number += 1


def delta(model: Model, mirror: dict, mark: datetime, *, certified: bool) -> datetime:
    """One run as `crm.sync.delta` makes it; the mark it leaves."""
    s0, known = model.now, None
    for _ in range(MAX_READINGS if certified else 1):
        read(model, mirror, mark, descending=True)
        # The list reaches back an overlap, and names what went during earlier runs too.
        deleted = [row for row in model.deleted if row.deleted_at >= mark - timedelta(minutes=10)]
        for row in deleted:
            mirror.pop(row.zoho_id, None)
        if not certified or not may_have_shifted(deleted, s0, known):
            return s0
        known = {row.zoho_id for row in deleted}
    return mark


def lost(model: Model, mirror: dict, mark: datetime) -> list[int]:
    """What no later run would ask for again, and the mirror does not have as it is."""
    return [i for i, when in model.records.items() if when < mark and mirror.get(i) != when]


def test_ascending_pages_lose_records_without_a_single_deletion() -> None:
    losers = 0
    for seed in range(50):
        model, mirror = make(seed, edits=3), {}
        s0 = model.now
        read(model, mirror, START, descending=False)
        losers += bool(lost(model, mirror, s0))
    assert losers > 40


def test_descending_pages_lose_nothing_while_nothing_is_deleted() -> None:
    for seed in range(200):
        model, mirror, mark = make(seed, edits=3, inserts=1), {}, START
        for _ in range(4):
            mark = delta(model, mirror, mark, certified=False)
            assert lost(model, mirror, mark) == []


def test_descending_pages_alone_lose_records_when_some_are_deleted() -> None:
    losers = 0
    for seed in range(50):
        model, mirror = make(seed, deletions=3), {}
        losers += bool(lost(model, mirror, delta(model, mirror, START, certified=False)))
    assert losers > 40


@pytest.mark.parametrize("churn", [{"edits": 3, "inserts": 1}, {"edits": 1}, {}])
def test_rows_44_45_46_with_the_certificate_no_record_is_ever_lost(churn: dict[str, int]) -> None:
    advanced = held = 0
    for seed in range(150):
        model, mirror, mark = make(seed, **churn), {}, START
        for run in range(8):
            model.deletions = model.rng.choice([0, 0, 0, 1]) if run else 0
            moved = delta(model, mirror, mark, certified=True)
            advanced, held = advanced + (moved > mark), held + (moved == mark)
            mark = moved
            assert lost(model, mirror, mark) == []
            assert not mirror.keys() - model.records.keys() - {d.zoho_id for d in model.deleted}
        model.deletions = 0
        mark = delta(model, mirror, mark, certified=True)
        mark = delta(model, mirror, mark, certified=True)
        assert lost(model, mirror, mark) == []
    assert advanced > held > 0
