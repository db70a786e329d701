"""A delta over real HTTP: what changed since, deletions too; few calls when nothing did."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from crm.models import Account, ChangeEvent, CrmUser, Deal, DeletionHold, Lead, MirrorState
from crm.sandbox.clock import ORG_ZONE
from crm.sync import modules, reading, watermark
from crm.tests.synced import Crm

ALL_SCOPES = [
    "ZohoCRM.modules.ALL",
    "ZohoCRM.settings.ALL",
    "ZohoCRM.users.READ",
    "ZohoCRM.org.READ",
]


def without_coql(crm: Crm) -> None:
    crm.control("config", scopes=ALL_SCOPES)
    crm.control("expire_tokens")


Way = Callable[[Crm], None]
WAYS: dict[str, Way] = {"coql": lambda crm: None, "pages": without_coql}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def test_a_delta_of_a_mirror_that_was_never_read_is_a_full_run(crm: Crm) -> None:
    run = crm.sync("delta")
    assert (run.kind, run.status) == ("full", "succeeded")
    crm.assert_mirrored()


def test_a_module_that_was_never_read_is_read_whole_by_the_delta(crm: Crm) -> None:
    for module in ("Accounts", "Contacts", "Leads"):
        crm.sync("full", module)
    run = crm.sync("delta")
    assert run.status == "succeeded"
    crm.assert_mirrored()


def test_when_nothing_changed_a_delta_costs_two_calls_a_module_and_writes_nothing(
    crm: Crm,
) -> None:
    crm.control("config", clock_offset_s=3600)
    crm.sync("full")
    crm.control("config", clock_offset_s=7200)  # beyond the overlap with anything seeded
    crm.sync("delta")
    before = list(Deal.objects.order_by("id").values())
    events = ChangeEvent.objects.count()
    crm.control("reset_stats")
    run = crm.sync("delta")
    paths = crm.control("stats")["by_path"]
    assert (run.status, run.seen, run.deleted) == ("succeeded", 0, 0)
    assert sum(paths.values()) == 2 * len(modules.ORDER) == run.api_calls, paths
    assert list(Deal.objects.order_by("id").values()) == before
    assert ChangeEvent.objects.count() == events


def test_row_49_edits_inserts_and_deletions_arrive(crm: Crm, way: Way) -> None:
    crm.sync("full")
    way(crm)
    ids, accounts, leads = crm.ids(), crm.ids("Accounts"), crm.ids("Leads")
    crm.control("edit", module="Deals", id=ids[0], values={"Amount": 99.5, "Stage": "Closed Won"})
    crm.control("edit", module="Deals", id=ids[1], values={"Closing_Date": None})
    crm.control("edit", module="Leads", id=leads[0], values={"Lead_Status": "Contacted"})
    crm.control("insert", module="Deals", values={"Deal_Name": "Fresh", "Stage": "Qualification"})
    crm.control("insert", module="Accounts", values={"Account_Name": "Fresh Ltd"})
    crm.control("delete", module="Deals", ids=ids[2:4])
    crm.control("delete", module="Contacts", ids=crm.ids("Contacts")[-1:], type="permanent")
    crm.control("delete", module="Leads", ids=leads[1:2])
    run = crm.sync("delta")
    assert run.status == "succeeded", run.message
    assert (run.created, run.deleted, run.failed) == (2, 4, 0)
    crm.assert_mirrored("Deals", "Leads", "Contacts")
    assert Account.objects.live().count() == len(accounts) + 1
    gone = Deal.objects.get(zoho_id=ids[2])
    assert (gone.deleted_source, bool(gone.deleted_by)) == ("list", True)
    listed = crm.control("dump", module="Deals")["deleted"]
    when = next(row["deleted_time"] for row in listed if row["id"] == ids[2])
    assert gone.deleted_at == datetime.fromisoformat(when)


def test_an_edit_brings_one_event_a_field_and_no_other(crm: Crm) -> None:
    crm.sync("full")
    last = ChangeEvent.objects.order_by("-id").first().pk
    one = crm.ids()[0]
    before = Deal.objects.get(zoho_id=one)
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "A new one"})
    run = crm.sync("delta")
    (event,) = ChangeEvent.objects.filter(pk__gt=last)
    assert (event.field, event.new, event.run_id) == ("next_step", '"A new one"', run.pk)
    assert event.source == "delta"
    assert (
        event.changed_at == Deal.objects.get(pk=before.pk).crm_modified_at > before.crm_modified_at
    )


def test_the_same_window_again_changes_nothing(crm: Crm, way: Way) -> None:
    crm.sync("full")
    way(crm)
    ids = crm.ids()
    crm.control("edit", module="Deals", id=ids[0], values={"Amount": 5})
    crm.control("delete", module="Deals", ids=ids[1:2])
    crm.sync("delta")
    events = ChangeEvent.objects.count()
    run = crm.sync("delta")
    assert (run.seen, run.unchanged, run.deleted) == (run.seen, run.seen, 0)
    assert ChangeEvent.objects.count() == events


def test_row_51_a_restored_record_is_revived_while_its_deletion_is_in_the_window(
    crm: Crm, way: Way
) -> None:
    crm.sync("full")
    way(crm)
    one = crm.ids()[0]
    crm.control("delete", module="Deals", ids=[one])
    assert crm.sync("delta").deleted == 1
    crm.control("restore", module="Deals", ids=[one])
    assert crm.sync("delta").restored == 1
    crm.assert_mirrored("Deals")


def test_row_48_a_record_seen_late_is_caught_by_the_overlap(crm: Crm) -> None:
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "late"})
    crm.control("vanish", module="Deals", ids=[one])
    crm.control("config", clock_offset_s=540)  # nine minutes before the mark: within ten
    crm.sync("full")
    assert not Deal.objects.filter(zoho_id=one).exists()
    crm.control("appear", module="Deals", ids=[one])
    crm.sync("delta")
    crm.assert_mirrored("Deals")


def test_row_47_hundreds_of_one_second_all_arrive(big_crm: Crm, way: Way) -> None:
    """More than two pages of them, in the very second of the watermark."""
    big_crm.sync("full", "Deals")
    way(big_crm)
    second = watermark.watermark_of("Deals").astimezone(ORG_ZONE).isoformat()
    for zoho_id in (ids := big_crm.ids()):
        values = {"Next_Step": "all at once", "Modified_Time": second}
        big_crm.control("edit", module="Deals", id=zoho_id, values=values, raw=True)
    for number in range(500 - len(ids)):
        values = {"Deal_Name": f"One of many {number}", "Stage": "Qualification", "Currency": "SGD"}
        times = {"Created_Time": second, "Modified_Time": second}
        big_crm.control("insert", module="Deals", values={**values, **times}, raw=True)
    run = big_crm.sync("delta", "Deals")
    assert (run.status, run.seen, run.created) == ("succeeded", 500, 500 - len(ids)), run.message
    big_crm.assert_mirrored("Deals")


def test_row_56_a_renamed_account_reaches_its_deals(crm: Crm) -> None:
    crm.sync("full")
    deal = Deal.objects.live().filter(account__isnull=False).first()
    crm.control(
        "edit", module="Accounts", id=deal.account.zoho_id, values={"Account_Name": "Renamed"}
    )
    crm.sync("delta")
    assert Deal.objects.get(pk=deal.pk).account.name == "Renamed"
    assert not ChangeEvent.objects.filter(module="Deals", kind="changed").exists()


def test_converted_leads_stay_and_say_so(crm: Crm, way: Way) -> None:
    crm.sync("full")
    way(crm)
    lead = Lead.objects.live().filter(is_converted=False).first()
    values = {"Converted__s": True, "Converted_Date_Time": "2026-11-01T10:00:00+08:00"}
    crm.control("edit", module="Leads", id=lead.zoho_id, values=values, raw=True)
    run = crm.sync("delta")
    assert (run.deleted, run.updated) == (0, 1)
    assert Lead.objects.get(pk=lead.pk).is_converted
    assert crm.sync("full", "Leads").deleted == 0
    crm.assert_mirrored("Leads")


@pytest.mark.parametrize("status", ["inactive", "deleted"])
def test_row_65_owners_that_leave_stay_named(crm: Crm, status: str) -> None:
    crm.sync("full")
    owner = Deal.objects.live().exclude(owner=None).first().owner
    crm.control("user", id=str(owner.zoho_id), status=status)
    deals = Deal.objects.filter(owner=owner).count()
    crm.sync("full")
    found = CrmUser.objects.get(pk=owner.pk)
    assert (found.name, found.email) == (owner.name, owner.email) and found.name
    assert found.status == status
    assert Deal.objects.filter(owner=owner).count() == deals


def test_row_50_deletions_are_asked_for_before_they_are_believed(crm: Crm) -> None:
    crm.sync("full")
    one = crm.ids()[0]
    # The list still names it, yet it is there: deleted and at once restored.
    crm.control("delete", module="Deals", ids=[one])
    listed = {"id": one, "type": "recycle", "deleted_time": crm_now(crm), "deleted_by": None}
    crm.control("restore", module="Deals", ids=[one])
    body = {"data": [listed], "info": {"more_records": False, "count": 1, "page": 1}}
    rule = {"path": "/crm/v8/Deals/deleted", "do": "status", "status": 200, "body": body}
    crm.control("faults", rules=[rule])
    run = crm.sync("delta")
    assert (run.deleted, run.status) == (0, "succeeded")
    crm.assert_mirrored("Deals")


def crm_now(crm: Crm) -> str:
    one = crm.control("insert", module="Leads", values={"Last_Name": "x", "Company": "y"})["id"]
    return crm.record(one, "Leads")["Modified_Time"]


def test_row_52_many_deletions_at_once_are_held_by_a_delta_too(big_crm: Crm) -> None:
    big_crm.sync("full", "Deals")
    ids = big_crm.ids()
    big_crm.control("delete", module="Deals", ids=ids[:51])
    assert big_crm.sync("delta", "Deals").deleted == 0
    assert len(DeletionHold.objects.get().zoho_ids) == 51
    assert Deal.objects.live().count() == 450
    big_crm.control("delete", module="Deals", ids=ids[51:60])
    big_crm.sync("delta", "Deals")
    assert sorted(DeletionHold.objects.get().zoho_ids) == sorted(map(int, ids[:60]))


# -- while it reads -------------------------------------------------------------------------------


def _churn(crm: Crm, what: str, at: int) -> dict[str, Any]:
    ids = crm.ids()
    if what == "edit":
        return {"do": "edit", "module": "Deals", "id": ids[at], "values": {"Next_Step": f"{at}"}}
    if what == "insert":
        values = {"Deal_Name": f"Made {at}", "Stage": "Qualification"}
        return {"do": "insert", "module": "Deals", "values": values}
    return {"do": "delete", "module": "Deals", "ids": [ids[at], ids[-at - 1]]}


@pytest.mark.parametrize("what", ["edit", "insert", "delete"])
def test_rows_44_45_46_whatever_happens_between_the_requests_of_a_delta_is_not_lost(
    big_crm: Crm, way: Way, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 150)
    big_crm.sync("full", "Deals")
    way(big_crm)
    # Three queries; or three pages and the list of deletions.
    path, requests = ("/crm/v8/coql", 3) if way is WAYS["coql"] else ("/crm/v8/Deals", 4)
    everything = watermark.watermark_of("Deals") - timedelta(days=4000)
    for after in range(1, requests + 1):
        big_crm.control(
            "hook", after_requests=after, path=path, run=_churn(big_crm, what, after * 40)
        )
        assert big_crm.sync("delta", "Deals", since=everything).pages >= 3
        big_crm.sync("delta", "Deals")
        big_crm.assert_mirrored("Deals")


def test_row_43_a_record_that_stands_on_two_pages_is_kept_once(big_crm: Crm) -> None:
    """Newest first: what is new pushes the last one of the first page onto the second."""
    big_crm.sync("full", "Deals")
    without_coql(big_crm)
    everything = watermark.watermark_of("Deals") - timedelta(days=4000)
    insert = {
        "do": "insert",
        "module": "Deals",
        "values": {"Deal_Name": "Made meanwhile", "Stage": "Qualification"},
    }
    big_crm.control("hook", after_requests=1, path="/crm/v8/Deals", run=insert)
    events = ChangeEvent.objects.count()
    run = big_crm.sync("delta", "Deals", since=everything)
    assert (run.status, run.seen, run.unchanged) == ("succeeded", 450, 450), run.message
    assert ChangeEvent.objects.count() == events
    assert Deal.objects.live().count() == 450 == len(big_crm.ids()) - 1  # it came in between
    big_crm.sync("delta", "Deals")
    big_crm.assert_mirrored("Deals")


def test_row_45_deletions_without_end_leave_the_watermark_and_say_why(
    big_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    big_crm.sync("full", "Deals")
    without_coql(big_crm)
    before = watermark.watermark_of("Deals")
    ids = big_crm.ids()
    for n in range(1, 12):
        run = {"do": "delete", "module": "Deals", "ids": [ids[n]]}
        big_crm.control("hook", after_requests=n, path="/crm/v8/Deals", run=run)
    run = big_crm.sync("delta", "Deals")
    assert run.status == "partial"
    assert run.parts.get().state == "unstable"
    assert "deleted while reading" in run.message
    assert watermark.watermark_of("Deals") == before
    big_crm.control("config", clock_offset_s=60)
    big_crm.sync("delta", "Deals")
    big_crm.sync("delta", "Deals")
    assert watermark.watermark_of("Deals") > before
    big_crm.assert_mirrored("Deals")


def test_row_45_a_list_of_deletions_that_lags_reopens_the_window_of_the_last_run(
    big_crm: Crm,
) -> None:
    big_crm.sync("full", "Deals")
    without_coql(big_crm)
    ids = big_crm.ids()
    big_crm.control("config", clock_offset_s=60)
    for n, zoho_id in enumerate(ids[:230]):  # more than a page changes
        big_crm.control("edit", module="Deals", id=zoho_id, values={"Next_Step": f"step {n}"})
    # Half an hour later a record of the first page goes while that is read; nobody is told yet.
    big_crm.control("config", clock_offset_s=1860)
    command = {"do": "delete", "module": "Deals", "ids": [ids[229]]}
    big_crm.control("hook", after_requests=1, path="/crm/v8/Deals", run=command)
    late = {"path": "/crm/v8/Deals/deleted", "do": "status", "status": 204, "body": ""}
    big_crm.control("faults", rules=[late])
    assert big_crm.sync("delta", "Deals").status == "succeeded"
    hidden = [n for n in range(229) if Deal.objects.get(zoho_id=ids[n]).next_step != f"step {n}"]
    assert len(hidden) == 1
    big_crm.control("config", clock_offset_s=2760)
    assert big_crm.sync("delta", "Deals").status == "succeeded"
    big_crm.assert_mirrored("Deals")
    big_crm.control("reset_stats")
    big_crm.sync("delta", "Deals")  # and then it is closed again
    assert big_crm.control("stats")["requests"] <= 4


# -- from when to when ----------------------------------------------------------------------------


def test_since_reads_from_there_and_leaves_no_gap(crm: Crm) -> None:
    crm.sync("full")
    mark = watermark.watermark_of("Deals")
    run = crm.sync("delta", "Deals", since=mark - timedelta(days=4000))
    assert run.seen == 50
    later = watermark.watermark_of("Deals")
    assert later >= mark
    run = crm.sync("delta", "Deals", since=later + timedelta(minutes=5))
    assert run.parts.get().watermark_after is None
    assert watermark.watermark_of("Deals") == later


def test_row_18_the_crms_clock_counts_not_ours(crm: Crm) -> None:
    crm.control("config", clock_offset_s=-86_400 * 3)
    run = crm.sync("full")
    mark = watermark.watermark_of("Deals")
    assert mark == run.s0
    assert mark < run.started_at - timedelta(days=2)
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "by its clock"})
    crm.sync("delta")
    assert Deal.objects.get(zoho_id=one).next_step == "by its clock"


def test_row_18_the_watermark_never_goes_back(crm: Crm) -> None:
    crm.sync("full")
    mark = watermark.watermark_of("Deals")
    crm.control("config", clock_offset_s=-3600)
    crm.sync("delta")
    assert watermark.watermark_of("Deals") == mark


def test_row_55_an_impossible_watermark_has_the_module_read_whole(crm: Crm) -> None:
    crm.sync("full")
    far = watermark.watermark_of("Deals") + timedelta(days=4000)
    MirrorState.objects.filter(module="Deals").update(
        watermark=far, complete_s0=far, watermark_limit=far
    )
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Next_Step": "seen"})
    run = crm.sync("delta")
    assert run.status == "succeeded"
    crm.assert_mirrored("Deals")
    assert watermark.watermark_of("Deals") == run.s0
    assert MirrorState.objects.get(module="Deals").complete_s0 == run.s0
