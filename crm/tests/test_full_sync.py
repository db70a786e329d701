"""A full sync over real HTTP: afterwards the mirror is the CRM, record by record."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from crm.models import (
    ChangeEvent,
    CrmConnection,
    CrmUser,
    Deal,
    DeletionHold,
    MirrorState,
    NotificationChannel,
    ReceivedRecord,
)
from crm.sync import reading
from crm.tests.notices import known_channels
from crm.tests.replay import live_values
from crm.tests.synced import Crm


def rows() -> list[dict]:
    return list(Deal.objects.order_by("id").values())


def test_first_full_sync_makes_the_mirror_the_crm(big_crm: Crm) -> None:
    run = big_crm.sync("full")
    assert run.status == "succeeded", run.message
    big_crm.assert_mirrored()
    assert run.seen == run.created == sum(len(big_crm.ids(m)) for m in run.modules)
    assert (run.updated, run.unchanged, run.failed, run.deleted) == (0, 0, 0, 0)
    assert ChangeEvent.objects.count() == ReceivedRecord.objects.count() == run.created
    assert run.api_calls > 8 and run.received_bytes > 100_000 and run.pages >= 4
    connection = CrmConnection.objects.get()
    assert connection.org_name and not connection.error_code
    assert connection.last_success_at is not None


def test_counters_of_the_modules_add_up_to_those_of_the_run(crm: Crm) -> None:
    run = crm.sync("full")
    for name in ("pages", "seen", "created", "updated", "unchanged", "failed", "deleted"):
        assert getattr(run, name) == sum(getattr(part, name) for part in run.parts.all()), name
    assert [part.module for part in run.parts.all()] == ["Accounts", "Contacts", "Leads", "Deals"]
    assert all(part.state == "done" for part in run.parts.all())
    assert [p.expected for p in run.parts.all()] == [
        len(crm.ids(m)) - (0 if m != "Leads" else _converted(crm)) for m in run.modules
    ]


def _converted(crm: Crm) -> int:
    records = crm.control("dump", module="Leads")["records"]
    return sum(bool(record["Converted__s"]) for record in records)


def test_second_full_sync_writes_no_row_and_makes_no_event(crm: Crm) -> None:
    crm.sync("full")
    before, events = rows(), ChangeEvent.objects.count()
    run = crm.sync("full")
    assert run.status == "succeeded"
    assert run.unchanged == run.seen == sum(len(crm.ids(m)) for m in run.modules)
    assert rows() == before
    assert ChangeEvent.objects.count() == events


def test_by_pages_and_by_id_ranges_the_mirror_is_the_same(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 40)

    def mirrored(method: str) -> tuple[dict, list]:
        big_crm.forget_mirror()
        run = big_crm.sync("full", method=method)
        assert run.status == "succeeded", run.message
        values = {row.pop("zoho_id"): row for row in Deal.objects.values("zoho_id", *NAMES)}
        owners = dict(CrmUser.objects.values_list("pk", "zoho_id"))
        for row in values.values():
            row["owner"] = owners.get(row["owner_id"])
            del row["owner_id"]
        events = sorted(ChangeEvent.objects.values_list("module", "kind", "changed_at"))
        assert run.parts.get(module="Deals").method == (method if method == "pages" else "ranges")
        return values, events

    assert mirrored("pages") == mirrored("auto")


NAMES = ("name", "owner_id", "crm_stage", "amount_minor", "currency", "closing_date",
         "stage", "probability", "amount_sgd_minor", "territory", "crm_modified_at")  # fmt: skip


def test_small_ranges_in_parallel_lose_and_double_nothing(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 7)
    monkeypatch.setattr(reading, "STORED_AT_ONCE", 3)
    run = big_crm.sync("full")
    assert (run.status, run.unchanged) == ("succeeded", 0)
    big_crm.assert_mirrored()


@pytest.mark.parametrize("method", ["ranges", "bulk"])
def test_beside_notices_postgresql_stores_in_small_pieces_and_loses_nothing(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(reading, "STORED_BESIDE_NOTICES", 20)
    known_channels()
    quiet = big_crm.sync("full", "Deals", method=method)
    NotificationChannel.objects.filter(module="Deals").update(last_event_at=timezone.now())
    told = big_crm.sync("full", "Deals", method=method)
    assert (quiet.status, told.status) == ("succeeded", "succeeded")
    assert (told.seen, told.unchanged) == (quiet.seen, quiet.seen)
    assert (told.pages >= 450 // 20) == (connection.vendor == "postgresql")
    assert quiet.pages < 450 // 20
    big_crm.assert_mirrored("Deals")


def test_row_50_what_was_edited_made_and_deleted_since_is_found_by_a_full_sync(crm: Crm) -> None:
    crm.sync("full")
    ids = crm.ids()
    crm.control("edit", module="Deals", id=ids[0], values={"Amount": 4321.5, "Next_Step": None})
    crm.control("insert", module="Deals", values={"Deal_Name": "Fresh", "Stage": "Qualification"})
    crm.control("delete", module="Deals", ids=ids[1:3])
    crm.control("delete", module="Deals", ids=ids[3:4], type="permanent")
    run = crm.sync("full", "Deals")
    assert (run.status, run.created, run.updated, run.deleted) == ("succeeded", 1, 1, 3)
    crm.assert_mirrored("Deals")
    gone = Deal.objects.filter(deleted_at__isnull=False)
    assert sorted(str(d.zoho_id) for d in gone) == sorted(ids[1:4])
    assert {d.deleted_source for d in gone} == {"full"}


def test_row_50_records_that_vanish_from_sight_are_marked_and_come_back(crm: Crm) -> None:
    crm.sync("full")
    ids = crm.ids()[:4]
    crm.control("vanish", module="Deals", ids=ids)
    assert crm.sync("full", "Deals").deleted == 4
    crm.assert_mirrored("Deals")
    crm.control("appear", module="Deals", ids=ids)
    run = crm.sync("full", "Deals")
    assert (run.updated, run.restored, run.created) == (4, 4, 0)
    crm.assert_mirrored("Deals")


def test_row_51_restored_from_the_recycle_bin_as_it_was(crm: Crm) -> None:
    crm.sync("full")
    one = crm.ids()[0]
    crm.control("delete", module="Deals", ids=[one])
    crm.sync("full", "Deals")
    crm.control("restore", module="Deals", ids=[one])
    assert crm.sync("full", "Deals").restored == 1
    crm.assert_mirrored("Deals")


@pytest.mark.parametrize(("gone", "is_held"), [(50, False), (51, True)])
def test_row_52_more_than_fifty_or_two_percent_gone_at_once_are_held(
    big_crm: Crm, gone: int, is_held: bool
) -> None:
    big_crm.sync("full", "Deals")
    ids = big_crm.ids()[:gone]
    big_crm.control("vanish", module="Deals", ids=ids)
    run = big_crm.sync("full", "Deals")
    assert run.deleted == (0 if is_held else gone)
    assert Deal.objects.live().count() == 450 - (0 if is_held else gone)
    assert DeletionHold.objects.count() == is_held
    if is_held:
        hold = DeletionHold.objects.get()
        assert (hold.status, hold.live_before, hold.module) == ("held", 450, "Deals")
        assert sorted(hold.zoho_ids) == sorted(map(int, ids))
        assert "51 of 450" in run.message


def test_row_52_all_records_vanishing_changes_nothing_until_ops_decide(big_crm: Crm) -> None:
    big_crm.sync("full", "Deals")
    before = live_values("Deals")
    big_crm.control("vanish", module="Deals", ids=big_crm.ids())
    run = big_crm.sync("full", "Deals")
    assert run.deleted == 0 and live_values("Deals") == before


@pytest.mark.parametrize("method", ["auto", "pages"])
def test_row_44_an_edit_between_any_two_requests_is_never_lost(
    big_crm: Crm, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 120)
    for after in POSITIONS[method]:
        big_crm.forget_mirror()
        edit = {"do": "edit", "module": "Deals", "values": {"Next_Step": f"after {after}"}}
        one = big_crm.ids()[after * 50]
        _hook(big_crm, method, after, {**edit, "id": one})
        big_crm.sync("full", "Deals", method=method)
        assert_in_time(big_crm)


@pytest.mark.parametrize("method", ["auto", "pages"])
@pytest.mark.parametrize("kind", ["recycle", "permanent"])
def test_row_45_a_deletion_between_any_two_requests_hides_no_other_record(
    big_crm: Crm, method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 120)
    for after in POSITIONS[method]:
        big_crm.forget_mirror()
        ids = big_crm.ids()
        command = {"do": "delete", "module": "Deals", "ids": [ids[0], ids[-1]], "type": kind}
        _hook(big_crm, method, after, command)
        big_crm.sync("full", "Deals", method=method)
        assert_in_time(big_crm)


@pytest.mark.parametrize("method", ["auto", "pages"])
def test_row_46_a_record_made_between_any_two_requests_is_here_after_the_next_sync(
    big_crm: Crm, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 120)
    values = {"Deal_Name": "Made meanwhile", "Stage": "Qualification"}
    for after in POSITIONS[method]:
        big_crm.forget_mirror()
        _hook(big_crm, method, after, {"do": "insert", "module": "Deals", "values": values})
        big_crm.sync("full", "Deals", method=method)
        assert_in_time(big_crm)


# Which requests of a run there are to come between: with count and pages, with plans and ranges.
POSITIONS = {"pages": range(1, 7), "auto": range(1, 8)}


def assert_in_time(crm: Crm) -> None:
    """What happened during a run is here after it or after the next one."""
    crm.sync("delta", "Deals")
    crm.sync("delta", "Deals")
    crm.assert_mirrored("Deals")


def _hook(crm: Crm, method: str, after: int, command: dict[str, Any]) -> None:
    path = "/crm/v8/Deals" if method == "pages" else "/crm/v8/coql"
    crm.control("hook", after_requests=after, path=path, run=command)


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_state_of_a_module_moves_only_with_the_run(crm: Crm, kind: str) -> None:
    crm.sync("full")
    before = MirrorState.objects.get(module="Deals")
    run = crm.sync(kind, "Deals")
    after = MirrorState.objects.get(module="Deals")
    assert after.watermark == after.complete_s0 == run.s0 >= before.watermark
    assert after.previous_watermark == before.watermark
    assert (after.full_at != before.full_at) == (kind == "full")
    part = run.parts.get()
    assert part.watermark_after == after.watermark
