"""What the sandbox is filled with: the made-up consultancy, and CSV files."""

import csv
import datetime as dt
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import ROOT, running_sandbox

TODAY = "2026-03-31"
MILESTONES = [
    "Proposal_Date", "PO_Date", "Kickoff_Date", "Signoff_Date", "Invoice_Date", "Payment_Date",
    "Revenue_Date",
]  # fmt: skip
OPEN = {
    "Qualification", "Needs Analysis", "Value Proposition", "Identify Decision Makers",
    "Proposal/Price Quote", "Negotiation/Review",
}  # fmt: skip
CLOSED = {"Closed Won", "Closed Lost", "Closed-Lost to Competition"}


def dump(sandbox):
    return {
        module: sandbox.control("dump", module=module)["records"]
        for module in ("Deals", "Accounts", "Contacts", "Leads")
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed")
    with running_sandbox(folder, deals=4_000, today=TODAY) as sandbox:
        yield dump(sandbox)


def share(records, matches):
    return sum(1 for r in records if matches(r)) / len(records)


# -- the made-up consultancy ---------------------------------------------------------------------


def test_same_seed_same_data_other_seed_other_data(tmp_path):
    found = []
    for n, seed in enumerate((7, 7, 8)):
        folder = tmp_path / str(n)
        folder.mkdir()
        with running_sandbox(folder, deals=60, seed=seed, today=TODAY) as sandbox:
            found.append(dump(sandbox))
    assert found[0] == found[1]
    assert found[0]["Deals"] != found[2]["Deals"]


def test_sizes_follow_the_number_of_deals(data):
    sizes = {module: len(records) for module, records in data.items()}
    assert sizes == {"Deals": 4_000, "Accounts": 333, "Contacts": 499, "Leads": 800}


def test_every_reference_leads_somewhere(data):
    known = {module: {r["id"] for r in records} for module, records in data.items()}
    for deal in data["Deals"]:
        assert deal["Account_Name"] is None or deal["Account_Name"]["id"] in known["Accounts"]
        assert deal["Contact_Name"] is None or deal["Contact_Name"]["id"] in known["Contacts"]
        assert deal["Owner"]["email"].endswith("@example.com")
    for contact in data["Contacts"]:
        assert contact["Account_Name"]["id"] in known["Accounts"]


def test_ids_and_creation_rise_together_and_nothing_is_later_than_yesterday(data):
    for records in data.values():
        ids = [int(r["id"]) for r in records]
        assert ids == sorted(set(ids))
        assert min(ids) > 2**53
        assert all(len(str(i)) == 19 for i in ids)
        days = [r["Created_Time"][:10] for r in records]
        assert days == sorted(days)
        assert all(r["Created_Time"] <= r["Modified_Time"] for r in records)
        assert max(r["Modified_Time"] for r in records) < TODAY


def test_data_spans_two_years(data):
    first = dt.date.fromisoformat(min(r["Created_Time"] for r in data["Deals"])[:10])
    assert (dt.date.fromisoformat(TODAY) - first).days == 730


def test_facts_fit_the_stage_and_come_in_order_for_nearly_all(data):
    ordered = 0
    for deal in data["Deals"]:
        dates = [deal[name] for name in MILESTONES if deal[name]]
        ordered += dates == sorted(dates)
        if deal["Stage"] in OPEN:
            assert not any(deal[n] for n in MILESTONES[1:])
        if deal["Stage"] in OPEN - {"Proposal/Price Quote", "Negotiation/Review"}:
            assert deal["Proposal_Date"] is None
    assert 0.97 < ordered / len(data["Deals"]) < 1


def test_pipeline_has_work_in_every_stage_and_stalls_for_every_signal(data):
    deals = data["Deals"]
    stages = Counter(d["Stage"] for d in deals)
    assert all(stages[stage] > 15 for stage in OPEN | CLOSED)
    assert 0.15 < share(deals, lambda d: d["Stage"] in OPEN) < 0.6
    for before, after in pairwise(MILESTONES):
        stalled = [d for d in deals if d["Stage"] == "Closed Won" and d[before] and not d[after]]
        assert len(stalled) > 10, (before, after)


def test_rep_owns_a_good_share(data):
    mine = share(data["Deals"], lambda d: d["Owner"]["email"] == "rep@example.com")
    assert 0.15 < mine < 0.4


@pytest.mark.parametrize(
    ("what", "is_dirty"),
    [
        ("no amount", lambda d: d["Amount"] is None),
        ("no account", lambda d: d["Account_Name"] is None),
        ("no territory", lambda d: d["Territory"] is None),
        ("no service line", lambda d: d["Service_Line"] is None),
        ("no closing date", lambda d: d["Closing_Date"] is None),
        ("unknown stage", lambda d: d["Stage"] not in OPEN | CLOSED),
        ("unknown currency", lambda d: d["Currency"] in ("CHF", "MYR")),
        ("odd territory", lambda d: d["Territory"] in ("LATAM", "Greater China", "apac")),
        ("spaces around", lambda d: d["Deal_Name"] != d["Deal_Name"].strip()),
        (
            "overdue while open",
            lambda d: d["Stage"] in OPEN and (d["Closing_Date"] or TODAY) < TODAY,
        ),
    ],
)
def test_each_kind_of_dirt_is_there_in_small_numbers(data, what, is_dirty):
    assert 0.003 < share(data["Deals"], is_dirty) < 0.04


def test_names_include_other_scripts_and_duplicates_within_an_account(data):
    names = [d["Deal_Name"] for d in data["Deals"]]
    assert any(re.search(r"[\u0590-\u06ff]", name) for name in names)
    assert any("🚀" in name for name in names)
    pairs = Counter(
        (d["Deal_Name"], d["Account_Name"]["id"]) for d in data["Deals"] if d["Account_Name"]
    )
    assert any(count > 1 for count in pairs.values())


def test_no_value_is_of_a_type_the_crm_could_not_hold(data):
    for deal in data["Deals"]:
        assert deal["Amount"] is None or isinstance(deal["Amount"], int | float)
        assert isinstance(deal["Probability"], int)
        for name in (*MILESTONES, "Closing_Date"):
            if deal[name] is not None:
                dt.date.fromisoformat(deal[name])


# -- CSV ----------------------------------------------------------------------------------------

FILES = {
    "sales_pipeline.csv": """opportunity_id,sales_agent,product,account,deal_stage,engage_date,\
close_date,close_value
A1,Ann Bee,GTXPro,Acme,Won,3/5/2017,4/6/2017,4821
A2,Cy Dee,MG Special,Beta,Lost,3/6/2017,4/7/2017,0
A3,Ann Bee,GTX Basic,Acme,Engaging,3/1/2017,,
A4,Cy Dee,GTX Basic,,Prospecting,,,
""",
    "accounts.csv": """account,sector,year_established,revenue,employees,office_location,\
subsidiary_of
Acme,retail,1990,10.5,100,Kenya,
Beta,medical,1991,20,200,Japan,Acme
""",
    "sales_teams.csv": """sales_agent,manager,regional_office
Ann Bee,Max Boss,Central
Cy Dee,Max Boss,East
""",
    "products.csv": "product,series,sales_price\nGTX Pro,GTX,4821\n",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "csv"
    place.mkdir()
    for name, text in FILES.items():
        (place / name).write_text(text)
    return place


def test_csv_rows_become_deals_by_the_mapping(tmp_path, folder):
    with running_sandbox(tmp_path, csv=folder) as sandbox:
        crm = Crm(sandbox)
        deals = sandbox.control("dump", module="Deals")["records"]
        org = crm.get("org").json()["org"][0]
        rates = {c["iso_code"] for c in crm.get("org/currencies").json()["currencies"]}
        territory = next(
            f for f in crm.get("settings/fields", module="Deals").json()["fields"]
            if f["api_name"] == "Territory"
        )  # fmt: skip
    assert (org["iso_code"], rates, territory["data_type"]) == ("USD", {"USD", "SGD"}, "text")
    keys = ("Pulse_Id", "Deal_Name", "Stage", "Amount", "Currency", "Closing_Date", "Territory")
    assert [tuple(d[k] for k in keys) for d in deals] == [
        ("A1", "Acme – GTX Pro", "Closed Won", 4821, "USD", "2017-04-06", "Central"),
        ("A2", "Beta – MG Special", "Closed Lost", 0, "USD", "2017-04-07", "East"),
        ("A3", "Acme – GTX Basic", "Needs Analysis", None, "USD", None, "Central"),
        ("A4", "No account – GTX Basic", "Qualification", None, "USD", None, "East"),
    ]
    assert [d["Created_Time"][:10] for d in deals] == [
        "2017-03-05", "2017-03-06", "2017-03-01", "2017-03-01",
    ]  # fmt: skip
    assert [d["Owner"]["email"] for d in deals[:2]] == ["ann.bee@example.com", "cy.dee@example.com"]
    assert [d["Account_Name"] and d["Account_Name"]["name"] for d in deals] == [
        "Acme", "Beta", "Acme", None,
    ]  # fmt: skip
    assert all(d["Created_Time"] <= d["Modified_Time"] for d in deals)


@pytest.mark.parametrize("spoil", ["missing", "stage"])
def test_unusable_csv_ends_with_status_2_and_a_sentence(tmp_path, folder, spoil):
    if spoil == "missing":
        (folder / "accounts.csv").unlink()
    else:
        text = (folder / "sales_pipeline.csv").read_text().replace("Engaging", "Flying")
        (folder / "sales_pipeline.csv").write_text(text)
    command = [sys.executable, "-m", "crm.sandbox", "--db", str(tmp_path / "x.db"), "--csv",
               str(folder)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox: ")
    assert "Traceback" not in done.stderr


@pytest.mark.external
def test_real_csv_gives_the_same_figures_as_its_files(tmp_path):
    source = Path(os.environ["PULSE_CSV_DIR"])
    with (source / "sales_pipeline.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with running_sandbox(tmp_path, csv=source) as sandbox:
        deals = sandbox.control("dump", module="Deals")["records"]
    assert len(deals) == len(rows)
    stages = {"Won": "Closed Won", "Lost": "Closed Lost", "Engaging": "Needs Analysis",
              "Prospecting": "Qualification"}  # fmt: skip
    assert Counter(d["Stage"] for d in deals) == Counter(stages[r["deal_stage"]] for r in rows)
    won = sum(float(r["close_value"]) for r in rows if r["deal_stage"] == "Won")
    assert sum(d["Amount"] for d in deals if d["Stage"] == "Closed Won") == won
    assert Counter(d["Account_Name"] and d["Account_Name"]["name"] for d in deals) == Counter(
        r["account"] or None for r in rows
    )
    owners = Counter(d["Owner"]["name"] for d in deals)
    assert owners == Counter(r["sales_agent"] for r in rows)
