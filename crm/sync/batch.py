"""One page's decisions and rows: new, changed, only touched, unchanged; events and payloads.

Works inside the transaction of `Store`, behind the module's gate. Rows are collected first and
written at the end, so that a page costs a handful of statements.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import connection

from crm.mapping.apply import Mapped, canonical, content_hash
from crm.models import ChangeEvent, ReceivedRecord, RecordProblem
from crm.sync import bulk_write, derive
from crm.sync.page import Counts, Existing, Incoming, is_older

if TYPE_CHECKING:
    from crm.sync.store import Store
    from crm.writeback.echoes import Overlay

encode = json.JSONEncoder(separators=(",", ":")).encode

EVENT_COLUMNS = (
    "module",
    "record_id",
    "kind",
    "field",
    "old",
    "new",
    "changed_at",
    "learnt_at",
    "source",
    "run_id",
)
_STAMPS = ("crm_created_at", "modified_by_id")
_PAYLOAD_COLUMNS = ("module", "record_id", "body", "received_at")


class Batch:
    """`add` each record, then `write`. `seq`: the last change number before ours."""

    def __init__(self, store: Store, now: datetime, read_at: datetime, seq: int) -> None:
        self.store = store
        self.module = store.module.name
        self.layout = store.layout
        self.is_plain = not store.mapper.has_moments
        self.tell = store.mapper.told
        self.to_db = bulk_write.moment_writer()
        self.now = now
        self.now_db, self.read_db = self.to_db(now), self.to_db(read_at)
        self.seq = seq
        self.counts = Counts()
        self.new: list[Incoming] = []
        self.differing: list[tuple[Incoming, Existing]] = []
        self.touched: list[tuple[Incoming, Existing]] = []
        self.events: list[tuple] = []
        self.payloads: list[tuple] = []
        self.rehashed: list[tuple[str, int]] = []
        self.problems: list[tuple[int, Incoming]] = []
        self.overlay: Overlay | None = None  # changes of ours on their way to the CRM

    def add(self, item: Incoming, known: Existing | None) -> None:
        mapped = item.mapped
        if known is None:
            self.new.append(item)
            return
        modified_at = self.to_db(mapped.modified_at)
        if is_older(modified_at, self.read_db, known, self.now_db):
            self.counts.unchanged += 1
        elif self.overlay is not None and not self.overlay.apply(mapped, known):
            self._keep(item, known, modified_at)
        elif (
            known.is_stub
            or known.is_deleted
            or content_hash(self.tell(mapped.values)) != known.content_hash
        ):
            self.differing.append((item, known))
        else:
            self._keep(item, known, modified_at)

    def write(self) -> None:
        self._insert_new()
        self._update_differing()
        self._write_touched()
        bulk_write.insert(ChangeEvent, EVENT_COLUMNS, self.events)
        if self.payloads:
            _save_payloads(self.payloads)
        self._write_problems()
        if self.overlay is not None:
            self.overlay.write()

    def _keep(self, item: Incoming, known: Existing, modified_at: Any) -> None:
        """Same values. A later Modified_Time means a change that nothing of ours shows."""
        self.counts.unchanged += 1
        is_echo = self.overlay is not None and self.overlay.has_settled(known.pk)
        if modified_at is not None and (modified_at != known.modified_at or is_echo):
            self.touched.append((item, known))

    # -- new -------------------------------------------------------------------------------------

    def _insert_new(self) -> None:
        if not self.new:
            return
        model = self.store.module.model
        rows, payloads = [], []
        pks = bulk_write.allocate_ids(model, len(self.new))
        birth = (self.now_db, *self.layout.birth)
        for pk, item in zip(pks, self.new, strict=True):
            values = self._filled(item.mapped, self.layout.defaults)
            told = self.tell(values)
            rows.append(
                (
                    pk,
                    *self._driver_values(values),
                    *self._derived(values),
                    *self._bookkeeping(item.mapped, content_hash(told)),
                    *birth,
                )
            )
            self._tell_created(pk, item.mapped, told)
            payloads.append((self.module, pk, item.body, self.read_db))
            if item.mapped.problems:
                self.problems.append((pk, item))
        bulk_write.insert(model, self.layout.insert, rows)
        bulk_write.insert(ReceivedRecord, _PAYLOAD_COLUMNS, payloads)
        self.counts.created += len(self.new)
        self.counts.changed_pks += pks

    # -- changed ---------------------------------------------------------------------------------

    def _update_differing(self) -> None:
        if not self.differing:
            return
        model, columns = self.store.module.model, self.layout.mapped
        pks = [known.pk for _, known in self.differing]
        stored = {
            row[0]: (row[1:3], [canonical_stored(value) for value in row[3:]])
            for row in model.objects.filter(pk__in=pks).values_list("pk", *_STAMPS, *columns)
        }
        rows = []
        for item, known in self.differing:
            stamps, before = stored[known.pk]
            values = self._filled(item.mapped, dict(zip(columns, before, strict=True)))
            if not self._tell(item.mapped, known, before, values):
                # Only keys that the answer left out differ: our values stay. So it is where a field
                # is no longer mapped; the next time its records are as quick as others.
                self._keep(item, known, self.to_db(item.mapped.modified_at))
                new_hash = content_hash(self.tell(values))
                if new_hash != known.content_hash:
                    self.rehashed.append((new_hash, known.pk))
                continue
            rows.append(
                (
                    *self._driver_values(values),
                    *self._derived(values),
                    *self._bookkeeping(item.mapped, content_hash(self.tell(values)), known, stamps),
                    *self.layout.revival,
                    known.pk,
                )
            )
            self.payloads.append((item.body, self.read_db, self.module, known.pk))
            self.problems.append((known.pk, item))
            self.counts.changed_pks.append(known.pk)
        bulk_write.update(model, self.layout.update, rows)
        bulk_write.update(model, ("content_hash",), self.rehashed)

    def _tell(self, mapped: Mapped, known: Existing, before: list[Any], values: list[Any]) -> bool:
        """Events for what differs; False if nothing does."""
        if known.is_stub:
            self._tell_created(known.pk, mapped, self.tell(values))
            self.counts.created += 1
            return True
        if known.is_deleted:
            self._event(known.pk, ChangeEvent.RESTORED, "", None, None, mapped.modified_at)
            self.counts.restored += 1
        differs = known.is_deleted
        for name, old, new in zip(self.layout.mapped, before, values, strict=True):
            old, new = canonical(old), canonical(new)
            if old != new:
                differs = True
                self._event(
                    known.pk,
                    ChangeEvent.CHANGED,
                    name,
                    encode(old),
                    encode(new),
                    mapped.modified_at,
                )
        self.counts.updated += differs
        return differs

    def _tell_created(self, pk: int, mapped: Mapped, told: str) -> None:
        created_at = mapped.created_at or mapped.modified_at
        self._event(pk, ChangeEvent.CREATED, "", None, told, created_at)

    def _event(
        self,
        pk: int,
        kind: str,
        name: str,
        old: str | None,
        new: str | None,
        changed_at: datetime | None,
    ) -> None:
        self.events.append(
            (
                self.module,
                pk,
                kind,
                name,
                old,
                new,
                self.to_db(changed_at),
                self.now_db,
                self.store.source,
                self.store.run_id,
            )
        )

    # -- touched, problems -----------------------------------------------------------------------

    def _write_touched(self) -> None:
        """The newest payload and time are kept; no change number, nobody need look."""
        bulk_write.update(
            self.store.module.model,
            ("crm_modified_at", "read_at", "modified_by_id"),
            [
                (
                    self.to_db(item.mapped.modified_at),
                    self.read_db,
                    self.store.references.user_pk(item.mapped.modified_by),
                    known.pk,
                )
                for item, known in self.touched
            ],
        )
        self._write_births()
        self.payloads += [
            (item.body, self.read_db, self.module, known.pk) for item, known in self.touched
        ]
        self.problems += [(known.pk, item) for item, known in self.touched]

    def _write_births(self) -> None:
        """A record made here that the CRM tells back just as it is: it was created when the CRM
        made it."""
        rows = []
        for item, known in self.touched:
            if known.modified_at is None and item.mapped.created_at is not None:
                self.seq += 1
                rows.append((self.to_db(item.mapped.created_at), self.seq, known.pk))
                self.counts.changed_pks.append(known.pk)
        bulk_write.update(self.store.module.model, ("crm_created_at", "change_seq"), rows)

    def _write_problems(self) -> None:
        if not self.problems:
            return
        pks = [pk for pk, _ in self.problems]
        RecordProblem.objects.filter(module=self.module, record_id__in=pks).delete()
        RecordProblem.objects.bulk_create(
            RecordProblem(
                module=self.module,
                record_id=pk,
                field=problem.field,
                code=problem.code,
                message=problem.message[:255],
                seen_at=self.now,
            )
            for pk, item in self.problems
            for problem in item.mapped.problems
        )

    # -- values ----------------------------------------------------------------------------------

    def _filled(self, mapped: Mapped, stored: dict[str, Any]) -> list[Any]:
        """The values with our own in the place of missing keys and of nulls that must not be."""
        values, index, defaults = mapped.values, self.store.mapper.index, self.layout.defaults
        if mapped.has_missing:
            self.store.mapper.fill_missing(mapped, stored)
        for name, default in defaults.items():
            if values[index[name]] is None:
                values[index[name]] = default
        return values

    def _derived(self, values: list[Any]) -> tuple:
        deriver = self.store.deriver
        if deriver is None:
            return ()
        index = self.store.mapper.index
        return deriver.derive(
            *[values[index[name]] if name in index else None for name in derive.INPUTS]
        )

    def _bookkeeping(
        self,
        mapped: Mapped,
        new_hash: str,
        known: Existing | None = None,
        stamps: tuple[datetime | None, int | None] = (None, None),
    ) -> tuple:
        """What the answer does not say of times and people stays as it was."""
        self.seq += 1
        user_pk = self.store.references.user_pk(mapped.modified_by)
        modified_at = self.to_db(mapped.modified_at)
        return (
            mapped.zoho_id,
            stamps[1] if user_pk is None else user_pk,
            self.to_db(mapped.created_at or stamps[0]),
            known.modified_at if modified_at is None and known is not None else modified_at,
            self.read_db,
            new_hash,
            self.seq,
            self.now_db,
        )

    def _driver_values(self, values: list[Any]) -> list[Any]:
        if self.is_plain:
            return values
        return [self.to_db(v) if v.__class__ is datetime else v for v in values]


def canonical_stored(value: Any) -> Any:
    """A stored column value in canonical form: dates as ISO text."""
    if value is None or value.__class__ in (str, int, bool, datetime):
        return value
    return value.isoformat()


def _save_payloads(rows: list[tuple]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {ReceivedRecord._meta.db_table} "  # noqa: S608
            "(body, received_at, module, record_id) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (module, record_id) DO UPDATE SET "
            "body = excluded.body, received_at = excluded.received_at",
            rows,
        )
