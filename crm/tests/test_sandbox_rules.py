"""Every broken rule is counted, and what is bad luck is not."""

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

SOON = "2100-01-01T00:00:00+08:00"
WATCH = {"channel_id": "1", "events": ["Deals.all"], "notify_url": "https://example.com/x"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("rules"), deals=20) as sandbox:
        yield Crm(sandbox)


@pytest.fixture
def crm(running):
    running.sandbox.control("reset_stats")
    return running


def broken(crm):
    return crm.sandbox.control("stats")["rule_breaks"]


BREAKS = {
    "GET /crm/v8/Deals: REQUIRED_PARAM_MISSING (fields)": lambda c: c.get("Deals"),
    "GET /crm/v8/Deals: INVALID_DATA (per_page)": lambda c: c.get(
        "Deals", fields="Stage", per_page=201
    ),
    "GET /crm/v8/Deals: INVALID_DATA (ids)": lambda c: c.get(
        "Deals", fields="Stage", ids=",".join(["5725767010000000000"] * 60)
    ),
    "GET /crm/v8/Deals: IGNORED (query parameter limit)": lambda c: c.get(
        "Deals", fields="Stage", limit=5
    ),
    "GET /crm/v8/Deals/deleted: IGNORED (query parameter page_token)": lambda c: c.get(
        "Deals/deleted", page_token="x"
    ),
    "POST /crm/v8/Leads: IGNORED (unknown field Nickname)": lambda c: c.write(
        "POST", "Leads", [{"Last_Name": "A", "Company": "B", "Nickname": "C"}]
    ),
    "POST /crm/v8/Leads: IGNORED (read-only field Full_Name)": lambda c: c.write(
        "POST", "Leads", [{"Last_Name": "A", "Company": "B", "Full_Name": "C"}]
    ),
    "PUT /crm/v8/Leads/{id}: IGNORED (records beyond the first)": lambda c: c.write(
        "PUT", f"Leads/{4150868000000000001}", [{"Company": "B"}, {"Company": "C"}]
    ),
    "PUT /crm/v8/Deals: INVALID_DATA (trigger)": lambda c: c.write(
        "PUT", "Deals", [{"id": "1"}], trigger=["everything"]
    ),
    "POST /crm/v8/actions/watch: IGNORED (channel_expiry beyond a week)": lambda c: c.call(
        "POST", "/crm/v8/actions/watch", json={"watch": [{**WATCH, "channel_expiry": SOON}]}
    ),
    "POST /crm/v8/coql: SYNTAX_ERROR (missing clause)": lambda c: c.coql("select id from Deals"),
    "GET /crm/v8/org: AUTHENTICATION_FAILURE (Authentication failed)": lambda c: c.get(
        "org", headers={"Authorization": "Bearer x"}
    ),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_counted_once_under_its_name(crm, rule):
    BREAKS[rule](crm)
    assert broken(crm) == {rule: 1}


def test_counts_since_the_start_outlive_a_reset(crm):
    before = crm.sandbox.control("stats")["rule_breaks_ever"]
    crm.get("Deals")
    crm.sandbox.control("reset_stats")
    stats = crm.sandbox.control("stats")
    rule = "GET /crm/v8/Deals: REQUIRED_PARAM_MISSING (fields)"
    assert stats["rule_breaks"] == {}
    assert stats["rule_breaks_ever"] == {**before, rule: before.get(rule, 0) + 1}


def test_bad_luck_breaks_no_rule(crm):
    crm.get("Deals/1")
    crm.write("PUT", "Deals", [{"id": "1", "Stage": "x"}, {"Stage": "Closed Won"}])
    crm.write("POST", "Leads", [{"Last_Name": "A", "Company": "B", "Email": "no mail"}])
    crm.get("Deals", fields="Stage", headers={"If-Modified-Since": SOON})
    crm.sandbox.control("expire_tokens")
    assert crm.get("org").status_code == 401
    crm.sign_in()
    assert broken(crm) == {}
