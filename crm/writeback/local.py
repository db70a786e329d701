"""Our own values → rows and events, by the rules of the store: gate, derived columns, hash, order.

Every function works inside the caller's transaction and behind the module's gate, so that what a
page stores and what is changed here follow one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from crm.mapping.apply import canonical, content_hash
from crm.models import ChangeEvent
from crm.sync import bulk_write, derive
from crm.sync.batch import EVENT_COLUMNS, canonical_stored, encode
from crm.sync.gate import pass_gate
from crm.sync.layout import RowLayout
from crm.sync.modules import Module
from crm.sync.tombstones import announce
from crm.writeback.context import WritingContext

COLUMNS = (*EVENT_COLUMNS, "author_id")
LOCAL, WRITE_BACK = "local", "writeback"


class LocalRows:
    """Rows of one module, changed for one reason: `source` is *local* (a person or a rule here) or
    *writeback* (what the CRM said of our change). `save` writes them all at once.

    Making one passes the module's gate: `most` changes may follow.
    """

    def __init__(
        self,
        module: Module,
        context: WritingContext,
        *,
        source: str,
        author_id: int | None,
        now: datetime,
        most: int = 1,
    ) -> None:
        self.module, self.context, self.source = module, context, source
        self.author_id, self.now = author_id, now
        self.mapper = context.mapper(module.name)
        self.layout = RowLayout(
            module, self.mapper, is_derived=context.deriver_of(module) is not None
        )
        self.to_db = bulk_write.moment_writer()
        self.now_db = self.to_db(now)
        self.seq = pass_gate(module.name, most)
        self.changed_pks: list[int] = []
        self._events: list[tuple] = []
        self._updates: list[tuple] = []

    def values_of(self, pks: Iterable[int]) -> dict[int, list[Any]]:
        """Canonical values in the mapper's order, by primary key, as they are behind the gate."""
        columns = self.layout.mapped
        return {
            row[0]: [canonical_stored(value) for value in row[1:]]
            for row in self.module.model.objects.filter(pk__in=list(pks)).values_list(
                "pk", *columns
            )
        }

    def put(self, pk: int, before: list[Any], ours: Mapping[str, Any]) -> dict[str, tuple]:
        """Give a row our values; {column: (old, new)} of what differs, what follows included."""
        values = list(before)
        self.mapper.overlay(values, ours)
        self._never_null(values)
        changed = {
            name: (old, new)
            for name, old, new in zip(self.layout.mapped, before, values, strict=True)
            if canonical(old) != canonical(new)
        }
        if changed:
            self.seq += 1
            for name, (old, new) in changed.items():
                self._event(
                    pk, ChangeEvent.CHANGED, name, encode(canonical(old)), encode(canonical(new))
                )
            self._updates.append(
                (
                    *self._written(values),
                    content_hash(self.mapper.told(values)),
                    self.seq,
                    self.now_db,
                    pk,
                )
            )
            self.changed_pks.append(pk)
        return changed

    def add(self, ours: Mapping[str, Any]) -> int:
        """A record that the CRM does not have yet; its primary key."""
        values = [ours.get(name) for name in self.layout.mapped]
        if self.mapper.has_money and "currency" in self.mapper.index:
            at = self.mapper.index["currency"]
            values[at] = values[at] or self.context.home_currency
        self.mapper.overlay(values, {k: v for k, v in ours.items() if k != "currency"})
        self._never_null(values)
        self.seq += 1
        (pk,) = bulk_write.allocate_ids(self.module.model, 1)
        told = self.mapper.told(values)
        self._insert(pk, values, told)
        self._event(pk, ChangeEvent.CREATED, "", None, told)
        self.changed_pks.append(pk)
        return pk

    def _insert(self, pk: int, values: list[Any], told: str) -> None:
        row = (
            pk,
            *self._written(values),
            None,  # zoho_id
            None,  # modified_by
            self.now_db,
            None,  # crm_modified_at
            None,  # read_at
            content_hash(told),
            self.seq,
            self.now_db,
            self.now_db,  # first_seen_at
            *self.layout.birth,
        )
        bulk_write.insert(self.module.model, self.layout.insert, [row])

    def mark_deleted(self, pk: int, by: str) -> None:
        self.seq += 1
        self.module.model.objects.filter(pk=pk).update(
            deleted_at=self.now,
            deleted_source=self.source,
            deleted_by=by[:255],
            change_seq=self.seq,
            updated_at=self.now,
        )
        self._event(pk, ChangeEvent.DELETED)
        self.changed_pks.append(pk)

    def restore(self, pk: int) -> None:
        """A deletion of ours is undone."""
        self.seq += 1
        self.module.model.objects.filter(pk=pk).update(
            deleted_at=None,
            deleted_source="",
            deleted_by="",
            change_seq=self.seq,
            updated_at=self.now,
        )
        self._event(pk, ChangeEvent.RESTORED)
        self.changed_pks.append(pk)

    def save(self) -> None:
        """Write what was put, tell it, and announce it after commit."""
        bulk_write.update(
            self.module.model,
            (*self.layout.content, "content_hash", "change_seq", "updated_at"),
            self._updates,
        )
        bulk_write.insert(ChangeEvent, COLUMNS, self._events)
        announce(self.module, list(dict.fromkeys(self.changed_pks)))

    def _written(self, values: list[Any]) -> tuple:
        """Columns for the driver: mapped, then derived."""
        plain = [self.to_db(v) if v.__class__ is datetime else v for v in values]
        deriver = self.context.deriver_of(self.module)
        if deriver is None:
            return tuple(plain)
        index = self.mapper.index
        inputs = [values[index[name]] if name in index else None for name in derive.INPUTS]
        return (*plain, *deriver.derive(*inputs))

    def _never_null(self, values: list[Any]) -> None:
        for name, default in self.layout.defaults.items():
            if values[self.mapper.index[name]] is None:
                values[self.mapper.index[name]] = default

    def _event(
        self, pk: int, kind: str, name: str = "", old: str | None = None, new: str | None = None
    ) -> None:
        self._events.append(
            (
                self.module.name,
                pk,
                kind,
                name,
                old,
                new,
                self.now_db,
                self.now_db,
                self.source,
                None,
                self.author_id,
            )
        )
