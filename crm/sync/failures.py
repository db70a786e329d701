"""Records that could not be stored: tried again, or put aside by a person who looked at them.

A record whose id is known is asked for by id, because the CRM's newest state is what counts; one
without is mapped again from the payload that was kept. Who decided, and what came of it, stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.utils import timezone

from crm.errors import CrmNotConfigured, CrmUnreachable
from crm.models import FailedRecord
from crm.sync import deletions
from crm.sync.context import SyncContext
from crm.sync.modules import BY_NAME, Module
from crm.sync.replay import KIND, read_back
from crm.sync.store import Store
from crm.zoho.client import RawRecord
from crm.zoho.errors import NotConfigured, RetryLater, ZohoError
from crm.zoho.factory import client_from_settings

STORED, GONE, FAILED, DISMISSED = "stored", "gone", "failed", "dismissed"


@dataclass(frozen=True)
class Outcome:
    """What came of a try: `stored`, `gone` (the CRM has it no more) or `failed`, and a sentence."""

    result: str
    message: str


def retry(failed: FailedRecord, *, user: Any = None) -> Outcome:
    """Try again, here and now. Raises CrmNotConfigured and CrmUnreachable."""
    module = BY_NAME[failed.module]
    context = SyncContext(timezone.now())
    if failed.zoho_id is None:
        records, read_at = read_back([failed.payload]), failed.last_seen_at
    else:
        try:
            with client_from_settings(purpose="page") as client:
                names = context.api_names(module.name)
                (verdict, *more) = deletions.verify(client, module, names, [failed.zoho_id])
        except NotConfigured:
            raise CrmNotConfigured from None
        except ZohoError as error:
            wait_s = error.retry_after_s if isinstance(error, RetryLater) else None
            raise CrmUnreachable(error.message, retry_after_s=wait_s) from None
        verdict = more[-1] if more else verdict
        if verdict.gone:
            _resolve(failed, GONE, user)
            return Outcome(GONE, "The CRM does not have this record any more.")
        records, read_at = verdict.alive, verdict.read_at
    return _store(failed, module, context, records, read_at, user)


def _store(
    failed: FailedRecord,
    module: Module,
    context: SyncContext,
    records: list[RawRecord],
    read_at: Any,
    user: Any,
) -> Outcome:
    store = Store(module, context.mapper(module.name), source=KIND, deriver=context.deriver)
    counts = store.store(records, read_at=read_at)
    if records and not counts.failed:
        _resolve(failed, STORED, user)
        return Outcome(STORED, "The record is stored.")
    before, seen_at = failed.attempts, failed.last_seen_at
    failed.refresh_from_db()
    if (failed.attempts, failed.last_seen_at) == (before, seen_at):
        # Another text than the one that was kept: that one has a row of its own.
        FailedRecord.objects.filter(pk=failed.pk).update(
            attempts=F("attempts") + 1, last_seen_at=timezone.now()
        )
        failed.refresh_from_db()
    return Outcome(FAILED, failed.message)


def dismiss(failed: FailedRecord, *, user: Any = None) -> bool:
    """A person has looked; it is no matter. One that fails again comes back. False if resolved."""
    return _resolve(failed, DISMISSED, user)


def _resolve(failed: FailedRecord, resolution: str, user: Any) -> bool:
    """Also where the store has resolved it by its id a moment ago: then who asked is added."""
    now = timezone.now()
    rows = FailedRecord.objects.filter(pk=failed.pk)
    if resolution == DISMISSED:
        rows = rows.filter(resolved_at=None)
    done = rows.update(resolved_at=now, resolution=resolution, resolved_by=user)
    failed.refresh_from_db()
    return done == 1
