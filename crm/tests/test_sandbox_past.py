"""What happened to a deal before and since: timeline, stage history, DealHistory in bulk."""

import csv
import io
import time
import zipfile

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

STAGES = ["Qualification", "Needs Analysis", "Value Proposition", "Identify Decision Makers",
          "Proposal/Price Quote", "Negotiation/Review"]  # fmt: skip


@pytest.fixture(scope="module")
def crm(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("past"), deals=150) as running:
        yield Crm(running)


def stages(crm, deal):
    answer = crm.get(f"Deals/{deal}/Stage_History", fields="Stage,Probability,Modified_Time")
    return [(e["Stage"], e["Modified_Time"]) for e in answer.json()["data"]][::-1]


def all_deals(crm):
    return crm.get("Deals", fields="Stage,Created_Time,Modified_Time,Closing_Date,Proposal_Date",
                   sort_by="id", sort_order="asc").json()["data"]  # fmt: skip


def test_a_seeded_deal_came_to_its_stage_step_by_step(crm):
    seen = set()
    for deal in all_deals(crm)[:100]:
        path = stages(crm, deal["id"])
        names, times = [name for name, _ in path], [at for _, at in path]
        assert names[-1] == deal["Stage"]
        assert times == sorted(times)
        assert times[0] == deal["Created_Time"]
        assert times[-1] <= deal["Modified_Time"]
        order = [STAGES.index(name) for name in names if name in STAGES]
        assert order == sorted(set(order))
        seen.add(len(names))
        if "Proposal/Price Quote" in names[1:] and deal["Proposal_Date"]:
            entered = times[names.index("Proposal/Price Quote")]
            assert entered[:10] == deal["Proposal_Date"] or entered == deal["Modified_Time"]
    assert max(seen) > 3


def test_the_past_is_told_the_same_twice(crm):
    deal = all_deals(crm)[5]["id"]
    first = crm.get(f"Deals/{deal}/__timeline").json()
    assert first == crm.get(f"Deals/{deal}/__timeline").json()
    assert [e["action"] for e in first["__timeline"]][-1] == "added"


def test_changes_since_follow_the_past_and_tell_who_made_them(crm):
    deal = next(d for d in all_deals(crm)[::-1] if d["Stage"] == "Needs Analysis")
    before = stages(crm, deal["id"])
    crm.write("PUT", f"Deals/{deal['id']}", [{"Stage": "Closed Won"}])
    crm.sandbox.control("edit", module="Deals", id=deal["id"], values={"Next_Step": "Cheer"})
    entries = crm.get(f"Deals/{deal['id']}/__timeline").json()["__timeline"]
    assert [e["source"] for e in entries[:2]] == ["crm_ui", "crm_api"]
    changes = {c["api_name"]: c["_value"] for c in entries[1]["field_history"]}
    assert changes["Stage"] == {"new": "Closed Won", "old": "Needs Analysis"}
    after = stages(crm, deal["id"])
    assert after[:-1] == before
    assert after[-1][0] == "Closed Won"


def test_an_account_was_added_and_nobody_has_none(crm):
    account = crm.get("Accounts", fields="Account_Name", per_page=1).json()["data"][0]["id"]
    entries = crm.get(f"Accounts/{account}/__timeline").json()["__timeline"]
    assert [e["action"] for e in entries] == ["added"]
    assert crm.get("Accounts/1/__timeline").status_code == 204


def test_stage_history_wants_its_fields_named(crm):
    deal = all_deals(crm)[0]["id"]
    refused = crm.get(f"Deals/{deal}/Stage_History").json()
    assert (refused["code"], refused["details"]) == (
        "REQUIRED_PARAM_MISSING", {"param_name": "fields"},
    )  # fmt: skip


def test_deal_history_in_bulk_has_each_stage_of_each_deal(crm):
    query = {"module": {"api_name": "DealHistory"}}
    job = crm.call("POST", "/crm/bulk/v8/read", json={"query": query}).json()["data"][0]
    path = f"/crm/bulk/v8/read/{job['details']['id']}"
    deadline = time.monotonic() + 20
    while crm.call("GET", path).json()["data"][0]["state"] != "COMPLETED":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    archive = zipfile.ZipFile(io.BytesIO(crm.call("GET", f"{path}/result").content))
    rows = list(csv.DictReader(io.TextIOWrapper(archive.open(archive.namelist()[0]), "utf-8")))
    assert list(rows[0]) == ["Id", "Potential_Name", "Stage", "Moved_To__s", "Modified_Time"]
    assert len({row["Id"] for row in rows}) == len(rows)
    for deal in all_deals(crm)[:20]:
        own = [row for row in rows if row["Potential_Name"] == deal["id"]]
        assert [(r["Stage"], r["Modified_Time"]) for r in own] == stages(crm, deal["id"])
        assert [r["Moved_To__s"] for r in own] == [r["Stage"] for r in own[1:]] + [""]
