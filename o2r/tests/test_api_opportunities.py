"""GET /api/opportunities, one of them, their statistics, and the live pipeline."""

from datetime import date, timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from crm.models import CrmConnection
from crm.tests.rows import AccountFactory, CrmUserFactory, DealFactory, mirrored
from o2r.filters import today_of_business
from o2r.recompute import catch_up

pytestmark = pytest.mark.django_db
URL = "/api/opportunities"
KEYS = {
    *("id", "zoho_id", "name", "account", "contact", "owner", "pipeline", "stage", "crm_stage"),
    *("amount", "currency", "amount_sgd", "probability", "weighted_sgd", "closing_date"),
    *("actual_close_date", "outcome_reason", "territory", "service_line", "aws_funded"),
    *("aws_funded_tag", "alliance_motion", "strategic_account", "next_step", "description"),
    *("quality_score", "pending", "conflicts", "crm_url", "created_at", "updated_at"),
    *("last_sync_at", "version"),
}
STATS_KEYS = {
    *("total_pipeline_value", "weighted_value", "open_count", "won_count", "lost_count"),
    *("win_rate", "win_rate_value", "average_deal_size", "by_stage", "period", "left_out"),
}


def ids(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def pks(*deals) -> list[str]:
    return [str(deal.pk) for deal in deals]


def one(client, deal) -> dict:
    return client.get(f"{URL}/{deal.pk}").json()


# -- bodies -------------------------------------------------------------------------------------


def test_opportunity_has_every_key(rep_client) -> None:
    deal = DealFactory(change_seq=7)
    body = one(rep_client, deal)
    assert body.keys() >= KEYS
    assert (body["id"], body["zoho_id"]) == (str(deal.pk), str(deal.zoho_id))
    assert body["account"] == {"id": str(deal.account_id), "name": deal.account.name}
    assert body["owner"]["email"] == deal.owner.email
    assert (body["version"], body["pending"], body["conflicts"]) == (7, [], [])
    assert rep_client.get(URL).json()["results"] == [body]


def test_opportunity_is_found_by_the_id_of_the_crm(rep_client) -> None:
    deal = DealFactory()
    assert rep_client.get(f"{URL}/{deal.zoho_id}").json()["id"] == str(deal.pk)


@pytest.mark.parametrize(
    ("currency", "minor", "text"),
    [
        ("SGD", 123_456, "1234.56"),
        ("JPY", 5_000, "5000"),
        ("KWD", 1_005, "1.005"),
        ("USD", -5, "-0.05"),
        ("USD", 0, "0.00"),
        ("USD", 10**14, "1000000000000.00"),
        ("", None, None),
    ],
)
def test_amount_is_text_with_the_decimals_of_its_currency(
    rep_client, currency: str, minor: int | None, text: str | None
) -> None:
    deal = DealFactory(currency=currency, amount_minor=minor, amount_sgd_minor=None)
    body = one(rep_client, deal)
    assert (body["amount"], body["currency"]) == (text, currency)
    assert (body["amount_sgd"], body["weighted_sgd"]) == (None, None)


def test_values_in_sgd_have_two_decimals(rep_client) -> None:
    body = one(rep_client, DealFactory(amount_minor=100_050, probability=50))
    assert (body["amount_sgd"], body["weighted_sgd"]) == ("1000.50", "500.25")


@pytest.mark.parametrize(
    ("stage", "closed_on", "reason"),
    [
        ("Qualification", None, None),
        ("Closed Won", "2026-04-01", None),
        ("Closed Lost", "2026-04-01", "Price"),
    ],
)
def test_closing_date_and_reason_of_what_is_closed(rep_client, stage, closed_on, reason) -> None:
    deal = DealFactory(crm_stage=stage, loss_reason="Price")
    body = one(rep_client, deal)
    assert body["closing_date"] == "2026-04-01"
    assert (body["actual_close_date"], body["outcome_reason"]) == (closed_on, reason)


def test_opportunity_without_anybody_or_anything(rep_client) -> None:
    deal = DealFactory(
        owner=None, account=None, contact=None, crm_stage=None, closing_date=None, amount_minor=None
    )
    body = one(rep_client, deal)
    for key in ("owner", "account", "contact", "crm_stage", "closing_date", "amount"):
        assert body[key] is None
    assert body["stage"] == "other"


def test_opportunity_links_to_the_crm_by_the_old_name_of_deals(rep_client, settings) -> None:
    settings.ZOHO = SimpleNamespace(base_url="https://www.zohoapis.com", api_version="v8")
    CrmConnection.objects.create(domain_name="org1")
    deal = DealFactory()
    url = f"https://crm.zoho.com/crm/org1/tab/Potentials/{deal.zoho_id}"
    assert one(rep_client, deal)["crm_url"] == url


def test_deleted_opportunity_is_not_found(rep_client) -> None:
    deal = DealFactory(deleted_at=timezone.now())
    response = rep_client.get(f"{URL}/{deal.pk}")
    assert response.status_code == 404
    assert response.json()["message"] == f"There is no opportunity with the id {deal.pk}."


# -- the list -----------------------------------------------------------------------------------


def test_list_shows_active_ones_unless_asked(rep_client) -> None:
    still_open, won = DealFactory(), DealFactory(crm_stage="Closed Won")
    lost = DealFactory(crm_stage="Closed Lost")
    realized = DealFactory(crm_stage="Closed Won", revenue_date=date(2026, 1, 1))
    catch_up()
    for query, expected in {
        "": [won, still_open],
        "?outcome=lost": [lost],
        "?outcome=realized": [realized],
        "?outcome=all": [realized, lost, won, still_open],
        "?outcome=lost,realized": [realized, lost],
        "?stage=closed_lost": [lost],
        "?stage=closed_won": [realized, won],
    }.items():
        assert ids(rep_client.get(URL + query)) == pks(*expected), query


def test_list_is_filtered_by_what_a_deal_is(rep_client) -> None:
    account = AccountFactory(name="Blue, Whale & Co")
    deal = DealFactory(
        name="Migration",
        account=account,
        territory="APAC",
        service_line="Gen AI",
        closing_date=date(2026, 5, 1),
        amount_minor=500_000,
    )
    other = DealFactory(territory=None, service_line=None, closing_date=None, amount_minor=None)
    for query, expected in {
        "territory=APAC": deal,
        "territory=-": other,
        "service_line=Gen AI,Other": deal,
        "search=MIGRA": deal,
        "search=whale": deal,
        "company=blue, w": deal,
        f"account={account.pk}": deal,
        f"account={account.zoho_id}": deal,
        f"owner={deal.owner_id}": deal,
        f"owner={deal.owner.zoho_id}": deal,
        f"owner={deal.owner.email.upper()}": deal,
        "closing_from=2026-05-01&closing_to=2026-05-01": deal,
        "amount_min=5000&amount_max=5000.00": deal,
        "missing=closing_date": other,
        "missing=amount": other,
    }.items():
        assert ids(rep_client.get(f"{URL}?{query}")) == pks(expected), query


@pytest.mark.parametrize("query", ["search=MÜLLER", "search=grün", "company=MÜLLER & GRÜN"])
def test_case_is_ignored_in_every_script(rep_client, query: str) -> None:
    by_account = DealFactory(account=AccountFactory(name="Müller & Grün"))
    by_name = DealFactory(name="müller, GRÜN", account=None)
    DealFactory(name="Mueller", account=AccountFactory(name="Gruen"))
    expected = [by_account] if query.startswith("company") else [by_name, by_account]
    assert ids(rep_client.get(f"{URL}?{query.replace('&', '%26')}")) == pks(*expected)


@pytest.mark.parametrize("path", [URL, f"{URL}/stats", "/api/zoho/live-pipeline"])
@pytest.mark.parametrize("name", ["owner", "account", "territory", "service_line"])
def test_a_hundred_values_of_a_filter_and_no_more(rep_client, path: str, name: str) -> None:
    words = [f"{n}@example.com" for n in range(101)]
    everything = {each: ",".join(words[:100]) for each in ("owner", "account", "territory")}
    assert rep_client.get(path, everything | {name: ",".join(words[:100])}).status_code == 200
    for more in (words, words * 10, ["same"] * 1300 + words):
        response = rep_client.get(path, {name: ",".join(more)})
        assert response.status_code == 422, response.content
        assert response.json()["errors"][name][0].startswith("At most 100 values")
    assert rep_client.get(path, {name: ",".join(["same"] * 1300)}).status_code == 200


def test_mine_are_those_of_the_crm_user_with_my_address(rep_client, rep) -> None:
    mine = DealFactory(owner=CrmUserFactory(email=rep.email.upper()))
    DealFactory()
    assert ids(rep_client.get(f"{URL}?mine=1")) == pks(mine)
    assert len(ids(rep_client.get(f"{URL}?mine=0"))) == 2


@pytest.mark.parametrize("name", ["amount_sgd", "closing_date", "account", "owner"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_order_by_a_column_with_gaps_by_cursor(rep_client, name: str, sign: str) -> None:
    for at in (2, None, 1, 2, None, 3):
        has = at is not None
        DealFactory(
            amount_minor=at,
            closing_date=date(2026, 1, at) if has else None,
            account=AccountFactory(name=f"A{at}") if has else None,
            owner=CrmUserFactory(name=f"O{at}") if has else None,
        )
    whole = rep_client.get(f"{URL}?ordering={sign}{name}").json()["results"]
    values = [row[name] for row in whole]
    assert values[4:] == [None, None]
    shown = [value["name"] if isinstance(value, dict) else value for value in values[:4]]
    assert shown == sorted(shown, reverse=bool(sign))
    found, url = [], f"{URL}?ordering={sign}{name}&limit=4&cursor="
    while url:
        page = rep_client.get(url).json()
        found += page["results"]
        url = page["next"]
    assert found == whole


def test_updated_since_tells_what_was_stored_since(rep_client) -> None:
    now = timezone.now()
    DealFactory(updated_at=now - timedelta(days=1))
    new = DealFactory(updated_at=now)
    response = rep_client.get(URL, {"updated_since": now.isoformat()})
    assert ids(response) == pks(new)


@pytest.mark.parametrize("path", [URL, f"{URL}/stats", "/api/zoho/live-pipeline"])
@pytest.mark.parametrize(
    "query",
    [
        "stage=",
        "stage=won",
        "outcome=open",
        "amount_min=abc",
        f"amount_min={10**30}",
        "amount_max=NaN",
        "amount_max=Infinity",
        "closing_from=2026-02-30",
        "closing_to=0000-00-00",
        "changed=everything",
        "changed_since=9999-12-31T23:59:59-14:00",
        "mine=yes",
        "period=1m",
        "missing=name",
        "search=%00",
        "territory=%00",
        "company=a&company=b",
        "is_staff=1",
        "pk__gt=1",
    ],
)
def test_filter_value_that_does_not_fit_is_named(rep_client, path: str, query: str) -> None:
    response = rep_client.get(f"{path}?{query}")
    body = response.json()
    assert (response.status_code, body["code"]) == (422, "invalid"), body
    assert list(body["errors"]) == [query.partition("=")[0]]


# -- statistics ---------------------------------------------------------------------------------


def deals_of_every_kind() -> None:
    today = today_of_business()
    DealFactory(amount_minor=100_000, probability=10, territory="APAC")
    DealFactory(crm_stage="Negotiation/Review", amount_minor=200_001, probability=50)
    DealFactory(amount_minor=None, name="no amount")
    DealFactory(amount_minor=5, currency="XXX", name="no rate")
    closed = {"closing_date": today - timedelta(days=3), "territory": "APAC"}
    DealFactory(crm_stage="Closed Won", amount_minor=300_000, probability=100, **closed)
    DealFactory(crm_stage="Closed Won", amount_minor=500_000, probability=100, **closed)
    DealFactory(crm_stage="Closed Lost", amount_minor=100_000, probability=0, **closed)
    long_ago = today - timedelta(days=800)
    DealFactory(crm_stage="Closed Won", amount_minor=900_000, closing_date=long_ago)
    DealFactory(deleted_at=timezone.now(), amount_minor=10**9)
    catch_up()


def test_stats_are_the_figures_of_the_period(rep_client) -> None:
    deals_of_every_kind()
    body = rep_client.get(f"{URL}/stats").json()
    assert body.keys() >= STATS_KEYS
    assert (body["open_count"], body["won_count"], body["lost_count"]) == (4, 2, 1)
    assert body["total_pipeline_value"] == "3000.01"
    assert body["weighted_value"] == "1100.00"
    assert body["average_deal_size"] == "4000.00"
    assert (body["win_rate"], body["win_rate_value"]) == (0.6667, 0.8889)
    assert body["left_out"] == {"no_amount": 1, "no_rate": 1}
    assert body["period"]["name"] == "12m"
    assert body["period"]["to"] == today_of_business().isoformat()
    by_stage = {row["stage"]: (row["count"], row["value_sgd"]) for row in body["by_stage"]}
    assert by_stage["closed_won"] == (3, "17000.00")
    assert by_stage["proposal"] == (0, "0.00")
    assert by_stage["qualification"] == (3, "1000.00")


def test_stats_of_all_time(rep_client) -> None:
    deals_of_every_kind()
    body = rep_client.get(f"{URL}/stats?period=all").json()
    assert (body["won_count"], body["period"]["from"]) == (3, None)


def test_stats_of_nothing(rep_client) -> None:
    body = rep_client.get(f"{URL}/stats").json()
    assert (body["total_pipeline_value"], body["open_count"]) == ("0.00", 0)
    assert body["win_rate"] is None and body["average_deal_size"] is None


@pytest.mark.parametrize("query", ["", "period=all", "territory=APAC", "stage=qualification"])
def test_stats_counted_from_the_deals_are_those_of_the_roll_up(rep_client, query: str) -> None:
    deals_of_every_kind()
    kept = rep_client.get(f"{URL}/stats?{query}").json()
    # every deal has an account of this name, so the search leaves none out
    live = rep_client.get(f"{URL}/stats?{query}&company=Account").json()
    assert live == kept


def test_stats_follow_filters_that_the_roll_up_does_not_keep(rep_client) -> None:
    deals_of_every_kind()
    body = rep_client.get(f"{URL}/stats?search=no rate").json()
    assert (body["open_count"], body["won_count"]) == (1, 0)
    assert body["left_out"] == {"no_amount": 0, "no_rate": 1}
    body = rep_client.get(f"{URL}/stats?amount_min=4000").json()
    assert (body["open_count"], body["won_count"]) == (0, 1)


# -- live pipeline ------------------------------------------------------------------------------


def test_live_pipeline_is_a_page_with_figures_status_and_age(rep_client) -> None:
    deals_of_every_kind()
    mirrored(timezone.now() - timedelta(seconds=30))
    body = rep_client.get("/api/zoho/live-pipeline?limit=2").json()
    assert body.keys() == {"deals", "summary", "sync_status", "data_freshness"}
    assert body["deals"]["count"] == 7
    assert len(body["deals"]["results"]) == 2
    assert body["deals"]["results"][0].keys() >= KEYS
    assert "/api/zoho/live-pipeline" in body["deals"]["next"]
    assert body["summary"] == rep_client.get(f"{URL}/stats").json()
    assert body["sync_status"]["sync_in_progress"] is False
    assert 30 <= body["data_freshness"] <= 35


def test_live_pipeline_is_filtered_as_one(rep_client) -> None:
    deals_of_every_kind()
    body = rep_client.get("/api/zoho/live-pipeline?territory=APAC&stage=qualification").json()
    assert body["deals"]["count"] == body["summary"]["open_count"] == 1


def test_live_pipeline_before_the_first_sync_is_empty_and_says_so(rep_client) -> None:
    body = rep_client.get("/api/zoho/live-pipeline").json()
    assert body["deals"]["results"] == []
    assert body["data_freshness"] is None


# -- what it costs, who may -----------------------------------------------------------------------


@pytest.mark.parametrize(("path", "most"), [(URL, 7), ("/api/zoho/live-pipeline", 19)])
def test_fifty_opportunities_cost_the_queries_of_one(rep_client, path: str, most: int) -> None:
    DealFactory()
    catch_up()
    rep_client.get(path)  # the session notes that it is in use
    of_one = queries_of(rep_client, path)
    DealFactory.create_batch(49)
    catch_up()
    assert queries_of(rep_client, path) == of_one <= most


def queries_of(client, path: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)


@pytest.mark.parametrize("path", [URL, f"{URL}/stats", f"{URL}/1", "/api/zoho/live-pipeline"])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_opportunities_are_only_read(manager_client, path: str, method: str) -> None:
    DealFactory()
    response = getattr(manager_client, method)(path, data={}, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", [URL, f"{URL}/stats", "/api/zoho/live-pipeline"])
def test_every_role_reads(request, path: str) -> None:
    for who in ("rep_client", "manager_client", "ops_client", "integrator_client"):
        assert request.getfixturevalue(who).get(path).status_code == 200
