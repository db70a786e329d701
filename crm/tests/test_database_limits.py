"""A database that takes no more: the run ends with a word, and goes on when there is room again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import DataError, IntegrityError, connection, connections, transaction
from django.test import Client
from django.utils import timezone

from crm import tasks
from crm.models import ChangeEvent, Deal, MirrorState, SyncLease, SyncRun
from crm.sync import runs, watermark
from crm.sync.execute import execute
from crm.tests.synced import Crm


@pytest.mark.sqlite
def test_row_16_a_full_disk_leaves_the_watermark_and_says_so(
    big_crm: Crm, ops_client: Client
) -> None:
    big_crm.sync("full", "Accounts")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # rows of earlier tests left free pages in the file
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 40}")
    try:
        run = big_crm.sync("full")
        page = ops_client.get("/opportunities")
        notice = ops_client.get("/")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 1073741823")
    assert (page.status_code, notice.status_code) == (200, 200)
    assert "The disk is full" in notice.content.decode()
    assert (run.status, run.error_code) == ("failed", "disk_full"), run.message
    assert "make room" in run.message
    assert watermark.watermark_of("Deals") is None
    assert MirrorState.objects.get(module="Accounts").watermark is not None
    run = big_crm.sync("full")
    assert run.status == "succeeded"
    big_crm.assert_mirrored()


@pytest.mark.sqlite
def test_row_15_a_database_that_another_writer_holds_is_waited_for(crm: Crm) -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                MirrorState.objects.update_or_create(module="Other")
                taken.set()
                done.wait(1.5)
        finally:
            connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait(10)
    run = crm.sync("full")
    holder.join()
    assert run.status == "succeeded", run.message
    crm.assert_mirrored()


@contextmanager
def held_exclusively() -> Iterator[None]:
    """Another writer has the file, and we wait for it a tenth of a second instead of twenty."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute("BEGIN EXCLUSIVE")
                taken.set()
                done.wait(30)
                cursor.execute("ROLLBACK")
        finally:
            connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(10)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 100")
    try:
        yield
    finally:
        done.set()
        holder.join()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 20000")


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("path", "sent", "kind"),
    [
        ("/api/zoho/sync", "application/json", "application/json"),
        ("/sync/start", "application/x-www-form-urlencoded", "text/html"),
    ],
)
def test_row_15_beyond_the_waiting_time_it_is_said_to_be_busy(
    crm: Crm, ops_client: Client, path: str, sent: str, kind: str
) -> None:
    ops_client.raise_request_exception = False
    with held_exclusively():
        answer = ops_client.post(path, content_type=sent)
        assert answer.status_code == 503
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Retry-After"]
        assert "busy" in answer.content.decode()
    assert not SyncRun.objects.exists()
    assert ops_client.post(path, content_type=sent).status_code in (202, 302)
    assert SyncRun.objects.count() == 1


@pytest.mark.sqlite
def test_row_15_a_sync_that_waited_too_long_is_tried_again_by_the_sweeper(crm: Crm) -> None:
    run = runs.request_run(kind="full", trigger="schedule", nudge=False)

    def on_page(_: Any, part: Any) -> None:
        if part.module == "Accounts":
            stack.enter_context(held_exclusively())

    with ExitStack() as stack:
        execute(run.pk, on_page=on_page)
        written = ChangeEvent.objects.count()
    run.refresh_from_db()
    assert run.status in ("queued", "running") and run.ended_at is None
    assert run.seen == run.created == written  # nothing of the page that could not be written
    assert SyncRun.objects.get().pk == run.pk
    SyncLease.objects.update(expires_ms=0, holder="")  # as after its seconds
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded", run.message
    assert run.created == ChangeEvent.objects.count()
    crm.assert_mirrored()


@pytest.mark.sqlite
def test_row_17_a_file_that_became_read_only_is_no_fault_of_the_page(
    rep_client: Client, rep: Any
) -> None:
    rep_client.raise_request_exception = False
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA query_only = 1")  # the same refusal as of a read-only file
    try:
        shown = rep_client.get("/opportunities")
        refused = Client(raise_request_exception=False).post(
            "/login", {"username": rep.username, "password": "a password"}
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA query_only = 0")
    assert shown.status_code == 200
    assert refused.status_code == 503 and refused.headers["Retry-After"]


FAR = datetime(2037, 1, 1, tzinfo=UTC)
WRITE = "UPDATE crm_mirrorstate SET watermark = %s WHERE module = 'Deals'"  # as by any tool


@pytest.mark.parametrize(
    "written",
    ["2037-01-01 00:00:00+00:00", "2199-01-01 00:00:00+00:00", "1970-01-01 00:00:00+00:00",
     "0001-01-01 00:00:00+00:00", "garbage"],
)  # fmt: skip
def test_row_55_the_database_refuses_a_watermark_that_no_sync_has_set(
    crm: Crm, written: str
) -> None:
    crm.sync("full")
    mark = watermark.watermark_of("Deals")
    refusal = pytest.raises((IntegrityError, DataError))
    with refusal, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(WRITE, [written])
    assert watermark.watermark_of("Deals") == mark
    assert crm.sync("delta").status == "succeeded"


def forced(**values: Any) -> None:
    """As where the checks were not there yet, or our clock was wrong when the mark was moved."""
    rows = MirrorState.objects.filter(module="Deals")
    rows.update(**{"watermark_limit": FAR, "watermark": FAR, "complete_s0": FAR, **values})


def test_row_55_at_the_start_an_impossible_watermark_is_told_and_the_module_read_whole(
    crm: Crm, rep_client: Client
) -> None:
    crm.sync("full")
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "before that mark"})
    forced()
    assert watermark.watermark_of("Deals") is None
    tasks.sweep()
    run = SyncRun.objects.latest("pk")
    assert (run.kind, run.trigger, run.modules) == ("full", "startup", ["Deals"])
    assert (run.status, run.seen) == ("succeeded", 50)
    assert "Deals: Its watermark stood at 2037-01-01 00:00 UTC" in run.message
    assert "Its watermark stood at 2037-01-01" in rep_client.get("/").content.decode()
    assert Deal.objects.get(zoho_id=one).next_step == "before that mark"
    state = MirrorState.objects.get(module="Deals")
    assert (state.watermark, state.complete_s0) == (run.s0, run.s0)
    assert state.watermark_limit < FAR
    tasks.sweep()
    assert SyncRun.objects.latest("pk").pk == run.pk, "once is enough"


def test_row_55_while_the_crm_is_down_the_module_is_not_asked_for_again_and_again(
    crm: Crm,
) -> None:
    crm.sync("full")
    forced()
    down = {"do": "status", "path": "/crm/v8", "times": 0, "status": 503}
    crm.control("faults", rules=[down])
    for _ in range(3):
        tasks.sweep()
    assert [r.status for r in SyncRun.objects.order_by("pk")] == ["succeeded", "failed"]
    crm.control("clear_faults")
    later = timezone.now() + timedelta(minutes=16)
    with time_machine.travel(later, tick=True):
        tasks.sweep()
        assert not watermark.impossible()
    crm.assert_mirrored()


def test_row_55_a_delta_does_not_believe_it_either(crm: Crm) -> None:
    crm.sync("full")
    forced()
    run = crm.sync("delta")
    assert (run.status, run.parts.get(module="Deals").seen) == ("succeeded", 50)
    assert watermark.watermark_of("Deals") == SyncRun.objects.get(pk=run.pk).s0
    assert "Its watermark stood at" in run.message
