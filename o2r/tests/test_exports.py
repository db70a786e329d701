"""The filtered table as CSV and XLSX: the same selection, and text that stays text."""

from __future__ import annotations

import csv
import io
from datetime import date
from decimal import Decimal

import openpyxl
import pytest
from django.core.cache import cache
from django.core.signals import request_finished
from django.db import close_old_connections, connection
from django.test.utils import CaptureQueriesContext

from crm.tests.rows import AccountFactory, CrmUserFactory, DealFactory
from o2r import exports, recompute
from o2r.models import Opportunity
from o2r.spreadsheet import Sheet, csv_stream, harmless, xlsx_stream

pytestmark = pytest.mark.django_db
URL = "/api/o2r/export"


@pytest.fixture(autouse=True)
def _no_slots():
    cache.clear()
    yield
    cache.clear()


def table(response) -> list[list[str]]:
    assert response.status_code == 200, response.content
    text = b"".join(response.streaming_content).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text)))


def leave(response) -> None:
    """The reader goes away in the middle; the test's own connection stays."""
    request_finished.disconnect(close_old_connections)
    response.close()
    request_finished.connect(close_old_connections)


def sheet(response, name: str = "Opportunities") -> list[tuple]:
    assert response.status_code == 200, response.content
    data = b"".join(response.streaming_content)
    return list(openpyxl.load_workbook(io.BytesIO(data))[name].values)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "=1+1",
            "+1",
            "-1",
            "@SUM(A1)",
            "\t=1",
            "\r=1",
            "\n=1",
            "  =1",
            "|cmd",
            "＝1",
            "\u200b=1",
        ),
        '=HYPERLINK("http://evil","x")',
    ],
)
def test_row_91_what_begins_like_a_formula_is_text(text: str) -> None:
    ours = b"".join(csv_stream(["x"], [[text]])).decode("utf-8-sig")
    ((_,), (cell,)) = csv.reader(io.StringIO(ours, newline=""))
    assert cell == f"'{text}"
    data = b"".join(xlsx_stream([Sheet("x", ["x"], [[text]])]))
    found = openpyxl.load_workbook(io.BytesIO(data)).active["A2"]
    assert (found.data_type, found.value.strip()) == ("s", text.strip())


@pytest.mark.parametrize("text", ["A deal", "5 = five", "a-b", "", "Ünïcode", "—"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_numbers_days_and_odd_text_in_a_sheet() -> None:
    row = [
        Decimal("-1.50"),
        7,
        date(2026, 2, 28),
        date(1899, 1, 1),
        None,
        "<&>\x00\ud800",
        "x" * 40_000,
    ]
    data = b"".join(xlsx_stream([Sheet("A “b” & c", ["h"] * 7, [row])]))
    book = openpyxl.load_workbook(io.BytesIO(data))
    (found,) = list(book.active.values)[1:]
    assert book.sheetnames == ["A “b” & c"]
    assert found[:2] == (-1.5, 7) and found[2].date() == date(2026, 2, 28)
    assert found[3:6] == ("1899-01-01", None, "<&>��")
    assert len(found[6]) == 32_767


def test_both_files_hold_the_selection_and_the_same_values(rep_client) -> None:
    mine = DealFactory(
        name="=cmd()",
        account=AccountFactory(name="Müller, & Co"),
        territory="APAC",
        amount_minor=-123_450,
        proposal_date=date(2026, 3, 1),
    )
    DealFactory(territory="EMEA")
    DealFactory(territory="APAC", crm_stage="Closed Lost")
    recompute.catch_up()
    Opportunity.objects.filter(deal=mine).update(current_phase=2)
    heads, row = table(rep_client.get(f"{URL}?territory=APAC"))
    said = dict(zip(heads, row, strict=True))
    assert said["Name"] == "'=cmd()" and said["Account"] == "Müller, & Co"
    assert (said["Id"], said["CRM id"]) == (str(mine.pk), str(mine.zoho_id))
    assert (said["Amount"], said["Amount SGD"], said["Currency"]) == ("-1234.50", "-1234.50", "SGD")
    assert (said["Closing date"], said["Proposal submitted"]) == ("2026-04-01", "2026-03-01")
    assert (said["Phase"], said["Outcome"]) == ("II", "Active")
    heads, cells = sheet(rep_client.get(f"{URL}?territory=APAC&as=xlsx"))
    said = dict(zip(heads, cells, strict=True))
    assert (said["Name"], said["Amount"], said["Id"]) == ("=cmd()", -1234.5, str(mine.pk))
    assert said["Proposal submitted"].date() == date(2026, 3, 1)


def test_an_xlsx_holds_the_figures_of_the_selection_as_the_api_tells_them(rep_client) -> None:
    for at in range(3):
        DealFactory(territory="APAC", amount_minor=100 * (at + 1), proposal_date=date(2026, 3, 1))
    DealFactory(territory="EMEA")
    recompute.catch_up()
    told = rep_client.get("/api/o2r/dashboard?territory=APAC").json()
    rows = sheet(rep_client.get(f"{URL}?territory=APAC&as=xlsx"), "Figures")
    said = {tuple(row[:2]): row[2:] for row in rows[1:]}
    assert said["Opportunities", None][0] == told["total_opportunities"] == 3
    assert said["Opportunities", None][1] == float(told["total_value_sgd"]) == 6.0
    assert said["By phase", "II · Proposal to commitment"][0] == 3
    assert said["By territory", "APAC"][:2] == (3, 6.0)
    assert said["Conversion", "I · Opportunity to proposal"][2] == 1


def test_an_xlsx_of_too_many_says_so_and_what_to_do(rep_client, monkeypatch) -> None:
    monkeypatch.setattr(exports, "MOST_IN_XLSX", 1)
    DealFactory.create_batch(2)
    answer = rep_client.get(f"{URL}?as=xlsx")
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_rows")
    assert "take the CSV" in answer.json()["message"]
    assert len(table(rep_client.get(URL))) == 3


def test_row_99_two_exports_at_a_time_and_each_gives_its_place_back(rep_client) -> None:
    DealFactory()
    first, second = rep_client.get(URL), rep_client.get(URL)
    refused = rep_client.get(URL)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_exports")
    table(first)
    leave(second)
    for _ in range(3):
        assert len(table(rep_client.get(URL))) == 2


@pytest.mark.parametrize("role", ["rep", "manager", "ops", "integrator"])
def test_every_role_may_export(role: str, request) -> None:
    assert len(table(request.getfixturevalue(f"{role}_client").get(URL))) == 1


def test_who_is_not_signed_in_or_asks_for_nonsense_gets_no_file(client, rep_client) -> None:
    assert client.get(URL).status_code == 401
    for query in ("as=pdf", "stage=nonsense", "what=1"):
        answer = rep_client.get(f"{URL}?{query}")
        assert answer.status_code == 422 and list(answer.json()["errors"]) == [query.split("=")[0]]


def test_rows_cost_no_queries_of_their_own(rep_client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as found:
            table(rep_client.get(URL))
        return len(found)

    DealFactory(owner=CrmUserFactory())
    queries()  # what a process asks once
    few = queries()
    DealFactory.create_batch(30)
    assert queries() == few
