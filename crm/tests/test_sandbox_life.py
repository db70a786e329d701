"""The life of its own, step by step; merging; bad days by seed."""

import json

import pytest

from crm.sandbox.bad_days import HEALING, ROWS
from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

TODAY = "2026-03-10"
MODULES = ("Deals", "Accounts", "Contacts", "Leads")


def lived(tmp_path, name, steps, **options):
    """What so many steps did, and the deals after them, times left out."""
    folder = tmp_path / name
    folder.mkdir()
    with running_sandbox(folder, deals=120, today=TODAY, **options) as sandbox:
        acts = sandbox.control("live", steps=steps)["acts"]
        records = sandbox.control("dump", module="Deals")["records"]
        log = sandbox.log.read_text()
    for record in records:
        for stamp in ("Modified_Time", "Created_Time", "Last_Activity_Time"):
            del record[stamp]
    return acts, records, log


def test_the_same_seed_lives_the_same_life(tmp_path):
    first, second = (lived(tmp_path, name, 300)[:2] for name in ("one", "two"))
    assert first == second
    other, _, _ = lived(tmp_path, "three", 300, seed=8)
    assert other != first[0]


def test_a_long_life_has_everything_in_it(tmp_path):
    acts, records, log = lived(tmp_path, "long", 4_000)
    done = {act["act"] for act in acts if act["id"]}
    assert done == {
        "next_step", "amount", "advance", "slip", "milestone", "new_deal", "late_deal", "delete",
        "restore", "merge", "rename_account", "convert_lead", "person_leaves_or_returns",
    }  # fmt: skip
    assert "Traceback" not in log
    assert len({record["id"] for record in records}) == len(records)


@pytest.fixture
def crm(tmp_path):
    with running_sandbox(tmp_path, deals=120) as running:
        yield Crm(running)


def test_who_leaves_is_listed_as_gone_and_stays_named_on_records(crm):
    before = {u["id"] for u in crm.get("users", type="ActiveUsers").json()["users"]}
    acts = crm.sandbox.control("live", steps=6_000)["acts"]
    people = [a["id"] for a in acts if a["module"] == "Users" and a["id"]]
    assert people
    after = {u["id"] for u in crm.get("users", type="ActiveUsers").json()["users"]}
    assert before ^ after <= set(people)
    owners = {d["Owner"]["id"]: d["Owner"]["name"]
              for d in crm.sandbox.control("dump", module="Deals")["records"]}  # fmt: skip
    assert all(owners.values())


def test_a_late_deal_is_older_than_the_moment_it_was_first_seen(crm):
    seen = {d["id"] for d in crm.sandbox.control("dump", module="Deals")["records"]}
    late = []
    while not late:
        act = crm.sandbox.control("live", steps=1)["acts"][0]
        late = [act["id"]] if act["act"] == "late_deal" and act["id"] else []
    record = crm.record("Deals", late[0])
    assert late[0] not in seen
    edited = crm.sandbox.control("edit", module="Deals", id=late[0], values={"Next_Step": "x"})
    assert record["Modified_Time"] < edited["Modified_Time"]
    assert record["Modified_Time"] == record["Created_Time"]


def test_merging_keeps_one_fills_its_gaps_and_moves_what_pointed_to_the_other(crm):
    deals = crm.get("Deals", fields="Account_Name").json()["data"]
    lose, keep = list(dict.fromkeys(d["Account_Name"]["id"] for d in deals if d["Account_Name"]))[
        :2
    ]
    moved = [d["id"] for d in deals if d["Account_Name"] and d["Account_Name"]["id"] == lose]
    times = {i: crm.record("Deals", i)["Modified_Time"] for i in moved}
    crm.write("PUT", f"Accounts/{keep}", [{"Industry": None}])
    industry = crm.record("Accounts", lose)["Industry"]
    crm.sandbox.control("merge", module="Accounts", id=keep, ids=[lose])
    assert crm.record("Accounts", lose) is None
    assert [g["id"] for g in crm.get("Accounts/deleted", type="all").json()["data"]] == [lose]
    assert crm.record("Accounts", keep)["Industry"] == industry
    for deal in moved:
        record = crm.record("Deals", deal)
        assert (record["Account_Name"]["id"], record["Modified_Time"]) == (keep, times[deal])


# -- bad days -------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_day_and_only_telling_changes_nothing(crm):
    before = crm.sandbox.control("dump", module="Deals")
    told = crm.sandbox.control("bad_day", seed=3, rows=sorted(ROWS), run=False)["script"]
    again = crm.sandbox.control("bad_day", seed=3, rows=sorted(ROWS), run=False)["script"]
    # Texts, because a day may hold NaN; some steps name times, which go on.
    bare = [json.dumps(step) for step in told if step["row"] not in (25, 48)]
    assert bare == [json.dumps(step) for step in again if step["row"] not in (25, 48)]
    assert {step["row"] for step in told} == set(ROWS) == {*range(24, 67)} - {55}
    other = crm.sandbox.control("bad_day", seed=4, run=False)["script"]
    assert {step["row"] for step in other} == set(HEALING)
    assert crm.sandbox.control("dump", module="Deals") == before


@pytest.mark.parametrize("row", sorted(ROWS))
def test_every_row_can_be_carried_out(crm, row):
    """Its commands are understood, and the sandbox serves on when the day is over."""
    for seed in range(3):
        crm.sandbox.control("bad_day", seed=seed, rows=[row], spread=2)
    for rule in ("clear_faults", "restore_refresh_token"):
        crm.sandbox.control(rule)
    for _ in range(6):
        crm.get("Deals", fields="Stage")
    crm.sandbox.control("config", credits=10_000, mint_limit=1_000,
                        scopes=["ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL"])  # fmt: skip
    crm.sandbox.control("restore_refresh_token")
    for module in MODULES:
        crm.sandbox.control("permission", module=module, read=True)
    crm.sign_in()
    assert crm.get("Deals", fields="Stage").status_code == 200
    assert "Traceback" not in crm.sandbox.log.read_text()
