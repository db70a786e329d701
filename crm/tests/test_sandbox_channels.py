"""Notification channels: registering by the rules, and calls that really arrive."""

import datetime as dt
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

WATCH = "/crm/v8/actions/watch"


@pytest.fixture
def crm(tmp_path):
    with running_sandbox(tmp_path, deals=30) as running:
        yield Crm(running)


@pytest.fixture
def receiver():
    """A listener on loopback; `calls` are the bodies that came."""
    calls = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.calls = calls
    server.url = f"http://127.0.0.1:{server.server_port}/hook?from=crm"
    yield server
    server.shutdown()
    server.server_close()


def wish(url="https://example.com/hook", **more):
    return {"channel_id": "1001", "events": ["Deals.all"], "notify_url": url, "token": "secret-1",
            **more}  # fmt: skip


def register(crm, *wishes, method="POST"):
    return crm.call(method, WATCH, json={"watch": list(wishes)})


def wait_for(calls, count):
    deadline = time.monotonic() + 5
    while len(calls) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    return calls


def hours_ahead(crm, hours):
    now = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    return now.replace(microsecond=0).isoformat()


def expiry(crm):
    found = dt.datetime.fromisoformat(crm.get("actions/watch").json()["watch"][0]["channel_expiry"])
    return (found - dt.datetime.now(dt.UTC)).total_seconds() / 3600


# -- registering ---------------------------------------------------------------------------------


def test_registering_answers_201_and_lists_the_channel(crm):
    answer = register(crm, wish(channel_expiry=hours_ahead(crm, 24)))
    event = answer.json()["watch"][0]["details"]["events"][0]
    assert answer.status_code == 201
    assert (event["resource_name"], event["channel_id"]) == ("Deals", "1001")
    listed = crm.get("actions/watch", channel_id="1001").json()["watch"][0]
    assert (listed["events"], listed["token"]) == (["Deals.all"], "secret-1")
    assert 23.9 < expiry(crm) <= 24


@pytest.mark.parametrize("hours", [None, 8 * 24])
def test_absent_or_too_long_expiry_becomes_one_hour_silently(crm, hours):
    more = {} if hours is None else {"channel_expiry": hours_ahead(crm, hours)}
    assert register(crm, wish(**more)).status_code == 201
    assert 0.9 < expiry(crm) <= 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"channel_expiry": "2099-01-01T00:00:00.123+08:00"}, "INVALID_DATA"),
        ({"notify_url": "http://example.com/hook"}, "INVALID_DATA"),
        ({"notify_url": "https://example.com/" + "x" * 250}, "INVALID_DATA"),
        ({"token": "x" * 51}, "INVALID_DATA"),
        ({"events": ["Nope.all"]}, "INVALID_DATA"),
        ({"events": ["Deals.sneeze"]}, "INVALID_DATA"),
        ({"events": []}, "MANDATORY_NOT_FOUND"),
        ({"channel_id": None}, "INVALID_DATA"),
    ],
)
def test_channels_that_break_a_rule_are_refused(crm, change, code):
    answer = register(crm, wish(**change))
    assert (answer.status_code, answer.json()["watch"][0]["code"]) == (400, code)
    assert crm.get("actions/watch").status_code == 204


def test_extending_works_until_the_channel_has_expired(crm):
    register(crm, wish())
    longer = wish(channel_expiry=hours_ahead(crm, 48))
    assert register(crm, longer, method="PUT").status_code == 200
    assert 47.9 < expiry(crm) <= 48
    crm.sandbox.control("config", clock_offset_s=49 * 3600)
    crm.sign_in()
    gone = register(crm, longer, method="PUT")
    assert (gone.status_code, gone.json()["watch"][0]["code"]) == (400, "NOT_SUBSCRIBED")
    assert crm.get("actions/watch").status_code == 204


def test_events_can_be_taken_away_and_channels_removed(crm):
    register(crm, wish(events=["Deals.all", "Leads.edit"]))
    register(crm, {"channel_id": "1001", "events": ["Leads.edit"], "_delete_events": True},
             method="PATCH")  # fmt: skip
    assert crm.get("actions/watch").json()["watch"][0]["events"] == ["Deals.all"]
    removed = crm.call("DELETE", WATCH, params={"channel_ids": "1001,9"})
    assert [r["status"] for r in removed.json()["watch"]] == ["success", "error"]
    assert removed.status_code == 207
    assert crm.get("actions/watch").status_code == 204


# -- calling back --------------------------------------------------------------------------------


def test_edit_insert_and_delete_call_back_with_ids_token_and_query(crm, receiver):
    register(crm, wish(receiver.url, return_affected_field_values=True))
    target = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    crm.sandbox.control("edit", module="Deals", id=target, values={"Next_Step": "Call"})
    edit = wait_for(receiver.calls, 1)[0]
    assert (edit["operation"], edit["ids"], edit["module"]) == ("update", [target], "Deals")
    assert (edit["token"], edit["channel_id"]) == ("secret-1", "1001")
    assert edit["query_params"] == {"from": "crm"}
    assert edit["resource_uri"] == f"{crm.sandbox.url}/crm/v8/Deals"
    assert set(edit["affected_fields"][0][target]) == {"Next_Step", "Modified_Time", "Modified_By"}
    assert edit["affected_values"][0]["values"]["Next_Step"] == "Call"
    assert isinstance(edit["server_time"], int)
    assert edit["server_time"] > 10**12
    crm.sandbox.control("delete", module="Deals", ids=[target])
    delete = wait_for(receiver.calls, 2)[1]
    assert (delete["operation"], delete["ids"], delete["affected_fields"]) == (
        "delete", [target], [],
    )  # fmt: skip


def test_several_records_of_one_write_come_in_one_call(crm, receiver):
    register(crm, wish(receiver.url))
    ids = [r["id"] for r in crm.get("Deals", fields="Stage", per_page=5).json()["data"]]
    crm.write("PUT", "Deals", [{"id": i, "Amount": 1} for i in ids])
    assert [call["ids"] for call in wait_for(receiver.calls, 1)] == [ids]


def test_only_named_events_and_fields_call_back(crm, receiver):
    condition = [{"type": "field_selection", "module": {"api_name": "Deals"}, "field_selection": {
        "group_operator": "or", "group": [{"field": {"api_name": "Stage"}}]}}]  # fmt: skip
    register(crm, wish(receiver.url, events=["Deals.edit"], notification_condition=condition))
    target = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    crm.sandbox.control("edit", module="Deals", id=target, values={"Next_Step": "Call"})
    crm.write("POST", "Accounts", [{"Account_Name": "Other"}])
    crm.sandbox.control("edit", module="Deals", id=target, values={"Stage": "Closed Won"})
    crm.sandbox.control("delete", module="Deals", ids=[target])
    calls = wait_for(receiver.calls, 1)
    assert [call["operation"] for call in calls] == ["update"]
    assert "Stage" in calls[0]["affected_fields"][0][target]


def test_vanished_records_make_no_call(crm, receiver):
    register(crm, wish(receiver.url))
    target = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    crm.sandbox.control("vanish", module="Deals", ids=[target])
    assert wait_for(receiver.calls, 0) == []


@pytest.mark.parametrize(("option", "expected"), [("notice_lose", 0), ("notice_repeat", 2)])
def test_calls_can_get_lost_or_be_repeated(crm, receiver, option, expected):
    crm.sandbox.control("config", **{option: 1})
    register(crm, wish(receiver.url))
    target = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    crm.sandbox.control("edit", module="Deals", id=target, values={"Next_Step": "Call"})
    assert len(wait_for(receiver.calls, expected)) == expected


def test_a_dead_receiver_holds_up_nobody(crm, receiver):
    register(crm, wish("http://127.0.0.1:9/closed"), wish(receiver.url, channel_id="1002"))
    target = crm.get("Deals", fields="Stage", per_page=1).json()["data"][0]["id"]
    crm.sandbox.control("edit", module="Deals", id=target, values={"Next_Step": "Call"})
    assert len(wait_for(receiver.calls, 1)) == 1
    assert crm.get("org").status_code == 200


def fields_condition(count):
    group = [{"field": {"api_name": f"F{n}", "id": str(n)}} for n in range(count)]
    selection = {"group_operator": "or", "group": group}
    return {"type": "field_selection", "field_selection": selection}


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ([fields_condition(10)] * 2, 201),
        ([fields_condition(11)], 400),
        ([fields_condition(1)] * 3, 400),
        ("Stage", 400),
    ],
)
def test_conditions_are_at_most_two_of_ten_fields(crm, condition, status):
    body = {"watch": [wish(notification_condition=condition)]}
    assert crm.call("POST", "/crm/v8/actions/watch", json=body).status_code == status


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://203.0.113.9.example.com/x", 201),
        ("https://10.0.0.1/x", 400),
        ("https://intranet/x", 400),
        ("http://example.com/x", 400),
        ("http://127.0.0.1:9/x", 201),
    ],
)
def test_addresses_are_public_https_or_on_this_machine(crm, url, status):
    answer = crm.call("POST", "/crm/v8/actions/watch", json={"watch": [wish(url)]})
    assert answer.status_code == status
