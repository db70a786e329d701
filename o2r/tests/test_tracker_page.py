"""The O2R tracker: figures, the lists behind them, its table, what its address says."""

from __future__ import annotations

import html
import re
from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from o2r.tests import mirror_rows as rows
from o2r.views.shell import business_today
from o2r.written import day_words

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}
MARKS = (
    *("total-pipeline", "cycle-time", "health-status", "phase-distribution"),
    *("at-risk-opportunities", "phase-progress-chart"),
)


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO
    rows.synced()


@pytest.fixture
def today() -> date:
    return business_today(timezone.now())


@pytest.fixture
def pipeline(today: date) -> None:
    """A red, a yellow and a green one, one without an amount, one realized, one lost."""
    ann, bob = rows.owner("Ann Lee", "rep@example.com"), rows.owner("Bob Tan")
    acme = rows.account("Acme")

    def ago(days: int) -> date:
        return today - timedelta(days=days)

    apac = {"territory": "APAC", "owner": ann, "account": acme}
    emea = {"territory": "EMEA", "owner": bob}
    rows.deal("Red one", sgd=10_000_050, proposal_date=ago(40), **apac)
    rows.deal("Yellow one", sgd=4_000_000, proposal_date=ago(20), service_line="Gen AI", **emea)
    rows.deal("Green one", sgd=2_500_000, po_date=ago(3), **apac)
    rows.deal("Unpriced", sgd=None, **emea)
    done = {"proposal_date": ago(100), "revenue_date": ago(10)}
    rows.deal("Realized", stage="closed_won", sgd=6_000_000, **done, **apac)
    rows.deal("Unpaid", stage="closed_won", sgd=900_000, invoice_date=ago(60), **emea)
    rows.deal("Lost one", stage="closed_lost", sgd=8_000_000, **emea)
    rows.count()


def page_of(client: Client, path: str = "/o2r", **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def plain(markup: str) -> str:
    """The words of a piece of a page, exact amounts in place of short ones."""
    exact = re.sub(r'<data value="([-\d.]+)"[^>]*>[^<]*</data>', r"\1", markup)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", exact)).split())


def part(page: str, mark: str) -> str:
    found = re.search(rf'data-testid="{mark}".*?(?=data-testid|<section class="panel")', page, re.S)
    assert found, mark
    return plain("<" + found[0])


def names(page: str) -> list[str]:
    table = page[page.index('id="table"') :]
    return re.findall(r'<a class="deal-name" href="/o2r/\d+">(.*?)</a>', table)


def test_strangers_sign_in_first_and_persons_without_a_role_are_told(
    client: Client, django_user_model: Any
) -> None:
    assert client.get("/o2r").headers["Location"].startswith("/login")
    nobody = django_user_model.objects.create_user("nobody")
    client.force_login(nobody, backend="django.contrib.auth.backends.ModelBackend")
    response = client.get("/o2r")
    assert response.status_code == 403 and b"no role yet" in response.content


def test_every_mark_stands_there_once_and_a_card_for_each_at_risk(
    rep_client: Client, pipeline: None
) -> None:
    page = page_of(rep_client)
    assert "<h1>O2R Tracker Dashboard</h1>" in page
    assert {mark: page.count(f'data-testid="{mark}"') for mark in MARKS} == dict.fromkeys(MARKS, 1)
    assert page.count('data-testid="opportunity-card"') == 2
    assert "Sync with CRM" in page


def test_the_cards_say_what_the_deals_say(rep_client: Client, pipeline: None) -> None:
    page = page_of(rep_client)
    assert "174000.50 5 active opportunities" in part(page, "total-pipeline")
    assert "90 days median 90 days, of 1 with revenue recognised" in part(page, "cycle-time")
    health = part(page, "health-status")
    assert "On Track 2" in health and "Need Attention 1" in health
    assert "At Risk 2" in health and "Blocked 0" in health
    assert "II Proposal to commitment 2" in part(page, "phase-distribution")
    assert "Left out of the values: 1 opportunity without an amount" in plain(page)


def test_a_card_at_risk_says_why_since_when_and_what_to_do(
    rep_client: Client, pipeline: None, today: date
) -> None:
    page = page_of(rep_client)
    card = plain(re.search(r"<article.*?</article>", page, re.S)[0])
    since = day_words(today - timedelta(days=9))
    for words in ("Red one", "Acme", "APAC", "40 days, no PO", f"Red since {since}"):
        assert words in card
    for words in ("Ask the customer for the purchase order", "View Details", "Update Phase"):
        assert words in card
    assert "1 overdue payment" in plain(page)


def behind(client: Client, address: str) -> int:
    """How many a list holds, by its own word."""
    if address.startswith("/o2r"):
        return int(re.search(r"<strong>([\d,]+)</strong> in all", page_of(client, address))[1])
    part = page_of(client, address, **HTMX, **{"X-Part": "totals"})
    return int(re.search(r"<strong>([\d,]+)</strong> opportunit", part)[1])


@pytest.mark.parametrize(
    "path", ["/o2r", "/o2r?territory=APAC", "/o2r?outcome=lost", "/o2r?mine=1"]
)
def test_every_number_opens_a_list_of_as_many(
    rep_client: Client, pipeline: None, path: str
) -> None:
    page = page_of(rep_client, path)
    numbers = re.findall(
        r'<a [^>]*href="([^"]+)"[^>]*>(?:<span>.*?</span> <strong>)?([\d,]+)(?: [a-z ]+)?<', page
    )
    numbers += re.findall(
        r'href="([^"]+)" data-testid="(?:total-pipeline|cycle-time)".*?([\d,]+) '
        r"(?:active|with revenue)",
        page,
    )
    found = [(html.unescape(address), int(number)) for address, number in numbers]
    assert len(found) >= 16
    wrong = [each for each in found if behind(rep_client, each[0]) != each[1]]
    assert wrong == []


def test_filters_go_into_the_table_the_figures_and_the_chips(
    rep_client: Client, pipeline: None
) -> None:
    page = page_of(rep_client, "/o2r?territory=APAC&health_signal=red")
    assert names(page) == ["Red one"]
    assert "100000.50 1 active opportunity" in part(page, "total-pipeline")
    assert "Territory: APAC" in plain(page) and "Signal: Red" in plain(page)
    assert names(page_of(rep_client, "/o2r?phase=phase3")) == ["Green one"]
    assert names(page_of(rep_client, "/o2r?search=yellow")) == ["Yellow one"]
    assert names(page_of(rep_client, "/o2r?outcome=realized")) == ["Realized"]
    assert names(page_of(rep_client, "/o2r?outcome=lost")) == ["Lost one"]
    assert names(page_of(rep_client, "/o2r?mine=1&phase=phase2")) == ["Red one"]
    assert names(page_of(rep_client, "/o2r?service_line=Gen+AI")) == ["Yellow one"]


def test_the_totals_are_those_of_the_table(rep_client: Client, pipeline: None) -> None:
    def totals(path: str) -> str:
        return plain(re.search(r'<p class="totals">.*?</p>', page_of(rep_client, path), re.S)[0])

    assert totals("/o2r").startswith("5 in all worth 174000.50")
    assert totals("/o2r?outcome=lost").startswith("1 in all worth 80000.00")
    assert totals("/o2r?outcome=all").startswith("7 in all worth 314000.50")


def test_the_table_is_sorted_by_its_headings(rep_client: Client, pipeline: None) -> None:
    by_value = names(page_of(rep_client, "/o2r?sort=-value"))
    assert by_value == ["Red one", "Yellow one", "Green one", "Unpaid", "Unpriced"]
    assert names(page_of(rep_client, "/o2r?sort=value"))[-1] == "Unpriced", "empty ones last"
    assert names(page_of(rep_client, "/o2r?sort=-signal"))[:2] == ["Unpaid", "Red one"]
    assert names(page_of(rep_client, "/o2r?sort=name"))[0] == "Green one"
    page = page_of(rep_client, "/o2r?sort=-value&territory=APAC")
    assert 'aria-sort="descending"' in page
    assert 'href="/o2r?territory=APAC&amp;sort=value"' in page
    assert len(names(page_of(rep_client, "/o2r?sort=nonsense"))) == 5


def test_the_table_is_paged(rep_client: Client) -> None:
    for number in range(30):
        rows.deal(f"Deal {number:02}")
    rows.count()
    first, second = (names(page_of(rep_client, f"/o2r?sort=name&page={n}")) for n in (1, 2))
    assert first + second == [f"Deal {number:02}" for number in range(30)]
    assert "26 to 30" in plain(page_of(rep_client, "/o2r?sort=name&page=2"))
    assert "There is no page 9" in plain(page_of(rep_client, "/o2r?page=9"))


def test_bad_words_are_named_and_left_out(rep_client: Client, pipeline: None) -> None:
    page = page_of(rep_client, "/o2r?phase=phase9&nonsense=1")
    assert "Not known here, so not applied" in plain(page)
    assert len(names(page)) == 5
    for query in ("page=x", "sort=%00", "page=999999999", "owner=x", "search=" + "x" * 500):
        assert rep_client.get(f"/o2r?{query}").status_code == 200, query


def test_empty_fields_of_the_form_leave_the_address(rep_client: Client) -> None:
    response = rep_client.get("/o2r?territory=&phase=phase2&search=&sort=-value")
    assert response.headers["Location"] == "/o2r?phase=phase2&sort=-value"


def test_the_live_part_comes_alone_and_brings_the_filters_when_one_was_chosen(
    rep_client: Client, pipeline: None
) -> None:
    live = page_of(rep_client, "/o2r", **HTMX)
    assert "<h1>" not in live and 'id="filters"' not in live
    revision = re.search(r'"X-Revision": "(\w+)"', live)[1]
    known = {**HTMX, "X-Revision": revision}
    assert rep_client.get("/o2r", headers=known).status_code == 204
    chosen = page_of(rep_client, "/o2r?territory=APAC", **HTMX, **{"X-Chosen": "1"})
    assert 'hx-swap-oob="morph"' in chosen
    assert re.search(r'<option value="APAC" selected>', chosen)


def test_the_files_hold_the_filtered_table(rep_client: Client, pipeline: None) -> None:
    page = page_of(rep_client, "/o2r?territory=APAC&phase=phase2")
    address = html.unescape(re.search(r'href="(/o2r/export[^"]*csv)"', page)[1])
    response = rep_client.get(address)
    text = b"".join(response.streaming_content).decode()
    assert "Red one" in text and "Yellow one" not in text


def test_without_a_role_that_syncs_there_is_no_button(client: Client, integrator: Any) -> None:
    client.force_login(integrator, backend="django.contrib.auth.backends.ModelBackend")
    page = page_of(client)
    assert "Sync with CRM" not in page and "do=phase" not in page


def test_nothing_at_all_says_so(rep_client: Client) -> None:
    words = plain(page_of(rep_client))
    assert "Nothing here is red or blocked" in words
    assert "There are no opportunities yet" in words


@pytest.mark.parametrize(
    "path", ["/o2r", "/o2r?territory=APAC&mine=1", "/o2r?outcome=all&sort=signal&search=o"]
)
def test_at_most_twelve_queries_however_many_there_are(
    rep_client: Client, pipeline: None, django_assert_max_num_queries: Any, path: str
) -> None:
    page_of(rep_client, path)
    with django_assert_max_num_queries(12) as captured:
        page_of(rep_client, path)
    few = len(captured)
    for number in range(40):
        owner = rows.owner(f"Person {number}")
        rows.deal(f"More {number}", owner=owner, account=rows.account(f"Account {number}"))
    rows.count()
    with django_assert_max_num_queries(12) as captured:
        page_of(rep_client, path)
    assert len(captured) == few
