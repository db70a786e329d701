"""What people record, on its way to a stand-in CRM and back: rows here, records there."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from django.utils import timezone

from crm.models import ChangeEvent, Deal, OutboxEntry, outbox
from crm.tests.writing import a_deal, entries, send_now, switch, there
from o2r.filters import today_of_business
from o2r.models import MilestoneChange, Opportunity, PhaseChange
from o2r.timeline import timeline_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mirror(crm: Any) -> Any:
    crm.sync()
    return crm


@pytest.fixture
def deal(mirror: Any) -> Deal:
    return a_deal(mirror, proposal_date__isnull=True, po_date__isnull=True)


def url(deal: Deal) -> str:
    return f"/api/o2r/opportunities/{deal.pk}"


def record(client: Any, deal: Deal, **said: Any) -> Any:
    body = {"confirm_early": True, **said}
    return client.put(f"{url(deal)}/milestone", body, content_type="application/json")


def shown(client: Any, deal: Deal, key: str) -> dict[str, Any]:
    rows = client.get(url(deal)).json()["milestones"]
    return next(row for row in rows if row["milestone"] == key)


def histories(deal: Deal) -> tuple[int, ...]:
    own = {"opportunity__deal": deal}
    return (
        ChangeEvent.objects.filter(module="Deals", record_id=deal.pk).count(),
        MilestoneChange.objects.filter(**own).count(),
        PhaseChange.objects.filter(**own).count(),
        OutboxEntry.objects.count(),
    )


def test_a_recorded_milestone_reaches_the_crm_and_comes_back_as_no_change(
    mirror, deal, manager_client
) -> None:
    switch("off")
    day = today_of_business()
    assert (
        record(manager_client, deal, milestone="po", completed_on=day.isoformat()).status_code
        == 200
    )
    assert shown(manager_client, deal, "po")["pending"] is True
    assert there(mirror, deal, "PO_Date") is None
    assert Opportunity.objects.get(deal=deal).current_phase == 3
    send_now()
    assert there(mirror, deal, "PO_Date") == day.isoformat()
    assert shown(manager_client, deal, "po")["pending"] is False
    before = histories(deal)
    run = mirror.sync("delta")
    assert (run.status, histories(deal)) == ("succeeded", before)
    (entry,) = entries(deal)
    assert entry.status == outbox.DONE
    mirror.sync("full")
    assert histories(deal) == before
    mirror.assert_mirrored("Deals")
    told = [each.text for each in timeline_of(Opportunity.objects.get(deal=deal)).entries]
    assert "PO received is in the CRM" in told


def test_update_phase_and_send_its_milestones_now(mirror, deal, manager_client) -> None:
    switch("off")
    moved = manager_client.post(
        f"{url(deal)}/update-phase", {"confirm_early": True}, content_type="application/json"
    )
    assert moved.json()["current_phase"] == "phase2"
    switch("on")
    sent = manager_client.post(f"/api/o2r/sync-milestones-to-crm/{deal.pk}")
    assert (sent.status_code, sent.json()["sent"]) == (200, 1)
    assert there(mirror, deal, "Proposal_Date") == today_of_business().isoformat()


def test_what_is_cleared_here_is_cleared_there(mirror, deal, manager_client) -> None:
    switch("off")
    record(manager_client, deal, milestone="po", status="completed")
    send_now()
    assert there(mirror, deal, "PO_Date") is not None
    mirror.sync("delta")
    switch("off")
    assert record(manager_client, deal, milestone="po", completed_on=None).status_code == 200
    send_now()
    assert there(mirror, deal, "PO_Date") is None
    mirror.sync("delta")
    assert Opportunity.objects.get(deal=deal).current_phase == 1


def test_both_sides_recorded_another_day(mirror, deal, manager_client) -> None:
    """A conflict is shown on the milestone; our value stands until somebody decides."""
    switch("off")
    day = today_of_business()
    theirs = (day - timedelta(days=9)).isoformat()
    record(manager_client, deal, milestone="po", completed_on=day.isoformat())
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"PO_Date": theirs})
    mirror.sync("delta")
    milestone = shown(manager_client, deal, "po")
    assert (milestone["conflict"], milestone["pending"]) == (True, False)
    assert milestone["completed_on"] == day.isoformat()
    (entry,) = entries(deal)
    resolved = manager_client.post(
        f"/api/o2r/conflicts/{entry.pk}/resolve",
        {"keep": "theirs"},
        content_type="application/json",
    )
    assert resolved.status_code == 200
    body = manager_client.get(url(deal)).json()
    assert (body["po_date"], body["phase_entered_on"]) == (theirs, theirs)


def test_the_crm_recorded_it_first(mirror, deal, manager_client) -> None:
    """Seen by the next delta; who had the page open is told, and phase and signal follow."""
    seen = manager_client.get(url(deal)).json()["version"]
    day = (today_of_business() - timedelta(days=2)).isoformat()
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"PO_Date": day})
    mirror.sync("delta")
    stale = record(manager_client, deal, milestone="po", status="completed", version=seen)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")
    assert "changed after you opened this" in stale.json()["message"]
    body = manager_client.get(url(deal)).json()
    assert (body["po_date"], body["current_phase"]) == (day, "phase3")


def test_what_the_crm_has_no_field_for_stays_here(mirror, deal, manager_client) -> None:
    switch("off")
    answer = record(manager_client, deal, milestone="proposal_accepted", status="completed")
    assert answer.status_code == 200
    milestone = shown(manager_client, deal, "proposal_accepted")
    assert (milestone["in_crm"], milestone["pending"]) == (False, False)
    assert milestone["stays_here"] and not entries(deal)
    before = there(mirror, deal, "Modified_Time")
    send_now()
    mirror.sync("full")
    assert there(mirror, deal, "Modified_Time") == before
    assert shown(manager_client, deal, "proposal_accepted")["status"] == "completed"


def test_one_deleted_in_the_crm_while_its_page_is_open(mirror, deal, manager_client) -> None:
    seen = manager_client.get(url(deal)).json()["version"]
    mirror.control("delete", module="Deals", id=deal.zoho_id)
    mirror.sync("delta")
    answer = record(manager_client, deal, milestone="po", status="completed", version=seen)
    assert answer.status_code == 404
    assert manager_client.get(url(deal)).status_code == 404
    assert Opportunity.objects.get(deal=deal).outcome == "lost"
    assert not entries(deal)


def test_a_future_date_of_the_crm_is_a_plan(mirror, deal, manager_client) -> None:
    day = timezone.now().date() + timedelta(days=30)
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"PO_Date": day.isoformat()})
    mirror.sync("delta")
    milestone = shown(manager_client, deal, "po")
    assert (milestone["is_plan"], milestone["status"]) == (True, "pending")
    assert manager_client.get(url(deal)).json()["current_phase"] == "phase1"
    # A note leaves the plan as it is; recording it replaces the plan by the fact.
    assert record(manager_client, deal, milestone="po", note="x").status_code == 200
    assert Deal.objects.get(pk=deal.pk).po_date == day
    record(manager_client, deal, milestone="po", status="completed")
    assert Deal.objects.get(pk=deal.pk).po_date == today_of_business()


def test_a_sync_is_started_by_those_who_may(mirror, manager_client, rep_client) -> None:
    def start(client: Any, **body: Any) -> Any:
        return client.post("/api/o2r/sync", body, content_type="application/json")

    day = (today_of_business() - timedelta(days=2)).isoformat()
    deal = a_deal(mirror, po_date__isnull=True)
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"PO_Date": day})
    first = start(rep_client)
    assert Opportunity.objects.get(deal=deal).current_phase >= 3
    assert first.status_code == 202 and first.json()["run"].keys() >= {"id", "kind", "status"}
    assert start(manager_client, mode="full").status_code == 403
    assert start(manager_client, mode="all").status_code == 422


def test_old_days_are_days(mirror, deal, manager_client) -> None:
    answer = record(manager_client, deal, milestone="proposal", completed_on="2020-02-29")
    assert answer.status_code == 200
    assert Deal.objects.get(pk=deal.pk).proposal_date == date(2020, 2, 29)


def move(client: Any, deal: Deal, **said: Any) -> Any:
    return client.patch(url(deal), said, content_type="application/json")


def test_a_stage_and_its_probability_reach_the_crm(mirror, manager_client) -> None:
    switch("off")
    deal = a_deal(mirror, stage="qualification", crm_probability=10)
    moved = move(manager_client, deal, stage="negotiation")
    assert moved.status_code == 200, moved.content
    body = moved.json()
    assert (body["stage"], body["crm_stage"]) == ("negotiation", "Negotiation/Review")
    assert (body["probability"], body["pending"]) == (90, ["crm_probability", "crm_stage"])
    send_now()
    assert there(mirror, deal, "Stage") == "Negotiation/Review"
    assert there(mirror, deal, "Probability") == 90
    before = histories(deal)
    mirror.sync("delta")
    assert histories(deal) == before and not manager_client.get(url(deal)).json()["pending"]


def test_a_probability_set_by_hand_stays_when_the_stage_moves(mirror, manager_client) -> None:
    switch("off")
    deal = a_deal(mirror, stage="qualification", crm_probability=10)
    assert move(manager_client, deal, probability=33).json()["probability"] == 33
    body = move(manager_client, deal, stage="proposal").json()
    assert (body["stage"], body["probability"]) == ("proposal", 33)
    send_now()
    assert there(mirror, deal, "Probability") == 33


def test_nothing_jumps_to_closed_or_out_of_it(mirror, rep_client, manager_client) -> None:
    switch("off")
    deal = a_deal(mirror, stage="qualification")
    seen = manager_client.get(url(deal)).json()
    for said, status in (
        ({"stage": "closed_won"}, 409),
        ({"stage": "won"}, 422),
        ({"probability": 101}, 422),
        ({"stage": "proposal", "version": seen["version"] - 1}, 409),
        ({"amount": "5"}, 422),
    ):
        assert move(manager_client, deal, **said).status_code == status, said
    assert move(rep_client, deal, stage="proposal").status_code == 403
    assert move(manager_client, deal, stage="qualification").status_code == 200
    won = Deal.objects.live().filter(stage_type="won").first()
    assert "Reopen" in move(manager_client, won, stage="proposal").json()["message"]
    assert not entries(deal) and not entries(won)
