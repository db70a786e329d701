"""/api/o2r/opportunities and what hangs on it: bodies, filters, refusals, permissions, queries."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from crm.models import Deal, MirrorState
from crm.tests.rows import CrmUserFactory, DealFactory
from o2r import recompute
from o2r.filters import today_of_business
from o2r.models import ActionItem, Activity, MilestoneChange, Opportunity, Review, Snooze
from o2r.tests.test_api_opportunities import KEYS

pytestmark = pytest.mark.django_db
URL = "/api/o2r/opportunities"
O2R_KEYS = KEYS | {
    *("account_name", "proposal_date", "sow_date", "sow_date_estimated", "po_date"),
    *("kickoff_date", "signoff_date", "invoice_date", "payment_date", "revenue_date"),
    *("current_phase", "phase_entered_on", "days_in_phase", "health_signal", "reasons"),
    *("worse_on", "outcome"),
}
ONE_KEYS = O2R_KEYS | {"milestones", "activities", "action_items", "reviews"}
REASON_KEYS = {"rule", "severity", "milestone", "date", "days", "since", "worse_on"}


@pytest.fixture(autouse=True)
def _gate(db: None) -> None:
    """Where a sync would have left it: behind the numbers that the deals have."""
    MirrorState.objects.update_or_create(module="Deals", defaults={"change_seq": 1_000_000})


def ago(days: int) -> date:
    return today_of_business() - timedelta(days=days)


def a_deal(**columns: Any) -> Deal:
    deal = DealFactory(crm_created_at=timezone.now() - timedelta(days=200), **columns)
    recompute.catch_up()
    return deal


def send(client: Any, method: str, path: str, body: Any = None) -> Any:
    return getattr(client, method)(path, body, content_type="application/json")


def put(client: Any, deal: Any, **body: Any) -> Any:
    return send(client, "put", f"{URL}/{deal.pk}/milestone", body)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["results"]]


# -- bodies ---------------------------------------------------------------------------------------


def test_the_list_has_every_key_and_the_reasons_with_their_evidence(rep_client) -> None:
    deal = a_deal(proposal_date=ago(31), account__name="Blue")
    (row,) = rep_client.get(URL).json()["results"]
    assert row.keys() >= O2R_KEYS
    assert (row["id"], row["account_name"]) == (str(deal.pk), "Blue")
    assert (row["current_phase"], row["phase_entered_on"]) == ("phase2", ago(31).isoformat())
    assert (row["days_in_phase"], row["health_signal"]) == (31, "red")
    assert (row["outcome"], row["sow_date_estimated"]) == ("active", False)
    (reason,) = row["reasons"]
    assert reason.keys() >= REASON_KEYS | {"evidence", "advice"}
    assert (reason["rule"], reason["days"], reason["since"]) == (
        "proposal_no_po", 31, ago(0).isoformat(),
    )  # fmt: skip
    assert reason["evidence"].endswith("31 days, no PO") and reason["advice"]


def test_one_has_its_milestones_and_work_and_either_id(rep_client) -> None:
    deal = a_deal(proposal_date=ago(3), po_date=ago(-5), amount_minor=123_450)
    body = rep_client.get(f"{URL}/{deal.zoho_id}").json()
    assert body.keys() >= ONE_KEYS
    assert body == rep_client.get(f"{URL}/{deal.pk}").json()
    by_key = {row["milestone"]: row for row in body["milestones"]}
    assert list(by_key) == [
        *("qualified", "proposal", "proposal_accepted", "sow_initiated", "sow", "po"),
        *("kickoff", "execution_started", "signoff", "invoice", "payment", "revenue"),
    ]
    assert (by_key["proposal"]["status"], by_key["proposal"]["in_crm"]) == ("completed", True)
    plan = by_key["po"]
    assert (plan["status"], plan["is_plan"], plan["amount"]) == ("pending", True, "1234.50")
    assert by_key["qualified"]["in_crm"] is False and by_key["qualified"]["stays_here"]
    assert (body["gate"], body["blocked"], body["snoozed"]) == ("po", None, None)


def test_an_ended_opportunity_has_no_signal(rep_client) -> None:
    deal = a_deal(crm_stage="Closed Lost")
    body = rep_client.get(f"{URL}/{deal.pk}").json()
    assert (body["health_signal"], body["outcome"], body["reasons"]) == (None, "lost", [])


def test_a_deal_that_was_mirrored_a_moment_ago_is_there_and_looking_writes_nothing(
    manager_client,
) -> None:
    deal = DealFactory()
    (row,) = manager_client.get(URL).json()["results"]
    assert (row["current_phase"], row["outcome"], row["as_of"]) == ("phase1", "active", None)
    body = manager_client.get(f"{URL}/{deal.pk}").json()
    assert (len(body["milestones"]), body["gate"], body["reviews"]) == (12, "proposal", [])
    assert manager_client.get(f"{URL}/{deal.pk}/timeline").json()["results"] == []
    assert not Opportunity.objects.exists()
    body = put(manager_client, deal, milestone="proposal", status="completed").json()
    assert (body["current_phase"], body["as_of"]) == ("phase2", ago(0).isoformat())


def test_deleted_ones_are_not_found_but_keep_their_history(rep_client) -> None:
    deal = a_deal()
    Deal.objects.update(deleted_at=timezone.now())
    for path in (f"{URL}/{deal.pk}", f"{URL}/{deal.pk}/timeline"):
        assert rep_client.get(path).status_code == 404
    assert put(rep_client, deal, milestone="po", status="completed").status_code == 404
    assert rep_client.get(URL).json()["results"] == []


# -- the list -------------------------------------------------------------------------------------


def test_the_list_is_filtered_ordered_and_paged(rep_client) -> None:
    red = a_deal(proposal_date=ago(40), territory="APAC", name="Red one")
    green = a_deal(proposal_date=ago(3), territory="EMEA", service_line="Gen AI")
    new = a_deal(territory="APAC", name="New one")
    lost = a_deal(crm_stage="Closed Lost")
    for query, expected in {
        "": [new, green, red],
        "phase=phase2": [green, red],
        "phase=phase1,phase2": [new, green, red],
        "health_signal=red": [red],
        "health_signal=red,green": [new, green, red],
        "territory=APAC": [new, red],
        "territory=APAC&health_signal=red": [red],
        "service_line=Gen AI": [green],
        f"owner={red.owner_id}": [red],
        "search=red": [red],
        "outcome=lost": [lost],
        "outcome=all": [lost, new, green, red],
        "ordering=id&limit=1&offset=1": [green],
    }.items():
        assert ids(rep_client.get(f"{URL}?{query}")) == [str(d.pk) for d in expected], query
    found, url = [], f"{URL}?ordering=-phase_entered_on&limit=2&cursor="
    while url:
        page = rep_client.get(url).json()
        found += [row["phase_entered_on"] for row in page["results"]]
        url = page["next"]
    assert found == sorted(found, reverse=True) and len(found) == 3


@pytest.mark.parametrize(
    "query",
    ["phase=phase5", "phase=", "health_signal=pink", "outcome=open", "limit=0", "what=1"],
)
def test_what_does_not_fit_is_named(rep_client, query: str) -> None:
    answer = rep_client.get(f"{URL}?{query}")
    assert (answer.status_code, list(answer.json()["errors"])) == (422, [query.split("=")[0]])


def counted(client: Any, path: str) -> int:
    with CaptureQueriesContext(connection) as found:
        assert client.get(path).status_code == 200
    return len(found)


def work_on(opportunity: Opportunity, times: int) -> None:
    now, of = timezone.now(), {"opportunity": opportunity}
    stamps = {"created_at": now, "updated_at": now}
    for at in range(times):
        owner = CrmUserFactory()
        ActionItem.objects.create(**of, text=f"Item {at}", owner=owner, **stamps)
        Activity.objects.create(**of, description=f"Call {at}", **stamps)
        Review.objects.create(**of, reviewed_on=ago(1), current_phase=1, decision=f"{at}", **stamps)
        Snooze.objects.create(**of, until=ago(0), reason="x", created_at=now, ended_at=now)
        MilestoneChange.objects.create(**of, key="po", new={"note": str(at)}, at=now)


@pytest.mark.parametrize(
    "path",
    [
        URL,
        f"{URL}/one",
        f"{URL}/one/timeline",
        *(f"/api/o2r/{name}" for name in ("action-items", "activities", "reviews")),
    ],
)
def test_queries_do_not_grow_with_rows(rep_client, path: str) -> None:
    deal = a_deal(proposal_date=ago(40))
    path = path.replace("one", str(deal.pk))
    work_on(deal.opportunity, 1)
    counted(rep_client, path)  # what a session asks once
    few = counted(rep_client, path)
    for _ in range(12):
        a_deal(proposal_date=ago(40))
    work_on(deal.opportunity, 12)
    assert counted(rep_client, path) == few


# -- recording ------------------------------------------------------------------------------------


def test_a_milestone_is_recorded_and_the_opportunity_answered(manager_client) -> None:
    deal = a_deal(proposal_date=ago(40))
    seen = manager_client.get(f"{URL}/{deal.pk}").json()
    answer = put(
        manager_client, deal, milestone="po", completed_on=ago(1).isoformat(),
        amount="500.25", note="PO 4711", version=seen["version"],
    )  # fmt: skip
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert body.keys() >= ONE_KEYS
    assert (body["current_phase"], body["health_signal"]) == ("phase3", "green")
    assert (body["po_date"], body["pending"]) == (ago(1).isoformat(), ["po_date"])
    assert body["version"] > seen["version"]
    (po,) = [row for row in body["milestones"] if row["milestone"] == "po"]
    assert (po["status"], po["amount"], po["currency"]) == ("completed", "500.25", "SGD")
    assert (po["pending"], po["note"], po["recorded_by"]) == (True, "PO 4711", "manager")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "milestone"),
        ({"milestone": "party"}, "milestone"),
        ({"milestone": "po", "completed_on": "2026-02-30"}, "completed_on"),
        ({"milestone": "po", "completed_on": "9999-12-31"}, "completed_on"),
        ({"milestone": "po", "completed_on": 5}, "completed_on"),
        ({"milestone": "po", "status": "done"}, "status"),
        ({"milestone": "po", "status": "blocked"}, "reason"),
        ({"milestone": "po", "amount": "1.005"}, "amount"),
        ({"milestone": "po", "amount": "NaN"}, "amount"),
        ({"milestone": "po", "amount": "1e30"}, "amount"),
        ({"milestone": "po", "version": "x"}, "version"),
        ({"milestone": "po", "note": "x" * 10_001}, "note"),
        ({"milestone": "po", "note": "a\x00b"}, "note"),
        ({"milestone": "po", "health_signal": "green"}, "health_signal"),
        ({"milestone": "po", "outcome": "won"}, "outcome"),
    ],
)
def test_what_is_wrong_in_a_milestone_is_named(manager_client, body: dict, field: str) -> None:
    deal = a_deal()
    answer = put(manager_client, deal, **body)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, [field]), answer.content
    assert not MilestoneChange.objects.exists()


@pytest.mark.parametrize("body", ["[]", "null", '"po"', "{", "\x00"])
def test_what_is_no_object_is_refused(manager_client, body: str) -> None:
    deal = a_deal()
    answer = manager_client.put(f"{URL}/{deal.pk}/milestone", body, content_type="application/json")
    assert answer.status_code in (400, 422)


def test_stale_early_and_ended_are_conflicts_that_say_what_to_do(manager_client) -> None:
    deal = a_deal()
    seen = manager_client.get(f"{URL}/{deal.pk}").json()["version"]
    put(manager_client, deal, milestone="proposal", status="completed")
    stale = put(manager_client, deal, milestone="po", status="completed", version=seen)
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_version")
    assert "manager recorded Proposal submitted" in stale.json()["message"]
    again = {"milestone": "po", "status": "completed", "version": stale.json()["version"]}
    assert put(manager_client, deal, **again).status_code == 200
    early = {"milestone": "kickoff", "completed_on": ago(300).isoformat()}
    asked = put(manager_client, deal, **early)
    assert (asked.status_code, asked.json()["code"]) == (409, "confirm_early")
    assert put(manager_client, deal, **early, confirm_early=True).status_code == 200
    Deal.objects.update(stage_type="lost")
    lost = put(manager_client, deal, milestone="invoice", status="completed")
    assert (lost.status_code, lost.json()["code"]) == (409, "ended")


def test_phase_block_snooze_and_ones_own(manager_client) -> None:
    deal = a_deal()
    base = f"{URL}/{deal.pk}"
    moved = send(manager_client, "post", f"{base}/update-phase", {})
    assert (moved.status_code, moved.json()["current_phase"]) == (200, "phase2")
    blocked = send(manager_client, "post", f"{base}/block", {"reason": "Legal"}).json()
    assert (blocked["health_signal"], blocked["blocked"]["by"]) == ("blocked", "manager")
    assert send(manager_client, "post", f"{base}/block", {}).status_code == 422
    free = send(manager_client, "delete", f"{base}/block").json()
    assert (free["health_signal"], free["blocked"]) == ("green", None)
    until = ago(-3).isoformat()
    asleep = send(manager_client, "post", f"{base}/snooze", {"until": until, "reason": "Leave"})
    assert asleep.json()["snoozed"]["until"] == until
    past = {"until": ago(0).isoformat(), "reason": "Leave"}
    assert list(send(manager_client, "post", f"{base}/snooze", past).json()["errors"]) == ["until"]
    assert send(manager_client, "delete", f"{base}/snooze").json()["snoozed"] is None
    own = send(manager_client, "post", f"{base}/milestones", {"title": "Data centre"})
    assert own.status_code == 201
    assert put(manager_client, deal, milestone="data-centre", status="completed").status_code == 200
    assert send(manager_client, "post", f"{base}/milestones", {"title": "PO"}).status_code == 422


# -- who may --------------------------------------------------------------------------------------

ACTS = {
    "milestone": ("put", "{}/milestone", {"milestone": "po", "note": "x"}),
    "own milestone": ("post", "{}/milestones", {"title": "Gate"}),
    "update phase": ("post", "{}/update-phase", {}),
    "block": ("post", "{}/block", {"reason": "x"}),
    "unblock": ("delete", "{}/block", None),
    "snooze": ("post", "{}/snooze", {"until": ago(-9).isoformat(), "reason": "Leave"}),
    "wake": ("delete", "{}/snooze", None),
    "item": ("post", "/api/o2r/action-items", {"text": "Call"}),
    "activity": ("post", "/api/o2r/activities", {"description": "Call"}),
    "review": ("post", "/api/o2r/reviews", {"decision": "Go"}),
}
SNOOZE, REVIEW = {"snooze", "wake"}, {"review"}
EVERYTHING = set(ACTS)
MAY = {
    ("rep", "own"): EVERYTHING,
    ("rep", "other's"): REVIEW,
    ("rep without a CRM user", "other's"): REVIEW,
    ("manager", "other's"): EVERYTHING,
    ("ops", "other's"): REVIEW,
    ("integrator", "other's"): set(),
    ("integrator with write", "other's"): EVERYTHING - SNOOZE - REVIEW,
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("who", "whose"), MAY)
def test_role_by_act_by_object(request, who: str, whose: str, act: str) -> None:
    role = who.split()[0]
    user = request.getfixturevalue(role)
    client = request.getfixturevalue(f"{role}_client")
    if who == "integrator with write":
        user.user_permissions.add(Permission.objects.get(codename="write_through_api"))
    mine = None if "without" in who else CrmUserFactory(email=user.email)
    deal = a_deal(owner=mine) if whose == "own" else a_deal()
    method, path, body = ACTS[act]
    base = f"{URL}/{deal.pk}"
    if path.startswith("/"):
        body = {**body, "opportunity": str(deal.pk)}
    answer = send(client, method, path.format(base), body)
    if act in MAY[who, whose]:
        assert answer.status_code in (200, 201), answer.content
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert len(answer.json()["message"]) > 20
    for seen in (base, f"{base}/timeline", URL):
        assert client.get(seen).status_code == 200


def test_nobody_without_a_sign_in(client) -> None:
    deal = a_deal()
    for method, path, _ in ACTS.values():
        assert send(client, method, path.format(f"{URL}/{deal.pk}"), {}).status_code == 401
    for path in (URL, f"{URL}/{deal.pk}", f"{URL}/{deal.pk}/timeline", "/api/o2r/dashboard"):
        assert client.get(path).status_code == 401
    assert send(client, "post", "/api/o2r/sync", {}).status_code == 401


# -- figures --------------------------------------------------------------------------------------


def test_the_dashboard_has_every_key_and_all_phases_and_signals(rep_client) -> None:
    body = rep_client.get("/api/o2r/dashboard").json()
    assert body.keys() >= {
        *("total_opportunities", "total_value_sgd", "weighted_value_sgd", "phase_distribution"),
        *("phase_value_sgd", "health_distribution", "at_risk", "overdue_payments"),
        *("average_cycle_time", "median_cycle_time", "cycle_count", "conversion_rates"),
        *("by_territory", "by_service_line", "by_owner", "left_out", "as_of"),
    }
    phases, signals = [f"phase{n}" for n in (1, 2, 3, 4)], ["green", "yellow", "red", "blocked"]
    assert body["phase_distribution"] == dict.fromkeys(phases, 0)
    assert body["phase_value_sgd"] == dict.fromkeys(phases, "0.00")
    assert body["health_distribution"] == dict.fromkeys(signals, 0)
    assert body["conversion_rates"] == dict.fromkeys(phases)
    assert body["at_risk"] == body["overdue_payments"] == {"count": 0, "value_sgd": "0.00"}
    assert (body["average_cycle_time"], body["cycle_count"]) == (None, 0)


def test_the_dashboard_tells_a_selection_as_the_list_does(rep_client) -> None:
    red = a_deal(proposal_date=ago(40), territory="APAC", amount_minor=123_450, probability=25)
    a_deal(proposal_date=ago(40), territory="APAC", amount_minor=123_450, probability=25)
    a_deal(territory=None, amount_minor=None)
    a_deal(
        crm_stage="Closed Won", proposal_date=ago(60), revenue_date=ago(10), invoice_date=ago(50),
        amount_minor=100,
    )  # fmt: skip
    everything = rep_client.get("/api/o2r/dashboard").json()
    assert everything["total_opportunities"] == 4
    assert everything["left_out"] == {"no_amount": 1, "no_rate": 0}
    assert everything["overdue_payments"] == {"count": 1, "value_sgd": "1.00"}
    assert (everything["average_cycle_time"], everything["cycle_count"]) == (50.0, 1)
    by_territory = {row["key"]: row["count"] for row in everything["by_territory"]}
    assert by_territory == {"APAC": 2, None: 2}
    body = rep_client.get("/api/o2r/dashboard?territory=APAC&health_signal=red").json()
    assert (body["total_opportunities"], body["total_value_sgd"]) == (2, "2469.00")
    assert body["at_risk"] == {"count": 2, "value_sgd": "2469.00"}
    assert body["phase_distribution"]["phase2"] == body["health_distribution"]["red"] == 2
    listed = rep_client.get(f"{URL}?territory=APAC&health_signal=red").json()
    assert (listed["count"], listed["results"][-1]["id"]) == (2, str(red.pk))
    for query in ("phase=9", "what=1", "limit=5"):
        assert rep_client.get(f"/api/o2r/dashboard?{query}").status_code == 422
