"""The one door into the mirror: a page of records → rows, events, payloads, failures, counts.

One transaction a page: fence, gate, rows, events, quarantine, the caller's checkpoint. Kill it
anywhere and at most this page's work is lost; run it twice and nothing changes. An older state
never overwrites a newer one; an equal one is neither written nor told.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from crm import failpoints
from crm.mapping.apply import Mapped, Mapper, Unusable
from crm.mapping.convert import record_id
from crm.models import FailedRecord
from crm.sync import bulk_write, derive, isolation
from crm.sync.batch import Batch
from crm.sync.gate import pass_gate
from crm.sync.layout import RowLayout
from crm.sync.lease import Lease
from crm.sync.modules import DEALS, Module
from crm.sync.page import Counts, Existing, Incoming
from crm.sync.reading import id_of
from crm.sync.references import References
from crm.sync.tombstones import announce
from crm.writeback import echoes
from crm.writeback.echoes import Overlay
from crm.zoho.client import RawRecord

Checkpoint = Callable[[Counts], None]
Interval = tuple[int, int | None]
Failure = tuple[RawRecord, str, str]
MAX_PAYLOAD = 200_000


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
        self.references = References(mapper.refs)
        self.has_open_failures = FailedRecord.objects.filter(
            module=module.name, zoho_id__isnull=False, resolved_at__isnull=True
        ).exists()
        self.poison = self._known_poison() if self.has_open_failures else {}
        self.layout = RowLayout(module, mapper, is_derived=self.deriver is not None)

    def store(
        self,
        records: Sequence[RawRecord],
        *,
        read_at: datetime,
        id_span: Interval | None = None,
        checkpoint: Checkpoint | None = None,
        condemned: Sequence[RawRecord] = (),
    ) -> Counts:
        """Store one page. `id_span` (after, upto]: the page holds all records of these ids, so
        live rows of ours within it that it does not name come back as `gone_ids`.

        `condemned` records of it are not stored but set aside (`isolation`). Raises LeaseLost, and
        then nothing of the page is written.
        """
        received = len(records) + len(condemned)
        if self.poison:
            condemned = [*condemned, *filter(self._is_poison, records)]
            records = [record for record in records if not self._is_poison(record)]
        for attempt in (1, 2, 3):
            incoming, failures = self._map(records)
            failures += [(record, isolation.CODE, isolation.MESSAGE) for record in condemned]
            try:
                return self._store(incoming, failures, received, read_at, id_span, checkpoint)
            except BaseException as error:
                self.references.forget()
                # Another module's page may have inserted the same referenced record meanwhile.
                if attempt == 3 or not isinstance(error, IntegrityError):
                    raise
        raise AssertionError("unreachable")

    def _known_poison(self) -> dict[int, str]:
        """What killed workers before: id → the state of the record that did, by its time."""
        rows = FailedRecord.objects.filter(
            module=self.module.name, code=isolation.CODE, resolved_at__isnull=True
        ).values_list("zoho_id", "payload")
        return {zoho_id: _modified_in(payload) for zoho_id, payload in rows if zoho_id}

    def _is_poison(self, record: RawRecord) -> bool:
        found = id_of(record)
        return found in self.poison and _modified_in(record.text) == self.poison[found]

    def _map(self, records: Sequence[RawRecord]) -> tuple[list[Incoming], list[Failure]]:
        """Outside the transaction. The same record twice on a page: the newer one counts."""
        newest: dict[int, Incoming] = {}
        failures: list[Failure] = []
        for record in records:
            try:
                mapped = self.mapper.apply(record.value)
            except Unusable as error:
                failures.append((record, error.code, str(error)))
                continue
            known = newest.get(mapped.zoho_id)
            if known is None or _not_older(mapped, known.mapped):
                # A raw NUL is the one character that PostgreSQL keeps in no text.
                body = record.text.replace("\x00", "\\u0000")
                newest[mapped.zoho_id] = Incoming(mapped, body)
        return list(newest.values()), failures

    def _store(
        self,
        incoming: list[Incoming],
        failures: list[Failure],
        received: int,
        read_at: datetime,
        id_span: Interval | None,
        checkpoint: Checkpoint | None,
    ) -> Counts:
        now = timezone.now()
        with transaction.atomic():
            if self.lease is not None:
                self.lease.renew()
            seq = pass_gate(self.module.name, len(incoming) + 1)
            ids = [item.mapped.zoho_id for item in incoming]
            existing = self._existing(ids, id_span)
            self.references.resolve(incoming, now)
            batch = Batch(self, now, read_at, seq)
            echoes.adopt(self.module, self.mapper, incoming, existing, now)
            if echoes.has_open(self.module.name):
                pks = [existing[i].pk for i in ids if i in existing]
                batch.overlay = Overlay.load(self.module.name, pks, self.mapper, read_at, now)
            for item in incoming:
                batch.add(item, existing.get(item.mapped.zoho_id))
            batch.write()
            failpoints.pass_by("store.after_rows")
            failpoints.pass_by_each("store.record", ids)
            counts = batch.counts
            counts.unchanged += received - len(incoming) - len(failures)
            counts.failed = self._quarantine(failures, now)
            self._resolve_failures(ids, now)
            counts.seen = received
            if id_span is not None:
                aside = [found for record, *_ in failures if (found := _id_in(record))]
                counts.gone_ids = _not_named(existing, [*ids, *aside])
            if checkpoint is not None:
                checkpoint(counts)
            # Without a lease it is no page of a long run.
            announce(self.module, counts.changed_pks, is_awaited=self.lease is None)
            failpoints.pass_by("store.before_commit")
        failpoints.pass_by("store.after_commit")
        return counts

    def _existing(self, ids: Sequence[int], id_span: Interval | None) -> dict[int, Existing]:
        """Past the ORM, which would parse every time of every row."""
        if id_span is None:
            condition, params = f"zoho_id IN ({', '.join(['%s'] * len(ids))})", list(ids)
            if not ids:
                return {}
        else:
            condition, params = "zoho_id > %s", [id_span[0]]
            if id_span[1] is not None:
                condition, params = f"{condition} AND zoho_id <= %s", [*params, id_span[1]]
            # A CRM that answers with other ids than it was asked for must not stop the run.
            if strays := [zoho_id for zoho_id in ids if not _is_within(zoho_id, id_span)]:
                condition = f"({condition}) OR zoho_id IN ({', '.join(['%s'] * len(strays))})"
                params = [*params, *strays]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT zoho_id, id, content_hash, "  # noqa: S608
                f"{bulk_write.raw_moment('crm_modified_at')}, {bulk_write.raw_moment('read_at')}, "
                f"deleted_at IS NOT NULL, is_stub FROM {self.module.model._meta.db_table} "
                f"WHERE {condition}",
                params,
            )
            return {row[0]: Existing(*row[1:]) for row in cursor.fetchall()}

    def _resolve_failures(self, ids: Sequence[int], now: datetime) -> None:
        """What could be stored after all needs no look any more."""
        if self.has_open_failures:
            FailedRecord.objects.filter(
                module=self.module.name, zoho_id__in=ids, resolved_at__isnull=True
            ).update(resolved_at=now)

    def _quarantine(self, failures: list[Failure], now: datetime) -> int:
        for record, code, message in failures:
            key = hashlib.blake2b(record.text.encode("utf-8", "replace"), digest_size=16)
            failed, is_new = FailedRecord.objects.get_or_create(
                module=self.module.name,
                dedupe_key=key.hexdigest(),
                defaults={
                    "zoho_id": _id_in(record),
                    "code": code,
                    "message": message,
                    "payload": record.text.replace("\x00", "�")[:MAX_PAYLOAD],
                    "first_seen_at": now,
                    "last_seen_at": now,
                    "run_id": self.run_id,
                },
            )
            if not is_new:
                failed.attempts += 1
                failed.last_seen_at, failed.run_id, failed.resolved_at = now, self.run_id, None
                failed.resolution, failed.resolved_by = "", None
                failed.save()
        return len(failures)


def _is_within(zoho_id: int, span: Interval) -> bool:
    return span[0] < zoho_id and (span[1] is None or zoho_id <= span[1])


def _id_in(record: RawRecord) -> int | None:
    """Its id; of a record that could not be read as one, as far as its text shows it."""
    if (known := id_of(record)) is not None:
        return known
    found = re.search(r'"id"\s*:\s*"?(\d{1,19})\b', record.text)
    return record_id(found[1]) if found else None


def _modified_in(text: str) -> str:
    """When a record changed, in the CRM's own words; its text need not be whole."""
    found = re.search(r'"Modified_Time"\s*:\s*"([^"]*)"', text)
    return found[1] if found else ""


def _not_older(mapped: Mapped, known: Mapped) -> bool:
    return (
        mapped.modified_at is None
        or known.modified_at is None
        or mapped.modified_at >= known.modified_at
    )


def _not_named(existing: dict[int, Existing], ids: Sequence[int]) -> list[int]:
    named = set(ids)
    return [
        zoho_id
        for zoho_id, row in existing.items()
        if zoho_id not in named and not row.is_deleted and not row.is_stub
    ]
