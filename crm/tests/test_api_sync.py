"""GET /api/zoho/status, POST /api/zoho/sync and the history of runs."""

import json
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from crm import shared_state
from crm.models import CrmConnection, MirrorState, SyncRun, SyncRunModule
from crm.models import runs as ledger
from crm.tests.rows import SyncRunFactory, mirrored

pytestmark = pytest.mark.django_db
STATUS_KEYS = {
    "is_connected",
    "last_sync",
    "last_attempt",
    "sync_in_progress",
    "progress",
    "next_sync_in",
    "error_count",
    "write_back",
    "freshness_seconds",
    "api_version",
}
HOST = "127.0.0.1:9"


@pytest.fixture
def crm(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CRM is configured and was read a minute ago; queued runs wait, nobody works them off."""
    settings.ZOHO = SimpleNamespace(
        base_url=f"http://{HOST}",
        accounts_url=f"http://{HOST}",
        api_version="v8",
        client_id="id",
        client_secret="secret",
        refresh_token="refresh",
        rate_limit_per_minute=100,
        concurrency=2,
        patience={},
    )
    now = timezone.now()
    mirrored(now - timedelta(seconds=60))
    CrmConnection.objects.update_or_create(
        pk=1, defaults={"org_name": "Acme", "last_success_at": now, "last_attempt_at": now}
    )


def start(client, body: object):
    return client.post("/api/zoho/sync", json.dumps(body), content_type="application/json")


# -- status -------------------------------------------------------------------------------------


def test_status_of_a_connected_crm(rep_client, crm) -> None:
    body = rep_client.get("/api/zoho/status").json()
    assert body.keys() >= STATUS_KEYS
    assert body["is_connected"] is True
    assert body["sync_in_progress"] is False and body["progress"] is None
    assert 60 <= body["freshness_seconds"] <= 65
    assert 0 <= body["next_sync_in"] <= 900
    assert body["api_version"] == "v8"
    assert body["last_sync"].endswith("Z")


def test_status_without_a_crm_says_so(rep_client) -> None:
    body = rep_client.get("/api/zoho/status").json()
    assert (body["is_connected"], body["state"]) == (False, "not_configured")
    assert body["freshness_seconds"] is None and body["next_sync_in"] is None


def test_status_tells_how_far_a_run_is(rep_client, crm) -> None:
    run = SyncRunFactory(
        kind="full",
        status=ledger.RUNNING,
        started_at=timezone.now() - timedelta(seconds=10),
        ended_at=None,
        seen=200,
        created=200,
    )
    SyncRunModule.objects.create(
        run=run, module="Deals", position=0, state="reading", expected=1000, seen=200, created=200
    )
    body = rep_client.get("/api/zoho/status").json()
    progress = body["progress"]
    assert body["sync_in_progress"] is True
    assert (progress["done"], progress["expected"]) == (200, 1000)
    assert 15 <= progress["rate"] <= 21
    assert 35 <= progress["eta_seconds"] <= 50
    assert progress["run_id"] == str(run.pk)


def test_status_counts_what_the_last_run_could_not_do(rep_client, crm) -> None:
    SyncRunFactory(status=ledger.PARTIAL, seen=3, created=1, failed=2)
    assert rep_client.get("/api/zoho/status").json()["error_count"] == 2


def test_crm_that_failed_is_not_connected(rep_client, crm) -> None:
    CrmConnection.objects.update(error_code="unreachable", error_message="The CRM is down.")
    body = rep_client.get("/api/zoho/status").json()
    assert (body["is_connected"], body["message"]) == (False, "The CRM is down.")


def test_status_costs_the_same_however_many_runs(rep_client, crm) -> None:
    counts = []
    for more in (0, 1, 49):
        SyncRunFactory.create_batch(more)
        with CaptureQueriesContext(connection) as captured:
            assert rep_client.get("/api/zoho/status").status_code == 200
        counts.append(len(captured))
    # the first one also notes that the session is in use
    assert counts[1] == counts[2] <= 10


# -- start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mime", ["", "application/json", "application/x-www-form-urlencoded"])
def test_without_a_body_it_is_a_delta(rep_client, rep, crm, mime: str) -> None:
    response = rep_client.generic("POST", "/api/zoho/sync", content_type=mime)
    run = SyncRun.objects.get()
    assert response.status_code == 202
    assert response.json() == {"run": {"id": str(run.pk), "kind": "delta", "status": "queued"}}
    assert (run.trigger, run.requested_by) == ("api", rep)


def test_delta_of_a_mirror_that_is_empty_is_a_full_sync(rep_client, crm) -> None:
    MirrorState.objects.all().delete()
    assert start(rep_client, {"mode": "delta"}).json()["run"]["kind"] == "full"


def test_row_6_second_sync_names_the_run_under_way(rep_client, crm) -> None:
    first = start(rep_client, {"mode": "delta"}).json()["run"]
    response = start(rep_client, {"mode": "delta"})
    body = response.json()
    assert (response.status_code, body["code"]) == (409, "sync_under_way")
    assert body["message"]
    assert body["run"].keys() == {"id", "kind", "started_at"}
    assert (body["run"]["id"], body["run"]["kind"]) == (first["id"], "delta")
    assert SyncRun.objects.count() == 1


def test_ops_start_a_full_sync(ops_client, crm) -> None:
    assert start(ops_client, {"mode": "full"}).json()["run"]["kind"] == "full"


@pytest.mark.parametrize("who", ["rep_client", "manager_client", "integrator_client"])
def test_full_sync_of_others_is_refused_with_why(request, crm, who: str) -> None:
    response = start(request.getfixturevalue(who), {"mode": "full"})
    assert response.status_code == 403
    assert "ops" in response.json()["message"]
    assert not SyncRun.objects.exists()


def test_integrator_starts_no_delta(integrator_client, crm) -> None:
    assert start(integrator_client, {"mode": "delta"}).status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "half"}, "mode"),
        ({"mode": None}, "mode"),
        ({"mode": ["full"]}, "mode"),
        ({"mode": "delta", "module": "Deals"}, "module"),
        ([], "body"),
        ("full", "body"),
        (None, "body"),
    ],
)
def test_unknown_mode_is_named(rep_client, crm, body: object, field: str) -> None:
    response = start(rep_client, body)
    assert response.status_code == 422
    assert list(response.json()["errors"]) == [field]
    assert not SyncRun.objects.exists()


def test_crm_known_to_be_down_is_said_with_the_time_to_wait(rep_client, crm) -> None:
    weather = {"failures": 5, "failed_at": 1.0, "open_until": time.time() + 40, "probe_until": 0.0}
    shared_state.durable().put(f"zoho:breaker:{HOST}", json.dumps(weather), 300)
    response = start(rep_client, {})
    assert (response.status_code, response.json()["code"]) == (503, "crm_unreachable")
    assert 30 <= int(response.headers["Retry-After"]) <= 41
    assert not SyncRun.objects.exists()


def test_without_a_crm_nothing_can_be_started(rep_client) -> None:
    response = start(rep_client, {})
    assert (response.status_code, response.json()["code"]) == (503, "not_configured")


def test_cookie_without_csrf_token_starts_nothing(rep, crm) -> None:
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(rep, backend="django.contrib.auth.backends.ModelBackend")
    response = start(client, {})
    assert response.status_code == 403
    assert "CSRF" in response.json()["message"]
    assert not SyncRun.objects.exists()


# -- runs ---------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_and_told_by_module(rep_client) -> None:
    old, new = SyncRunFactory(), SyncRunFactory(kind="full", seen=3, created=3)
    SyncRunModule.objects.create(run=new, module="Deals", position=0, seen=3, created=3)
    listed = rep_client.get("/api/zoho/sync-runs").json()
    assert [run["id"] for run in listed["results"]] == [str(new.pk), str(old.pk)]
    one = rep_client.get(f"/api/zoho/sync-runs/{new.pk}").json()
    assert [(part["module"], part["created"]) for part in one["modules"]] == [("Deals", 3)]


def test_runs_are_filtered_by_kind_and_status(rep_client) -> None:
    SyncRunFactory(kind="full")
    failed = SyncRunFactory(status=ledger.FAILED)
    found = rep_client.get("/api/zoho/sync-runs?status=failed,aborted&kind=delta").json()
    assert [run["id"] for run in found["results"]] == [str(failed.pk)]
    assert rep_client.get("/api/zoho/sync-runs?status=odd").status_code == 422


def test_run_that_is_not_there(rep_client) -> None:
    response = rep_client.get("/api/zoho/sync-runs/99999")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
