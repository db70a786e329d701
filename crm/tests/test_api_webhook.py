"""The channels' API and admin: who may, what is answered, 503 where the CRM's answer is it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from jsonschema import Draft202012Validator

from crm import webhook
from crm.models import Notice, NotificationChannel
from crm.tests.notices import LIVE, body_of, known_channels, post
from crm.tests.synced import Crm, zoho_settings
from crm.zoho.factory import client_from_settings

SETUP, STATUS, TEST = (f"/api/zoho/webhook/{name}" for name in ("setup", "status", "test"))


@pytest.fixture(autouse=True)
def address(settings: Any) -> None:
    settings.WEBHOOK_TOKENS = [LIVE]
    settings.APP_BASE_URL = "http://127.0.0.1:8000"
    cache.clear()
    webhook.flood = webhook.Flood()


def test_ops_set_up_look_and_remove(crm: Crm, ops_client: Any) -> None:
    made = ops_client.post(SETUP)
    assert made.status_code == 200
    assert made.json()["status"] == "healthy"
    assert len(made.json()["channels"]) == 4
    with client_from_settings() as client:
        assert len(client.watched()) == 4
    assert ops_client.get(STATUS).json() == made.json()
    removed = ops_client.delete(SETUP)
    assert (removed.status_code, removed.json()["status"]) == (200, "none")
    with client_from_settings() as client:
        assert client.watched() == []


def test_the_test_names_each_leg(crm: Crm, ops_client: Any, live_server: Any) -> None:
    crm.settings.APP_BASE_URL = live_server.url
    without = ops_client.post(TEST).json()
    assert (without["ok"], [step["ok"] for step in without["steps"]]) == (False, [False, True])
    ops_client.post(SETUP)
    answer = ops_client.post(TEST).json()
    assert (answer["ok"], [step["name"] for step in answer["steps"]]) == (
        True,
        ["channels", "address"],
    )


@pytest.mark.parametrize("role", ["rep", "manager", "integrator"])
def test_others_may_look_and_nothing_else(request: pytest.FixtureRequest, role: str) -> None:
    client = request.getfixturevalue(f"{role}_client")
    assert client.get(STATUS).status_code == 200
    for answer in (client.post(SETUP), client.delete(SETUP), client.post(TEST)):
        assert answer.status_code == 403
        assert "ops" in answer.json()["message"]


@pytest.mark.django_db
def test_nobody_gets_in_without_signing_in() -> None:
    for method, path in [("post", SETUP), ("delete", SETUP), ("get", STATUS), ("post", TEST)]:
        assert getattr(Client(), method)(path).status_code == 401


def test_not_configured_is_503_and_off(ops_client: Any, settings: Any) -> None:
    settings.ZOHO = None
    for answer in (ops_client.post(SETUP), ops_client.post(TEST)):
        assert (answer.status_code, answer.json()["code"]) == (503, "not_configured")
    assert ops_client.delete(SETUP).status_code == 200
    assert ops_client.get(STATUS).json()["status"] == "off"


def test_without_a_public_address_it_says_what_to_set(ops_client: Any, settings: Any) -> None:
    settings.ZOHO = zoho_settings("https://www.zohoapis.com")
    for answer in (ops_client.post(SETUP), ops_client.post(TEST)):
        assert (answer.status_code, answer.json()["code"]) == (409, "no_webhook_address")
        assert "APP_BASE_URL" in answer.json()["message"]
    state = ops_client.get(STATUS).json()
    assert (state["status"], "public https" in state["message"]) == ("off", True)


def test_a_crm_that_is_down_is_503(crm: Crm, ops_client: Any) -> None:
    crm.sandbox.stop()
    for answer in (ops_client.post(SETUP), ops_client.post(TEST)):
        assert answer.status_code == 503


def test_status_counts_the_inbox(ops_client: Any, settings: Any) -> None:
    settings.ZOHO = None
    known_channels()
    for body in (body_of([1, 2]), body_of([3], channel_id="99"), body_of([4], token="x")):
        post(body)
    inbox = ops_client.get(STATUS).json()["inbox"]
    assert (inbox["waiting"], inbox["ignored"], inbox["rejected"], inbox["dead"]) == (2, 1, 1, 0)
    assert inbox["oldest_waiting_at"]


def test_unknown_parameters_are_refused(ops_client: Any) -> None:
    assert ops_client.get(STATUS, {"x": "1"}).status_code == 422


def test_the_schema_names_the_channels(ops_client: Any) -> None:
    paths = ops_client.get("/api/schema").json()["paths"]
    assert set(paths[SETUP]) == {"post", "delete"}
    assert set(paths[STATUS]) == {"get"}
    assert "503" in paths[TEST]["post"]["responses"]


def test_the_schema_describes_what_the_door_lets_in(ops_client: Any) -> None:
    """What it calls valid is accepted, and what it calls invalid is 400 or 413 at the door."""
    operation = ops_client.get("/api/schema").json()["paths"][reverse("zoho-webhook")]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    allowed = Draft202012Validator(schema)
    known_channels()
    sound = body_of([1])
    bodies = [sound, sound | {"ids": [1, "2"]}, sound | {"channel_id": 99}, sound | {"more": 1}]
    odd = [{"ids": None}, {"ids": ["x"]}, {"ids": [0]}, {"ids": [True]}, {"ids": [1.5]},
           {"module": 7}, {"channel_id": None}, {"ids": list(range(1, 1002))}]  # fmt: skip
    for body in bodies + [sound | change for change in odd]:
        status = post(body).status_code
        assert (status == 202) == allowed.is_valid(body), body["ids"][:3] if body["ids"] else body
        assert str(status) in operation["responses"]
    assert {"202", "400", "403", "413", "415", "429", "503"} == set(operation["responses"])


# -- admin --------------------------------------------------------------------------------------


def act(client: Any, model: str, action: str, *rows: Any) -> str:
    """Run an action on the list page; the page that follows."""
    address = reverse(f"admin:crm_{model}_changelist")
    data = {"action": action, ACTION_CHECKBOX_NAME: [row.pk for row in rows]}
    return client.post(address, data, follow=True).content.decode()


def test_ops_set_up_renew_and_remove_in_the_admin(crm: Crm, ops_client: Any) -> None:
    assert "4 channels set up" in act(ops_client, "notificationchannel", "set_up")
    assert "4 channels renewed" in act(ops_client, "notificationchannel", "renew")
    rows = NotificationChannel.objects.filter(module__in=["Leads", "Deals"])
    assert "2 channels removed" in act(ops_client, "notificationchannel", "remove", *rows)
    with client_from_settings() as client:
        assert len(client.watched()) == 2


def test_ops_try_dead_notices_again_in_the_admin(ops_client: Any, settings: Any) -> None:
    settings.ZOHO = None
    now = timezone.now()
    times = {"first_received_at": now, "received_at": now, "next_attempt_at": now}
    dead = Notice.objects.create(
        module="Deals", zoho_id=7, channel_id="1", status=Notice.DEAD, attempts=8, **times
    )
    assert "1 given-up notices wait again" in act(ops_client, "notice", "try_again", dead)
    dead.refresh_from_db()
    assert (dead.status, dead.attempts) == (Notice.WAITING, 0)
