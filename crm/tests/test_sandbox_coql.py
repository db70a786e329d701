"""COQL in the sandbox: answers equal to a plain computation, refusals as documented."""

from datetime import datetime

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("coql"), deals=2_600) as running:
        yield running


@pytest.fixture(scope="module")
def crm(sandbox):
    return Crm(sandbox)


@pytest.fixture(scope="module")
def deals(sandbox):
    """The truth to compare with."""
    return sandbox.control("dump", module="Deals")["records"]


def ids(records):
    return [record["id"] for record in records]


# -- answers -------------------------------------------------------------------------------------


def test_keyset_by_id_gives_everything_once_in_order(crm, deals):
    got, last = [], "0"
    while True:
        answer = crm.coql(
            f"select Deal_Name, Stage from Deals where id > '{last}' order by id asc limit 2000"
        )
        content = answer.json()
        got += ids(content["data"])
        if not content["info"]["more_records"]:
            break
        last = got[-1]
    assert got == sorted(ids(deals), key=int)


def test_id_ranges_split_between_callers_meet_without_gap_or_overlap(crm, deals):
    edge = sorted(ids(deals), key=int)[1_300]
    low = crm.rows(f"select Stage from Deals where id <= {edge} order by id asc limit 2000")
    high = crm.rows(f"select Stage from Deals where id > {edge} order by id asc limit 2000")
    assert ids(low) + ids(high) == sorted(ids(deals), key=int)


CONDITIONS = [
    ("Stage = 'Closed Won'", lambda r: r["Stage"] == "Closed Won"),
    ("Stage = 'Id. Decision Makers'", lambda r: r["Stage"] == "Identify Decision Makers"),
    ("Stage != 'Closed Won'", lambda r: r["Stage"] != "Closed Won"),
    (
        "Stage in ('Closed Won','Closed Lost')",
        lambda r: r["Stage"] in ("Closed Won", "Closed Lost"),
    ),
    ("Stage not in ('Closed Won')", lambda r: r["Stage"] != "Closed Won"),
    ("Amount > 100000", lambda r: r["Amount"] is not None and r["Amount"] > 100_000),
    ("Amount <= 5000.5", lambda r: r["Amount"] is not None and r["Amount"] <= 5000.5),
    ("Amount is null", lambda r: r["Amount"] is None),
    ("Amount is not null", lambda r: r["Amount"] is not None),
    ("Amount between 1000 and 20000", lambda r: r["Amount"] and 1000 <= r["Amount"] <= 20_000),
    ("AWS_Funded = true", lambda r: r["AWS_Funded"] is True),
    ("AWS_Funded = 'false'", lambda r: r["AWS_Funded"] is False),
    ("Deal_Name like '%Bank%'", lambda r: "bank" in r["Deal_Name"].lower()),
    ("Deal_Name not like 'N%'", lambda r: not r["Deal_Name"].lower().startswith("n")),
    ("Probability = 0", lambda r: r["Probability"] == 0),
    ("Account_Name is null", lambda r: r["Account_Name"] is None),
    (
        "Account_Name.Billing_Country = 'Singapore'",
        lambda r: r["Account_Name"] and r["Account_Name"]["country"] == "Singapore",
    ),
    ("Owner.email = 'rep@example.com'", lambda r: r["Owner"]["email"] == "rep@example.com"),
    (
        "((Stage = 'Closed Won' and Amount > 50000) or (Territory is null))",
        lambda r: (r["Stage"] == "Closed Won" and (r["Amount"] or 0) > 50_000)
        or r["Territory"] is None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("where", "matches"), CONDITIONS, ids=[c[0] for c in CONDITIONS])
def test_where_selects_exactly_the_matching_records(crm, sandbox, deals, where, matches):
    countries = {
        a["id"]: a["Billing_Country"] for a in sandbox.control("dump", module="Accounts")["records"]
    }
    for deal in deals:
        if deal["Account_Name"]:
            deal["Account_Name"]["country"] = countries[deal["Account_Name"]["id"]]
    expected = {deal["id"] for deal in deals if matches(deal)}
    got = []
    while True:
        query = f"select Stage from Deals where {where} order by id limit {len(got)}, 2000"
        rows = crm.rows(query)
        got += ids(rows)
        if len(rows) < 2_000:
            break
    assert set(got) == expected
    assert 0 < len(got) < len(deals)


def test_time_windows_compare_instants_of_any_zone(crm, deals):
    middle = sorted(deal["Modified_Time"] for deal in deals)[1_300]
    utc = datetime.fromisoformat(middle).astimezone(tz=None).isoformat()
    expected = {d["id"] for d in deals if d["Modified_Time"] >= middle}
    rows = crm.rows(
        f"select Stage from Deals where (Modified_Time >= '{utc}' and id > '1') "
        "order by id asc limit 2000"
    )
    assert set(ids(rows)) == expected


def test_lookups_come_bare_and_dotted_names_by_their_path(crm, deals):
    by_id = {deal["id"]: deal for deal in deals}
    rows = crm.rows(
        "select Account_Name, Account_Name.Account_Name, Owner, Owner.email, Contact_Name.id "
        "from Deals where Account_Name is not null limit 50"
    )
    for row in rows:
        deal = by_id[row["id"]]
        assert row["Account_Name"] == {"id": deal["Account_Name"]["id"]}
        assert row["Account_Name.Account_Name"] == deal["Account_Name"]["name"]
        assert row["Owner"] == {"id": deal["Owner"]["id"]}
        assert row["Owner.email"] == deal["Owner"]["email"]
        assert row["Contact_Name.id"] == deal["Contact_Name"]["id"]


def test_values_are_those_of_the_records_api(crm, deals):
    plain = [
        "Deal_Name", "Stage", "Amount", "Probability", "Closing_Date", "Territory", "AWS_Funded",
        "PO_Date", "Pulse_Id", "Currency", "Exchange_Rate", "Created_Time", "Modified_Time",
    ]  # fmt: skip
    by_id = {deal["id"]: deal for deal in deals}
    rows = crm.rows(f"select {','.join(plain)} from Deals where id is not null limit 2000")
    assert len(rows) == 2_000
    for row in rows:
        assert row == {name: by_id[row["id"]][name] for name in [*plain, "id"]}


def test_order_offset_and_default_limit(crm, deals):
    amounts = sorted((d["Amount"] for d in deals if d["Amount"] is not None), reverse=True)
    query = "select Amount from Deals where Amount is not null order by Amount desc"
    assert [r["Amount"] for r in crm.rows(query)] == amounts[:200]
    assert [r["Amount"] for r in crm.rows(query + " limit 5, 3")] == amounts[5:8]
    assert [r["Amount"] for r in crm.rows(query + " limit 3 offset 5")] == amounts[5:8]


def test_aggregates_equal_a_plain_computation(crm, deals):
    rows = crm.rows(
        "select Stage, count(id) as n, sum(Amount), min(Closing_Date), max(Amount), avg(Amount) "
        "from Deals where Amount is not null group by Stage"
    )
    for row in rows:
        group = [d for d in deals if d["Stage"] == row["Stage"] and d["Amount"] is not None]
        assert row["n"] == len(group)
        assert row["SUM(Amount)"] == pytest.approx(sum(d["Amount"] for d in group))
        assert row["AVG(Amount)"] == pytest.approx(sum(d["Amount"] for d in group) / len(group))
        assert row["MAX(Amount)"] == max(d["Amount"] for d in group)
        assert row["MIN(Closing_Date)"] == min(
            d["Closing_Date"] for d in group if d["Closing_Date"]
        )
    assert sum(row["n"] for row in rows) == sum(d["Amount"] is not None for d in deals)


def test_smallest_and_largest_id_in_one_call(crm, deals):
    row = crm.rows("select min(id), max(id), count(id) from Deals where id is not null")[0]
    every = sorted(ids(deals), key=int)
    assert row == {"MIN(id)": every[0], "MAX(id)": every[-1], "COUNT(id)": len(every)}
    won = sorted((d["id"] for d in deals if d["Stage"] == "Closed Won"), key=int)
    ends = crm.rows("select min(id), max(id) from Deals where Stage = 'Closed Won'")[0]
    assert ends == {"MIN(id)": won[0], "MAX(id)": won[-1]}


def test_ends_of_nothing_are_null(crm):
    for query in ("select min(id), max(id)", "select min(id), max(id), max(Amount)"):
        row = crm.rows(f"{query} from Deals where Stage = 'No such'")[0]
        assert set(row.values()) == {None}


def test_converted_leads_show_only_when_asked_about(crm, sandbox):
    everyone = sandbox.control("dump", module="Leads")["records"]
    converted = {r["id"] for r in everyone if r["Converted__s"]}
    hidden = crm.rows("select Company from Leads where id is not null limit 2000")
    asked = crm.rows("select Company from Leads where Converted__s = true limit 2000")
    assert set(ids(hidden)) == {r["id"] for r in everyone} - converted
    assert set(ids(asked)) == converted


def test_quotes_and_backslashes_in_values_are_escaped_with_backslash(tmp_path):
    with running_sandbox(tmp_path, deals=0) as own:
        crm = Crm(own)
        name = 'O\'Brien \\ "Sons"'
        crm.write("POST", "Accounts", [{"Account_Name": name}])
        escaped = name.replace("\\", "\\\\").replace("'", "\\'")
        query = f"select Account_Name from Accounts where Account_Name = '{escaped}'"
        assert [row["Account_Name"] for row in crm.rows(query)] == [name]


def test_nothing_found_is_204(crm):
    answer = crm.coql("select Stage from Deals where Stage = 'No such'")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(("limit", "credits"), [(200, 1), (1000, 2), (2000, 3)])
def test_credits_follow_the_rows_asked_for(crm, sandbox, limit, credits):
    before = sandbox.control("stats")["credits_used"]
    crm.rows(f"select Stage from Deals where id is not null limit {limit}")
    assert sandbox.control("stats")["credits_used"] - before == credits


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code", "details"),
    [
        ("select Stage from Deals", "SYNTAX_ERROR", {"clause": "where"}),
        ("select Stage where id is not null", "SYNTAX_ERROR", {}),
        ("Stage from Deals where id is not null", "SYNTAX_ERROR", {"clause": "select"}),
        (
            "select Stage from Deals where Stage = 'a' and Stage = 'b' and Stage = 'c'",
            "SYNTAX_ERROR",
            {"near": "and"},
        ),
        ("select Stage from Deals where Stage ~ 'a'", "SYNTAX_ERROR", {}),
        ("select Stage from Deals where Stage = 'a", "SYNTAX_ERROR", {}),
        ("select Stage from Deals where (Stage = 'a'", "SYNTAX_ERROR", {}),
        ("select Stage from Deals where Stage = 'a' nonsense", "SYNTAX_ERROR", {}),
        ("select Stage from Nope where id is not null", "INVALID_MODULE", {}),
        ("select Nope from Deals where id is not null", "INVALID_QUERY", {"column_name": "Nope"}),
        ("select Stage from Deals where Nope = 1", "INVALID_QUERY", {"column_name": "Nope"}),
        (
            "select Account_Name.Nope from Deals where id is not null",
            "INVALID_QUERY",
            {"column_name": "Account_Name.Nope"},
        ),
        ("select Stage from Deals where Stage > 'a'", "INVALID_QUERY", {"operator": ">"}),
        ("select Stage from Deals where Amount > 'much'", "INVALID_QUERY", {}),
        ("select Stage from Deals where Closing_Date = 'May'", "INVALID_QUERY", {}),
        (
            "select Stage from Deals where Modified_Time > '2026-01-01T00:00:00.000+08:00'",
            "INVALID_QUERY",
            {},
        ),
        ("select Stage from Deals where Description = 'a'", "INVALID_QUERY", {}),
        ("select Stage from Deals where id is not null limit 0", "INVALID_DATA", {}),
        ("select Stage from Deals where id is not null limit -5", "INVALID_DATA", {}),
        ("select Stage from Deals where id is not null limit 2001", "LIMIT_EXCEEDED", {}),
        ("select Stage from Deals where id is not null limit 99000, 2000", "LIMIT_EXCEEDED", {}),
        (
            f"select {','.join(f'F{n}' for n in range(51))} from Deals where id is not null",
            "LIMIT_EXCEEDED",
            {"limit": 50},
        ),
        (
            f"select Stage from Deals where id in ({','.join(map(str, range(51)))})",
            "LIMIT_EXCEEDED",
            {"limit": 50},
        ),
        ("select Stage, Stage from Deals where id is not null", "DUPLICATE_DATA", {}),
        ("select Amount, count(id) from Deals where id is not null", "INVALID_QUERY", {}),
    ],
)
def test_refusals(crm, query, code, details):
    answer = crm.coql(query)
    error = answer.json()
    assert (answer.status_code, error["code"], error["status"]) == (400, code, "error")
    assert details.items() <= error["details"].items()


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{}", "MANDATORY_NOT_FOUND"), (b"nonsense", "INVALID_DATA"), (b"[]", "INVALID_DATA"),
     (b'{"select_query": 5}', "INVALID_DATA"), (b"[" * 100_000, "INVALID_DATA")],
)  # fmt: skip
def test_bodies_without_a_query_are_refused(crm, body, code):
    answer = crm.call("POST", "/crm/v8/coql", data=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    ("select", "code"),
    [
        ("Stage as a, Amount as a", "DUPLICATE_ALIAS"),
        ("Stage as Amount, Amount", "DUPLICATE_ALIAS"),
        ("Stage, Stage", "DUPLICATE_DATA"),
        ("Stage as $a", "INVALID_ALIAS"),
    ],
)
def test_aliases_are_plain_and_used_once(crm, select, code):
    refused = crm.coql(f"select {select} from Deals where id is not null")
    assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_metadata_of_the_selected_fields_comes_when_asked_for(crm):
    query = {"select_query": "select Stage, Amount from Deals where id is not null limit 1"}
    answer = crm.call("POST", "/crm/v8/coql", json={**query, "include_meta": ["fields"]}).json()
    types = {name: f["data_type"] for name, f in answer["fields"].items()}
    assert types == {"Stage": "picklist", "Amount": "currency"}
    other = crm.call("POST", "/crm/v8/coql", json={**query, "include_meta": ["rows"]})
    assert other.json()["code"] == "INVALID_DATA"
