"""The real client of the way back, watched: what it read and what it sent is written down, and the
world goes on between its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from crm.tests import oracle
from crm.tests.simulator.book import Book
from crm.tests.simulator.terms import WRITABLE, Sparse, plain
from crm.zoho.factory import client_from_settings

BEFORE_READING, AFTER_READING = "before reading", "after reading"
BEFORE_WRITING, AFTER_WRITING = "before writing", "after writing"


class WatchedClient:
    """Stands where the sender has its client. `world` is told of each moment; before a call leaves
    it may do what people in the CRM do, after one anything."""

    def __init__(
        self, book: Book, rates: dict[str, Fraction], world: Callable[[str], None]
    ) -> None:
        self._client = client_from_settings(purpose="write")
        self._book, self._rates, self._world = book, rates, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def by_ids(self, module: str, ids: Sequence[int], *args: Any, **options: Any) -> Any:
        self._world(BEFORE_READING)
        at = self._book.place()
        page = self._client.by_ids(module, ids, *args, **options)
        for record in page.records:
            self._note(module, record.value, at)
        self._world(AFTER_READING)
        return page

    def id_range(self, module: str, *args: Any, **options: Any) -> Any:
        self._world(BEFORE_READING)
        at = self._book.place()
        page = self._client.id_range(module, *args, **options)
        for record in page.records:
            self._note(module, record.value, at)
        self._world(AFTER_READING)
        return page

    def record(self, module: str, record_id: int) -> Any:
        self._world(BEFORE_READING)
        at = self._book.place()
        record = self._client.record(module, record_id)
        if record is not None:
            self._note(module, record.value, at)
        self._world(AFTER_READING)
        return record

    def _note(self, module: str, value: Any, at: int) -> None:
        if not isinstance(value, dict):
            return
        row = oracle.expected_row(module, Sparse(value), self._rates)
        shown = {name: plain(row[name]) for name in WRITABLE[module]}
        key = value.get("Pulse_Id")
        self._book.add("read", module=module, id=int(value["id"]), row=shown, key=key, at=at)

    def update(self, module: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        self._world(BEFORE_WRITING)
        self._book.add("update", module=module, rows=_texts(rows))
        return self._written(module, lambda: self._client.update(module, rows, **options))

    def upsert(self, module: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        self._world(BEFORE_WRITING)
        keys = options.get("duplicate_check_fields")
        self._book.add("upsert", module=module, rows=_texts(rows), keys=keys)
        return self._written(module, lambda: self._client.upsert(module, rows, **options))

    def insert(self, module: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        self._book.add("insert", module=module, rows=_texts(rows))
        return self._client.insert(module, rows, **options)

    def delete(self, module: str, ids: Sequence[int], **options: Any) -> Any:
        self._world(BEFORE_WRITING)
        self._book.add("delete", module=module, ids=[int(each) for each in ids])
        return self._written(module, lambda: self._client.delete(module, ids, **options))

    def _written(self, module: str, call: Callable[[], Any]) -> Any:
        begun = self._book.place()
        try:
            results = call()
            taken = [result.id for result in results if result.ok]
            self._book.add("answer", module=module, ids=taken, begun=begun)
            return results
        finally:
            self._world(AFTER_WRITING)


def _texts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decimals as text; the rest of a request is JSON already."""
    return [
        {k: v if isinstance(v, int | str | dict | bool) or v is None else str(v)
         for k, v in row.items()}
        for row in rows
    ]  # fmt: skip
