"""The sandbox's hidden hand, and its life of its own."""

import json
import time

import pytest
import requests

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import ControlRefused, running_sandbox


@pytest.fixture
def crm(tmp_path):
    with running_sandbox(tmp_path, deals=40) as running:
        yield Crm(running)


def newest(crm):
    return crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]


def test_control_is_not_there_unless_switched_on(tmp_path):
    with running_sandbox(tmp_path, deals=1, control=False) as sandbox:
        answer = requests.post(f"{sandbox.url}/_control", json={"do": "stats"}, timeout=10)
        assert answer.status_code == 404


def test_control_is_not_counted_as_traffic(crm):
    crm.sandbox.control("reset_stats")
    crm.sandbox.control("dump", module="Leads")
    assert crm.sandbox.control("stats")["requests"] == 0
    crm.get("org")
    assert crm.sandbox.control("stats")["by_path"] == {"GET /crm/v8/org": 1}


def test_edit_is_a_persons_and_moves_modified_time(crm):
    target = newest(crm)
    before = crm.record("Deals", target)
    crm.sandbox.control("edit", module="Deals", id=target, values={"Stage": "Closed Won"})
    after = crm.record("Deals", target)
    assert (after["Stage"], after["Probability"]) == ("Closed Won", 100)
    assert after["Modified_By"]["id"] == before["Owner"]["id"]
    assert after["Modified_Time"] > before["Modified_Time"]


def test_untouched_edit_is_a_formula_that_changes_silently(crm):
    target = newest(crm)
    before = crm.record("Deals", target)
    crm.sandbox.control("edit", module="Deals", id=target, values={"Amount": 4242}, touch=False)
    assert crm.record("Deals", target) == {**before, "Amount": 4242}


@pytest.mark.parametrize(
    "value", ["1,234.50", [1, 2], {"a": None}, True, "\ud800 lone", "nul \x00 here", 10**30]
)
def test_raw_edit_takes_any_json_and_every_way_of_reading_shows_it(crm, value):
    target = newest(crm)
    crm.sandbox.control("edit", module="Deals", id=target, raw=True, values={"Amount": value})
    assert crm.record("Deals", target)["Amount"] == value
    assert crm.get("Deals", fields="Amount", ids=target).json()["data"][0]["Amount"] == value
    assert crm.rows(f"select Amount from Deals where id = {target}")[0]["Amount"] == value


def test_raw_insert_can_appear_late_with_an_old_time(crm):
    old = "2020-01-01T00:00:00+08:00"
    crm.sandbox.control("insert", module="Deals", raw=True, id="5725767010000000007",
                        values={"Deal_Name": "Late", "Modified_Time": old})  # fmt: skip
    record = crm.record("Deals", "5725767010000000007")
    assert (record["Deal_Name"], record["Modified_Time"], record["Stage"]) == ("Late", old, None)


def test_removed_field_is_gone_from_every_answer_and_comes_back_with_its_values(crm):
    target = newest(crm)
    before = crm.record("Deals", target)
    crm.sandbox.control("field", module="Deals", api_name="Territory", action="remove")
    listed = crm.get("settings/fields", module="Deals").json()["fields"]
    assert "Territory" not in {f["api_name"] for f in listed}
    assert "Territory" not in crm.record("Deals", target)
    row = crm.get("Deals", fields="Territory,Stage", ids=target).json()["data"][0]
    assert set(row) == {"Stage", "id"}
    refused = crm.coql("select Territory from Deals where id is not null").json()
    assert refused["code"] == "INVALID_QUERY"
    crm.sandbox.control("field", module="Deals", api_name="Territory", action="restore")
    assert crm.record("Deals", target) == before


def test_retyped_field_changes_metadata_and_values(crm):
    crm.sandbox.control("field", module="Deals", api_name="Amount", action="retype",
                        data_type="text")  # fmt: skip
    fields = crm.get("settings/fields", module="Deals").json()["fields"]
    assert next(f for f in fields if f["api_name"] == "Amount")["data_type"] == "text"
    amounts = [d["Amount"] for d in crm.get("Deals", fields="Amount").json()["data"]]
    assert all(isinstance(a, str) for a in amounts if a is not None)


def test_hook_mutates_between_pages(crm):
    target = newest(crm)
    crm.sandbox.control("hook", after_requests=2, path="/crm/v8/Deals",
                        run={"do": "delete", "module": "Deals", "ids": [target]})  # fmt: skip
    assert crm.get(f"Deals/{target}").status_code == 200
    assert crm.get(f"Deals/{target}").status_code == 200
    assert crm.get(f"Deals/{target}").status_code == 204


def test_rates_and_users_can_change(crm):
    crm.sandbox.control("currency", iso_code="USD", exchange_rate="0.8")
    crm.sandbox.control("user", email="rep@example.com", status="inactive")
    rates = {c["iso_code"]: c for c in crm.get("org/currencies").json()["currencies"]}
    assert rates["USD"]["exchange_rate"] == "0.800000000"
    inactive = crm.get("users", type="DeactiveUsers").json()["users"]
    assert "rep@example.com" in {u["email"] for u in inactive}


@pytest.mark.parametrize(
    "body",
    [
        {"do": "nonsense"},
        {},
        {"do": "edit", "module": "Nope", "id": "1", "values": {}},
        {"do": "edit", "module": "Deals", "id": "1", "values": {"Stage": "x"}},
        {"do": "edit", "module": "Deals", "id": "abc", "values": {}},
        {"do": "insert", "module": "Deals", "values": {"Nope": 1}},
        {"do": "insert", "module": "Deals", "values": {"Amount": "text"}},
        {"do": "delete", "module": "Deals", "ids": "1"},
        {"do": "faults", "rules": [{"do": "nonsense"}]},
        {"do": "faults", "rules": [{"do": "delay", "typo": 1}]},
        {"do": "hook", "after_requests": 0, "run": {}},
        {"do": "config", "latency_ms": "fast"},
        {"do": "config", "nonsense": 1},
        {"do": "field", "module": "Deals", "api_name": "Amount", "action": "explode"},
    ],
)
def test_control_requests_that_make_no_sense_say_why(crm, body):
    with pytest.raises(ControlRefused) as refused:
        crm.sandbox.control(body.pop("do", "?"), **body)
    assert json.loads(str(refused.value))["error"]


def test_life_changes_records_at_its_pace_and_rests_when_told(crm):
    before = crm.sandbox.control("dump", module="Deals")
    crm.sandbox.control("config", life=6_000)
    deadline = time.monotonic() + 10
    while crm.sandbox.control("dump", module="Deals") == before:
        assert time.monotonic() < deadline
    time.sleep(0.5)
    crm.sandbox.control("config", life=0)
    time.sleep(0.3)
    quiet = crm.sandbox.control("dump", module="Deals")
    time.sleep(0.7)
    assert crm.sandbox.control("dump", module="Deals") == quiet
    stamps = {r["id"]: r["Modified_Time"] for r in before["records"]}
    moved = [r for r in quiet["records"] if stamps.get(r["id"]) != r["Modified_Time"]]
    assert len(moved) > 5
    assert "Traceback" not in crm.sandbox.log.read_text()
