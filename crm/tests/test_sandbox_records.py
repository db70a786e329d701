"""Reading the sandbox: lists, page tokens, times, deleted records, counts, refusals."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

FIELDS = "Deal_Name,Stage,Amount,Account_Name,Owner,Modified_Time,Created_Time"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("shared"), deals=2_450) as running:
        yield running


@pytest.fixture(scope="module")
def crm(shared):
    return Crm(shared)


@pytest.fixture
def own(tmp_path):
    """A small sandbox that the test may change."""
    with running_sandbox(tmp_path, deals=30) as running:
        yield Crm(running)


def ids(records):
    return [record["id"] for record in records]


# -- lists ----------------------------------------------------------------------------------


def test_page_tokens_give_every_record_once_newest_id_first(crm, shared):
    records = crm.all_pages("Deals", fields=FIELDS)
    there = ids(shared.control("dump", module="Deals")["records"])
    assert ids(records) == sorted(there, key=int, reverse=True)
    assert len(there) == 2_450


@pytest.mark.parametrize("version", ["v8", "v6"])
def test_both_versions_answer_the_same(crm, version):
    answer = crm.call("GET", f"/crm/{version}/Deals", params={"fields": FIELDS, "per_page": 3})
    other = crm.call("GET", "/crm/v8/Deals", params={"fields": FIELDS, "per_page": 3})
    assert answer.json()["data"] == other.json()["data"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("key", ["id", "Created_Time", "Modified_Time"])
def test_lists_are_sorted_as_asked_over_page_borders(crm, key, order):
    records = crm.all_pages("Contacts", fields="Full_Name,Created_Time,Modified_Time",
                            sort_by=key, sort_order=order, per_page=37)  # fmt: skip
    keys = [(r[key], r["id"]) for r in records]
    assert keys == sorted(keys, reverse=order == "desc")
    assert len(set(ids(records))) == len(records) > 200


def test_record_shape_has_big_text_ids_and_zoned_times_without_fractions(crm):
    record = crm.get("Deals", fields=FIELDS, per_page=1).json()["data"][0]
    assert set(record) == {*FIELDS.split(","), "id"}
    assert len(record["id"]) == 19
    assert int(record["id"]) > 2**53
    assert set(record["Owner"]) == {"name", "id", "email"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+08:00", record["Modified_Time"])


def test_single_record_has_all_fields_and_dollar_keys(crm):
    record_id = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    record = crm.record("Deals", record_id)
    assert {"Amount", "Pulse_Id", "Owner", "$approval_state", "Tag"} <= set(record)
    assert crm.get("Deals/5725767999999999999").status_code == 204


def test_unknown_field_names_are_dropped_silently(crm):
    record = crm.get("Deals", fields="Stage,Nonsense", per_page=1).json()["data"][0]
    assert set(record) == {"Stage", "id"}


def test_ids_pick_records(crm):
    chosen = ids(crm.get("Deals", fields="Stage", per_page=5).json()["data"])[1:3]
    found = crm.get("Deals", fields="Stage", ids=",".join(chosen)).json()["data"]
    assert ids(found) == chosen


def test_converted_leads_are_hidden_unless_asked_for(crm):
    open_ones = crm.all_pages("Leads", fields="Converted__s")
    done = crm.all_pages("Leads", fields="Converted__s", converted="true")
    both = crm.all_pages("Leads", fields="Converted__s", converted="both")
    assert {r["Converted__s"] for r in open_ones} == {False}
    assert {r["Converted__s"] for r in done} == {True}
    assert len(both) == len(open_ones) + len(done)


@pytest.mark.parametrize(
    ("params", "code", "details"),
    [
        ({}, "REQUIRED_PARAM_MISSING", {"param_name": "fields"}),
        ({"fields": ",".join(f"F{n}" for n in range(51))}, "LIMIT_EXCEEDED", {"limit": 50}),
        ({"fields": ",".join("F" * 40 + str(n) for n in range(30))}, "INVALID_DATA", {}),
        ({"fields": "id"}, "INVALID_DATA", {}),
        ({"fields": "Stage", "per_page": "201"}, "INVALID_DATA", {"param_name": "per_page"}),
        ({"fields": "Stage", "page": "0"}, "INVALID_DATA", {"param_name": "page"}),
        ({"fields": "Stage", "page": "11"}, "DISCRETE_PAGINATION_LIMIT_EXCEEDED", {"limit": 2000}),
        ({"fields": "Stage", "sort_by": "Amount"}, "INVALID_DATA", {"param_name": "sort_by"}),
        ({"fields": "Stage", "page": "1", "page_token": "x"}, "AMBIGUITY_DURING_PROCESSING", {}),
        ({"fields": "Stage", "page_token": "x"}, "INVALID_DATA", {"param_name": "page_token"}),
        ({"fields": "Stage", "ids": "abc"}, "INVALID_DATA", {"param_name": "ids"}),
    ],
)
def test_list_rules_are_enforced_with_flat_errors_and_counted(crm, shared, params, code, details):
    shared.control("reset_stats")
    answer = crm.get("Deals", **params)
    error = answer.json()
    assert (answer.status_code, error["code"], error["status"]) == (400, code, "error")
    assert details.items() <= error["details"].items()
    assert sum(shared.control("stats")["rule_breaks"].values()) == 1


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("Nonsense?fields=Stage", 400, "INVALID_MODULE"),
        ("Deals/1/nonsense", 404, "INVALID_URL_PATTERN"),
        ("settings/nonsense", 404, "INVALID_URL_PATTERN"),
    ],
)
def test_wrong_places_are_refused(crm, path, status, code):
    answer = crm.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_wrong_verb_is_refused(crm):
    assert crm.call("PUT", "/crm/v8/org").json()["code"] == "METHOD_NOT_ALLOWED"


# -- page tokens ----------------------------------------------------------------------------


def test_token_is_bound_to_its_request(crm):
    token = crm.get("Deals", fields="Stage", per_page=5).json()["info"]["next_page_token"]
    answer = crm.get("Deals", fields="Amount", per_page=5, page_token=token)
    assert answer.json()["code"] == "TOKEN_BOUND_DATA_MISMATCH"


def test_token_expires_after_a_day(own):
    info = own.get("Deals", fields="Stage", per_page=5).json()["info"]
    own.sandbox.control("config", clock_offset_s=86_401)
    own.sign_in()
    answer = own.get("Deals", fields="Stage", per_page=5, page_token=info["next_page_token"])
    assert answer.json()["code"] == "EXPIRED_VALUE"
    assert answer.json()["details"]["json_path"] == "$.query.page_token"


def test_deletion_between_pages_shifts_what_follows(own):
    everything = ids(own.all_pages("Deals", fields="Stage"))
    first = own.get("Deals", fields="Stage", per_page=10).json()
    own.sandbox.control("delete", module="Deals", ids=everything[:2])
    token = first["info"]["next_page_token"]
    second = own.get("Deals", fields="Stage", per_page=10, page_token=token).json()
    assert ids(second["data"]) == everything[12:22]


def test_edit_between_pages_moves_the_record_in_modified_order(own):
    params = {"fields": "Modified_Time", "sort_by": "Modified_Time", "sort_order": "asc",
              "per_page": 10}  # fmt: skip
    everything = ids(own.all_pages("Deals", **params))
    first = own.get("Deals", **params).json()
    own.sandbox.control("edit", module="Deals", id=everything[0], values={"Next_Step": "Call"})
    rest = ids(own.all_pages("Deals", **params, page_token=first["info"]["next_page_token"]))
    assert everything[10] not in rest
    assert rest[-1] == everything[0]


# -- what changed ---------------------------------------------------------------------------


def test_if_modified_since_gives_what_changed_after_it_else_304(own):
    own.sandbox.control("config", clock_offset_s=100)
    target = ids(own.get("Deals", fields="Stage", per_page=1).json()["data"])[0]
    own.sandbox.control("edit", module="Deals", id=target, values={"Amount": 777})
    stamp = own.record("Deals", target)["Modified_Time"]
    day_before = own.get("Deals", headers={"If-Modified-Since": "2000-01-01T00:00:00+00:00"},
                         fields="Stage")  # fmt: skip
    assert len(day_before.json()["data"]) == 30
    exactly = own.get("Deals", headers={"If-Modified-Since": stamp}, fields="Stage")
    assert (exactly.status_code, exactly.content) == (304, b"")
    second_before = stamp[:17] + f"{max(0, int(stamp[17:19]) - 1):02}" + stamp[19:]
    if second_before != stamp:
        changed = own.get("Deals", headers={"If-Modified-Since": second_before}, fields="Stage")
        assert ids(changed.json()["data"]) == [target]


def test_if_modified_since_reads_other_zones_as_instants(own):
    own.sandbox.control("config", clock_offset_s=100)
    target = ids(own.get("Deals", fields="Stage", per_page=1).json()["data"])[0]
    own.sandbox.control("edit", module="Deals", id=target, raw=True,
                        values={"Modified_Time": "2030-01-01T12:00:00+08:00"})  # fmt: skip
    before = own.get("Deals", headers={"If-Modified-Since": "2030-01-01T03:59:59+00:00"},
                     fields="Stage")  # fmt: skip
    after = own.get("Deals", headers={"If-Modified-Since": "2030-01-01T04:00:00Z"},
                    fields="Stage")  # fmt: skip
    assert ids(before.json()["data"]) == [target]
    assert after.status_code == 304


@pytest.mark.parametrize("text", ["Fri, 20 Nov 2026 10:00:00 GMT", "2026-11-20T10:00:00.123+08:00"])
def test_if_modified_since_takes_iso_without_fractions_only(crm, text):
    answer = crm.get("Deals", headers={"If-Modified-Since": text}, fields="Stage")
    assert answer.status_code == 400


def test_empty_lists_are_204_without_a_body(tmp_path):
    with running_sandbox(tmp_path, deals=0) as sandbox:
        answer = Crm(sandbox).get("Deals", fields="Stage")
        assert (answer.status_code, answer.content) == (204, b"")


# -- deleted, restored, hidden --------------------------------------------------------------


def test_deleted_records_are_listed_by_kind_and_restored_as_they_were(own):
    first, second, third = ids(own.get("Deals", fields="Stage", per_page=3).json()["data"])
    before = own.record("Deals", first)
    own.sandbox.control("delete", module="Deals", ids=[first])
    own.sandbox.control("delete", module="Deals", ids=[second], type="permanent")
    own.sandbox.control("vanish", module="Deals", ids=[third])

    def deleted(kind):
        answer = own.get("Deals/deleted", type=kind)
        return {r["id"]: r["type"] for r in answer.json()["data"]} if answer.content else {}

    assert deleted("all") == {first: "recycle", second: "permanent"}
    assert deleted("recycle") == {first: "recycle"}
    assert deleted("permanent") == {second: "permanent"}
    assert own.get(f"Deals/{third}").status_code == 204
    own.sandbox.control("restore", module="Deals", ids=[first])
    own.sandbox.control("appear", module="Deals", ids=[third])
    assert own.record("Deals", first) == before
    assert deleted("all") == {second: "permanent"}
    assert own.get("Deals/actions/count").json() == {"count": 29}


def test_deleted_list_forgets_and_filters_by_time(own):
    target = ids(own.get("Deals", fields="Stage", per_page=1).json()["data"])[0]
    own.sandbox.control("delete", module="Deals", ids=[target])
    row = own.get("Deals/deleted", type="all").json()["data"][0]
    assert set(row) == {
        "deleted_by", "id", "display_name", "type", "created_by", "deleted_time",
    }  # fmt: skip
    later = own.get("Deals/deleted", type="all",
                    headers={"If-Modified-Since": row["deleted_time"]})  # fmt: skip
    assert later.status_code == 204
    own.sandbox.control("config", clock_offset_s=61 * 86_400)
    own.sign_in()
    assert own.get("Deals/deleted", type="all").status_code == 204


def test_deleted_list_refuses_unknown_kinds(crm):
    assert crm.get("Deals/deleted", type="other").json()["code"] == "PATTERN_NOT_MATCHED"


def test_deleting_an_account_empties_its_lookups_without_touching_the_deals(own):
    deals = own.get("Deals", fields="Account_Name,Modified_Time").json()["data"]
    deal = next(d for d in deals if d["Account_Name"])
    own.sandbox.control("delete", module="Accounts", ids=[deal["Account_Name"]["id"]])
    after = own.record("Deals", deal["id"])
    assert after["Account_Name"] is None
    assert after["Modified_Time"] == deal["Modified_Time"]


def test_renamed_account_shows_in_deals_without_touching_them(own):
    deals = own.get("Deals", fields="Account_Name,Modified_Time").json()["data"]
    deal = next(d for d in deals if d["Account_Name"])
    own.sandbox.control("edit", module="Accounts", id=deal["Account_Name"]["id"],
                        values={"Account_Name": "New Name Ltd"})  # fmt: skip
    after = own.record("Deals", deal["id"])
    assert after["Account_Name"]["name"] == "New Name Ltd"
    assert after["Modified_Time"] == deal["Modified_Time"]


# -- count and search -----------------------------------------------------------------------


def test_count_equals_the_records_that_match(crm, shared):
    records = shared.control("dump", module="Deals")["records"]
    won = [r for r in records if r["Stage"] == "Closed Won" and (r["Amount"] or 0) > 100_000]
    criteria = "((Stage:equals:Closed Won)and(Amount:greater_than:100000))"
    assert crm.get("Deals/actions/count").json() == {"count": len(records)}
    assert crm.get("Deals/actions/count", criteria=criteria).json() == {"count": len(won)}


def test_search_finds_by_criteria_and_says_204_otherwise(crm):
    found = crm.get("Deals/search", criteria="(Stage:equals:Closed Won)", fields="Stage")
    assert {r["Stage"] for r in found.json()["data"]} == {"Closed Won"}
    assert crm.get("Deals/search", criteria="(Stage:equals:Nope)").status_code == 204


@pytest.mark.parametrize("criteria", ["(Stage:equals", "(Nope:equals:1)", "(Stage:near:1)", "x"])
def test_malformed_criteria_are_refused(crm, criteria):
    answer = crm.get("Deals/actions/count", criteria=criteria)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_DATA")


# -- the server -----------------------------------------------------------------------------


def test_every_answer_carries_the_crms_clock(crm):
    for answer in (crm.get("org"), crm.get("nope"), crm.get("Deals/5725767999999999999")):
        assert answer.headers["Date"].endswith("GMT")


def test_ten_calls_overlap(tmp_path):
    with running_sandbox(tmp_path, deals=5, latency_ms=150) as sandbox:
        crm = Crm(sandbox)
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: crm.get("org").status_code, range(20)))
        assert answers == [200] * 20
        assert sandbox.control("stats")["most_in_flight"] == 10
