"""Deletions held for ops: only what the CRM no longer has is deleted, whatever came between."""

from __future__ import annotations

import pytest

from crm import tasks
from crm.models import Deal, DeletionHold, SweepCandidate, SyncRunModule
from crm.sync import deletions, holds, rederive, runs
from crm.sync.execute import execute
from crm.sync.metadata import queue_derive
from crm.sync.modules import ACCOUNTS
from crm.tests.synced import Crm


def held(crm: Crm, count: int) -> list[str]:
    """That many deals were here and are gone from the CRM's sight; a full sync has held them."""
    crm.sync("full", "Deals")
    ids = crm.ids()[:count]
    crm.control("vanish", module="Deals", ids=ids)
    assert crm.sync("full", "Deals").deleted == 0
    assert sorted(map(str, DeletionHold.objects.get().zoho_ids)) == sorted(ids)
    return ids


def test_what_a_full_sync_meets_again_is_not_deleted_by_a_late_confirmation(big_crm: Crm) -> None:
    ids = held(big_crm, 60)
    seen_by_ops = DeletionHold.objects.get()
    big_crm.control("appear", module="Deals", ids=ids)
    run = big_crm.sync("full", "Deals")
    assert run.unchanged == 450 and "60 of the deals" in run.message
    assert DeletionHold.objects.get().status == "cleared"
    assert holds.confirm(seen_by_ops) == 0
    assert DeletionHold.objects.get().status == "cleared"
    big_crm.assert_mirrored("Deals")


def test_of_a_hold_that_was_met_in_part_only_the_rest_is_deleted(big_crm: Crm) -> None:
    ids = held(big_crm, 120)
    big_crm.control("appear", module="Deals", ids=ids[:60])
    assert big_crm.sync("full", "Deals").deleted == 0
    hold = DeletionHold.objects.get()
    assert sorted(map(str, hold.zoho_ids)) == sorted(ids[60:])
    assert holds.confirm(hold) == 60
    big_crm.assert_mirrored("Deals")


def test_a_hold_ends_when_the_rest_is_few_enough_to_be_marked(big_crm: Crm) -> None:
    ids = held(big_crm, 60)
    big_crm.control("appear", module="Deals", ids=ids[:30])
    assert big_crm.sync("full", "Deals").deleted == 30
    assert DeletionHold.objects.get().status == "cleared"
    big_crm.assert_mirrored("Deals")


def test_a_module_that_was_not_read_to_its_end_leaves_its_hold(big_crm: Crm) -> None:
    ids = held(big_crm, 60)
    big_crm.control("appear", module="Deals", ids=ids)
    down = {"do": "status", "path": "/crm/v8/coql", "nth": 4, "times": 0, "status": 500}
    big_crm.control("faults", rules=[down])
    assert big_crm.sync("full", "Deals").status == "failed"
    hold = DeletionHold.objects.get()
    assert (hold.status, len(hold.zoho_ids)) == ("held", 60)


def test_a_hold_of_another_module_is_left_alone(crm: Crm) -> None:
    run = crm.sync("full")
    deletions.hold(ACCOUNTS, run.pk, [1], 50)
    crm.sync("full", "Deals")
    assert DeletionHold.objects.get().status == "held"


def test_a_record_that_changes_after_the_first_hold_and_goes_later_is_deleted_too(
    big_crm: Crm,
) -> None:
    held(big_crm, 60)
    one = big_crm.ids()[100]
    big_crm.control("edit", module="Deals", id=one, values={"Next_Step": "still here"})
    assert big_crm.sync("delta", "Deals").updated == 1
    big_crm.control("vanish", module="Deals", ids=[one])
    assert big_crm.sync("full", "Deals").deleted == 0
    hold = DeletionHold.objects.get()
    assert int(one) in hold.zoho_ids and len(hold.zoho_ids) == 61
    assert holds.confirm(hold) == 61
    big_crm.assert_mirrored("Deals")


def test_a_hold_that_grows_lets_go_of_what_was_read_since_it_was_begun(big_crm: Crm) -> None:
    ids = held(big_crm, 60)
    big_crm.control("appear", module="Deals", ids=ids[:1])
    big_crm.control("edit", module="Deals", id=ids[0], values={"Next_Step": "back"})
    assert big_crm.sync("delta", "Deals").updated == 1
    more = [zoho_id for zoho_id in big_crm.ids() if zoho_id not in ids][:55]
    big_crm.control("delete", module="Deals", ids=more)
    big_crm.sync("delta", "Deals")
    hold = DeletionHold.objects.get()
    assert sorted(map(str, hold.zoho_ids)) == sorted([*ids[1:], *more])
    assert holds.confirm(hold) == 59 + 55
    big_crm.assert_mirrored("Deals")


# -- told to stop where nothing is stored ---------------------------------------------------------


def is_sweeping() -> bool:
    return SyncRunModule.objects.filter(state=SyncRunModule.SWEEPING).exists()


def test_a_sweep_stops_when_it_is_told_to_and_goes_on_later(big_crm: Crm) -> None:
    big_crm.sync("full", "Deals")
    big_crm.control("vanish", module="Deals", ids=big_crm.ids()[:200])
    run = runs.request_run(kind="full", trigger="schedule", module_names=["Deals"], nudge=False)
    execute(run.pk, should_stop=is_sweeping)
    run.refresh_from_db()
    assert run.status == "queued"
    assert not DeletionHold.objects.exists()
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded"
    assert len(DeletionHold.objects.get().zoho_ids) == 200


def test_a_sweep_that_is_stopped_again_and_again_asks_for_nothing_alive_twice(
    big_crm: Crm,
) -> None:
    big_crm.sync("full", "Deals")
    run = runs.request_run(kind="full", trigger="schedule", module_names=["Deals"], nudge=False)
    execute(run.pk, should_stop=lambda: True)
    part = run.parts.get()
    ids = sorted(map(int, big_crm.ids()))[:120]
    part.candidates.bulk_create(SweepCandidate(part=part, zoho_id=zoho_id) for zoho_id in ids)
    part.state, part.cursor = SyncRunModule.SWEEPING, {"open": []}
    part.save(update_fields=["state", "cursor"])
    for left in (70, 20):
        execute(run.pk, should_stop=lambda: True)
        assert part.candidates.count() == left
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, part.candidates.count()) == ("succeeded", 0)
    big_crm.assert_mirrored("Deals")


def test_deriving_stops_when_it_is_told_to_and_goes_on_later(
    crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm.sync("full")
    monkeypatch.setattr(rederive, "BATCH", 10)
    Deal.objects.update(stage="other")
    queue_derive()
    run = runs.request_run(kind="delta", trigger="schedule", nudge=False)
    execute(run.pk, should_stop=lambda: Deal.objects.filter(stage="other").count() != 50)
    run.refresh_from_db()
    assert run.status == "queued"
    assert 0 < Deal.objects.filter(stage="other").count() < 50
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded"
    crm.assert_mirrored("Deals")
