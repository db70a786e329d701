"""The list of opportunities: rows, filters, totals, pages."""

from __future__ import annotations

import html
import re
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from django.test import Client

from crm.models import CrmConnection
from o2r.tests import mirror_rows as rows
from o2r.views import opportunities

pytestmark = pytest.mark.django_db

TOTALS = {"HX-Request": "true", "X-Part": "totals"}


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO
    rows.synced()


def page_of(client: Client, path: str = "/opportunities", **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def names(page: str) -> list[str]:
    found = re.findall(
        r'data-testid="opportunity-row".*?class="deal-name"[^>]*>(.*?)</', page, re.S
    )
    return [html.unescape(name) for name in found]


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ").split())


def test_a_row_shows_the_amount_in_sgd_and_in_its_own_currency(rep_client: Client) -> None:
    rows.deal("Yen", sgd=12_345, amount_minor=1_000_000, currency="JPY")
    page = page_of(rep_client)
    assert 'title="SGD 123.45"' in page
    assert "JPY&nbsp;1,000,000" in page


def test_ended_ones_are_shown_when_asked_for(rep_client: Client) -> None:
    rows.deal("Open")
    rows.deal("Lost", stage="closed_lost")
    rows.count()
    assert names(page_of(rep_client)) == ["Open"]
    assert names(page_of(rep_client, "/opportunities?outcome=lost")) == ["Lost"]
    assert names(page_of(rep_client, "/opportunities?stage=closed_lost")) == ["Lost"]


@pytest.mark.parametrize("search", ["zone", "ACME", "cme cor"])
def test_search_finds_part_of_a_name_or_account(rep_client: Client, search: str) -> None:
    rows.deal("Landing zone", account=rows.account("Acme Corp"))
    rows.deal("Something else")
    assert names(page_of(rep_client, f"/opportunities?search={search}")) == ["Landing zone"]


def test_the_bar_keeps_what_it_has_no_field_for(rep_client: Client) -> None:
    page = page_of(rep_client, "/opportunities?missing=amount&stage=proposal,negotiation")
    assert '<input type="hidden" name="missing" value="amount">' in page
    assert '<option value="proposal,negotiation" selected>Proposal, Negotiation</option>' in page


def test_choices_are_the_values_that_deals_have(rep_client: Client) -> None:
    rows.deal(territory="APAC", owner=rows.owner("Ann Lee"))
    rows.owner("Nobody's owner")
    rows.count()
    page = page_of(rep_client)
    assert '<option value="APAC">APAC</option>' in page
    assert "Ann Lee</option>" in page
    assert "Nobody" not in page


def test_totals_are_those_of_the_whole_selection(rep_client: Client) -> None:
    for number in range(opportunities.PAGE_ROWS + 5):
        rows.deal(f"Deal {number}", sgd=10_000)
    rows.deal("Unpriced", sgd=None)
    assert "Counting" in page_of(rep_client)
    said = words(page_of(rep_client, **TOTALS))
    assert said.startswith("56 opportunities worth SGD 5.50K open ones weighted SGD 2.75K")
    assert "1 without a value in SGD" in said
    assert "56 opportunities" in words(page_of(rep_client, "/opportunities?page=1"))


def test_pages_follow_each_other_without_gap_or_repetition(rep_client: Client) -> None:
    made = {rows.deal(f"Deal {number}").name for number in range(opportunities.PAGE_ROWS + 5)}
    first = page_of(rep_client, "/opportunities?stage=proposal")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = page_of(rep_client, html.unescape(following[1]))
    assert sorted(names(first) + names(second)) == sorted(made)
    assert 'rel="next"' not in second
    assert 'rel="prev" href="/opportunities?stage=proposal"' in second


@pytest.mark.parametrize("page", ["0", "-1", "x", "99999999999999999999", "²"])
def test_a_page_that_is_none_is_the_first(rep_client: Client, page: str) -> None:
    rows.deal("Here")
    assert names(page_of(rep_client, f"/opportunities?page={page}")) == ["Here"]


def test_beyond_the_last_page_filters_are_asked_for(
    rep_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opportunities, "LAST_PAGE", 1)
    for number in range(opportunities.PAGE_ROWS + 1):
        rows.deal(f"Deal {number}")
    page = page_of(rep_client)
    assert "set a filter to see further ones" in page
    assert 'rel="next"' not in page


def test_a_page_beyond_the_last_one_says_so_and_leads_back(rep_client: Client) -> None:
    rows.deal("Here")
    page = page_of(rep_client, "/opportunities?page=200&stage=proposal")
    assert "There is no page 200. To the first page" in words(page)
    assert '<a href="/opportunities?stage=proposal">To the first page</a>' in page
    assert "There are no opportunities yet" not in page


def test_nothing_found_is_not_the_same_as_nothing_there(rep_client: Client) -> None:
    assert "There are no opportunities yet" in page_of(rep_client)
    rows.deal("Here")
    assert "No opportunity matches these filters" in page_of(
        rep_client, "/opportunities?search=nowhere"
    )


@pytest.mark.parametrize(
    "query",
    [
        "stage=%00",
        "closing_from=2026-02-30",
        "amount_min=x",
        "search=%00",
        "owner=%F0%9F",
        "owner=" + ",".join(f"{n}@" for n in range(1300)),
    ],
    ids=lambda query: query[:20],
)
def test_bad_values_are_left_out_and_break_nothing(rep_client: Client, query: str) -> None:
    rows.deal("Here")
    assert rep_client.get(f"/opportunities?{query}").status_code == 200
    assert rep_client.get(f"/?{query}").status_code == 200


@pytest.mark.parametrize("search", ["müller", "MÜLLER", "Ёлка", "ёлка", "straße"])
def test_search_knows_no_case_beyond_ascii_either(rep_client: Client, search: str) -> None:
    rows.deal("MÜLLER Gmbh – Umzug")
    rows.deal("Ёлка Straße")
    rows.deal("Other")
    found = names(page_of(rep_client, f"/opportunities?search={search}"))
    assert len(found) == 1 and "Other" not in found[0]


def test_a_value_with_a_comma_is_one_value_in_every_link(rep_client: Client) -> None:
    rows.deal("Ours", territory="APAC, Japan")
    rows.deal("Not ours", territory="APAC")
    rows.count()
    dashboard = page_of(rep_client, "/")
    links = [
        html.unescape(link) for link in re.findall(r'href="(/opportunities\?[^"]*)"', dashboard)
    ]
    of_japan = [link for link in links if "Japan" in link]
    assert of_japan
    for link in of_japan:
        assert names(page_of(rep_client, link)) == ["Ours"], link
    form = page_of(rep_client, of_japan[0])
    assert re.search(r'<option value="APAC\\, Japan" selected', html.unescape(form))


# --- chips, form, links ----------------------------------------------------------------------


def test_chips_are_said_in_words_and_days(rep_client: Client) -> None:
    ann = rows.owner("Ann Lee", "ann@example.com")
    page = page_of(
        rep_client,
        "/opportunities?closing_to=2026-11-23&missing=amount&changed=closing_date&amount_min=125000"
        f"&changed_since=2026-11-22T16:00:00%2B00:00&owner={ann.zoho_id}&outcome=realized",
    )
    found = [html.unescape(each) for each in re.findall(r'class="chip" [^>]*>(.*?)<svg', page)]
    assert sorted(found) == [
        "Changed since: 23 Nov 2026, 00:00",
        "Closing date moved",
        "Closing to: 23 Nov 2026",
        "Outcome: Realized",
        "Owner: Ann Lee",
        "SGD at least: 125,000",
        "Without an amount",
    ]


def options(page: str, name: str) -> list[str]:
    found = re.search(rf'<select name="{name}">(.*?)</select>', page, re.S)
    assert found
    return re.findall(r">([^<]+)</option>", found[1])


@pytest.mark.parametrize("query", ["", "outcome=active", "stage=proposal", "outcome=lost"])
def test_each_outcome_is_offered_once(rep_client: Client, query: str) -> None:
    offered = options(page_of(rep_client, f"/opportunities?{query}".rstrip("?")), "outcome")
    assert sorted(offered) == ["Active", "All", "Lost", "Realized"]


def test_the_fields_left_empty_do_not_stay_in_the_address(rep_client: Client) -> None:
    response = rep_client.get(
        "/opportunities?search=&stage=proposal&territory=&mine=&page=2&owner=%20"
    )
    assert response.headers["Location"] == "/opportunities?stage=proposal&page=2"
    assert rep_client.get(response.headers["Location"]).status_code == 200


def test_a_deal_leads_to_its_page_and_to_its_record_in_the_crm_where_that_is_known(
    rep_client: Client, settings: Any
) -> None:
    deal = rows.deal("Landing & zone", closing_date=date(2020, 1, 1))
    rows.count()
    name = f'<a class="deal-name" href="/o2r/{deal.pk}" title="Landing &amp; zone">'
    assert name in page_of(rep_client) and 'class="crm-link"' not in page_of(rep_client)
    settings.ZOHO = SimpleNamespace(**{**vars(rows.ZOHO), "base_url": "https://www.zohoapis.eu"})
    CrmConnection.objects.update(domain_name="nimbus")
    address = f"https://crm.zoho.eu/crm/nimbus/tab/Potentials/{deal.zoho_id}"
    link = f'<a class="crm-link" href="{address}" rel="noopener" title="Open it in the CRM">'
    assert link in page_of(rep_client)
    page = page_of(rep_client, "/?list=recent")
    assert (page.count(name), page.count(link)) == (2, 2)


def test_mine_of_somebody_the_crm_does_not_know_is_told_why(manager_client: Client) -> None:
    rows.deal("Somebody's")
    rows.count()
    for path in ("/opportunities?mine=1", "/?mine=1&list=recent"):
        page = page_of(manager_client, path)
        assert "No CRM user has your e-mail manager@example.com. Ask ops" in words(page)
        assert "Nothing here" not in page
        assert 'data-testid="metric-card"' not in page
        assert "0 opportunities" not in words(page)
    assert 'href="/opportunities">Show everyone' in page_of(manager_client, "/opportunities?mine=1")


def test_a_list_of_an_owner_asks_no_more_than_one_of_all(
    rep_client: Client, django_assert_max_num_queries: Any
) -> None:
    ann = rows.owner("Ann Lee")
    rows.deal("Hers", owner=ann)
    rows.count()
    page_of(rep_client)
    with django_assert_max_num_queries(10):
        assert names(page_of(rep_client, f"/opportunities?owner={ann.pk}&stage=proposal"))
