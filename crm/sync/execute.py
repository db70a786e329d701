"""One run from taking the lease to its last word; the same for worker, command and test.

What stops a run (connection, token, body, credits) leaves every watermark where it was and ends
as one clear sentence on the run and on the connection. What concerns one module is named on its
part, and the others go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta

import structlog
from django.db import DatabaseError
from django.utils import timezone

from crm import failpoints
from crm.errors import CrmError, LeaseLost
from crm.models import CrmConnection, CrmUser, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.sync import (
    delta,
    drift,
    full,
    lease,
    memory,
    metadata,
    reconcile,
    rederive,
    replay,
    runs,
    watermark,
)
from crm.sync.context import SyncContext
from crm.sync.reading import ONE_MODULE
from crm.sync.session import Session, StopRequested
from crm.zoho.client import ZohoClient
from crm.zoho.errors import BreakerOpen, RetryLater, ZohoError
from crm.zoho.factory import client_from_settings

log = structlog.get_logger(__name__)

METADATA_AGE = timedelta(hours=24)
UNKNOWN_USERS_AGE = timedelta(hours=1)
READERS = {
    runs.FULL: full.read_module,
    runs.DELTA: delta.read_module,
    runs.RECONCILE: reconcile.prove_module,
    runs.REPLAY: replay.replay_module,
}
DISK_FULL = "53100"  # PostgreSQL's code


def _never() -> bool:
    return False


def execute(
    run_id: int,
    *,
    should_stop: Callable[[], bool] = _never,
    on_page: Callable[[SyncRun, SyncRunModule], None] = lambda run, part: None,
    on_interrupt: str = "set_aside",
    make_client: Callable[[], ZohoClient] = client_from_settings,
) -> SyncRun | None:
    """Run it, or return None if another process holds the lease or the run has ended.

    `on_interrupt`: "set_aside" queues the run again when the process is told to stop, "abort"
    ends it as aborted (a person pressed Ctrl-C); both can be gone on with.
    """
    run = SyncRun.objects.filter(pk=run_id).first()
    if run is None or not run.is_active:
        return None
    held = lease.acquire()
    if held is None:
        return None
    try:
        if not runs.open_run(run, held.fence):
            return None
        with memory.tuned(), held.kept_alive():
            _execute(run, held, should_stop, on_page, on_interrupt, make_client)
    finally:
        with contextlib.suppress(DatabaseError):
            held.release()
    return run


def _execute(
    run: SyncRun,
    held: lease.Lease,
    should_stop: Callable[[], bool],
    on_page: Callable[[SyncRun, SyncRunModule], None],
    on_interrupt: str,
    make_client: Callable[[], ZohoClient],
) -> None:
    CrmConnection.objects.get_or_create(pk=1)
    if run.attempts > 2 * runs.MAX_DEATHS:
        _fail(
            run,
            "workers_died",
            f"{2 * runs.MAX_DEATHS} workers died at the same place of this run, not over a record. "
            "Look at the workers' logs, then start it again.",
        )
        return
    CrmConnection.objects.filter(pk=1).update(last_attempt_at=timezone.now())
    client: ZohoClient | None = None
    session: Session | None = None
    try:
        client = make_client()
        session = Session(
            run,
            held,
            client,
            should_stop=should_stop,
            on_page=on_page,
            run_nested=run_queued_delta if run.kind in runs.LETS_DELTAS_IN else None,
        )
        _read_all(session)
        failpoints.pass_by("execute.before_close")
        _conclude(session)
        failpoints.pass_by("execute.after_close")
    except LeaseLost:
        _superseded(run)
    except StopRequested:
        _save_spent(session)
        runs.set_aside(run) if on_interrupt == "set_aside" else _abort(run)
    except KeyboardInterrupt:
        _save_spent(session)
        _abort(run)
        raise
    except BreakerOpen as error:
        _save_spent(session)
        answered = client is not None and client.first_server_date is not None
        _stopped_by_breaker(run, error, was_begun=answered or run.s0 is not None)
    except ZohoError as error:
        _save_spent(session)
        _fail(run, error.code, error.message, can_resume=isinstance(error, RetryLater))
    except CrmError as error:
        _save_spent(session)
        _fail(run, error.code, error.message)
    except DatabaseError as error:
        _stop_without_database(run, error, on_interrupt)
    except Exception as error:
        # A fault of ours: the run must still end, be seen, and leave the watermark where it was.
        log.exception("sync_internal_error", run=run.pk)
        _save_spent(session)
        _fail(
            run,
            "internal",
            f"The sync stopped over a fault of its own ({type(error).__name__}); the log of the "
            "worker has the details. Nothing is lost; the next sync tries again.",
        )
    finally:
        if client is not None:
            client.close()


def _read_all(session: Session) -> None:
    if session.run.kind != runs.REPLAY:
        _refresh_metadata_if_due(session)
    session.context = SyncContext(timezone.now())
    if session.run.kind == runs.FULL:
        session.notes = drift.warnings(session.context, session.run.modules)
    failpoints.pass_by("execute.before_parts")
    _read_parts(session)
    if session.run.kind == runs.RECONCILE:
        reconcile.conclude(session)
    rederive.run_if_needed(session.lease, breathe=session.breathe)


def _read_parts(session: Session) -> None:
    """Module by module; what concerns one of them does not keep the others waiting."""
    read = READERS[session.run.kind]
    ended = [SyncRunModule.DONE, SyncRunModule.REFUSED]
    parts = list(session.run.parts.exclude(state__in=ended))
    if session.run.kind == runs.FULL:
        for part in parts:
            full.prepare(session, part)  # so that progress knows the end from the start
    for part in parts:
        session.look_at_credits()
        try:
            read(session, part)
        except ONE_MODULE as error:
            # Nothing of a module that we may not see is taken for deleted.
            session.mark(part, state=SyncRunModule.REFUSED, message=error.message[:1000])
            if session.run.kind in (runs.FULL, runs.DELTA):
                watermark.skip(part.module, error.message)
        session.save_spent()


def _refresh_metadata_if_due(session: Session) -> None:
    now = timezone.now()
    connection = CrmConnection.objects.get(pk=1)
    read_at = connection.metadata_read_at
    due = (
        session.run.kind == runs.FULL
        or read_at is None
        # Read in the future, by a clock that has been set back since: nothing of it holds today.
        or not timedelta(0) <= now - read_at <= METADATA_AGE
        or connection.fingerprint != metadata.credentials_fingerprint()
        or (now - read_at > UNKNOWN_USERS_AGE and CrmUser.objects.filter(status="unknown").exists())
    )
    if due:
        news = metadata.refresh(session.client, now, between=session.look_at_credits)
        session.s0()
        if news.refused:
            SyncRun.objects.filter(pk=session.run.pk).update(
                message=("Could not be read: " + "; ".join(news.refused))[:2000]
            )
            session.run.refresh_from_db(fields=["message"])


def _conclude(session: Session) -> None:
    run = session.run
    session.save_spent()
    run.refresh_from_db()
    run.fence = session.lease.fence  # ours, whoever holds the run by now
    parts = list(run.parts.all())
    notes = [f"{part.module}: {part.message}" for part in parts if part.message]
    notes += session.notes
    if run.message:
        notes.insert(0, run.message)
    refused = [part for part in parts if part.state == SyncRunModule.REFUSED]
    status, code = ledger.SUCCEEDED, ""
    if len(refused) == len(parts):
        status, code = ledger.FAILED, "not_permitted"
    elif run.kind == runs.FULL and any(
        runs.failed_beyond_reason(part.seen, part.failed) for part in parts
    ):
        status, code = ledger.FAILED, "too_many_failed"
        notes.insert(0, f"{run.failed} records could not be stored; see the list of failures.")
    elif run.failed or any(part.state != SyncRunModule.DONE for part in parts):
        status = ledger.PARTIAL
        if run.failed:
            notes.insert(0, _needs_a_look(run.failed))
    if not runs.close_run(run, status, code=code, message=" ".join(notes)):
        raise LeaseLost
    if run.kind == runs.REPLAY:
        return  # of the CRM it has learnt nothing
    values: dict = {"error_code": "", "error_message": ""}
    if status == ledger.FAILED:
        values = {"error_code": code, "error_message": run.message}
    else:
        values["last_success_at"] = timezone.now()
    CrmConnection.objects.filter(pk=1).update(**values)


def _needs_a_look(number: int) -> str:
    if number == 1:
        return "1 record needs a look: it could not be stored."
    return f"{number} records need a look: they could not be stored."


def run_queued_delta(session: Session) -> None:
    """A delta that is due goes in between two pages of a full run, under the same lease."""
    queued = (
        SyncRun.objects.filter(kind=runs.DELTA, lane__isnull=True, status=ledger.QUEUED)
        .order_by("requested_at")
        .first()
    )
    if queued is None or not runs.open_run(queued, session.lease.fence):
        return
    session.save_spent()
    nested = session.nested(queued)
    try:
        _read_parts(nested)
        _conclude(nested)
    except ZohoError as error:
        runs.close_run(queued, ledger.FAILED, code=error.code, message=error.message)
    except StopRequested:
        _abort(queued)
        raise
    finally:
        session.leave_out_spent()


def _save_spent(session: Session | None) -> None:
    if session is not None:
        with contextlib.suppress(DatabaseError):
            session.save_spent()


def _superseded(run: SyncRun) -> None:
    log.warning("sync_superseded", run=run.pk, fence=run.fence)
    with contextlib.suppress(DatabaseError):
        runs.note_superseded(run)


def _abort(run: SyncRun) -> None:
    runs.close_run(
        run,
        ledger.ABORTED,
        code="interrupted",
        message="Interrupted. Started again, it goes on from its last stored page.",
    )


def _stopped_by_breaker(run: SyncRun, error: BreakerOpen, *, was_begun: bool) -> None:
    """A slot that falls into the pause of a CRM that is down was skipped; it has not failed."""
    if run.trigger == "schedule" and not was_begun:
        runs.close_run(run, ledger.SKIPPED, code=error.code, message=error.message)
    else:
        _fail(run, error.code, error.message, can_resume=True)


def _fail(run: SyncRun, code: str, message: str, *, can_resume: bool = False) -> None:
    if not runs.close_run(run, ledger.FAILED, code=code, message=message, can_resume=can_resume):
        _superseded(run)  # what it met says nothing of how things stand now
        return
    CrmConnection.objects.filter(pk=1).update(error_code=code[:64], error_message=message)


def _stop_without_database(run: SyncRun, error: DatabaseError, on_interrupt: str) -> None:
    """The database refused a write: disk full, locked for too long, or gone."""
    text = str(error).lower()
    state = getattr(error.__cause__, "sqlstate", None)
    log.error("sync_database_error", run=run.pk, reason=type(error).__name__)
    with contextlib.suppress(DatabaseError):
        if state == DISK_FULL or "disk is full" in text or "no space left" in text:
            _fail(
                run,
                "disk_full",
                "The disk is full: make room, the sync then goes on by itself.",
                can_resume=True,
            )
        elif ("locked" in text or "busy" in text) and on_interrupt == "set_aside":
            runs.set_aside(run)  # the sweeper tries again; nothing of the page was written
        else:
            _fail(
                run,
                "database",
                "The database did not accept a write. The sync goes on by itself when it does; "
                "see the logs if this stays.",
                can_resume=True,
            )
