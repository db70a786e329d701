"""The frame of every page: who gets in, what it offers to whom, what it says in trouble."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import OperationalError
from django.test import Client, RequestFactory
from django.utils import timezone
from django.views.defaults import server_error

from crm import heartbeat
from crm.models import SyncRun
from crm.tasks import sweep
from crm.zoho.errors import Unreachable
from crm.zoho.factory import client_from_settings
from o2r.tests import mirror_rows as rows
from pipelinepulse.api_errors import server_error as our_server_error

pytestmark = pytest.mark.django_db

PAGES = [
    "/",
    "/?list=recent",
    "/o2r",
    "/opportunities",
    "/reviews",
    "/password",
    "/password/changed",
]
OPEN_PAGES = [
    "/login",
    "/password/reset",
    "/password/reset/sent",
    "/password/reset/done",
    "/offline",
]
HTMX = {"HX-Request": "true"}
START = "/sync/start"


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.ZOHO = rows.ZOHO


def text(response: Any) -> str:
    return response.content.decode()


def plain(response: Any) -> str:
    """Its words, without the markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", text(response)).split())


def toast(response: Any) -> dict[str, str]:
    return json.loads(response.headers["HX-Trigger"])["pulse:toast"]


# --- every page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_pages_ask_for_a_sign_in(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/login?next=")


@pytest.mark.parametrize("path", OPEN_PAGES)
def test_some_pages_are_for_everybody(client: Client, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, *OPEN_PAGES, "/nothing-here"])
def test_no_page_needs_more_than_the_strict_policy_allows(ops_client: Client, path: str) -> None:
    response = ops_client.get(path)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    page = text(response) if response.status_code != 302 else ""
    assert not re.search(r"<script(?![^>]*\ssrc=)[^>]*>", page), "inline script"
    assert not re.search(r"<style|\sstyle=", page), "inline style"
    assert not re.search(r"\son\w+=", page), "inline handler"
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page), "something from elsewhere"


@pytest.mark.parametrize("path", ["/", "/o2r", "/opportunities", "/reviews"])
def test_navigation_marks_the_page_and_names_its_key(ops_client: Client, path: str) -> None:
    page = text(ops_client.get(path))
    assert re.findall(r'<a class="nav-item" href="([^"]+)" data-key="\w" aria-current', page) == [
        path
    ]


def test_only_staff_are_led_to_the_admin(ops_client: Client, rep_client: Client) -> None:
    assert 'href="/admin/"' in text(ops_client.get("/"))
    assert 'href="/admin/"' not in text(rep_client.get("/"))


# --- signing in and out --------------------------------------------------------------------------


def test_signing_in_leads_to_the_page_asked_for(client: Client, rep: Any) -> None:
    sign_in = {"username": "rep", "password": "a password", "next": "/opportunities"}
    assert client.post("/login", sign_in).headers["Location"] == "/opportunities"


def test_signing_in_leads_nowhere_else(client: Client, rep: Any) -> None:
    sign_in = {"username": "rep", "password": "a password", "next": "https://example.org/"}
    assert client.post("/login", sign_in).headers["Location"] == "/"


def test_a_wrong_password_is_said_and_the_name_kept(client: Client, rep: Any) -> None:
    page = text(client.post("/login", {"username": "rep", "password": "wrong"}))
    assert "enter a correct username and password" in page
    assert 'value="rep"' in page


def test_signing_out_is_a_form_and_ends_the_session(rep_client: Client) -> None:
    assert rep_client.get("/logout").status_code == 405
    rep_client.post("/logout")
    assert rep_client.get("/").status_code == 302


def signs_in(client: Client, password: str) -> bool:
    return client.post("/login", {"username": "rep", "password": password}).status_code == 302


def test_a_password_can_be_changed(rep_client: Client, client: Client) -> None:
    new = "correct horse battery"
    form = {"old_password": "a password", "new_password1": new, "new_password2": new}
    assert rep_client.post("/password", form).headers["Location"] == "/password/changed"
    assert signs_in(client, new)


def test_a_forgotten_password_is_set_anew_by_mail(client: Client, rep: Any) -> None:
    client.post("/password/reset", {"email": rep.email})
    [message] = mail.outbox
    [address] = re.findall(r"http://testserver(/password/reset/\S+)", message.body)
    form_page = client.get(address, follow=True)
    new = "correct horse battery"
    client.post(form_page.redirect_chain[-1][0], {"new_password1": new, "new_password2": new})
    assert signs_in(client, new)


def test_a_used_link_says_so(client: Client) -> None:
    assert "no longer works" in text(client.get("/password/reset/MQ/set-password"))


# --- the sync button and its indicator -----------------------------------------------------------


def test_the_button_is_there_for_those_who_may(
    rep_client: Client, client: Client, integrator: Any
) -> None:
    client.force_login(integrator, backend="django.contrib.auth.backends.ModelBackend")
    assert 'data-testid="sync-button"' in text(rep_client.get("/"))
    assert 'data-testid="sync-button"' not in text(client.get("/"))


def test_starting_a_sync_queues_a_delta_of_this_person(rep_client: Client, rep: Any) -> None:
    rows.synced()
    response = rep_client.post(START, headers=HTMX)
    assert toast(response) == {"text": "Sync Started", "kind": "success"}
    assert 'data-testid="sync-indicator"' in text(response)
    run = SyncRun.objects.get(status="queued")
    assert (run.kind, run.trigger, run.requested_by) == ("delta", "user", rep)


def test_without_javascript_the_button_comes_back_to_its_page(rep_client: Client) -> None:
    response = rep_client.post(START, {"next": "/opportunities?stage=proposal"}, follow=True)
    assert response.redirect_chain == [("/opportunities?stage=proposal", 302)]
    assert re.search(r'class="toast is-success"><p>Sync Started', text(response))


def test_the_way_back_leads_nowhere_else(rep_client: Client) -> None:
    response = rep_client.post(START, {"next": "https://example.org/"})
    assert response.headers["Location"] == "/"


def test_a_second_sync_names_the_progress_of_the_first(rep_client: Client) -> None:
    now = timezone.now()
    run = SyncRun.objects.create(
        kind="delta", trigger="schedule", status="running", requested_at=now, started_at=now
    )
    run.parts.create(module="Deals", position=1, state="reading", expected=400)
    SyncRun.objects.filter(pk=run.pk).update(seen=100, unchanged=100)
    response = rep_client.post(START, headers=HTMX)
    assert toast(response)["text"] == "Sync already running: 100 of 400 (25%)"
    assert SyncRun.objects.count() == 1


def test_who_may_not_start_a_sync_is_told_why(client: Client, integrator: Any) -> None:
    client.force_login(integrator, backend="django.contrib.auth.backends.ModelBackend")
    response = client.post(START)
    assert response.status_code == 403
    assert "needs the role sales rep" in text(response)
    assert not SyncRun.objects.exists()


def test_without_a_crm_the_button_says_what_to_set(rep_client: Client, settings: Any) -> None:
    settings.ZOHO = None
    said = toast(rep_client.post(START, headers=HTMX))
    assert said["kind"] == "error"
    assert "ZOHO_CLIENT_ID" in said["text"]


def test_a_sync_is_started_by_a_form_with_its_token_alone(rep: Any) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(rep, backend="django.contrib.auth.backends.ModelBackend")
    assert strict.get(START).status_code == 405
    response = strict.post(START)
    assert response.status_code == 403
    assert "This form is too old" in text(response)
    assert not SyncRun.objects.exists()


def indicator(client: Client, **headers: str) -> Any:
    return client.get("/sync/indicator", headers={**HTMX, **headers})


def known_revision(response: Any) -> str:
    found = re.search(r'"X-Revision": "(\w+)"', text(response))
    assert found
    return found[1]


def test_the_indicator_is_sent_again_when_it_has_news(rep_client: Client) -> None:
    rows.synced()
    first = indicator(rep_client)
    assert 'data-state="connected"' in text(first)
    same = {"X-Revision": known_revision(first)}
    assert indicator(rep_client, **same).status_code == 204
    rows.refused("The CRM is away.")
    assert 'data-state="disconnected"' in text(indicator(rep_client, **same))


def test_the_indicator_asks_often_while_a_sync_runs(rep_client: Client) -> None:
    rows.synced()
    assert 'hx-trigger="every 2s' not in text(indicator(rep_client))
    SyncRun.objects.create(
        kind="delta", trigger="schedule", status="running", requested_at=timezone.now()
    )
    assert 'hx-trigger="every 2s' in text(indicator(rep_client))


def test_the_end_of_a_watched_sync_is_told_with_its_counts(rep_client: Client) -> None:
    run = rows.synced()
    response = indicator(rep_client, **{"X-Run": str(run.pk), "X-Revision": "older"})
    assert toast(response) == {
        "text": "Sync finished: 3 created, 2 updated, 0 deleted",
        "kind": "success",
    }


def test_only_the_sync_that_a_person_asked_for_is_told_of(rep_client: Client) -> None:
    rows.synced()
    watched = text(rep_client.post(START, headers=HTMX))
    run = SyncRun.objects.get(status="queued")
    assert f'"X-Run": "{run.pk}"' in watched
    assert f'"X-Run": "{run.pk}"' in text(indicator(rep_client, **{"X-Run": str(run.pk)}))
    assert '"X-Run": ""' in text(rep_client.get("/"))
    SyncRun.objects.filter(pk=run.pk).update(status="succeeded", ended_at=timezone.now())
    assert "HX-Trigger" not in indicator(rep_client).headers


def test_a_failed_sync_is_told_with_its_reason(rep_client: Client) -> None:
    run = rows.synced()
    SyncRun.objects.filter(pk=run.pk).update(status="failed", message="The token was revoked.")
    response = indicator(rep_client, **{"X-Run": str(run.pk), "X-Revision": "older"})
    assert toast(response)["text"] == "Sync failed: The token was revoked."
    assert "The token was revoked." in text(response), "the toast is not the only record"


# --- workers that are not heard of ---------------------------------------------------------------

DELAYED = "Background work is delayed."


@pytest.mark.parametrize("path", ["/", "/opportunities"])
def test_row_10_delayed_background_work_is_said_above_every_page(
    rep_client: Client, path: str
) -> None:
    rows.synced()
    assert DELAYED not in plain(rep_client.get(path)), "nothing is known of workers yet"
    now = timezone.now()
    heartbeat.beat(now)
    assert DELAYED not in plain(rep_client.get(path))
    heartbeat.beat(now - timedelta(minutes=10))
    page = plain(rep_client.get(path))
    assert DELAYED in page and "what you enter here is kept" in page
    assert "Check that the broker" not in page, "that is for ops"


def test_row_10_an_open_page_learns_of_it_and_of_its_end(
    rep_client: Client, ops_client: Client
) -> None:
    rows.synced()
    first = indicator(rep_client)
    heartbeat.beat(timezone.now() - timedelta(minutes=10))
    told = indicator(rep_client, **{"X-Revision": known_revision(first)})
    assert DELAYED in plain(told)
    assert re.search(r'id="work"[^>]*hx-swap-oob="morph">', text(told))
    assert "Check that the broker (Redis), the worker and beat run." in plain(indicator(ops_client))
    assert rep_client.get("/api/zoho/status").json()["work_delayed_since"]
    assert indicator(rep_client, **{"X-Revision": known_revision(told)}).status_code == 204
    sweep()  # as beat sends it once there is a broker again
    over = indicator(rep_client, **{"X-Revision": known_revision(told)})
    assert DELAYED not in plain(over)
    assert re.search(r'id="work"[^>]* hidden>', text(over))
    assert rep_client.get("/api/zoho/status").json()["work_delayed_since"] is None


def test_a_worker_of_the_future_is_one_of_before_the_clock_was_set_back(
    rep_client: Client,
) -> None:
    rows.synced()
    heartbeat.beat(timezone.now() + timedelta(hours=2))
    assert DELAYED in plain(rep_client.get("/"))


def test_the_age_of_the_data_is_not_taken_for_that_of_an_outage(rep_client: Client) -> None:
    detail = r'class="sync-detail">([^<]*)<time'
    rows.synced(minutes_ago=3)
    assert re.findall(detail, text(indicator(rep_client))) == [""]
    rows.refused("The CRM is away.")
    assert re.findall(detail, text(indicator(rep_client))) == ["data of "]


def test_a_run_without_an_answer_is_not_said_to_be_syncing(rep_client: Client) -> None:
    rows.synced()
    SyncRun.objects.create(
        kind="delta", trigger="schedule", status="running", requested_at=timezone.now()
    )
    first = indicator(rep_client)
    assert "Syncing" in text(first)
    with pytest.raises(Unreachable), closing(client_from_settings(purpose="check")) as crm:
        crm.org()  # nothing listens there
    again = indicator(rep_client, **{"X-Revision": known_revision(first)})
    assert plain(again).startswith("No answer trying again (2)")
    with pytest.raises(Unreachable), closing(client_from_settings(purpose="check")) as crm:
        crm.org()
    again = indicator(rep_client)
    assert plain(again).startswith("No answer trying again (3)")
    assert 'data-state="disconnected"' in text(again)
    assert "The CRM does not answer. It catches up by itself." in plain(again)


def test_an_outage_is_said_once_and_its_cause_to_ops(
    rep_client: Client, ops_client: Client
) -> None:
    cause = "No answer from nimbus.example: refused. Check ZOHO_BASE_URL."
    run = rows.synced()
    rows.refused(cause)
    SyncRun.objects.filter(pk=run.pk).update(status="failed", message=cause)
    assert "ZOHO_BASE_URL" not in text(indicator(rep_client))
    assert text(indicator(ops_client)).count(cause) == 1
    assert plain(indicator(ops_client)).count("by itself") == 1


# --- when things go wrong ------------------------------------------------------------------------


def test_an_unknown_address_says_so_and_leads_on(rep_client: Client) -> None:
    response = rep_client.get("/nothing-here")
    assert response.status_code == 404
    assert "There is nothing here" in text(response)
    assert 'href="/"' in text(response)


def test_an_error_page_needs_no_database(
    rf: RequestFactory, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        response = server_error(rf.get("/"))
    assert response.status_code == 500
    assert "Something broke on our side" in text(response)


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        ("connection refused", "The database cannot be reached. Ask again later."),
        ("database is locked", "The database is busy. Ask again in a few seconds."),
    ],
)
def test_rows_13_15_a_page_without_its_database_says_so(
    rf: RequestFactory, django_assert_num_queries: Any, cause: str, says: str
) -> None:
    with django_assert_num_queries(0):
        try:
            raise OperationalError(cause)
        except OperationalError:
            response = our_server_error(rf.get("/"))
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert says in text(response)
    assert "Something broke" not in text(response)


def test_who_may_not_see_the_dashboard_is_not_led_there_again(
    client: Client, django_user_model: Any
) -> None:
    client.force_login(
        django_user_model.objects.create_user("new"),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    assert "Go to the dashboard" not in text(client.get("/"))
    assert "Sign in as somebody else" in text(client.get("/"))


def test_every_page_finds_the_icon_of_the_product(client: Client) -> None:
    assert client.get("/favicon.ico").headers["Location"] == "/static/img/pulse.svg"


def test_the_service_worker_keeps_the_offline_page(client: Client) -> None:
    response = client.get("/sw.js")
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert '"/offline"' in text(response)
