"""The one door into the mirror: a page of records → rows, events, payloads, failures, counts.

One transaction a page: fence, gate, rows, events, quarantine, the caller's checkpoint. Kill it
anywhere and at most this page's work is lost; run it twice and nothing changes. An older state
never overwrites a newer one; an equal one is neither written nor told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from crm import signals
from crm.mapping.apply import MISSING, Mapped, Mapper, Unusable, canonical, content_hash
from crm.mapping.convert import Ref
from crm.models import (
    ChangeEvent,
    CrmUser,
    FailedRecord,
    MirrorState,
    ReceivedRecord,
    RecordProblem,
)
from crm.sync import bulk_write, derive
from crm.sync.bulk_write import db_moment
from crm.sync.lease import Lease
from crm.sync.modules import ACCOUNTS, CONTACTS, DEALS, Module
from crm.zoho.client import RawRecord

_encode = json.JSONEncoder(separators=(",", ":")).encode
# A cache of references; emptied when it would grow past this, so that memory stays flat.
_REF_CACHE = 20_000
_BOOKKEEPING = (
    "zoho_id",
    "modified_by_id",
    "crm_created_at",
    "crm_modified_at",
    "read_at",
    "content_hash",
    "change_seq",
    "updated_at",
)


@dataclass
class Counts:
    """What a page came to. seen = created + updated + unchanged + failed."""

    seen: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    deleted: int = 0
    restored: int = 0
    changed_pks: list[int] = field(default_factory=list)
    gone_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Existing:
    """What is known of a mirrored record before its full row is needed."""

    pk: int
    content_hash: str
    modified_at: datetime | None
    read_at: datetime | None
    is_deleted: bool
    is_stub: bool


@dataclass(slots=True)
class _Incoming:
    mapped: Mapped
    body: str


Checkpoint = Callable[[Counts], None]


class Store:
    """Stores pages of one module for one run (or one event, or a replay: `run_id` may be None).

    `deriver` is needed for deals only. `lease`: pages are refused once it is lost.
    """

    def __init__(
        self,
        module: Module,
        mapper: Mapper,
        *,
        source: str,
        run_id: int | None = None,
        lease: Lease | None = None,
        deriver: derive.Deriver | None = None,
    ) -> None:
        self.module = module
        self.mapper = mapper
        self.source = source
        self.run_id = run_id
        self.lease = lease
        self.deriver = deriver if module is DEALS else None
        self._refs: dict[str, dict[int, int]] = {}
        self._defaults = {
            name: module.model._meta.get_field(name).get_default()
            for name in mapper.columns
            if not module.model._meta.get_field(name).null
        }
        derived = derive.COLUMNS if self.deriver else ()
        self._content = (*mapper.columns, *derived)
        self._insert_columns = (
            "id",
            *self._content,
            *_BOOKKEEPING,
            "first_seen_at",
            "is_stub",
            "deleted_source",
            "deleted_by",
            *_unmapped_defaults(module, self._content),
        )
        self._unmapped = tuple(_unmapped_defaults(module, self._content).values())

    def store(
        self,
        records: Sequence[RawRecord],
        *,
        read_at: datetime,
        id_span: tuple[int, int | None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Counts:
        """Store one page. `id_span` (after, upto]: the page holds all records of these ids, so
        live rows of ours within it that it does not name come back as `gone_ids`.

        Raises LeaseLost, and then nothing of the page is written.
        """
        for attempt in (1, 2, 3):
            incoming, failures = self._map(records)
            try:
                return self._store(incoming, failures, len(records), read_at, id_span, checkpoint)
            except BaseException as error:
                self.forget_references()
                # Another module's page may have inserted the same referenced record meanwhile.
                if attempt == 3 or not isinstance(error, IntegrityError):
                    raise
        raise AssertionError("unreachable")

    def forget_references(self) -> None:
        """After a rolled-back page: what was learnt may name rows that do not exist."""
        self._refs.clear()

    # -- mapping, outside the transaction --------------------------------------------------------

    def _map(self, records: Sequence[RawRecord]) -> tuple[list[_Incoming], list[tuple]]:
        newest: dict[int, _Incoming] = {}
        failures: list[tuple] = []
        for record in records:
            try:
                mapped = self.mapper.apply(record.value)
            except Unusable as error:
                failures.append((record, error.code, str(error)))
                continue
            known = newest.get(mapped.zoho_id)
            if known is None or _not_older(mapped, known.mapped):
                newest[mapped.zoho_id] = _Incoming(mapped, record.text)
        return list(newest.values()), failures

    # -- one transaction -------------------------------------------------------------------------

    def _store(
        self,
        incoming: list[_Incoming],
        failures: list[tuple],
        received: int,
        read_at: datetime,
        id_span: tuple[int, int | None] | None,
        checkpoint: Checkpoint | None,
    ) -> Counts:
        now = timezone.now()
        with transaction.atomic():
            if self.lease is not None:
                self.lease.renew()
            seq = pass_gate(self.module.name, len(incoming) + 1)
            ids = [item.mapped.zoho_id for item in incoming]
            existing = self._existing(ids, id_span)
            self._resolve_refs(incoming, now)
            batch = _Batch(self, now, read_at, seq)
            for item in incoming:
                batch.add(item, existing.get(item.mapped.zoho_id))
            batch.write()
            counts = batch.counts
            # The same record twice on a page: the older one changed nothing.
            counts.unchanged += received - len(incoming) - len(failures)
            counts.failed = self._quarantine(failures, now)
            counts.seen = received
            if id_span is not None:
                named = set(ids)
                counts.gone_ids = [
                    zoho_id
                    for zoho_id, row in existing.items()
                    if zoho_id not in named and not row.is_deleted and not row.is_stub
                ]
            if checkpoint is not None:
                checkpoint(counts)
            if self.module is DEALS and counts.changed_pks:
                pks = counts.changed_pks
                transaction.on_commit(
                    lambda: signals.deals_changed.send_robust(sender=Store, pks=pks)
                )
        return counts

    def _existing(
        self, ids: Sequence[int], id_span: tuple[int, int | None] | None
    ) -> dict[int, Existing]:
        rows = self.module.model.objects.all()
        if id_span is not None:
            rows = rows.filter(zoho_id__gt=id_span[0])
            if id_span[1] is not None:
                rows = rows.filter(zoho_id__lte=id_span[1])
        else:
            rows = rows.filter(zoho_id__in=ids)
        return {
            row[0]: Existing(row[1], row[2], row[3], row[4], row[5] is not None, row[6])
            for row in rows.values_list(
                "zoho_id",
                "id",
                "content_hash",
                "crm_modified_at",
                "read_at",
                "deleted_at",
                "is_stub",
            ).iterator(chunk_size=5000)
        }

    # -- references ------------------------------------------------------------------------------

    def _resolve_refs(self, incoming: Iterable[_Incoming], now: datetime) -> None:
        """Put our primary keys in the place of the CRM's references; unknown ones become stubs."""
        wanted: dict[str, dict[int, Ref]] = {"Users": {}}
        for item in incoming:
            if item.mapped.modified_by is not None:
                wanted["Users"][item.mapped.modified_by.id] = item.mapped.modified_by
        for at, _, target in self.mapper.refs:
            if target:
                found = wanted.setdefault(target, {})
                for item in incoming:
                    ref = item.mapped.values[at]
                    if ref.__class__ is Ref:
                        found.setdefault(ref.id, ref)
        for target, refs in wanted.items():
            self._learn(target, refs, now)
        for at, _, target in self.mapper.refs:
            known = self._refs.get(target, {})
            for item in incoming:
                ref = item.mapped.values[at]
                if ref.__class__ is Ref:
                    item.mapped.values[at] = known[ref.id] if target else ref.id

    def _learn(self, target: str, refs: dict[int, Ref], now: datetime) -> None:
        known = self._refs.setdefault(target, {})
        if len(known) > _REF_CACHE:
            known.clear()
        unknown = [zoho_id for zoho_id in refs if zoho_id not in known]
        if not unknown:
            return
        model: Any = CrmUser if target == "Users" else _REF_MODELS[target].model
        known.update(
            model.objects.filter(zoho_id__in=unknown).values_list("zoho_id", "pk").iterator()
        )
        missing = [refs[zoho_id] for zoho_id in unknown if zoho_id not in known]
        if missing:
            # Another writer may add the same stub: whoever is first wins, both read it back.
            model.objects.bulk_create(
                [_stub(target, model, ref, now) for ref in missing], ignore_conflicts=True
            )
            known.update(
                model.objects.filter(zoho_id__in=[ref.id for ref in missing]).values_list(
                    "zoho_id", "pk"
                )
            )

    # -- failures --------------------------------------------------------------------------------

    def _quarantine(self, failures: list[tuple], now: datetime) -> int:
        for record, code, message in failures:
            key = hashlib.blake2b(record.text.encode("utf-8", "replace"), digest_size=16)
            failed, is_new = FailedRecord.objects.get_or_create(
                module=self.module.name,
                dedupe_key=key.hexdigest(),
                defaults={
                    "code": code,
                    "message": message,
                    "payload": record.text.replace("\x00", "�")[:200_000],
                    "first_seen_at": now,
                    "last_seen_at": now,
                    "run_id": self.run_id,
                },
            )
            if not is_new:
                failed.attempts += 1
                failed.last_seen_at, failed.run_id, failed.resolved_at = now, self.run_id, None
                failed.save(update_fields=["attempts", "last_seen_at", "run_id", "resolved_at"])
        return len(failures)


class _Batch:
    """Decides record by record, collects rows, writes them at the end."""

    def __init__(self, store: Store, now: datetime, read_at: datetime, seq: int) -> None:
        self.store = store
        self.now = now
        self.now_db, self.read_db = db_moment(now), db_moment(read_at)
        self.read_at = read_at
        self.seq = seq
        self.counts = Counts()
        self.new: list[_Incoming] = []
        self.differing: list[tuple[_Incoming, Existing]] = []
        self.touched: list[tuple[_Incoming, Existing]] = []
        self.events: list[tuple] = []
        self.payload_updates: list[tuple] = []
        self.problems: list[tuple[int, _Incoming]] = []

    def add(self, item: _Incoming, known: Existing | None) -> None:
        mapped = item.mapped
        if known is None:
            self.new.append(item)
            return
        if known.is_stub or known.is_deleted:
            if known.is_deleted and _is_older(mapped, known, self.read_at):
                self.counts.unchanged += 1
            else:
                self.differing.append((item, known))
            return
        if _is_older(mapped, known, self.read_at):
            self.counts.unchanged += 1
        elif content_hash(mapped.values) != known.content_hash:
            self.differing.append((item, known))
        elif mapped.modified_at != known.modified_at:
            self.touched.append((item, known))
            self.counts.unchanged += 1
        else:
            self.counts.unchanged += 1

    def write(self) -> None:
        self._insert_new()
        self._update_differing()
        self._touch()
        bulk_write.insert(ChangeEvent, _EVENT_COLUMNS, self.events)
        self._write_problems()

    def _next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def _insert_new(self) -> None:
        if not self.new:
            return
        store, model = self.store, self.store.module.model
        columns = store.mapper.columns
        rows, payloads = [], []
        pks = bulk_write.allocate_ids(model, len(self.new))
        for pk, item in zip(pks, self.new, strict=True):
            values = self._filled(item.mapped, store._defaults)
            rows.append(
                (
                    pk,
                    *_driver_values(values),
                    *self._derived(values),
                    *self._bookkeeping(item.mapped, content_hash(values)),
                    self.now_db,
                    False,
                    "",
                    "",
                    *store._unmapped,
                )
            )
            told = {n: canonical(v) for n, v in zip(columns, values, strict=True) if v is not None}
            changed_at = item.mapped.created_at or item.mapped.modified_at
            self._event(pk, ChangeEvent.CREATED, "", None, _encode(told), changed_at)
            payloads.append((store.module.name, pk, item.body, self.read_db))
            if item.mapped.problems:
                self.problems.append((pk, item))
        bulk_write.insert(model, store._insert_columns, rows)
        bulk_write.insert(ReceivedRecord, _PAYLOAD_COLUMNS, payloads)
        self.counts.created += len(self.new)
        self.counts.changed_pks += pks

    def _update_differing(self) -> None:
        if not self.differing:
            return
        store = self.store
        columns = store.mapper.columns
        stored_rows = {
            row[0]: row[1:]
            for row in store.module.model.objects.filter(
                pk__in=[known.pk for _, known in self.differing]
            ).values_list("pk", *columns)
        }
        rows = []
        for item, known in self.differing:
            before = [_canonical_stored(value) for value in stored_rows[known.pk]]
            values = self._filled(item.mapped, dict(zip(columns, before, strict=True)))
            new_hash = content_hash(values)
            if new_hash == known.content_hash and not known.is_stub and not known.is_deleted:
                # Only keys that the answer left out differ: our values stay.
                self.counts.unchanged += 1
                if item.mapped.modified_at != known.modified_at:
                    self.touched.append((item, known))
                continue
            rows.append(
                (
                    *_driver_values(values),
                    *self._derived(values),
                    *self._bookkeeping(item.mapped, new_hash),
                    False,
                    None,
                    "",
                    "",
                    known.pk,
                )
            )
            self._tell(item.mapped, known, before, values)
            self.payload_updates.append((item.body, self.read_db, store.module.name, known.pk))
            self.problems.append((known.pk, item))
            self.counts.changed_pks.append(known.pk)
        bulk_write.update(
            store.module.model,
            (
                *store._content,
                *_BOOKKEEPING,
                "is_stub",
                "deleted_at",
                "deleted_source",
                "deleted_by",
            ),
            rows,
        )

    def _tell(self, mapped: Mapped, known: Existing, before: list[Any], values: list[Any]) -> None:
        columns = self.store.mapper.columns
        if known.is_stub:
            told = {n: canonical(v) for n, v in zip(columns, values, strict=True) if v is not None}
            changed_at = mapped.created_at or mapped.modified_at
            self._event(known.pk, ChangeEvent.CREATED, "", None, _encode(told), changed_at)
            self.counts.created += 1
            return
        if known.is_deleted:
            self._event(known.pk, ChangeEvent.RESTORED, "", None, None, mapped.modified_at)
            self.counts.restored += 1
        for name, old, new in zip(columns, before, values, strict=True):
            old, new = canonical(old), canonical(new)
            if old != new:
                self._event(
                    known.pk,
                    ChangeEvent.CHANGED,
                    name,
                    _encode(old),
                    _encode(new),
                    mapped.modified_at,
                )
        self.counts.updated += 1

    def _touch(self) -> None:
        """Only Modified_Time moved: no change of ours, but the newest payload and time are kept."""
        bulk_write.update(
            self.store.module.model,
            ("crm_modified_at", "read_at", "modified_by_id"),
            [
                (
                    db_moment(item.mapped.modified_at) if item.mapped.modified_at else None,
                    self.read_db,
                    self._modifier(item.mapped),
                    known.pk,
                )
                for item, known in self.touched
            ],
        )
        self.payload_updates += [
            (item.body, self.read_db, self.store.module.name, known.pk)
            for item, known in self.touched
        ]
        if self.payload_updates:
            _save_payloads(self.payload_updates)

    def _write_problems(self) -> None:
        stale = [pk for pk, _ in self.problems]
        if stale:
            RecordProblem.objects.filter(
                module=self.store.module.name, record_id__in=stale
            ).delete()
        RecordProblem.objects.bulk_create(
            RecordProblem(
                module=self.store.module.name,
                record_id=pk,
                field=problem.field,
                code=problem.code,
                message=problem.message[:255],
                seen_at=self.now,
            )
            for pk, item in self.problems
            for problem in item.mapped.problems
        )

    def _filled(self, mapped: Mapped, stored: dict[str, Any]) -> list[Any]:
        """The values with our own in the place of missing keys and of nulls that must not be."""
        defaults = self.store._defaults
        values = mapped.values
        for at, name in enumerate(self.store.mapper.columns):
            if values[at] is MISSING:
                values[at] = stored.get(name, defaults.get(name))
            elif values[at] is None and name in defaults:
                values[at] = defaults[name]
        return values

    def _derived(self, values: list[Any]) -> tuple:
        deriver = self.store.deriver
        if deriver is None:
            return ()
        index = self.store.mapper.index
        return deriver.derive(
            *(values[index[name]] if name in index else None for name in derive.INPUTS)
        )

    def _bookkeeping(self, mapped: Mapped, new_hash: str) -> tuple:
        return (
            mapped.zoho_id,
            self._modifier(mapped),
            db_moment(mapped.created_at) if mapped.created_at else None,
            db_moment(mapped.modified_at) if mapped.modified_at else None,
            self.read_db,
            new_hash,
            self._next_seq(),
            self.now_db,
        )

    def _modifier(self, mapped: Mapped) -> int | None:
        person = mapped.modified_by
        return self.store._refs["Users"].get(person.id) if person else None

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
                self.store.module.name,
                pk,
                kind,
                name,
                old,
                new,
                db_moment(changed_at) if changed_at else None,
                self.now_db,
                self.store.source,
                self.store.run_id,
            )
        )


_EVENT_COLUMNS = (
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
_PAYLOAD_COLUMNS = ("module", "record_id", "body", "received_at")
_REF_MODELS = {"Accounts": ACCOUNTS, "Contacts": CONTACTS, "Deals": DEALS}


def tell_deletions(
    module: Module,
    zoho_ids: Sequence[int],
    *,
    source: str,
    lease: Lease | None,
    run_id: int | None,
    told: dict[int, tuple[datetime | None, str]] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Counts:
    """Tombstones for records that the CRM no longer has; never a DELETE.

    `told` gives when and by whom, where the CRM said so. Records already marked stay as they are.
    """
    now = timezone.now()
    told = told or {}
    counts = Counts()
    with transaction.atomic():
        if lease is not None:
            lease.renew()
        seq = pass_gate(module.name, len(zoho_ids) + 1)
        rows = list(
            module.model.objects.filter(
                zoho_id__in=zoho_ids, deleted_at__isnull=True, is_stub=False
            ).values_list("pk", "zoho_id")
        )
        updates, events = [], []
        for at, (pk, zoho_id) in enumerate(rows, start=1):
            when, by = told.get(zoho_id, (None, ""))
            updates.append(
                (
                    db_moment(when or now),
                    source,
                    by[:255],
                    seq + at,
                    db_moment(now),
                    db_moment(now),
                    pk,
                )
            )
            events.append(
                (
                    module.name,
                    pk,
                    ChangeEvent.DELETED,
                    "",
                    None,
                    None,
                    db_moment(when) if when else None,
                    db_moment(now),
                    source,
                    run_id,
                )
            )
        bulk_write.update(
            module.model,
            # read_at: a page that was read before this and stored after it must not revive the row
            ("deleted_at", "deleted_source", "deleted_by", "change_seq", "read_at", "updated_at"),
            updates,
        )
        bulk_write.insert(ChangeEvent, _EVENT_COLUMNS, events)
        counts.deleted = len(rows)
        counts.changed_pks = [pk for pk, _ in rows]
        if checkpoint is not None:
            checkpoint(counts)
        if module is DEALS and rows:
            transaction.on_commit(
                lambda: signals.deals_changed.send_robust(sender=Store, pks=counts.changed_pks)
            )
    return counts


def pass_gate(module: str, count: int) -> int:
    """Lock the module's gate until commit; returns the last number given out before ours."""
    table = MirrorState._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET change_seq = change_seq + %s "  # noqa: S608
            "WHERE module = %s RETURNING change_seq",
            [count, module],
        )
        found = cursor.fetchone()
    if found is None:
        MirrorState.objects.get_or_create(module=module)
        return pass_gate(module, count)
    return found[0] - count


def _save_payloads(rows: list[tuple]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {ReceivedRecord._meta.db_table} "  # noqa: S608
            "(body, received_at, module, record_id) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (module, record_id) DO UPDATE SET "
            "body = excluded.body, received_at = excluded.received_at",
            rows,
        )


def _stub(target: str, model: Any, ref: Ref, now: datetime) -> Any:
    if target == "Users":
        return CrmUser(zoho_id=ref.id, name=ref.name, email=ref.email, updated_at=now)
    row = model(zoho_id=ref.id, is_stub=True, first_seen_at=now, updated_at=now)
    if target == "Contacts":
        row.last_name = ref.name
    else:
        row.name = ref.name
    return row


def _not_older(mapped: Mapped, known: Mapped) -> bool:
    return (
        mapped.modified_at is None
        or known.modified_at is None
        or mapped.modified_at >= known.modified_at
    )


def _is_older(mapped: Mapped, known: Existing, read_at: datetime) -> bool:
    """Whether what we hold is newer: by the CRM's time, by our time of reading as tie-break."""
    if mapped.modified_at is None or known.modified_at is None:
        return known.read_at is not None and read_at < known.read_at
    if mapped.modified_at == known.modified_at:
        return known.read_at is not None and read_at < known.read_at
    return mapped.modified_at < known.modified_at


def _canonical_stored(value: Any) -> Any:
    """A stored column value in canonical form: dates as ISO text."""
    if value is None or value.__class__ in (str, int, bool, datetime):
        return value
    return value.isoformat()


def _driver_values(values: list[Any]) -> list[Any]:
    return [db_moment(v) if v.__class__ is datetime else v for v in values]


def _unmapped_defaults(module: Module, mapped: Sequence[str]) -> dict[str, Any]:
    """Columns that a raw INSERT must name because they may not be null and nothing maps them."""
    own = {"id", "is_stub", "deleted_source", "deleted_by", "first_seen_at", *_BOOKKEEPING}
    return {
        f.column: f.get_default()
        for f in module.model._meta.concrete_fields
        if not f.null and f.column not in mapped and f.column not in own
    }
