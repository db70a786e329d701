"""The records that notices name: fetched, stored, settled. A notice is only a hint (decision 6).

The first notice is taken at once; those that arrive while it is fetched go into the next call,
at most fifty ids each. A round is a run of kind *webhook* in the ledger. No lease is needed: the
gate and the CRM's Modified_Time order it against a sync that is under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone

from crm import failpoints
from crm.errors import CrmUnreachable
from crm.models import CrmConnection, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync import deletions, inbox, metadata, reachability, runs
from crm.sync.context import SyncContext
from crm.sync.inbox import Claim
from crm.sync.modules import BY_NAME, Module
from crm.sync.page import Counts
from crm.sync.reading import NO_QUERIES, ONE_MODULE, RANGE_ROWS, id_of
from crm.sync.store import Store
from crm.sync.tombstones import tell_deletions
from crm.sync.watermark import OVERLAP
from crm.webhook import forget_nudge
from crm.zoho.client import ZohoClient
from crm.zoho.errors import RetryLater, ZohoError
from crm.zoho.factory import client_from_settings

log = structlog.get_logger(__name__)
SOURCE = inbox.KIND
DELETED = "delete"
# Two rounds follow each other at once; when more keeps coming it is a burst, and waiting a little
# fills the calls.
FIRST_LINGER_S, LONGEST_LINGER_S = 0.05, 1.0
# Of the calls a minute, what notices may use before they are gathered instead.
SHARE_OF_CALLS = 0.5


def event_client() -> ZohoClient:
    """A client that gives up soon: the notice stays, and is tried again."""
    return client_from_settings(purpose="event")


def take_waiting(
    *,
    should_stop: Callable[[], bool] = lambda: False,
    make_client: Callable[[], AbstractContextManager[ZohoClient]] = event_client,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Work the inbox off; returns the number of rounds. What fails waits for its next attempt.

    Returns at once where there is nothing due, somebody else is at it, or the CRM cannot be asked:
    not configured, never read, read with other credentials, or known to be down.
    """
    forget_nudge()
    if not inbox.due(timezone.now()).exists() or (connection := _known_crm()) is None:
        return 0
    with make_client() as client:
        rounds = 0
        while not should_stop():
            claim = inbox.claim_due(timezone.now())
            if claim is None:
                break
            failpoints.pass_by("events.after_claim")
            rounds += 1
            if not _Round(client, claim, connection).run():
                break
            wait(pause_after(rounds) + _budget_pause(timezone.now()))
            forget_nudge()
    return rounds


def sweep(now: datetime, *, should_stop: Callable[[], bool] = lambda: False) -> int:
    """What a nudge or a worker lost: returns the number of rounds."""
    inbox.release_lapsed(now)
    return take_waiting(should_stop=should_stop)


def pause_after(rounds: int) -> float:
    """Seconds to wait after so many rounds on end."""
    if rounds < 2:
        return 0.0
    return min(LONGEST_LINGER_S, FIRST_LINGER_S * 2 ** min(rounds - 2, 10))


def _budget_pause(now: datetime) -> float:
    """Steady notices must not take the calls that the syncs need."""
    most = max(1.0, settings.ZOHO.rate_limit_per_minute * SHARE_OF_CALLS)
    lately = SyncRun.objects.filter(
        kind=inbox.KIND, requested_at__gt=now - timedelta(minutes=1)
    ).count()
    return 60 / most if lately >= most else 0.0


def _known_crm() -> CrmConnection | None:
    """The CRM that the mirror was read from, if it can be asked now."""
    connection = CrmConnection.objects.filter(pk=1).first() if settings.ZOHO else None
    if connection is None or connection.metadata_read_at is None:
        return None
    if connection.fingerprint != metadata.credentials_fingerprint():
        return None  # perhaps another organisation: the next sync finds out
    try:
        reachability.raise_if_known_down()
    except CrmUnreachable:
        return None
    return connection


class _Round:
    """One claim, from the first call to the run's last word."""

    def __init__(self, client: ZohoClient, claim: Claim, connection: CrmConnection) -> None:
        self.client = client
        self.claim = claim
        self.run_row = claim.run
        self.context = SyncContext(timezone.now(), connection)
        self.notes: list[str] = []
        self.code = ""
        self.is_to_rest = False
        self._calls_told, self._retries_told = client.calls, client.retries
        self._bytes_told = client.bytes_received

    def run(self) -> bool:
        """False if the CRM or the database should be left alone for a moment."""
        for part in self.claim.parts:
            hints = self.claim.hints[part.module]
            try:
                self._take(part, BY_NAME[part.module], hints)
                SyncRunModule.objects.filter(pk=part.pk).update(state=SyncRunModule.DONE)
            except (ZohoError, DatabaseError) as error:
                self._put_back(part, error)
            except Exception as error:
                log.exception("notices_internal_error", run=self.run_row.pk, module=part.module)
                reason = f"A fault of our own ({type(error).__name__}); the worker's log has it."
                self._blame(part, "internal", reason)
        inbox.note_events(self.claim)
        self._close()
        return not self.is_to_rest

    def _take(self, part: SyncRunModule, module: Module, hints: dict[int, str]) -> None:
        fields = self.context.api_names(module.name)
        store = Store(
            module,
            self.context.mapper(module.name),
            source=SOURCE,
            run_id=self.run_row.pk,
            deriver=self.context.deriver,
        )
        missing: list[int] = []
        for verdict in self._read(module, fields, hints):
            self._store(part, store, verdict)
            missing += verdict.gone
            self._leave_unclear(part, verdict.unclear)
            inbox.keep(self.claim, timezone.now())
        self._mark_gone(part, module, store, fields, missing, hints)

    # -- reading -------------------------------------------------------------------------------

    def _read(
        self, module: Module, fields: Sequence[str], hints: dict[int, str]
    ) -> Iterator[deletions.Verdict]:
        """Many at once by one query of what changed lately; what it does not give, by id."""
        rest = set(hints)
        changed = sorted(zoho_id for zoho_id in hints if hints[zoho_id] != DELETED)
        if len(changed) > deletions.IDS_PER_CALL and not module.converted:
            for verdict in self._changed_lately(module, fields, changed):
                rest.difference_update(filter(None, map(id_of, verdict.alive)))
                yield verdict
        yield from deletions.verify(self.client, module, fields, sorted(rest))

    def _changed_lately(
        self, module: Module, fields: Sequence[str], wanted: Sequence[int]
    ) -> Iterator[deletions.Verdict]:
        """Never more calls than asking by id takes; refused queries are none."""
        asked, after = set(wanted), wanted[0] - 1
        for _ in range(len(wanted) // deletions.IDS_PER_CALL):
            read_at = timezone.now()
            try:
                page = self.client.id_range(
                    module.name,
                    fields,
                    after=after,
                    upto=wanted[-1],
                    modified_since=self.claim.oldest - OVERLAP,
                    limit=RANGE_ROWS,
                )
            except NO_QUERIES:
                return
            found = [record for record in page.records if id_of(record) in asked]
            if found:
                yield deletions.Verdict(found, [], read_at)
            last = max(filter(None, map(id_of, page.records)), default=None)
            if not page.more or last is None or last <= after:
                return
            after = last

    # -- storing -------------------------------------------------------------------------------

    def _store(self, part: SyncRunModule, store: Store, verdict: deletions.Verdict) -> None:
        if not verdict.alive:
            return
        ids = [zoho_id for zoho_id in map(id_of, verdict.alive) if zoho_id is not None]

        def checkpoint(counts: Counts) -> None:
            runs.advance(self.run_row, part, counts, cursor={}, api=self._spent())
            inbox.settle(self.claim, part.module, ids)

        store.store(verdict.alive, read_at=verdict.read_at, checkpoint=checkpoint)

    def _mark_gone(
        self,
        part: SyncRunModule,
        module: Module,
        store: Store,
        fields: Sequence[str],
        missing: list[int],
        hints: dict[int, str],
    ) -> None:
        """What the CRM did not give becomes a tombstone; asked again first where nobody spoke of a
        deletion: a record that was only just created may not be readable yet."""
        live = deletions.live_ids(module, missing)
        doubtful = [zoho_id for zoho_id in live if hints[zoho_id] != DELETED]
        gone = [zoho_id for zoho_id in live if hints[zoho_id] == DELETED]
        for verdict in deletions.verify(self.client, module, fields, doubtful):
            self._store(part, store, verdict)
            gone += verdict.gone
            self._leave_unclear(part, verdict.unclear)
        number = module.model.objects.live().count() if len(gone) > deletions.IDS_PER_CALL else 0
        if gone and number and deletions.is_too_many(len(gone), number):
            deletions.hold(module, self.run_row.pk, gone, number)
            self.notes.append(f"{len(gone)} {module.label} are gone at once: ops must confirm.")
        elif gone:
            tell_deletions(
                module,
                gone,
                source=SOURCE,
                run_id=self.run_row.pk,
                checkpoint=lambda counts: runs.count_deletions(self.run_row, part, counts),
            )
        failpoints.pass_by("events.before_settle")
        doubted = set(doubtful) - set(gone)
        with transaction.atomic():
            inbox.settle(self.claim, part.module, sorted(set(missing) - doubted))

    # -- what fails ----------------------------------------------------------------------------

    def _leave_unclear(self, part: SyncRunModule, zoho_ids: list[int]) -> None:
        """Those of which the CRM's answer said nothing that could be understood."""
        if zoho_ids:
            reason = "The CRM's answer about this record cannot be understood."
            self._blame(part, "unclear", reason, zoho_ids)

    def _put_back(self, part: SyncRunModule, error: Exception) -> None:
        if isinstance(error, ONE_MODULE):
            self._blame(part, error.code, error.message)
            return
        self.is_to_rest = True
        code = error.code if isinstance(error, ZohoError) else "database"
        message = error.message if isinstance(error, ZohoError) else type(error).__name__
        wait_s = error.retry_after_s if isinstance(error, RetryLater) else None
        inbox.put_back(self.claim, part.module, code=code, message=message, wait_s=wait_s)
        self._note(part, code, message)

    def _blame(
        self, part: SyncRunModule, code: str, message: str, zoho_ids: list[int] | None = None
    ) -> None:
        dead = inbox.blame(self.claim, part.module, code=code, message=message, zoho_ids=zoho_ids)
        self._note(part, code, message + (f" {dead} given up." if dead else ""))

    def _note(self, part: SyncRunModule, code: str, message: str) -> None:
        self.code = code
        self.notes.append(f"{part.module}: {message}")
        SyncRunModule.objects.filter(pk=part.pk).update(
            state=SyncRunModule.REFUSED, message=message[:1000]
        )

    def _close(self) -> None:
        SyncRun.objects.filter(pk=self.run_row.pk).update(**self._spent())
        self.run_row.refresh_from_db()
        ended = self.run_row.parts.filter(state=SyncRunModule.DONE).exists()
        status = ledger.SUCCEEDED
        if self.code:
            status = ledger.PARTIAL if ended else ledger.FAILED
        elif self.run_row.failed:
            status = ledger.PARTIAL
        message = " ".join(self.notes)
        runs.close_run(self.run_row, status, code=self.code, message=message)

    def _spent(self) -> dict:
        """Calls, retries and bytes since they were last told, as increments."""
        client = self.client
        spent = {
            "api_calls": F("api_calls") + client.calls - self._calls_told,
            "retries": F("retries") + client.retries - self._retries_told,
            "received_bytes": F("received_bytes") + client.bytes_received - self._bytes_told,
        }
        self._calls_told, self._retries_told = client.calls, client.retries
        self._bytes_told = client.bytes_received
        return spent
