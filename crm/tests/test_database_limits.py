"""A database that takes no more: the run ends with a word, and goes on when there is room again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection, connections, transaction

from crm.models import Deal, MirrorState, SyncRun
from crm.sync import watermark
from crm.tests.synced import Crm


@pytest.mark.sqlite
def test_row_16_a_full_disk_leaves_the_watermark_and_says_so(big_crm: Crm) -> None:
    big_crm.sync("full", "Accounts")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # rows of earlier tests left free pages in the file
        cursor.execute("PRAGMA page_count")
        pages = cursor.fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 40}")
    try:
        run = big_crm.sync("full")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 1073741823")
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


def test_row_55_a_watermark_that_somebody_wrote_far_ahead_is_not_believed(
    crm: Crm, now: Any
) -> None:
    crm.sync("full")
    MirrorState.objects.update(watermark=now.replace(year=2199))
    assert watermark.watermark_of("Deals") is None
    run = crm.sync("delta")
    assert run.status == "succeeded"
    assert watermark.watermark_of("Deals") == SyncRun.objects.get(pk=run.pk).s0
    assert Deal.objects.live().count() == 50
