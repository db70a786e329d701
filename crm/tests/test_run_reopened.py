"""A full run that goes on where it stopped does what is asked for now; what stopped it is named."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from crm.models import ChangeEvent, Deal, FieldMapping, SweepCandidate, SyncRun, SyncRunModule
from crm.sync import runs
from crm.tests.synced import Crm


def stopped(crm: Crm, method: str = "auto") -> SyncRun:
    run = runs.request_run(kind="full", trigger="schedule", method=method, nudge=False)
    SyncRun.objects.filter(pk=run.pk).update(status="aborted", ended_at=timezone.now())
    return run


def test_a_run_goes_on_in_the_name_of_who_asks_for_it_now(crm: Crm, ops: Any) -> None:
    before = stopped(crm)
    slot = timezone.now().replace(microsecond=0)
    run = runs.request_run(kind="full", trigger="user", user=ops, slot=slot, nudge=False)
    run.refresh_from_db()
    assert run.pk == before.pk
    assert (run.trigger, run.requested_by, run.slot) == ("user", ops, slot)


def test_a_run_does_not_go_on_by_another_method_than_the_one_asked_for(crm: Crm) -> None:
    before = stopped(crm)
    run = runs.request_run(kind="full", trigger="command", method="pages", nudge=False)
    assert run.pk != before.pk and run.method == "pages"


class _Full(Exception):
    sqlstate = "53100"


@pytest.mark.parametrize(
    ("text", "cause", "code"),
    [
        ("no such column: crm_mirrorstate.full_at", None, "database"),
        ("database or disk is full", None, "disk_full"),
        ("could not extend file: No space left on device", None, "disk_full"),
        ("could not extend file", _Full(), "disk_full"),
    ],
)
def test_row_16_only_a_full_disk_is_called_one(
    crm: Crm, text: str, cause: Exception | None, code: str
) -> None:
    """Also in place of a full tablespace: that is PostgreSQL\'s code for one."""

    def refuse(*_: Any) -> None:
        raise OperationalError(text) from cause

    run = crm.sync("full", on_page=refuse)
    assert (run.status, run.error_code, run.can_resume) == ("failed", code, True)


def test_a_field_that_is_no_longer_mapped_costs_one_full_sync_and_not_each(crm: Crm) -> None:
    crm.sync("full")
    FieldMapping.objects.create(module="Deals", our_field="next_step", api_name="")
    events, hashes = ChangeEvent.objects.count(), set(content_hashes())
    seq = dict(Deal.objects.values_list("pk", "change_seq"))
    run = crm.sync("full", "Deals")
    assert (run.updated, run.unchanged) == (0, 50)
    settled = set(content_hashes())
    assert settled != hashes
    assert crm.sync("full", "Deals").unchanged == 50
    assert set(content_hashes()) == settled
    assert ChangeEvent.objects.count() == events
    assert dict(Deal.objects.values_list("pk", "change_seq")) == seq
    FieldMapping.objects.all().delete()
    assert crm.sync("full", "Deals").updated == 0
    assert set(content_hashes()) == hashes


def content_hashes() -> list[str]:
    return list(Deal.objects.values_list("content_hash", flat=True))


def test_a_full_sync_answers_for_the_doubts_of_one_that_nobody_went_on_with(crm: Crm) -> None:
    """What an interrupted run had not met stayed in its list for ever (seed 191, PostgreSQL)."""
    crm.sync("full")
    vanished = crm.ids()[0]
    crm.control("vanish", module="Deals", ids=[vanished])
    run = runs.request_run(kind="full", trigger="command", method="pages", nudge=False)
    part = SyncRunModule.objects.create(run=run, module="Deals", position=0)
    SweepCandidate.objects.create(part=part, zoho_id=vanished)
    SyncRun.objects.filter(pk=run.pk).update(status="aborted", ended_at=timezone.now())
    assert crm.sync("full").deleted == 1
    assert not SweepCandidate.objects.exists()
