"""Sending changes by API: who may, what is answered, and how a conflict is decided."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.utils import timezone

from crm.models import Deal, outbox
from crm.tests.writing import a_deal, change, entries, only_entry, switch, there
from crm.writeback.outbox import delete, edit

pytestmark = pytest.mark.django_db(transaction=True)
ONE, BATCH = "/api/o2r/sync-to-crm", "/api/o2r/sync-batch-to-crm"
MILESTONES, STATUS = "/api/o2r/sync-milestones-to-crm", "/api/o2r/sync-status"
CONFLICTS, PREVIEW = "/api/o2r/conflicts", "/api/o2r/sync-preview"


@pytest.fixture
def mirror(crm):
    crm.sync()
    return crm


def post(client: Any, path: str, body: Any = None) -> Any:
    return client.post(path, body, content_type="application/json")


def contradict(mirror: Any, deal: Deal) -> None:
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Theirs"})


def test_one_opportunity_is_sent_and_says_so(mirror, manager, manager_client) -> None:
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    body = manager_client.get(f"/api/opportunities/{deal.pk}").json()
    assert (body["pending"], body["conflicts"]) == (["next_step"], [])
    switch("on")
    answer = post(manager_client, f"{ONE}/{deal.zoho_id}")
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert (body["id"], body["status"], body["sent"]) == (str(deal.pk), "sent", 1)
    assert there(mirror, deal, "Next_Step") == "Ours"
    again = post(manager_client, f"{ONE}/{deal.pk}").json()
    assert (again["status"], again["sent"], again["changes"]) == ("nothing_waiting", 0, [])
    assert manager_client.get(f"/api/opportunities/{deal.pk}").json()["pending"] == []


def test_milestones_alone_are_sent(mirror, manager, manager_client) -> None:
    deal = a_deal(mirror)
    change(deal, manager, next_step="Later", po_date="2026-01-05")
    switch("on")
    answer = post(manager_client, f"{MILESTONES}/{deal.pk}")
    assert (answer.status_code, answer.json()["sent"]) == (200, 1)
    assert there(mirror, deal, "PO_Date") == "2026-01-05"
    assert there(mirror, deal, "Next_Step") != "Later"
    by_field = {entry.field: entry.status for entry in entries(deal)}
    assert by_field == {"po_date": outbox.SENT, "next_step": outbox.PENDING}


@pytest.mark.parametrize("keep", ["ours", "theirs"])
def test_row_77_a_conflict_is_shown_and_decided(mirror, manager, manager_client, keep) -> None:
    deal = a_deal(mirror)
    base = deal.next_step
    change(deal, manager, next_step="Ours")
    contradict(mirror, deal)
    switch("on")
    answer = post(manager_client, f"{ONE}/{deal.pk}")
    assert answer.status_code == 409
    assert (answer.json()["code"], answer.json()["status"]) == ("conflict", "conflict")
    assert manager_client.get(f"/api/opportunities/{deal.pk}").json()["conflicts"] == ["next_step"]
    listed = manager_client.get(CONFLICTS).json()
    (conflict,) = listed["results"]
    assert listed["count"] == 1
    shown = {name: conflict[name] for name in ("field", "base", "ours", "theirs", "record_id")}
    assert shown == {
        "field": "next_step",
        "base": base,
        "ours": "Ours",
        "theirs": "Theirs",
        "record_id": str(deal.pk),
    }
    assert conflict["author"] and conflict["theirs_by"]
    resolve = f"{CONFLICTS}/{conflict['id']}/resolve"
    assert post(manager_client, resolve, {"keep": "both"}).status_code == 422
    assert post(manager_client, resolve, {"keep": keep}).status_code == 200
    assert manager_client.get(CONFLICTS).json()["count"] == 0
    if keep == "ours":  # the decision sends it by itself
        assert there(mirror, deal, "Next_Step") == "Ours"
    else:
        deal.refresh_from_db()
        assert deal.next_step == "Theirs"
    assert post(manager_client, resolve, {"keep": "theirs"}).status_code == 409


def test_the_preview_says_what_would_go_where_from_what_to_what_and_its_cost(
    mirror, manager, manager_client, ops_client, rep_client, integrator_client
) -> None:
    sold_in_sgd = {"stage_type": "open", "amount_minor__isnull": False, "currency": "SGD"}
    one, other = Deal.objects.live().filter(**sold_in_sgd).order_by("pk")[:2]
    was = one.amount_minor
    change(one, manager, amount_minor=150_050, next_step="Ours")
    delete(other, author=manager, now=timezone.now())
    asked = mirror.requests()
    for client in (rep_client, integrator_client):
        assert client.get(PREVIEW).status_code == 403
    body = ops_client.get(PREVIEW).json()
    assert manager_client.get(PREVIEW).json() == body
    assert (body["write_back"], body["count"], body["is_whole"]) == ("off", 2, True)
    # one reading of two, an update of one, a deletion of one
    assert (body["calls"], body["credits"]) == (3, 3)
    rows = {row["kind"]: row for row in body["results"]}
    edited = rows["edit"]
    assert (edited["module"], edited["zoho_id"], edited["record_name"], edited["why_not"]) == (
        "Deals", str(one.zoho_id), one.name, "")  # fmt: skip
    assert edited["payload"] == {"Amount": 1500.5, "Next_Step": "Ours"}
    changes = {c["field"]: (c["from"], c["to"], c["author"]) for c in edited["changes"]}
    who = manager.get_username()
    assert changes == {
        "amount_minor": (f"{was // 100}.{was % 100:02}", "1500.50", who),
        "next_step": (one.next_step, "Ours", who),
    }
    assert (rows["delete"]["zoho_id"], rows["delete"]["changes"]) == (str(other.zoho_id), [])
    assert mirror.requests() == asked, "the CRM was asked for nothing"
    assert {entry.status for entry in entries(one)} == {outbox.PENDING}
    assert ops_client.get(f"{PREVIEW}?limit=3").status_code == 422


def test_the_preview_says_why_something_would_not_go(mirror, manager, manager_client, ops) -> None:
    deal = a_deal(mirror)
    change(deal, ops, next_step="Not mine to change")  # as after losing a role
    (row,) = manager_client.get(PREVIEW).json()["results"]
    assert row["why_not"] and row["changes"][0]["to"] == "Not mine to change"


def test_the_preview_of_nothing_costs_nothing(mirror, manager_client) -> None:
    body = manager_client.get(PREVIEW).json()
    assert (body["count"], body["calls"], body["credits"], body["results"]) == (0, 0, 0, [])


def test_a_batch_says_of_each_what_became_of_it(mirror, manager, manager_client) -> None:
    good, bad, idle = Deal.objects.live().filter(stage_type="open").order_by("pk")[:3]
    change(good, manager, next_step="Good")
    change(bad, manager, next_step="Bad")
    contradict(mirror, bad)
    switch("on")
    wanted = [str(good.pk), str(bad.zoho_id), str(idle.pk), "99"]
    answer = post(manager_client, BATCH, {"ids": wanted})
    assert answer.status_code == 207, answer.content
    body = answer.json()
    assert body["sent"] == 1
    assert [r["status"] for r in body["results"]] == [
        "sent", "conflict", "nothing_waiting", "not_found",
    ]  # fmt: skip
    assert [r["http_status"] for r in body["results"]] == [200, 409, 200, 404]
    assert post(manager_client, BATCH, {"ids": [str(idle.pk)]}).json()["sent"] == 0
    assert post(manager_client, BATCH, {"ids": [str(idle.pk)]}).status_code == 200
    assert post(manager_client, BATCH, {"ids": [str(bad.pk)]}).status_code == 409
    for wrong in ({"ids": []}, {"ids": ["1"] * 101}, {}, {"ids": "1"}):
        assert post(manager_client, BATCH, wrong).status_code == 422, wrong


def test_while_it_is_off_nothing_is_sent_and_the_answer_says_so(
    mirror, manager, manager_client
) -> None:
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    answer = post(manager_client, f"{ONE}/{deal.pk}")
    assert (answer.status_code, answer.json()["code"]) == (409, "write_back_off")
    body = manager_client.get(STATUS).json()
    assert (body["write_back"], body["pending"], body["killed"]) == ("off", 1, False)
    assert body["oldest_pending_at"] and body["last_sent_at"] is None
    assert manager_client.get("/api/zoho/status").json()["write_back"] == "off"
    assert there(mirror, deal, "Next_Step") != "Ours"


def test_a_deletion_on_its_way_is_sent_by_its_id(mirror, manager, manager_client) -> None:
    deal = a_deal(mirror)
    switch("off")
    delete(deal, author=manager, now=timezone.now())
    switch("on")
    answer = post(manager_client, f"{ONE}/{deal.pk}")
    assert (answer.status_code, answer.json()["status"]) == (200, "sent")
    assert str(deal.zoho_id) not in mirror.ids()


def test_who_may_send_and_decide(
    mirror, rep, rep_client, ops_client, integrator, integrator_client
) -> None:
    deal = a_deal(mirror)
    switch("on")
    rep.email = "nobody@elsewhere.example"
    rep.save()
    for client in (rep_client, ops_client, integrator_client):
        answer = post(client, f"{ONE}/{deal.pk}")
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert len(answer.json()["message"]) > 20
        assert client.get(STATUS).status_code == 200
    assert "belongs to no user" in post(rep_client, f"{ONE}/{deal.pk}").json()["message"]
    integrator.user_permissions.add(Permission.objects.get(codename="write_through_api"))
    assert post(integrator_client, f"{ONE}/{deal.pk}").status_code == 200

    rep.email = deal.owner.email.upper()
    rep.save()
    assert post(rep_client, f"{ONE}/{deal.pk}").status_code == 200
    other = Deal.objects.live().exclude(owner=deal.owner).first()
    assert "somebody else" in post(rep_client, f"{ONE}/{other.pk}").json()["message"]
    contradicted = [deal, other]
    switch("off")
    for each in contradicted:
        edit(each, {"next_step": "Ours"}, author=None, now=timezone.now())
        contradict(mirror, each)
    mirror.sync("delta")
    own, foreign = (only_entry(each) for each in contradicted)
    assert {own.status, foreign.status} == {outbox.CONFLICT}
    wanted = {"keep": "theirs"}
    assert post(integrator_client, f"{CONFLICTS}/{own.pk}/resolve", wanted).status_code == 403
    assert post(rep_client, f"{CONFLICTS}/{foreign.pk}/resolve", wanted).status_code == 403
    assert post(rep_client, f"{CONFLICTS}/{own.pk}/resolve", wanted).status_code == 200
    assert post(ops_client, f"{CONFLICTS}/{foreign.pk}/resolve", wanted).status_code == 200
    assert post(ops_client, f"{CONFLICTS}/x/resolve", wanted).status_code == 404


def test_nobody_is_asked_to_sign_in_by_json(client) -> None:
    for path in (f"{ONE}/1", f"{MILESTONES}/1", BATCH, f"{CONFLICTS}/1/resolve"):
        assert post(client, path, {}).status_code == 401
    for path in (STATUS, CONFLICTS, PREVIEW):
        assert client.get(path).status_code == 401


def test_an_unreachable_crm_leaves_it_waiting_with_the_reason(
    mirror, manager, manager_client
) -> None:
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    mirror.control("faults", rules=[{"do": "status", "status": 503, "times": 0,
                                     "path": "/crm/v8/Deals"}])  # fmt: skip
    switch("on")
    answer = post(manager_client, f"{ONE}/{deal.pk}")
    assert (answer.status_code, answer.json()["status"]) == (200, "pending")
    (found,) = answer.json()["changes"]
    assert found["code"] and "tried again by itself" in found["message"]
