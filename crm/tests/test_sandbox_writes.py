"""Writing to the sandbox: positional results, partial failure, defaults, locks, duplicates."""

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

DEAL = {"Deal_Name": "New deal", "Stage": "Qualification", "Pipeline": "Standard"}


@pytest.fixture(scope="module")
def crm(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("writes"), deals=10) as running:
        yield Crm(running)


def insert(crm, **values):
    answer = crm.write("POST", "Deals", [{**DEAL, **values}])
    assert answer.status_code == 201, answer.text
    return answer.json()["data"][0]["details"]["id"]


def item(answer, n=0):
    return answer.json()["data"][n]


# -- insert --------------------------------------------------------------------------------------


def test_insert_answers_with_stamps_and_stores_defaults(crm):
    answer = crm.write("POST", "Deals", [{**DEAL, "Amount": 1000, "Currency": "USD"}])
    result = item(answer)
    assert answer.status_code == 201
    assert (result["code"], result["message"]) == ("SUCCESS", "record added")
    assert set(result["details"]) == {
        "Modified_Time", "Modified_By", "Created_Time", "id", "Created_By", "$approval_state",
    }  # fmt: skip
    record = crm.record("Deals", result["details"]["id"])
    assert record["Modified_Time"] == result["details"]["Modified_Time"]
    assert record["Probability"] == 10
    assert record["Expected_Revenue"] == 100
    assert record["Exchange_Rate"] == 0.74521
    assert record["Owner"]["email"] == "integration@example.com"
    assert record["Territory"] is None


def test_new_ids_are_above_all_earlier_ones(crm):
    highest = max(int(r["id"]) for r in crm.all_pages("Deals", fields="Stage"))
    assert int(insert(crm)) > highest


@pytest.mark.parametrize("missing", ["Deal_Name", "Stage", "Pipeline"])
def test_insert_without_a_mandatory_field_fails(crm, missing):
    answer = crm.write("POST", "Deals", [{k: v for k, v in DEAL.items() if k != missing}])
    assert (answer.status_code, item(answer)["code"]) == (400, "MANDATORY_NOT_FOUND")
    assert item(answer)["details"] == {"api_name": missing, "json_path": f"$.data[0].{missing}"}


def test_unknown_and_read_only_keys_are_passed_over(crm):
    record = crm.record("Deals", insert(crm, Nonsense=1, Created_Time="2001-01-01T00:00:00+08:00"))
    assert record["Created_Time"] > "2020"


# -- update --------------------------------------------------------------------------------------


def test_update_changes_only_what_is_sent_and_null_clears(crm):
    target = insert(crm, Amount=500, Next_Step="Call")
    answer = crm.write("PUT", "Deals", [{"id": int(target), "Next_Step": None}])
    assert answer.status_code == 200
    assert item(answer)["message"] == "record updated"
    record = crm.record("Deals", target)
    assert (record["Next_Step"], record["Amount"]) == (None, 500)


def test_update_by_path_needs_no_id_in_the_body(crm):
    target = insert(crm)
    assert crm.write("PUT", f"Deals/{target}", [{"Amount": 7}]).status_code == 200
    assert crm.record("Deals", target)["Amount"] == 7


def test_every_update_moves_modified_time_even_with_equal_values(crm):
    target = insert(crm, Amount=5)
    crm.sandbox.control("config", clock_offset_s=30)
    try:
        before = crm.record("Deals", target)["Modified_Time"]
        crm.write("PUT", "Deals", [{"id": target, "Amount": 5}])
        assert crm.record("Deals", target)["Modified_Time"] > before
    finally:
        crm.sandbox.control("config", clock_offset_s=0)


def test_stage_sets_its_probability_unless_one_is_sent(crm):
    target = insert(crm, Amount=1000)
    crm.write("PUT", "Deals", [{"id": target, "Stage": "Negotiation/Review"}])
    record = crm.record("Deals", target)
    assert (record["Probability"], record["Expected_Revenue"]) == (90, 900)
    crm.write("PUT", "Deals", [{"id": target, "Stage": "Needs Analysis", "Probability": 33}])
    assert crm.record("Deals", target)["Probability"] == 33


def test_picklists_take_display_and_actual_value_and_read_as_display(crm):
    for sent in ("Identify Decision Makers", "Id. Decision Makers"):
        assert crm.record("Deals", insert(crm, Stage=sent))["Stage"] == "Identify Decision Makers"


def test_stage_outside_its_pipeline_is_a_mapping_mismatch(crm):
    target = insert(crm, Pipeline="Renewals")
    answer = crm.write("PUT", "Deals", [{"id": target, "Stage": "Value Proposition"}])
    assert (answer.status_code, item(answer)["code"]) == (400, "MAPPING_MISMATCH")


def test_text_is_trimmed_and_money_rounded_half_up(crm):
    record = crm.record("Deals", insert(crm, Deal_Name="  Spaced ", Amount=10.005))
    assert (record["Deal_Name"], record["Amount"]) == ("Spaced", 10.01)


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("Amount", "1,234.50", {"expected_data_type": "double"}),
        ("Amount", True, {"expected_data_type": "double"}),
        ("Amount", 10**20, {"maximum_length": 16}),
        ("Probability", "80%", {"expected_data_type": "integer"}),
        ("Probability", 150, {"expected_data_type": "integer"}),
        ("Closing_Date", "2026-02-30", {"expected_data_type": "date"}),
        ("Closing_Date", "2026-02-03T00:00:00+08:00", {"expected_data_type": "date"}),
        ("AWS_Funded", "yes", {"expected_data_type": "boolean"}),
        ("Deal_Name", "x" * 121, {"maximum_length": 120}),
        ("Deal_Name", 5, {"expected_data_type": "string"}),
        ("Account_Name", {"id": "5725767999999999999"}, {"expected_data_type": "lookup"}),
        ("Owner", {"id": "1"}, {"expected_data_type": "ownerlookup"}),
        ("Currency", "XXX", {}),
        ("Territory", "Moon", {}),
    ],
)
def test_values_that_do_not_fit_are_refused_in_their_place(crm, field, value, detail):
    target = insert(crm)
    answer = crm.write("PUT", "Deals", [{"id": target, field: value}])
    result = item(answer)
    assert (answer.status_code, result["code"]) == (400, "INVALID_DATA")
    assert result["details"]["api_name"] == field
    assert result["details"]["json_path"] == f"$.data[0].{field}"
    assert detail.items() <= result["details"].items()


def test_several_bad_fields_come_as_one_item_with_all_of_them(crm):
    answer = crm.write("PUT", "Deals", [{"id": insert(crm), "Amount": "x", "Closing_Date": "y"}])
    assert item(answer)["code"] == "MULTIPLE_OR_MULTI_ERRORS"
    assert len(item(answer)["details"]["errors"]) == 2


def test_partial_failure_is_207_in_request_order_and_keeps_the_good_ones(crm):
    first, last = insert(crm), insert(crm)
    answer = crm.write("PUT", "Deals", [
        {"id": first, "Amount": 1}, {"id": "5725767999999999999", "Amount": 2},
        {"Amount": 3}, {"id": last, "Amount": 4}])  # fmt: skip
    codes = [result["code"] for result in answer.json()["data"]]
    assert answer.status_code == 207
    assert codes == ["SUCCESS", "INVALID_DATA", "MANDATORY_NOT_FOUND", "SUCCESS"]
    assert (crm.record("Deals", first)["Amount"], crm.record("Deals", last)["Amount"]) == (1, 4)


def test_optimistic_lock_refuses_what_changed_since(crm):
    target = insert(crm)
    stamp = crm.record("Deals", target)["Modified_Time"]
    lock = {"If-Unmodified-Since": stamp}
    assert crm.write("PUT", f"Deals/{target}", [{"Amount": 1}], headers=lock).status_code == 200
    crm.sandbox.control("config", clock_offset_s=30)
    try:
        crm.sandbox.control("edit", module="Deals", id=target, values={"Amount": 2})
        answer = crm.write("PUT", f"Deals/{target}", [{"Amount": 3}], headers=lock)
    finally:
        crm.sandbox.control("config", clock_offset_s=0)
    assert (answer.status_code, item(answer)["code"]) == (412, "ALREADY_MODIFIED")
    assert item(answer)["details"]["id"] == target
    assert crm.record("Deals", target)["Amount"] == 2


# -- upsert and unique fields --------------------------------------------------------------------


def test_upsert_by_unique_field_inserts_once(crm):
    body = [{**DEAL, "Pulse_Id": "P-1", "Amount": 1}]
    first = crm.write("POST", "Deals/upsert", body, duplicate_check_fields=["Pulse_Id"])
    body[0]["Amount"] = 2
    second = crm.write("POST", "Deals/upsert", body, duplicate_check_fields=["Pulse_Id"])
    assert (item(first)["action"], item(first)["duplicate_field"]) == ("insert", None)
    assert (item(second)["action"], item(second)["duplicate_field"]) == ("update", "Pulse_Id")
    assert item(first)["details"]["id"] == item(second)["details"]["id"]
    rows = crm.rows("select Amount from Deals where Pulse_Id = 'P-1'")
    assert [row["Amount"] for row in rows] == [2]


def test_duplicate_of_a_unique_field_names_the_other_record(crm):
    other = insert(crm, Pulse_Id="P-2")
    answer = crm.write("POST", "Deals", [{**DEAL, "Pulse_Id": "P-2"}])
    assert item(answer)["code"] == "DUPLICATE_DATA"
    assert item(answer)["details"]["duplicate_record"]["id"] == other
    same = crm.write("PUT", "Deals", [{"id": other, "Pulse_Id": "P-2"}])
    assert same.status_code == 200


# -- delete --------------------------------------------------------------------------------------


def test_delete_moves_to_the_bin_with_results_per_id(crm):
    first, second = insert(crm), insert(crm)
    answer = crm.call("DELETE", "/crm/v8/Deals", params={"ids": f"{first},1,{second}"})
    assert answer.status_code == 207
    assert [r["status"] for r in answer.json()["data"]] == ["success", "error", "success"]
    gone = {r["id"]: r for r in crm.get("Deals/deleted", type="recycle").json()["data"]}
    assert {first, second} <= set(gone)
    assert gone[first]["deleted_by"]["name"] == "Pipeline Integration"
    assert crm.get(f"Deals/{first}").status_code == 204


# -- the request as a whole ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MANDATORY_NOT_FOUND"),
        ({"data": {}}, "INVALID_DATA"),
        ({"data": []}, "INVALID_DATA"),
        ({"data": [DEAL] * 101}, "LIMIT_EXCEEDED"),
        ({"data": [DEAL], "trigger": "workflow"}, "INVALID_DATA"),
    ],
)
def test_malformed_bodies_are_refused_whole(crm, body, code):
    count = crm.get("Deals/actions/count").json()
    answer = crm.call("POST", "/crm/v8/Deals", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert crm.get("Deals/actions/count").json() == count


def test_a_record_that_is_no_object_fails_alone(crm):
    answer = crm.write("POST", "Deals", [DEAL, "text"])
    assert answer.status_code == 207
    assert item(answer, 1)["details"]["json_path"] == "$.data[1]"


def test_writes_cost_a_credit_per_ten_records(crm):
    before = crm.sandbox.control("stats")["credits_used"]
    crm.write("POST", "Deals", [DEAL] * 11)
    assert crm.sandbox.control("stats")["credits_used"] - before == 2
