"""The client against the stand-in CRM: what it reads, and what it survives, end to end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from crm.tests.odd_server import HeldTime, OpenCipher, settings_of
from crm.tests.sandbox_process import (
    CLIENT_ID,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    ROOT,
    Sandbox,
    running_sandbox,
)
from crm.zoho.client import ZohoClient
from crm.zoho.errors import (
    CreditsExhausted,
    FixFields,
    GiveUp,
    NotConfigured,
    PageTokenRejected,
    QueryRefused,
    Reauthenticate,
    ScopeMissing,
    UnknownOutcome,
)
from crm.zoho.factory import States, build_client, client_from_settings
from crm.zoho.state import MemoryState

FIELDS = ["id", "Deal_Name", "Stage", "Amount", "Owner", "Modified_Time"]
DEALS = 430


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running_sandbox(tmp_path_factory.mktemp("crm"), deals=DEALS) as sandbox:
        yield sandbox


@pytest.fixture
def crm(running: Sandbox, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    running.control("clear_faults")
    running.control("reset_stats")
    running.control("restore_refresh_token")
    yield running
    running.control("clear_faults")
    running.control("config", mint_limit=10)
    if request.node.get_closest_marker("breaks_rules") is None:
        assert running.control("stats")["rule_breaks"] == {}


def client_for(crm: Sandbox, time: HeldTime | None = None, **changes: Any) -> ZohoClient:
    time = time or HeldTime(breath_s=0.002)
    state = changes.pop("state", None) or MemoryState(lambda: time.wall)
    crm.control("config", mint_limit=1000)
    return build_client(
        settings_of(
            crm.url,
            **{
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "refresh_token": REFRESH_TOKEN,
                "patience": {"mint_interval_s": 0},
                **changes,
            },
        ),
        states=States(state, state),
        cipher=OpenCipher(),
        timing=time.timing,
    )


def truth(crm: Sandbox, module: str = "Deals") -> set[str]:
    return {record["id"] for record in crm.control("dump", module=module)["records"]}


def listed(client: ZohoClient) -> list[str]:
    return [row.value["id"] for page in client.list_pages("Deals", FIELDS) for row in page.records]


def by_ranges(client: ZohoClient, limit: int) -> list[str]:
    found: list[str] = []
    after = 0
    while True:
        page = client.id_range("Deals", FIELDS, after=after, upto=None, limit=limit)
        found += [row.value["id"] for row in page.records]
        if not page.more:
            return found
        after = int(found[-1])


@pytest.mark.parametrize("version", ["v8", "v6"])
def test_pages_and_ranges_hold_exactly_the_crms_records_in_order(crm, version):
    client = client_for(crm, api_version=version)
    pages, ranges = listed(client), by_ranges(client, 100)
    assert set(pages) == truth(crm)
    assert pages == ranges == sorted(pages, key=int)
    assert client.count("Deals") == len(pages) == DEALS
    assert crm.control("stats")["rule_breaks"] == {}


def test_the_text_of_a_record_is_what_the_crm_holds(crm):
    client = client_for(crm)
    dumped = {r["id"]: r for r in crm.control("dump", module="Deals")["records"]}
    for page in client.list_pages("Deals", FIELDS):
        for row in page.records:
            assert float(row.value["Amount"] or 0) == float(dumped[row.value["id"]]["Amount"] or 0)
            assert row.text.startswith("{")
            assert row.text.endswith("}")
            assert f'"{row.value["id"]}"' in row.text


def test_ranges_in_parallel_stay_within_what_the_crm_allows(crm):
    ids = sorted(int(number) for number in truth(crm))
    bounds = [0, *ids[20::20], ids[-1]]
    client = client_for(crm, concurrency=20)
    crm.control("config", latency_ms=5)
    try:
        with ThreadPoolExecutor(16) as pool:
            pages = list(
                pool.map(
                    lambda pair: client.id_range("Deals", FIELDS, after=pair[0], upto=pair[1]),
                    pairwise(bounds),
                )
            )
    finally:
        crm.control("config", latency_ms=0)
    found = [int(row.value["id"]) for page in pages for row in page.records]
    stats = crm.control("stats")
    assert found == ids
    assert stats["throttled"] == 0
    assert stats["most_in_flight"] <= 8


def test_everything_about_the_organisation_is_readable(crm):
    client = client_for(crm)
    assert client.org()["id"]
    assert client.current_user()["email"] == "integration@example.com"
    kinds = ["AllUsers", "DeletedUsers"]
    users = [row.value for kind in kinds for page in client.users(kind) for row in page.records]
    assert len({user["id"] for user in users}) > 3
    assert any(currency["is_base"] for currency in client.currencies())
    assert {"Deals", "Leads"} <= {module["api_name"] for module in client.modules()}
    assert "Stage" in {field["api_name"] for field in client.fields("Deals")}
    layout = client.layouts("Deals")[0]
    assert client.pipelines(layout["id"])[0]["maps"]
    assert crm.control("stats")["rule_breaks"] == {}


def test_only_what_changed_since(crm):
    client = client_for(crm)
    list(client.list_pages("Deals", FIELDS))
    since = client.first_server_date - timedelta(seconds=1)  # whole seconds, and "after" them
    changed = sorted(truth(crm), key=int)[7]
    crm.control("edit", module="Deals", id=changed, values={"Next_Step": "call them"})
    pages = list(
        client.list_pages(
            "Deals", FIELDS, sort_by="Modified_Time", sort_order="desc", modified_since=since
        )
    )
    ranged = client.id_range("Deals", FIELDS, after=0, upto=None, modified_since=since)
    assert changed in [row.value["id"] for page in pages for row in page.records]
    assert changed in [row.value["id"] for row in ranged.records]


def test_what_is_gone_is_listed_and_not_found(crm):
    client = client_for(crm)
    made = client.insert("Leads", [{"Last_Name": "Short Lived", "Company": "Brief Ltd"}])[0]
    assert made.ok
    assert client.record("Leads", made.id).value["Last_Name"] == "Short Lived"
    assert client.delete("Leads", [made.id])[0].ok
    gone = [row.value["id"] for p in client.deleted_pages("Leads", since=None) for row in p.records]
    assert str(made.id) in gone
    assert client.record("Leads", made.id) is None
    assert client.by_ids("Leads", [made.id], ["Last_Name"]).records == []


# ---------------------------------------------------------------- bad days

PATH = {"path": "/crm/v8/Deals"}
BURSTS = [
    {"do": "status", "status": 429, "times": 3, **PATH},
    {"do": "status", "status": 429, "headers": {"Retry-After": "7"}, "times": 2, **PATH},
    {"do": "status", "status": 503, "times": 4, **PATH},
    {"do": "html_200", "times": 2, "nth": 2, **PATH},
    {"do": "content_type", "value": "text/plain", "nth": 2, **PATH},
    {"do": "truncate", "at": 4000, "nth": 2, **PATH},
    {"do": "truncate", "at": 4000, "consistent": True, "nth": 2, **PATH},
    {"do": "reset", "when": "before", "nth": 2, **PATH},
    {"do": "reset", "when": "after", "nth": 2, **PATH},
    {"do": "reset", "when": "body", "at": 5000, "nth": 3, **PATH},
    {"do": "expire_token", "nth": 2, **PATH},
    {"do": "huge", "bytes": 21 * 1024 * 1024, "nth": 2, **PATH},
]


@pytest.mark.parametrize("rule", BURSTS, ids=lambda rule: rule["do"])
def test_rows_24_to_37_no_bad_moment_costs_or_doubles_a_record(crm, rule):
    client = client_for(crm)
    crm.control("faults", rules=[rule])
    found = listed(client)
    assert len(found) == len(set(found))
    assert set(found) == truth(crm)


def test_row_28_eight_threads_and_an_expired_token(crm):
    client = client_for(crm)
    ids = [int(number) for number in sorted(truth(crm), key=int)]
    client.count("Deals")
    crm.control("faults", rules=[{"do": "expire_token", "path": "/crm/v8/coql", "nth": 5}])
    with ThreadPoolExecutor(8) as pool:
        pages = list(
            pool.map(
                lambda n: client.id_range("Deals", FIELDS, after=ids[n], upto=ids[n + 20]),
                range(0, 400, 20),
            )
        )
    assert sum(len(page.records) for page in pages) == 400
    # one at the start, one for the expiry
    assert crm.control("stats")["by_path"]["POST /oauth/v2/token"] == 2


def test_row_26_credits_gone_stops_at_once_and_says_so(crm):
    client = client_for(crm)
    client.count("Deals")
    spent = crm.control("stats")["credits_used"]
    crm.control("config", credits=spent)
    try:
        with pytest.raises(CreditsExhausted, match="credits"):
            client.count("Deals")
        assert client.retries == 0
    finally:
        crm.control("config", credits=5_000_000)


def test_row_30_a_revoked_token_stops_every_call_until_it_is_mended(crm):
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    crm.control("revoke_refresh_token")
    for _ in range(3):
        with pytest.raises(Reauthenticate, match="revoked") as caught:
            client_for(crm, time, state=state).count("Deals")
        assert caught.value.code == "invalid_code"
    assert crm.control("stats")["by_path"] == {"POST /oauth/v2/token": 1}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"client_id": "1000.WRONG"}, "invalid_client", "ZOHO_DC"),
        ({"client_secret": "wrong"}, "invalid_client_secret", "ZOHO_CLIENT_SECRET"),
        ({"refresh_token": "wrong"}, "invalid_code", "ZOHO_REFRESH_TOKEN"),
    ],
)
def test_wrong_credentials_each_have_their_sentence(crm, change, code, words):
    with pytest.raises(Reauthenticate, match=words) as caught:
        client_for(crm, **change).count("Deals")
    assert caught.value.code == code


def test_row_31_without_the_scope_for_queries_lists_still_work(crm):
    scopes = ["ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL", "ZohoCRM.org.READ"]
    everything = [*scopes, "ZohoCRM.users.READ", "ZohoCRM.coql.READ", "ZohoCRM.bulk.READ"]
    crm.control("config", scopes=scopes)
    try:
        client = client_for(crm)
        with pytest.raises(ScopeMissing, match=r"ZohoCRM\.coql\.READ"):
            client.id_range("Deals", FIELDS, after=0, upto=None)
        assert len(listed(client)) == DEALS
    finally:
        crm.control("config", scopes=everything)


@pytest.mark.breaks_rules
def test_row_39_a_foreign_page_token(crm):
    with pytest.raises(PageTokenRejected):
        list(client_for(crm).list_pages("Deals", FIELDS, page_token="0" * 64))


def test_row_40_a_redirect_is_not_followed(crm):
    rule = {"do": "redirect", "location": "http://127.0.0.1:9/", "times": 0, **PATH}
    crm.control("faults", rules=[rule])
    with pytest.raises(GiveUp):
        listed(client_for(crm))


@pytest.mark.breaks_rules
def test_row_42_a_field_that_this_crm_lacks(crm):
    client = client_for(crm)
    with pytest.raises(QueryRefused):
        client.id_range("Deals", ["id", "No_Such_Field"], after=0, upto=None)
    page = next(client.list_pages("Deals", ["Deal_Name", "No_Such_Field"]))
    assert "No_Such_Field" not in page.records[0].value
    with pytest.raises(FixFields):
        client.fields("No_Such_Module")


def test_row_81_a_lost_answer_to_an_insert_is_told_and_one_record_made(crm):
    client = client_for(crm)
    crm.control("faults", rules=[{"do": "reset", "when": "after", "path": "/crm/v8/Leads"}])
    before = len(truth(crm, "Leads"))
    with pytest.raises(UnknownOutcome):
        client.insert("Leads", [{"Last_Name": "Once", "Company": "Only Ltd"}])
    assert len(truth(crm, "Leads")) == before + 1


def test_row_81_a_lost_answer_to_an_update_is_repeated_and_done_once(crm):
    client = client_for(crm)
    crm.control("faults", rules=[{"do": "reset", "when": "after", "method": "PUT", **PATH}])
    deal = sorted(truth(crm), key=int)[3]
    (result,) = client.update("Deals", [{"id": deal, "Next_Step": "sent once"}], trigger=[])
    assert result.ok
    assert client.record("Deals", int(deal)).value["Next_Step"] == "sent once"


# ---------------------------------------------------------------- from settings, across processes


def test_without_settings_there_is_no_client(monkeypatch):
    monkeypatch.setattr(settings, "ZOHO", None)
    with pytest.raises(NotConfigured):
        client_from_settings()


WORK = """
import django; django.setup()
from crm.zoho.factory import client_from_settings
with client_from_settings() as client:
    print(sum(client.id_range("Deals", ["id"], after=0, upto=None).count for _ in range(5)))
"""


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_row_29_processes_share_one_token_through_the_database(crm):
    connection.cursor().close()
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        url = f"sqlite:///{database['NAME']}"
    else:
        url = os.environ["DATABASE_URL"].rpartition("/")[0] + f"/{database['NAME']}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "pipelinepulse.settings",
        "DATABASE_URL": url,
        "ENCRYPTION_KEYS": ",".join(settings.ENCRYPTION_KEYS),
        "ZOHO_BASE_URL": crm.url,
        "ZOHO_ACCOUNTS_URL": crm.url,
        "ZOHO_CLIENT_ID": CLIENT_ID,
        "ZOHO_CLIENT_SECRET": CLIENT_SECRET,
        "ZOHO_REFRESH_TOKEN": REFRESH_TOKEN,
        "RATE_LIMIT_CALLS_PER_MINUTE": "1000",
        "LOG_LEVEL": "DEBUG",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK],
            cwd=Path(ROOT),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out.split()[-1:] for out, _ in outputs] == [[str(5 * DEALS)]] * 3, outputs
    assert crm.control("stats")["by_path"]["POST /oauth/v2/token"] == 1
    for secret in (CLIENT_SECRET, REFRESH_TOKEN):
        assert not any(secret in out + err for out, err in outputs)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, value FROM crm_sharedvalue")
        kept = cursor.fetchall()
    assert any(name.startswith("zoho:token:") for name, _ in kept)
    assert not any("access_token" in value or "api_domain" in value for _, value in kept)


def test_a_client_is_shared_by_threads_and_closed_once(crm):
    with client_for(crm) as client:
        threads = [threading.Thread(target=client.count, args=("Deals",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert client.calls == 6


@pytest.mark.parametrize("seed", range(6))
def test_rows_24_to_37_a_bad_day_with_all_faults_at_random(crm, seed):
    kinds: list[dict[str, Any]] = [
        {"do": "status", "status": 503},
        {"do": "status", "status": 429},
        {"do": "html_200"},
        {"do": "truncate", "at": 700, "consistent": True},
        {"do": "reset", "when": "after"},
        {"do": "reset", "when": "body", "at": 900},
    ]
    rules = [
        {**kind, "times": 0, "probability": 0.06, "seed": seed * 10 + number, **PATH}
        for number, kind in enumerate(kinds)
    ]
    # Not at random: a second refusal right after a fresh token is the end, and must be.
    rules.append({"do": "expire_token", "nth": 3 + seed, **PATH})
    client = client_for(crm, patience={"mint_interval_s": 0, "tries": 30, "total_s": 100_000})
    crm.control("faults", rules=rules)
    pages = client.list_pages("Deals", FIELDS, per_page=20)
    found = [row.value["id"] for page in pages for row in page.records]
    assert len(found) == len(set(found))
    assert set(found) == truth(crm)
    assert client.retries > 0
