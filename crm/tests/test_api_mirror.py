"""Accounts, contacts, leads, users and pipelines over HTTP, and what every list has in common."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from crm.tests.rows import (
    SEEN,
    AccountFactory,
    ContactFactory,
    CrmUserFactory,
    LeadFactory,
    PipelineFactory,
    SyncRunFactory,
)

pytestmark = pytest.mark.django_db
LISTS = ["accounts", "contacts", "leads", "users", "pipelines", "zoho/sync-runs"]
FACTORIES = {
    "accounts": AccountFactory,
    "contacts": ContactFactory,
    "leads": LeadFactory,
    "users": CrmUserFactory,
    "pipelines": PipelineFactory,
    "zoho/sync-runs": SyncRunFactory,
}


def ids(response) -> list[str]:
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def pks(*found) -> list[str]:
    return [str(row.pk) for row in found]


# -- bodies -------------------------------------------------------------------------------------


def test_account_has_strings_for_ids_and_its_owner(rep_client) -> None:
    account = AccountFactory(name="Ångström & Söhne", employees=12)
    body = rep_client.get(f"/api/accounts/{account.pk}").json()
    assert (body["id"], body["zoho_id"]) == (str(account.pk), str(account.zoho_id))
    assert (body["name"], body["employees"]) == ("Ångström & Söhne", 12)
    assert body["owner"] == {
        "id": str(account.owner_id),
        "name": account.owner.name,
        "email": account.owner.email,
    }
    assert body["created_at"] == "2026-03-10T04:00:00Z"


def test_one_is_found_by_our_id_and_by_that_of_the_crm(rep_client) -> None:
    for path, factory in list(FACTORIES.items())[:3]:
        row = factory()
        for word in (row.pk, row.zoho_id):
            assert rep_client.get(f"/api/{path}/{word}").json()["id"] == str(row.pk)


def test_our_id_wins_over_the_same_number_in_the_crm(rep_client) -> None:
    ours = AccountFactory()
    AccountFactory(zoho_id=ours.pk)
    assert rep_client.get(f"/api/accounts/{ours.pk}").json()["id"] == str(ours.pk)


@pytest.mark.parametrize(
    "word", ["0", "01", "-1", "1.0", "x", "%00", "9" * 19, "9" * 5000, "٣", "1%20", "null"]
)
def test_id_that_is_none_is_not_found(rep_client, word: str) -> None:
    AccountFactory()
    response = rep_client.get(f"/api/accounts/{word}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_deleted_and_never_read_records_are_in_no_list(rep_client) -> None:
    shown = AccountFactory()
    gone, stub = AccountFactory(deleted_at=SEEN), AccountFactory(is_stub=True)
    assert ids(rep_client.get("/api/accounts")) == pks(shown)
    for hidden in (gone, stub):
        assert rep_client.get(f"/api/accounts/{hidden.pk}").status_code == 404


def test_lead_tells_what_it_became(rep_client) -> None:
    lead = LeadFactory(is_converted=True, converted_at=SEEN, converted_deal_zoho_id=17)
    body = rep_client.get(f"/api/leads/{lead.pk}").json()
    assert body["converted"]["opportunity_zoho_id"] == "17"
    assert body["converted"]["account_zoho_id"] is None
    assert rep_client.get(f"/api/leads/{LeadFactory().pk}").json()["converted"] is None


def test_pipeline_tells_its_stages_in_order_and_what_they_mean(rep_client) -> None:
    PipelineFactory(stages=["Qualification", "Negotiation/Review", "Closed Won"])
    stages = rep_client.get("/api/pipelines").json()["results"][0]["stages"]
    assert [(s["crm_stage"], s["stage"], s["type"]) for s in stages] == [
        ("Qualification", "qualification", "open"),
        ("Negotiation/Review", "negotiation", "open"),
        ("Closed Won", "closed_won", "won"),
    ]


def test_record_links_to_its_page_in_the_crm(rep_client, settings) -> None:
    from types import SimpleNamespace

    from crm.models import CrmConnection

    CrmConnection.objects.create(domain_name="org123")
    account = AccountFactory()
    hosts = {
        "https://www.zohoapis.eu": "https://crm.zoho.eu",
        "https://www.zohoapis.ca": "https://crm.zohocloud.ca",
    }
    for api, pages in hosts.items():
        settings.ZOHO = SimpleNamespace(base_url=api)
        url = rep_client.get(f"/api/accounts/{account.pk}").json()["crm_url"]
        assert url == f"{pages}/crm/org123/tab/Accounts/{account.zoho_id}"
    settings.ZOHO = SimpleNamespace(base_url="http://127.0.0.1:9000")
    assert rep_client.get(f"/api/accounts/{account.pk}").json()["crm_url"] is None


# -- filters ------------------------------------------------------------------------------------


def test_accounts_are_searched_ignoring_case_and_filtered_by_owner(rep_client) -> None:
    found = AccountFactory(name="Blue Whale Ltd")
    AccountFactory(name="Red Fox")
    assert ids(rep_client.get("/api/accounts?search=wHALE")) == pks(found)
    for word in (found.owner_id, found.owner.zoho_id, found.owner.email.upper()):
        assert ids(rep_client.get("/api/accounts", {"owner": word})) == pks(found)


@pytest.mark.parametrize("word", ["ÅNGSTRÖM & SÖHNE", "ångström", "ÖHNE", "Ångström"])
@pytest.mark.parametrize(
    ("path", "column"),
    [
        ("accounts", "name"),
        ("contacts", "last_name"),
        ("leads", "company"),
        ("leads", "first_name"),
        ("users", "name"),
    ],
)
def test_search_ignores_case_in_every_script(rep_client, path: str, column: str, word: str) -> None:
    found = FACTORIES[path](**{column: "Ångström & Söhne"})
    FACTORIES[path](**{column: "Angstrom"})
    assert ids(rep_client.get(f"/api/{path}", {"search": word})) == pks(found)


@pytest.mark.parametrize("word", ["100%", "a_b", "ü%", "ü_b"])
def test_searched_signs_stand_for_themselves(rep_client, word: str) -> None:
    found = AccountFactory(name=f"X {word.upper()} Y")
    AccountFactory(name=f"X {word.replace('%', 'c').replace('_', 'c')} Y")
    assert ids(rep_client.get("/api/accounts", {"search": word})) == pks(found)


def test_owner_is_found_by_an_address_that_is_not_ascii(rep_client) -> None:
    found = AccountFactory(owner=CrmUserFactory(email="Jürgen@example.com"))
    assert ids(rep_client.get("/api/accounts", {"owner": "JÜRGEN@example.com"})) == pks(found)


@pytest.mark.parametrize(
    "path", ["accounts?owner=", "accounts?industry=", "contacts?account=", "leads?status="]
)
def test_a_hundred_values_are_read_and_more_are_refused(rep_client, path: str) -> None:
    at_most = ",".join(f"{n}@example.com" for n in range(100))
    again = at_most.partition(",")[0]
    assert ids(rep_client.get(f"/api/{path}{at_most},{again}")) == []
    for more in (101, 999, 1300):
        words = ",".join(f"{n}@example.com" for n in range(more))
        response = rep_client.get(f"/api/{path}{words}")
        name = path.partition("?")[2].removesuffix("=")
        assert response.status_code == 422, response.content
        assert response.json()["errors"][name] == [f"At most 100 values; these are {more}."]


def test_several_values_are_repeated_or_separated_by_commas(rep_client) -> None:
    a, b, _ = (LeadFactory(status=status) for status in ("New", "Contacted", "Lost"))
    for query in ("status=New,Contacted", "status=New&status=Contacted"):
        assert ids(rep_client.get(f"/api/leads?{query}")) == pks(a, b)


def test_word_for_none_given(rep_client) -> None:
    bare = LeadFactory(lead_source=None, owner=None)
    LeadFactory(lead_source="Web")
    assert ids(rep_client.get("/api/leads?lead_source=-")) == pks(bare)
    assert ids(rep_client.get("/api/leads?owner=-")) == pks(bare)


def test_updated_since_includes_its_own_moment(rep_client) -> None:
    AccountFactory(updated_at=SEEN - timedelta(seconds=1))
    new = AccountFactory(updated_at=SEEN)
    for word in (
        "2026-03-10T04:00:00Z",
        "2026-03-10T12:00:00%2B08:00",
        "2026-03-10T12:00:00+08:00",
    ):
        assert ids(rep_client.get(f"/api/accounts?updated_since={word}")) == pks(new)


@pytest.mark.parametrize(
    "query",
    [
        "nonsense=1",
        "search=",
        "owner=",
        "owner=,",
        "search=a&search=b",
        "search=%00",
        "industry[]=x",
        f"search={'x' * 201}",
        f"industry={'x' * 256}",
        "updated_since=yesterday",
        "updated_since=0001-01-01T00:00:00%2B14:00",
        "updated_since=9999-12-31T23:59:59-14:00",
        "format=csv",
        "limit=0",
        "limit=-1",
        "limit=ten",
        "limit=1e3",
        "limit=٣",
        "offset=-1",
        "offset=100001",
        "offset=" + "9" * 5000,
        "ordering=password",
        "ordering=name,id",
        "ordering=--name",
        "ordering=",
        "cursor=forged",
        "cursor=%00",
        "offset=5&cursor=",
    ],
)
def test_parameter_that_does_not_fit_is_named(rep_client, query: str) -> None:
    response = rep_client.get(f"/api/accounts?{query}")
    body = response.json()
    assert (response.status_code, body["code"]) == (422, "invalid")
    assert query.partition("=")[0] in body["errors"]
    assert all(isinstance(text, str) for texts in body["errors"].values() for text in texts)


def test_offset_beyond_its_end_names_the_cursor(rep_client) -> None:
    body = rep_client.get("/api/accounts?offset=100001").json()
    assert "cursor" in body["errors"]["offset"][0]
    assert ids(rep_client.get("/api/accounts?offset=100000")) == []


# -- pages --------------------------------------------------------------------------------------


def test_limit_is_fifty_and_at_most_two_hundred(rep_client) -> None:
    CrmUserFactory.create_batch(205)
    assert len(ids(rep_client.get("/api/users"))) == 50
    assert len(ids(rep_client.get("/api/users?limit=999999999999"))) == 200
    assert rep_client.get("/api/users").json()["count"] == 205


def walk(client, url: str, link: str = "next") -> list[list[str]]:
    pages = []
    while url:
        body = client.get(url).json()
        pages.append([row["id"] for row in body["results"]])
        url = body[link]
    return pages


def flat(pages: list[list[str]]) -> list[str]:
    return [word for page in pages for word in page]


def test_offset_pages_lead_there_and_back(rep_client) -> None:
    made = pks(*AccountFactory.create_batch(5))
    assert walk(rep_client, "/api/accounts?limit=2") == [made[:2], made[2:4], made[4:]]
    assert walk(rep_client, "/api/accounts?limit=2&offset=4", "previous") == [
        made[4:],
        made[2:4],
        made[:2],
    ]


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("name", ["id", "company", "name", "updated_at"])
def test_cursor_pages_are_the_offset_pages(rep_client, name: str, sign: str) -> None:
    for company in ("Beta", None, "Alpha", "Beta", None, "Gamma", "Beta"):
        LeadFactory(company=company)
    whole = ids(rep_client.get(f"/api/leads?ordering={sign}{name}"))
    there = walk(rep_client, f"/api/leads?ordering={sign}{name}&limit=2&cursor=")
    assert flat(there) == whole
    last = rep_client.get(f"/api/leads?ordering={sign}{name}&limit=2&cursor=").json()
    while last["next"]:
        last = rep_client.get(last["next"]).json()
    back = [row["id"] for row in last["results"]]
    url = last["previous"]
    while url:
        body = rep_client.get(url).json()
        back = [row["id"] for row in body["results"]] + back
        url = body["previous"]
    assert back == whole


@pytest.mark.parametrize("sign", ["", "-"])
def test_empty_values_come_last_both_ways(rep_client, sign: str) -> None:
    LeadFactory(company=None)
    LeadFactory(company="Alpha")
    rows_ = rep_client.get(f"/api/leads?ordering={sign}company").json()["results"]
    assert [row["company"] for row in rows_] == ["Alpha", None]


def test_row_that_comes_in_between_shifts_no_cursor_page(rep_client) -> None:
    made = pks(*AccountFactory.create_batch(4))
    first = rep_client.get("/api/accounts?limit=2&ordering=-id&cursor=").json()
    AccountFactory()
    second = rep_client.get(first["next"]).json()
    assert [row["id"] for row in second["results"]] == made[1::-1]


def test_cursor_belongs_to_its_ordering(rep_client) -> None:
    AccountFactory.create_batch(3)
    link = rep_client.get("/api/accounts?limit=1&ordering=name&cursor=").json()["next"]
    response = rep_client.get(link.replace("ordering=name", "ordering=-name"))
    assert list(response.json()["errors"]) == ["cursor"]


def test_cursor_of_another_list_is_refused(rep_client) -> None:
    CrmUserFactory.create_batch(3)
    AccountFactory.create_batch(3)
    for ordering in ("updated_at", "name", "id"):
        first = rep_client.get(f"/api/users?limit=1&ordering={ordering}&cursor=").json()
        query = first["next"].partition("?")[2]
        assert len(ids(rep_client.get(f"/api/users?{query}"))) == 1
        for path in ("accounts", "leads", "opportunities"):
            response = rep_client.get(f"/api/{path}?{query}")
            assert response.status_code == 422, response.content
            assert list(response.json()["errors"]) == ["cursor"]


def test_next_becomes_a_cursor_where_offsets_end(rep_client, monkeypatch) -> None:
    from crm.api import paging

    monkeypatch.setattr(paging, "MAX_OFFSET", 3)
    made = pks(*AccountFactory.create_batch(7))
    assert flat(walk(rep_client, "/api/accounts?limit=2")) == made


def test_count_is_exact_up_to_its_limit_and_then_marked(rep_client, monkeypatch) -> None:
    from crm.api import paging

    monkeypatch.setattr(paging, "EXACT_TO", 3)
    AccountFactory.create_batch(3)
    body = rep_client.get("/api/accounts").json()
    assert (body["count"], body["count_is_about"]) == (3, False)
    AccountFactory()
    body = rep_client.get("/api/accounts").json()
    assert (body["count"], body["count_is_about"]) == (3, True)


# -- who, how, what it costs ----------------------------------------------------------------------


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "options"])
def test_lists_are_only_read(rep_client, path: str, method: str) -> None:
    response = getattr(rep_client, method)(f"/api/{path}", data={}, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize("path", LISTS)
def test_every_role_reads(request, path: str) -> None:
    for who in ("rep_client", "manager_client", "ops_client", "integrator_client"):
        assert request.getfixturevalue(who).get(f"/api/{path}").status_code == 200


@pytest.mark.parametrize("path", LISTS)
def test_fifty_rows_cost_the_queries_of_one(rep_client, path: str) -> None:
    factory = FACTORIES[path]
    more = {"stages": ["Qualification", "Closed Won"]} if path == "pipelines" else {}
    factory(**more)
    rep_client.get(f"/api/{path}")  # the session notes that it is in use
    of_one = queries_of(rep_client, path, expected=1)
    factory.create_batch(50 - factory._meta.model.objects.count(), **more)
    assert queries_of(rep_client, path, expected=50) == of_one <= 9


def queries_of(client, path: str, *, expected: int) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert len(ids(client.get(f"/api/{path}"))) == expected
    return len(captured)


def test_reading_writes_nothing(rep_client) -> None:
    AccountFactory()
    rep_client.get("/api/accounts")
    with CaptureQueriesContext(connection) as captured:
        rep_client.get("/api/accounts?search=a")
    others = [q["sql"] for q in captured if not q["sql"].lstrip("(").startswith("SELECT")]
    assert not others
