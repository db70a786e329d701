"""Bulk read jobs: states, files, criteria, pages, refusals."""

import csv
import io
import time
import zipfile

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox, start_sandbox

PATH = "/crm/bulk/v8/read"


@pytest.fixture(scope="module")
def crm(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("bulk"), deals=2_500) as running:
        running.control("config", bulk_job_s=0)
        yield Crm(running)


def start(crm, **query):
    query.setdefault("module", {"api_name": "Deals"})
    answer = crm.call("POST", PATH, json={"query": query})
    assert answer.status_code == 201, answer.text
    item = answer.json()["data"][0]
    assert (item["code"], item["details"]["state"]) == ("ADDED_SUCCESSFULLY", "ADDED")
    return item["details"]["id"]


def wait(crm, job):
    deadline = time.monotonic() + 20
    states = []
    while time.monotonic() < deadline:
        description = crm.call("GET", f"{PATH}/{job}").json()["data"][0]
        states.append(description["state"])
        if description["state"] in ("COMPLETED", "FAILURE"):
            return description, states
        time.sleep(0.02)
    raise AssertionError(states)


def read(crm, job):
    crm.sandbox.control("config", clock_offset_s=crm.later)
    crm.later += 61  # downloads are limited to ten a minute
    crm.sign_in()
    answer = crm.call("GET", f"{PATH}/{job}/result")
    assert answer.headers["Content-Type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == [f"{job}.csv"]
    text = archive.read(f"{job}.csv").decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(autouse=True)
def _clock(crm):
    crm.later = getattr(crm, "later", 0)


def test_file_holds_every_record_as_the_api_shows_it(crm):
    job = start(crm)
    description, _ = wait(crm, job)
    rows = read(crm, job)
    records = crm.sandbox.control("dump", module="Deals")["records"]
    assert description["result"]["count"] == len(rows) == len(records)
    assert description["result"]["more_records"] is False
    for row, record in zip(rows, records, strict=True):
        assert row["Id"] == record["id"]
        assert row["Deal_Name"] == record["Deal_Name"]
        assert row["Description"] == (record["Description"] or "")
        assert row["Amount"] == ("" if record["Amount"] is None else str(record["Amount"]))
        assert row["AWS_Funded"] == str(record["AWS_Funded"]).lower()
        assert row["Account_Name"] == (record["Account_Name"] or {"id": ""})["id"]
        assert row["Owner"] == record["Owner"]["id"]


def test_fields_may_be_dotted(crm):
    job = start(crm, fields=["Deal_Name", "Account_Name.Account_Name", "Owner.email"])
    wait(crm, job)
    row = read(crm, job)[0]
    assert list(row) == ["Id", "Deal_Name", "Account_Name.Account_Name", "Owner.email"]
    assert row["Owner.email"].endswith("@example.com")


def test_criteria_choose_records(crm):
    def condition(name, comparator, value):
        return {"field": {"api_name": name}, "comparator": comparator, "value": value}

    job = start(crm, fields=["Stage", "Amount"], criteria={
        "group_operator": "and",
        "group": [condition("Stage", "in", ["Closed Won", "Closed Lost"]),
                  condition("Amount", "greater_than", 50_000),
                  condition("Account_Name", "not_equal", "${EMPTY}")],
    })  # fmt: skip
    wait(crm, job)
    records = crm.sandbox.control("dump", module="Deals")["records"]
    expected = {
        r["id"] for r in records
        if r["Stage"] in ("Closed Won", "Closed Lost") and (r["Amount"] or 0) > 50_000
        and r["Account_Name"]
    }  # fmt: skip
    assert {row["Id"] for row in read(crm, job)} == expected


def test_states_follow_each_other_while_a_job_takes_its_time(crm):
    crm.sandbox.control("config", bulk_job_s=0.5)
    try:
        job = start(crm)
        early = crm.call("GET", f"{PATH}/{job}/result")
        assert (early.status_code, early.json()["code"]) == (404, "RESOURCE_NOT_FOUND")
        _, states = wait(crm, job)
    finally:
        crm.sandbox.control("config", bulk_job_s=0)
    order = list(dict.fromkeys(states))
    assert order == [s for s in ("ADDED", "QUEUED", "IN PROGRESS", "COMPLETED") if s in order]
    assert len(order) > 1


def test_second_page_of_a_small_module_is_empty(crm):
    job = start(crm, page=2)
    description, _ = wait(crm, job)
    assert description["result"]["count"] == 0


def test_files_are_kept_for_a_day(tmp_path):
    with running_sandbox(tmp_path, deals=3) as sandbox:
        crm = Crm(sandbox)
        job = start(crm)
        wait(crm, job)
        sandbox.control("config", clock_offset_s=86_500)
        crm.sign_in()
        assert crm.call("GET", f"{PATH}/{job}/result").json()["code"] == "RESOURCE_NOT_FOUND"


def test_eleventh_download_of_a_minute_is_refused(tmp_path):
    with running_sandbox(tmp_path, deals=3) as sandbox:
        crm = Crm(sandbox)
        job = start(crm)
        wait(crm, job)
        statuses = [crm.call("GET", f"{PATH}/{job}/result").status_code for _ in range(11)]
        assert statuses == [200] * 10 + [429]


def test_interrupted_job_is_finished_after_a_restart(tmp_path):
    first = start_sandbox(tmp_path, deals=3)
    crm = Crm(first)
    first.control("config", bulk_job_s=60)
    job = start(crm)
    first.kill()
    with running_sandbox(tmp_path, deals=3, port=first.port):
        assert wait(crm, job)[0]["result"]["count"] == 3


def test_a_job_costs_fifty_credits(crm):
    before = crm.sandbox.control("stats")["credits_used"]
    start(crm)
    assert crm.sandbox.control("stats")["credits_used"] - before == 50


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"module": {"api_name": "Nope"}}, "INVALID_MODULE"),
        ({"fields": ["Nope"]}, "INVALID_QUERY"),
        ({"page": 0}, "INVALID_DATA"),
        ({"page": 501}, "PAGE_RANGE_EXCEEDED"),
        ({"page_token": "x"}, "INVALID_DATA"),
        ({"criteria": {"field": {"api_name": "Stage"}, "comparator": "near", "value": 1}},
         "INVALID_DATA"),
        ({"criteria": {"field": {"api_name": "Stage"}, "comparator": "less_than", "value": "a"}},
         "FIELD_AND_COMPARATOR_IN_CRITERIA_NOT_COMPATIBLE"),
        ({"criteria": {"group_operator": "or", "group": [{"field": {"api_name": "Stage"},
          "comparator": "equal", "value": "a"}] * 26}}, "CRITERIA_LIMIT_EXCEEDED"),
    ],
)  # fmt: skip
def test_queries_that_cannot_run_are_refused(crm, query, code):
    answer = crm.call("POST", PATH, json={"query": {"module": {"api_name": "Deals"}, **query}})
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_body_must_be_declared_as_json(crm):
    answer = crm.call("POST", PATH, data=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "MEDIA_TYPE_NOT_SUPPORTED")
