"""How each call is spelled and read: paths, parameters, envelopes, results per record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from crm.tests.odd_server import (
    NOTHING,
    Asked,
    HeldTime,
    Odd,
    OddServer,
    answer,
    client_of,
    error,
    page,
)
from crm.zoho.errors import (
    BadPayload,
    FixRequest,
    GiveUp,
    PageTokenRejected,
    PagingLimit,
    QueryRefused,
    ServerFault,
    UnknownOutcome,
)

SINCE = datetime(2026, 11, 1, 10, 0, 30, 999_999, timezone(timedelta(hours=5, minutes=30)))


def ask(script: list[Odd], act: Any, **changes: Any) -> tuple[Any, list[Asked]]:
    """What `act(client)` returns, and what the CRM was asked."""
    with OddServer(script) as server:
        return act(client_of(server, **changes)), server.asked


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("version", ["v8", "v6"])
def test_a_list_goes_by_page_tokens_and_keeps_its_parameters(version):
    script = [
        page([{"id": "1"}], more=True, token="a"),
        page([{"id": "2"}], more=True, token="b"),
        page([{"id": "3"}], token="unused"),
    ]
    pages, asked = ask(
        script,
        lambda client: list(
            client.list_pages(
                "Leads",
                ["Last_Name", "Company"],
                sort_by="Modified_Time",
                sort_order="desc",
                modified_since=SINCE,
                converted="both",
                per_page=100,
            )
        ),
        api_version=version,
    )
    assert [row.value["id"] for p in pages for row in p.records] == ["1", "2", "3"]
    assert {a.path for a in asked} == {f"/crm/{version}/Leads"}
    assert [a.query.pop("page_token", None) for a in asked] == [None, "a", "b"]
    for a in asked:
        assert a.query == {
            "fields": "Last_Name,Company",
            "sort_by": "Modified_Time",
            "sort_order": "desc",
            "per_page": "100",
            "converted": "both",
        }
        assert a.headers["if-modified-since"] == "2026-11-01T04:30:30+00:00"


def test_a_list_goes_on_at_a_given_token():
    pages, asked = ask(
        [page([{"id": "2"}])],
        lambda client: list(client.list_pages("Deals", ["Stage"], page_token="kept")),
    )
    assert len(pages) == 1
    assert asked[0].query["page_token"] == "kept"


@pytest.mark.parametrize("nothing", [NOTHING, Odd(304, headers={"Content-Length": ""})])
def test_row_32_a_list_of_nothing_has_no_page(nothing):
    pages, _ = ask([nothing], lambda client: list(client.list_pages("Deals", ["Stage"])))
    assert pages == []


def test_pages_come_one_by_one():
    with OddServer([page([{"id": "1"}], more=True, token="a"), page([{"id": "2"}])]) as server:
        pages = client_of(server).list_pages("Deals", ["Stage"])
        next(pages)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("EXPIRED_VALUE", {"api_name": "page_token", "json_path": "$.query.page_token"}),
        ("TOKEN_BOUND_DATA_MISMATCH", {"param_name": "page_token"}),
        ("INVALID_DATA", {"param_name": "page_token"}),
    ],
)
def test_row_39_a_page_token_that_is_no_longer_taken_is_told_apart(code, details):
    with OddServer(
        [page([{"id": "1"}], more=True, token="a"), error(400, code, "no", details)]
    ) as s:
        pages = client_of(s).list_pages("Deals", ["Stage"])
        next(pages)
        with pytest.raises(PageTokenRejected):
            next(pages)


@pytest.mark.parametrize(
    "code", ["PAGINATION_LIMIT_EXCEEDED", "DISCRETE_PAGINATION_LIMIT_EXCEEDED"]
)
def test_the_end_of_what_paging_reaches_is_told_apart(code):
    with OddServer([error(400, code)]) as server, pytest.raises(PagingLimit, match="id ranges"):
        list(client_of(server).list_pages("Deals", ["Stage"]))


def test_row_38_more_records_for_ever_is_a_paging_loop():
    with OddServer([page([{"id": "1"}], more=True, token="same")]) as server:
        with pytest.raises(GiveUp) as caught:
            list(client_of(server).list_pages("Deals", ["Stage"]))
        assert caught.value.code == "paging_loop"
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "act",
    [
        lambda c: list(c.list_pages("Deals", [f"Field_{n}" for n in range(51)])),
        lambda c: list(c.list_pages("Deals", ["Field_" + "x" * 40 + str(n) for n in range(30)])),
        lambda c: list(c.list_pages("Deals", [])),
        lambda c: list(c.list_pages("Deals", ["Stage"], sort_by="Amount")),
        lambda c: list(c.list_pages("Deals/../org", ["Stage"])),
        lambda c: c.id_range("Deals", [f"F{n}" for n in range(51)], after=0, upto=None),
        lambda c: c.id_range("Deals", [f"F{n}" for n in range(50)], after=0, upto=None),
        lambda c: c.id_range("Deals", ["id from Leads --"], after=0, upto=None),
        lambda c: c.id_range("Deals", ["Stage"], after=0, upto=None, limit=2001),
        lambda c: c.by_ids("Deals", list(range(51)), ["Stage"]),
        lambda c: c.insert("Deals", [{}] * 101),
        lambda c: c.update("Deals", [{"Stage": "x"}]),
        lambda c: c.delete("Deals", list(range(101))),
        lambda c: c.update("Deals", [{"id": "1", "Amount": Decimal("0.12345678901234567891")}]),
        lambda c: c.update("Deals", [{"id": "1", "Amount": Decimal("NaN")}]),
    ],
)
def test_what_the_crm_would_refuse_is_refused_here_without_a_call(act):
    with OddServer() as server:
        with pytest.raises(FixRequest):
            act(client_of(server))
        assert server.asked == []


def test_a_time_without_a_zone_is_a_mistake_of_the_caller():
    with OddServer() as server, pytest.raises(ValueError, match="aware"):
        list(client_of(server).list_pages("Deals", ["Stage"], modified_since=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_records_by_id():
    found, asked = ask(
        [page([{"id": "2"}])], lambda c: c.by_ids("Leads", [1, 2], ["Company"], converted="both")
    )
    assert [row.value["id"] for row in found.records] == ["2"]
    assert asked[0].query["ids"] == "1,2"
    assert asked[0].query["converted"] == "both"
    assert ask([page([])], lambda c: c.by_ids("Leads", [], ["Company"]).count) == (0, [])


def test_one_record_or_none():
    (found, asked) = ask([page([{"id": "7", "x": 1}])], lambda c: c.record("Deals", 7))
    assert found.value == {"id": "7", "x": 1}
    assert asked[0].path == "/crm/v8/Deals/7"
    assert ask([NOTHING], lambda c: c.record("Deals", 7))[0] is None
    assert ask([error(400, "INVALID_DATA")], lambda c: c.record("Deals", 7))[0] is None


def test_deleted_records_by_page_number():
    script = [page([{"id": "1"}], more=True), page([{"id": "2"}])]
    pages, asked = ask(script, lambda c: list(c.deleted_pages("Deals", since=SINCE)))
    assert len(pages) == 2
    assert [a.query["page"] for a in asked] == ["1", "2"]
    assert asked[0].path == "/crm/v8/Deals/deleted"
    assert asked[0].query["type"] == "all"
    assert asked[0].headers["if-modified-since"] == "2026-11-01T04:30:30+00:00"
    for nothing in (NOTHING, Odd(304, headers={"Content-Length": ""})):
        assert ask([nothing], lambda c: list(c.deleted_pages("Deals", since=None)))[0] == []


def test_count():
    number, asked = ask([answer({"count": 123})], lambda c: c.count("Deals"))
    assert number == 123
    assert asked[0].path == "/crm/v8/Deals/actions/count"
    assert ask([answer({"count": "123"})], lambda c: c.count("Deals"))[0] == 123
    with pytest.raises(BadPayload):
        ask([answer({"count": None})], lambda c: c.count("Deals"))


# ---------------------------------------------------------------- COQL


@pytest.mark.parametrize(
    ("bounds", "where"),
    [
        ({"after": 0, "upto": None}, "id > '0'"),
        ({"after": 5, "upto": 9}, "(id > '5' and id <= '9')"),
        (
            {"after": 5, "upto": None, "modified_since": SINCE},
            "(id > '5' and Modified_Time >= '2026-11-01T04:30:30+00:00')",
        ),
        (
            {"after": 5, "upto": 9, "modified_since": SINCE},
            "((id > '5' and id <= '9') and Modified_Time >= '2026-11-01T04:30:30+00:00')",
        ),
    ],
)
def test_an_id_range_is_one_query(bounds, where):
    found, asked = ask(
        [page([{"id": "6"}], more=True)],
        lambda c: c.id_range("Deals", ["Stage", "id", "Owner"], limit=500, **bounds),
    )
    assert found.more is True
    assert asked[0].path == "/crm/v8/coql"
    assert asked[0].json == {
        "select_query": f"select id, Stage, Owner from Deals where {where} "
        "order by id asc limit 0, 500"
    }


def test_a_query_too_full_for_the_id_is_refused_as_one_that_pages_can_replace():
    fields = [f"F{n}" for n in range(50)]
    with OddServer() as server, pytest.raises(QueryRefused, match="no room for the id"):
        client_of(server).id_range("Deals", fields, after=0, upto=None)
    rows, asked = ask([page([{"id": "1"}])], lambda c: list(c.list_pages("Deals", fields)))
    assert len(rows) == 1 and asked[0].query["fields"].count(",") == 49


def test_a_list_without_page_tokens_goes_on_by_number():
    script = [page([{"id": "1"}], more=True), page([{"id": "2"}], more=True), NOTHING]
    pages, asked = ask(script, lambda c: list(c.list_pages("Deals", ["Stage"])))
    assert len(pages) == 2
    assert [a.query.get("page") for a in asked] == [None, "2", "3"]
    assert not any("page_token" in a.query for a in asked)


def test_an_empty_id_range_is_an_empty_page():
    found, _ = ask([NOTHING], lambda c: c.id_range("Deals", ["id"], after=0, upto=None))
    assert (found.records, found.more) == ([], False)


@pytest.mark.parametrize("code", ["INVALID_QUERY", "SYNTAX_ERROR", "LIMIT_EXCEEDED"])
def test_a_query_that_the_crm_does_not_take_is_told_apart(code):
    details = {"reason": "column not allowed", "column_name": "Stage_Modified_Time"}
    with OddServer([error(400, code, "no", details)]) as server:
        with pytest.raises(QueryRefused) as caught:
            client_of(server).coql("select x from Deals")
        assert caught.value.details == details
        assert caught.value.code == code


# ---------------------------------------------------------------- the organisation


def test_the_organisation_caps_calls_at_once_by_its_edition():
    reply = {"org": [{"id": "1", "license_details": {"paid_type": "free"}}]}
    with OddServer([answer(reply)]) as server:
        client = client_of(server)
        assert client.org()["id"] == "1"
        client.org()
        # a free organisation allows five: two stay free, one is left to people
        assert client._transport.gate.limit == 2


def test_who_we_are():
    user, asked = ask([answer({"users": [{"id": "5"}]})], lambda c: c.current_user())
    assert user == {"id": "5"}
    assert asked[0].query == {"type": "CurrentUser"}


def test_users_by_page():
    info = {"more_records": True, "count": 1}
    script = [
        answer({"users": [{"id": "1"}], "info": info}),
        answer({"users": [{"id": "2"}], "info": {"more_records": False}}),
    ]
    pages, asked = ask(script, lambda c: list(c.users("DeletedUsers")))
    assert [row.value["id"] for p in pages for row in p.records] == ["1", "2"]
    assert [a.query["page"] for a in asked] == ["1", "2"]
    assert asked[0].query["type"] == "DeletedUsers"


def test_without_multi_currency_there_are_no_currencies():
    assert ask([NOTHING], lambda c: c.currencies())[0] == []
    assert ask([error(400, "CURRENCIES_NOT_ENABLED")], lambda c: c.currencies())[0] == []


@pytest.mark.parametrize(
    ("act", "path", "query", "key"),
    [
        (lambda c: c.fields("Deals"), "settings/fields", {"module": "Deals"}, "fields"),
        (lambda c: c.layouts("Deals"), "settings/layouts", {"module": "Deals"}, "layouts"),
        (lambda c: c.pipelines(77), "settings/pipeline", {"layout_id": "77"}, "pipeline"),
        (lambda c: c.modules(), "settings/modules", {}, "modules"),
        (lambda c: c.currencies(), "org/currencies", {}, "currencies"),
    ],
)
def test_settings_are_lists_of_objects(act, path, query, key):
    found, asked = ask([answer({key: [{"id": "1"}]})], act)
    assert found == [{"id": "1"}]
    assert asked[0].path == f"/crm/v8/{path}"
    assert asked[0].query == query
    assert ask([NOTHING], act)[0] == []
    with pytest.raises(BadPayload):
        ask([answer({"else": []})], act)


# ---------------------------------------------------------------- writes

DONE = {
    "code": "SUCCESS",
    "details": {"id": "1", "Modified_Time": "2026-11-01T10:00:00+05:30"},
    "message": "record updated",
    "status": "success",
}
LOCKED = {
    "code": "RECORD_LOCKED",
    "details": {"api_name": "id"},
    "message": "locked",
    "status": "error",
}


def wrote(*items: Any, status: int = 200) -> Odd:
    return answer({"data": list(items)}, status)


def test_row_80_results_are_read_one_by_one_whatever_the_status():
    for status in (200, 201, 202, 207, 400):
        results, _ = ask(
            [wrote(DONE, LOCKED, status=status)],
            lambda c: c.update("Deals", [{"id": "1"}, {"id": "2"}]),
        )
        assert [(r.ok, r.id, r.code) for r in results] == [
            (True, 1, "SUCCESS"),
            (False, None, "RECORD_LOCKED"),
        ]
        assert results[0].details["Modified_Time"].startswith("2026-11-01")


def test_a_row_changed_meanwhile_says_so_in_its_result():
    changed = {
        "code": "ALREADY_MODIFIED",
        "details": {"id": "1"},
        "message": "record updated time has already passed if-unmodified-since time",
        "status": "error",
    }
    results, asked = ask(
        [wrote(changed, status=412)],
        lambda c: c.update("Deals", [{"id": "1", "Stage": "x"}], unmodified_since=SINCE),
    )
    assert (results[0].ok, results[0].code) == (False, "ALREADY_MODIFIED")
    assert asked[0].headers["if-unmodified-since"] == "2026-11-01T04:30:30+00:00"


def test_what_is_sent():
    row = {"id": "1", "Amount": Decimal("1234.10"), "Count": Decimal("3"), "Owner": {"id": "9"}}
    _, asked = ask([wrote(DONE)], lambda c: c.update("Deals", [row], trigger=[]))
    assert asked[0].method == "PUT"
    assert asked[0].headers["content-type"] == "application/json"
    assert asked[0].body == (
        b'{"data":[{"id":"1","Amount":1234.1,"Count":3,"Owner":{"id":"9"}}],"trigger":[]}'
    )
    _, asked = ask([wrote(DONE)], lambda c: c.insert("Deals", [{"Deal_Name": "é"}]))
    assert asked[0].json == {"data": [{"Deal_Name": "é"}]}


def test_an_upsert_names_its_fields_in_the_body_and_says_what_it_did():
    inserted = {**DONE, "action": "insert"}
    results, asked = ask(
        [wrote(inserted, status=201)],
        lambda c: c.upsert("Deals", [{"Pulse_Id": "x"}], duplicate_check_fields=["Pulse_Id"]),
    )
    assert results[0].action == "insert"
    assert asked[0].path == "/crm/v8/Deals/upsert"
    assert asked[0].json["duplicate_check_fields"] == ["Pulse_Id"]


def test_a_deletion():
    results, asked = ask([wrote(DONE, LOCKED, status=207)], lambda c: c.delete("Deals", [1, 2]))
    assert [r.ok for r in results] == [True, False]
    assert asked[0].method == "DELETE"
    assert asked[0].query == {"ids": "1,2"}


def test_nothing_to_write_is_no_call():
    for act in (
        lambda c: c.insert("Deals", []),
        lambda c: c.update("Deals", []),
        lambda c: c.delete("Deals", []),
    ):
        assert ask([wrote()], act) == ([], [])


LOST = [
    Odd(raw=b"", then="close"),
    Odd(raw=b"HTTP/1.1 200 OK\r\nConte", then="reset"),
    Odd(500, b"<html>oops</html>"),
    Odd(504, b""),
    Odd(200, b"<html>fine</html>", {"Content-Type": "text/html"}),
]


@pytest.mark.parametrize("lost", LOST)
def test_row_82_an_insert_whose_outcome_is_unknown_is_never_repeated(lost):
    for act in (
        lambda c: c.insert("Deals", [{"Deal_Name": "x"}]),
        lambda c: c.upsert("Deals", [{"Deal_Name": "x"}]),
    ):
        with OddServer([lost, wrote(DONE)]) as server:
            with pytest.raises(UnknownOutcome, match="Read the record"):
                act(client_of(server))
            assert len(server.asked) == 1


@pytest.mark.parametrize("lost", LOST)
def test_row_81_what_can_be_repeated_is(lost):
    for act in (
        lambda c: c.update("Deals", [{"id": "1", "Stage": "x"}]),
        lambda c: c.upsert("Deals", [{"Pulse_Id": "x"}], duplicate_check_fields=["Pulse_Id"]),
        lambda c: c.delete("Deals", [1]),
    ):
        results, asked = ask([lost, wrote(DONE)], act)
        assert results[0].ok
        assert len(asked) == 2


@pytest.mark.parametrize(
    "refused",
    [error(429, "TOO_MANY_REQUESTS"), error(401, "INVALID_TOKEN"), Odd(408), Odd(425)],
)
def test_an_insert_that_surely_did_not_happen_is_sent_again(refused):
    results, asked = ask(
        [refused, wrote(DONE, status=201)],
        lambda c: c.insert("Deals", [{"Deal_Name": "x"}]),
        patience={"mint_interval_s": 0},
    )
    assert results[0].ok
    assert len(asked) == 2


def test_an_insert_that_got_no_token_did_not_happen():
    time = HeldTime()
    with OddServer([wrote(DONE)], tokens=[Odd(503)]) as server:
        with pytest.raises(ServerFault):
            client_of(server, time, patience={"tries": 2}).insert("Deals", [{"Deal_Name": "x"}])
        assert server.asked == []


@pytest.mark.parametrize("reply", [wrote(DONE), answer({"data": {}}), answer({})])
def test_an_answer_that_does_not_match_the_rows_is_an_unknown_outcome(reply):
    with OddServer([reply]) as server, pytest.raises(UnknownOutcome):
        client_of(server).update("Deals", [{"id": "1"}, {"id": "2"}])


def test_a_write_refused_as_a_whole_is_fix_request():
    for refusal in (
        error(400, "LIMIT_EXCEEDED", "too many"),
        wrote({**LOCKED, "code": "LIMIT_EXCEEDED"}, status=400),
    ):
        with OddServer([refusal]) as server, pytest.raises(FixRequest) as caught:
            client_of(server).update("Deals", [{"id": "1"}, {"id": "2"}])
        assert caught.value.code == "LIMIT_EXCEEDED"


def test_no_secret_of_ours_is_in_a_result():
    item = {**LOCKED, "message": "bad 1000.0123456789abcdef.0123456789abcdef\r\nx"}
    results, _ = ask([wrote(item)], lambda c: c.update("Deals", [{"id": "1"}]))
    assert "0123456789abcdef" not in results[0].message
    assert "\n" not in results[0].message


def test_times_are_sent_whole_in_utc():
    moment = datetime(2026, 11, 1, 10, 0, 0, 500_000, UTC)
    _, asked = ask([wrote(DONE)], lambda c: c.update("Deals", [{"id": "1", "Seen": moment}]))
    assert asked[0].json["data"][0]["Seen"] == "2026-11-01T10:00:00+00:00"
