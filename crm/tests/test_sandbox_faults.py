"""Bad days on request: what actually goes over the wire."""

import http.client
import json
import time

import pytest
import requests

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

PATH = "/crm/v8/org"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("faults"), deals=300) as sandbox:
        yield Crm(sandbox)


@pytest.fixture
def crm(running):
    yield running
    running.sandbox.control("clear_faults")


def spoil(crm, **rule):
    crm.sandbox.control("faults", rules=[{"path": PATH, **rule}])


def test_status_with_body_is_sent_instead_of_the_call(crm):
    spoil(crm, do="status", status=429, headers={"Retry-After": "7"},
          body={"code": "TOO_MANY_REQUESTS"})  # fmt: skip
    answer = crm.get("org")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.json()["code"] == "TOO_MANY_REQUESTS"
    assert crm.get("org").status_code == 200


def test_rules_choose_by_count_method_and_body(crm):
    spoil(crm, do="status", status=503, nth=3, times=2)
    assert [crm.get("org").status_code for _ in range(6)] == [200, 200, 503, 503, 200, 200]
    crm.sandbox.control("faults", rules=[
        {"do": "status", "status": 500, "method": "POST", "body_contains": "Amount", "times": 0}
    ])  # fmt: skip
    assert crm.coql("select Stage from Deals where id is not null").status_code == 200
    assert crm.coql("select Amount from Deals where id is not null").status_code == 500


def test_chance_is_the_same_for_the_same_seed(crm):
    runs = []
    for _ in range(2):
        crm.sandbox.control("clear_faults")
        spoil(crm, do="status", status=500, times=0, probability=0.5, seed=3)
        runs.append([crm.get("org").status_code for _ in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}


def test_html_with_200(crm):
    spoil(crm, do="html_200")
    answer = crm.get("org")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html")
    assert answer.text.startswith("<!DOCTYPE html>")


def test_redirect_names_another_host(crm):
    spoil(crm, do="redirect", location="http://198.51.100.1/")
    answer = crm.call("GET", PATH, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://198.51.100.1/")


@pytest.mark.parametrize("at", [0, 1, 100])
def test_truncated_body_ends_before_its_announced_length(crm, at):
    spoil(crm, do="truncate", at=at)
    connection = http.client.HTTPConnection("127.0.0.1", crm.sandbox.port, timeout=5)
    connection.request("GET", PATH, headers=dict(crm.http.headers))
    with pytest.raises(http.client.IncompleteRead) as cut:
        connection.getresponse().read()
    assert len(cut.value.partial) == at


def test_consistently_truncated_body_is_no_json(crm):
    spoil(crm, do="truncate", at=50, consistent=True)
    answer = crm.get("org")
    assert len(answer.content) == 50
    with pytest.raises(ValueError, match="line 1"):
        answer.json()


@pytest.mark.parametrize("when", ["before", "body", "after"])
def test_reset_breaks_the_connection(crm, when):
    spoil(crm, do="reset", when=when)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        crm.get("org")
    assert crm.get("org").status_code == 200


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_reset_tells_whether_the_write_happened(crm, when, made):
    before = crm.get("Accounts/actions/count").json()["count"]
    crm.sandbox.control("faults", rules=[{"do": "reset", "when": when, "method": "POST"}])
    with pytest.raises(requests.ConnectionError):
        crm.write("POST", "Accounts", [{"Account_Name": "Once"}])
    assert crm.get("Accounts/actions/count").json()["count"] == before + made


def test_black_hole_never_answers(crm):
    spoil(crm, do="black_hole", seconds=5)
    with pytest.raises(requests.ReadTimeout):
        crm.call("GET", PATH, timeout=0.3)


def test_delay_waits_then_answers(crm):
    spoil(crm, do="delay", ms=200)
    start = time.monotonic()
    assert crm.get("org").status_code == 200
    assert time.monotonic() - start >= 0.2


def test_drip_is_slow_but_whole(crm):
    spoil(crm, do="drip", bytes=200, ms=20)
    start = time.monotonic()
    assert crm.get("org").json()["org"]
    assert time.monotonic() - start >= 0.04


def test_token_expires_in_mid_paging(crm):
    crm.sandbox.control("faults", rules=[{"do": "expire_token", "path": "/crm/v8/Deals", "nth": 2}])
    first = crm.get("Deals", fields="Stage").json()
    params = {"fields": "Stage", "page_token": first["info"]["next_page_token"]}
    refused = crm.get("Deals", **params)
    assert (refused.status_code, refused.json()["code"]) == (401, "INVALID_TOKEN")
    crm.sign_in()
    assert crm.get("Deals", **params).status_code == 200


def test_wrong_content_type_keeps_the_body(crm):
    spoil(crm, do="content_type", value="text/plain")
    answer = crm.get("org")
    assert answer.headers["Content-Type"] == "text/plain"
    assert json.loads(answer.text)["org"]


def test_huge_body_has_the_announced_size(crm):
    spoil(crm, do="huge", bytes=3_000_000)
    assert len(crm.get("org").content) > 3_000_000


def test_records_can_be_rewritten_on_the_way(crm):
    rule = {"do": "rewrite", "path": "/crm/v8/Deals", "index": 1}
    crm.sandbox.control("faults", rules=[{**rule, "with": "not an object"}])
    assert crm.get("Deals", fields="Stage").json()["data"][1] == "not an object"
    crm.sandbox.control("faults", rules=[{**rule, "drop": ["id"]}])
    assert set(crm.get("Deals", fields="Stage").json()["data"][1]) == {"Stage"}


def test_more_records_for_ever_repeats_the_same_token(crm):
    crm.sandbox.control("faults", rules=[
        {"do": "more_for_ever", "path": "/crm/v8/Deals", "times": 0}
    ])  # fmt: skip
    info = crm.get("Deals", fields="Stage", sort_by="id").json()["info"]
    assert (info["more_records"], info["next_page_token"]) == (True, "again")


@pytest.mark.parametrize("do", ["rewrite", "double", "many", "empty_page", "more_for_ever", "top"])
def test_answers_without_records_are_left_alone(crm, do):
    """204, errors and files: there is nothing to spoil in them."""
    crm.sandbox.control("faults", rules=[{"do": do, "path": "/crm/v8/", "times": 0}])
    assert crm.get("Deals/1").status_code == 204
    refused = crm.get("Deals")
    assert (refused.status_code, refused.json()["code"]) == (400, "REQUIRED_PARAM_MISSING")
    assert crm.get("org").json()["org"]


def test_a_record_may_come_twice_too_many_or_not_at_all(crm):
    path = {"path": "/crm/v8/Deals"}
    crm.sandbox.control("faults", rules=[{"do": "double", **path}])
    ids = [r["id"] for r in crm.get("Deals", fields="Stage", per_page=5).json()["data"]]
    assert (len(ids), ids[0]) == (6, ids[-1])
    crm.sandbox.control("faults", rules=[{"do": "many", "to": 1_003, **path}])
    assert len(crm.get("Deals", fields="Stage").json()["data"]) == 1_003
    crm.sandbox.control("faults", rules=[{"do": "empty_page", **path}])
    content = crm.get("Deals", fields="Stage").json()
    assert (content["data"], content["info"]["more_records"]) == ([], True)


def test_a_key_may_come_twice_and_a_body_may_be_deep(crm):
    path = {"path": "/crm/v8/Deals"}
    crm.sandbox.control("faults", rules=[{"do": "rewrite", "twice": "Stage", **path}])
    assert crm.get("Deals", fields="Stage", per_page=1).text.count('"Stage"') == 2
    crm.sandbox.control("faults", rules=[{"do": "deep", "levels": 5_000, **path}])
    assert crm.get("Deals", fields="Stage").content.count(b"[") == 5_000


def test_rules_choose_by_a_query_parameter(crm):
    rule = {"do": "status", "status": 400, "path": "/crm/v8/Deals", "param": "page_token"}
    crm.sandbox.control("faults", rules=[rule])
    first = crm.get("Deals", fields="Stage")
    assert first.status_code == 200
    token = first.json()["info"]["next_page_token"]
    assert crm.get("Deals", fields="Stage", page_token=token).status_code == 400
