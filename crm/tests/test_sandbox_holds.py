"""Records the CRM holds back, rules that rewrite what was written, what a user may not see."""

import time

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import ControlRefused, running_sandbox, start_sandbox

REFUSALS = {
    "approval": "NOT_APPROVED",
    "review": "NOT_REVIEWED",
    "lock": "RECORD_LOCKED",
    "blueprint": "RECORD_IN_BLUEPRINT",
    "access": "AUTHORIZATION_FAILED",
}


@pytest.fixture
def crm(tmp_path):
    with running_sandbox(tmp_path, deals=12) as running:
        yield Crm(running)


def deals(crm, **params):
    answer = crm.get("Deals", fields="Stage", **params)
    return [row["id"] for row in answer.json()["data"]] if answer.status_code == 200 else []


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_held_record_refuses_writes_by_its_code_and_takes_them_when_released(crm, kind):
    held, free = deals(crm)[:2]
    before = crm.record("Deals", held)
    crm.sandbox.control("hold", module="Deals", ids=[held], **{"as": kind})
    change = {"Stage": "Closed Won"}
    answer = crm.write("PUT", "Deals", [{"id": held, **change}, {"id": free, **change}])
    first, second = answer.json()["data"]
    assert (answer.status_code, first["code"], second["code"]) == (207, REFUSALS[kind], "SUCCESS")
    assert first["details"]["json_path"] == "$.data[0].id"
    removed = crm.call("DELETE", f"/crm/v8/Deals/{held}").json()["data"][0]
    assert removed["code"] == REFUSALS[kind]
    assert crm.record("Deals", held)["Stage"] == before["Stage"]
    crm.sandbox.control("release", module="Deals", ids=[held])
    assert crm.write("PUT", f"Deals/{held}", [change]).status_code == 200
    assert crm.record("Deals", held)["Stage"] == "Closed Won"


def test_a_lock_is_told_as_the_crm_tells_it(crm):
    held = deals(crm)[0]
    crm.sandbox.control("hold", module="Deals", ids=[held], **{"as": "lock"})
    refused = crm.write("PUT", "Deals", [{"id": held, "Stage": "Closed Won"}]).json()["data"][0]
    assert refused["details"]["action"] == "record_locking"
    record = crm.record("Deals", held)
    assert (record["Locked__s"], record["$locked_for_me"]) == (True, True)


def test_a_blueprint_minds_only_its_own_fields(crm):
    held = deals(crm)[0]
    crm.sandbox.control("hold", module="Deals", ids=[held], **{"as": "blueprint"})
    assert crm.write("PUT", "Deals", [{"id": held, "Next_Step": "Call"}]).status_code == 200


def test_what_waits_for_approval_is_seen_only_when_asked_for(crm):
    held = deals(crm)[3]
    crm.sandbox.control("hold", module="Deals", ids=[held], **{"as": "approval"})
    assert held not in deals(crm)
    assert deals(crm, approved="false") == [held]
    assert held in deals(crm, approved="both")
    assert crm.get("Deals/actions/count").json() == {"count": 11}
    assert crm.get("Deals/actions/count", approved="both").json() == {"count": 12}
    assert crm.rows(f"select Stage from Deals where id = {held}") == []
    record = crm.record("Deals", held)
    assert (record["$approved"], record["$approval_state"]) == (False, "approval_process_pending")
    assert crm.get("Deals", fields="Stage", approved="perhaps").json()["code"] == "INVALID_DATA"


def test_holds_outlive_a_restart(tmp_path):
    first = start_sandbox(tmp_path, deals=3)
    held = deals(Crm(first))[0]
    first.control("hold", module="Deals", ids=[held], **{"as": "approval"})
    first.stop()
    second = start_sandbox(tmp_path)
    try:
        assert held not in deals(Crm(second))
    finally:
        second.stop()


# -- workflows ------------------------------------------------------------------------------


def test_a_workflow_rewrites_after_the_answer_unless_the_trigger_is_empty(crm):
    target = deals(crm)[0]
    crm.sandbox.control("workflow", module="Deals", when=["Next_Step"],
                        set={"Next_Step": "Set by the CRM"})  # fmt: skip
    answer = crm.write("PUT", "Deals", [{"id": target, "Next_Step": "Ours"}], trigger=["workflow"])
    assert answer.json()["data"][0]["code"] == "SUCCESS"
    assert crm.record("Deals", target)["Next_Step"] == "Set by the CRM"
    crm.write("PUT", "Deals", [{"id": target, "Next_Step": "Ours"}], trigger=[])
    assert crm.record("Deals", target)["Next_Step"] == "Ours"
    crm.write("PUT", "Deals", [{"id": target, "Next_Step": "Ours again"}])
    assert crm.record("Deals", target)["Next_Step"] == "Set by the CRM"
    crm.sandbox.control("clear_workflows")
    crm.write("PUT", "Deals", [{"id": target, "Next_Step": "Ours at last"}])
    assert crm.record("Deals", target)["Next_Step"] == "Ours at last"
    sources = [e["source"] for e in crm.get(f"Deals/{target}/__timeline").json()["__timeline"]]
    assert sources[:6] == ["crm_api", "workflow", "crm_api", "crm_api", "workflow", "crm_api"]


def test_a_workflow_can_put_back_what_was_there(crm):
    target = deals(crm)[0]
    was = crm.record("Deals", target)["Stage"]
    crm.sandbox.control("workflow", module="Deals", when={"Stage": "Closed Won"}, revert=["Stage"])
    crm.write("PUT", "Deals", [{"id": target, "Stage": "Closed Won"}])
    assert crm.record("Deals", target)["Stage"] == was
    crm.write("PUT", "Deals", [{"id": target, "Stage": "Closed Lost"}])
    assert crm.record("Deals", target)["Stage"] == "Closed Lost"


# -- what may be seen -----------------------------------------------------------------------


def test_a_module_without_permission_is_403_and_names_it(crm):
    crm.sandbox.control("permission", module="Deals", read=False)
    answer = crm.get("Deals", fields="Stage")
    assert (answer.status_code, answer.json()["code"]) == (403, "NO_PERMISSION")
    assert answer.json()["details"] == {"permissions": ["Crm_Implied_View_Deals"]}
    assert crm.get("Leads", fields="Email").status_code == 200
    crm.sandbox.control("permission", module="Deals", read=True)
    assert crm.get("Deals", fields="Stage").status_code == 200
    assert crm.sandbox.control("stats")["rule_breaks"] == {}


def test_custom_views_choose_records_and_cost_three(crm):
    views = {v["name"]: v["id"] for v in
             crm.get("settings/custom_views", module="Deals").json()["custom_views"]}  # fmt: skip
    assert deals(crm, cvid=views["All Deals"]) == deals(crm)
    assert deals(crm, cvid=views["My Deals"]) == []
    made = crm.write("POST", "Deals", [{"Deal_Name": "Mine", "Stage": "Qualification",
                                        "Pipeline": "Standard"}]).json()  # fmt: skip
    before = crm.sandbox.control("stats")["credits_used"]
    assert deals(crm, cvid=views["My Deals"]) == [made["data"][0]["details"]["id"]]
    assert crm.sandbox.control("stats")["credits_used"] == before + 3
    assert crm.get("Deals/actions/count", cvid=views["My Deals"]).json() == {"count": 1}
    assert crm.get("Deals", fields="Stage", cvid="1").json()["code"] == "INVALID_DATA"
    both = crm.get("Deals", fields="Stage", cvid=views["All Deals"], sort_by="id")
    assert both.json()["code"] == "AMBIGUITY_DURING_PROCESSING"


@pytest.mark.parametrize(
    ("mixed", "failed", "expected"), [(0, 0, (207, 400)), (200, 202, (200, 202))]
)
def test_mixed_and_failed_writes_come_with_the_status_that_is_set(crm, mixed, failed, expected):
    crm.sandbox.control("config", mixed_status=mixed, failed_status=failed)
    good, bad = {"id": deals(crm)[0], "Next_Step": "x"}, {"id": "1", "Next_Step": "x"}
    assert crm.write("PUT", "Deals", [good, bad]).status_code == expected[0]
    assert crm.write("PUT", "Deals", [bad]).status_code == expected[1]


@pytest.mark.parametrize(
    ("do", "command"),
    [
        ("hold", {"module": "Deals", "ids": ["1"], "as": "ransom"}),
        ("workflow", {"module": "Deals", "when": "Stage"}),
        ("workflow", {"module": "Deals", "set": {"Nope": 1}}),
        ("permission", {"module": "Deals", "read": "no"}),
        ("merge", {"module": "Deals", "id": "1", "ids": ["1"]}),
        ("merge", {"module": "Deals", "id": "1", "ids": ["2"]}),
        ("live", {"steps": 0}),
        ("bad_day", {"rows": [1]}),
        ("bad_day", {"rows": [24], "spread": 0}),
    ],
)
def test_commands_that_make_no_sense_say_why(crm, do, command):
    with pytest.raises(ControlRefused, match="error"):
        crm.sandbox.control(do, **command)


def test_an_org_without_pipelines_has_none_and_wants_none(crm):
    layout = crm.get("settings/layouts", module="Deals").json()["layouts"][0]["id"]
    crm.sandbox.control("field", module="Deals", api_name="Pipeline", action="remove")
    assert crm.get("settings/pipeline", layout_id=layout).status_code == 204
    made = crm.write("POST", "Deals", [{"Deal_Name": "Plain", "Stage": "Needs Analysis"}])
    assert made.status_code == 201


def test_a_person_who_leaves_is_told_to_channels_of_users(crm):
    before = crm.sandbox.control("stats")["notices_sent"]
    body = {"watch": [{"channel_id": "7", "events": ["Users.all"],
                       "notify_url": "http://127.0.0.1:9/gone"}]}  # fmt: skip
    assert crm.call("POST", "/crm/v8/actions/watch", json=body).status_code == 201
    crm.sandbox.control("user", email="liam.walker@example.com", status="inactive")
    deadline = time.monotonic() + 5
    while crm.sandbox.control("stats")["notices_sent"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
