"""Notification channels: set up, renewed, made anew, removed, silent; a CRM that really calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from crm import tasks, webhook
from crm.errors import NoWebhookAddress
from crm.models import Account, Deal, Notice, NotificationChannel, SyncRun
from crm.sync import channel_state, channels
from crm.sync.modules import ORDER
from crm.tests.notices import LIVE, OLD
from crm.tests.synced import Crm
from crm.zoho.errors import FixRequest, ZohoError
from crm.zoho.factory import client_from_settings

MODULES = [module.name for module in ORDER]


@pytest.fixture
def mirror(crm: Crm) -> Crm:
    """Mirrored, without channels; the CRM would call 127.0.0.1:8000."""
    crm.sync()
    crm.settings.WEBHOOK_TOKENS = [LIVE, OLD]
    crm.settings.APP_BASE_URL = "http://127.0.0.1:8000"
    crm.settings.SANDBOX = False
    cache.clear()
    webhook.forget_channels()
    crm.control("reset_stats")
    return crm


def watched() -> dict[str, Any]:
    """What the CRM has: by the first event's module."""
    with client_from_settings() as client:
        return {each.events[0].partition(".")[0]: each for each in client.watched()}


def set_up() -> list[NotificationChannel]:
    return channels.set_up(now=timezone.now())


def at(**ahead: float) -> Any:
    return timezone.now() + timedelta(**ahead)


# -- set up, remove -----------------------------------------------------------------------------


def test_a_channel_for_each_module_for_nearly_a_week(mirror: Crm) -> None:
    set_up()
    theirs = watched()
    assert sorted(theirs) == sorted(MODULES)
    for row in NotificationChannel.objects.all():
        assert theirs[row.module].channel_id == row.channel_id
        assert theirs[row.module].events == (f"{row.module}.all",)
        assert theirs[row.module].notify_url == "http://127.0.0.1:8000/api/zoho/webhook"
        assert theirs[row.module].expires_at == row.expires_at
        assert at(days=6, hours=22) < row.expires_at < at(days=7)
    assert channel_state.status(timezone.now()).state == "healthy"


def test_setting_up_twice_makes_no_second_channel(mirror: Crm) -> None:
    set_up()
    before = watched()
    set_up()
    assert {name: each.channel_id for name, each in watched().items()} == {
        name: each.channel_id for name, each in before.items()
    }


def test_removed_channels_are_gone_on_both_sides(mirror: Crm) -> None:
    set_up()
    assert channels.remove() == 4
    assert watched() == {}
    assert not NotificationChannel.objects.exists()
    assert channel_state.status(timezone.now()).state == "none"


def test_a_channel_that_the_crm_has_no_more_is_forgotten_all_the_same(mirror: Crm) -> None:
    set_up()
    with client_from_settings() as client:
        client.unwatch([NotificationChannel.objects.get(module="Leads").channel_id])
    assert channels.remove() == 4
    assert not NotificationChannel.objects.exists()


def test_a_crm_that_is_down_leaves_the_channels_as_they_are(mirror: Crm) -> None:
    set_up()
    mirror.sandbox.stop()
    with pytest.raises(ZohoError):
        channels.remove()
    assert NotificationChannel.objects.count() == 4


@pytest.mark.breaks_rules
def test_what_the_crm_refuses_is_said(mirror: Crm) -> None:
    mirror.settings.WEBHOOK_TOKENS = ["x" * 51]
    with pytest.raises(FixRequest, match="INVALID_DATA"):
        set_up()
    row = NotificationChannel.objects.first()
    assert (row.state, row.error_code, row.expires_at) == ("refused", "INVALID_DATA", None)
    assert channel_state.status(timezone.now()).state == "critical"


ADDRESSES = [
    ("http://pulse.example.com", "public https"),
    ("https://localhost", "public https"),
    ("https://10.0.0.7", "public https"),
    ("https://192.168.1.5:8443", "public https"),
    ("https://intranet", "public https"),
    ("https://pulse.internal", "public https"),
    ("http://127.0.0.1:8000", "public https"),
    ("https://" + "x" * 230 + ".example.com", "too long"),
]


@pytest.mark.parametrize(("base", "why"), ADDRESSES)
def test_an_address_that_a_real_crm_cannot_call_is_refused(
    settings: Any, base: str, why: str
) -> None:
    from crm.tests.synced import zoho_settings

    settings.ZOHO = zoho_settings("https://www.zohoapis.com")
    settings.WEBHOOK_TOKENS, settings.APP_BASE_URL = [LIVE], base
    with pytest.raises(NoWebhookAddress, match=why):
        channels.address()


def test_a_public_address_is_taken_and_a_token_is_needed(settings: Any) -> None:
    from crm.tests.synced import zoho_settings

    settings.ZOHO = zoho_settings("https://www.zohoapis.com")
    settings.WEBHOOK_TOKENS = [LIVE]
    settings.APP_BASE_URL = "https://pulse.example.com/"
    assert channels.address() == "https://pulse.example.com/api/zoho/webhook"
    settings.WEBHOOK_TOKENS = []
    with pytest.raises(NoWebhookAddress, match="WEBHOOK_TOKEN"):
        channels.address()


# -- 74: renewed, made anew, silent -------------------------------------------------------------


def test_row_74_renewed_at_half_life_and_not_before(mirror: Crm) -> None:
    set_up()
    before = watched()["Deals"].expires_at
    mirror.control("config", clock_offset_s=3.6 * 86_400)
    mirror.control("expire_tokens")
    mirror.control("reset_stats")
    assert channels.look_after(now=at(minutes=30)) == []
    assert mirror.requests() == 0
    assert len(channels.look_after(now=at(days=3.6))) == 4
    assert watched()["Deals"].expires_at > before + timedelta(days=3)
    assert channel_state.status(at(days=7)).state == "healthy"


def test_row_74_an_expired_channel_is_made_anew_and_a_delta_catches_up(mirror: Crm) -> None:
    set_up()
    mirror.control("config", clock_offset_s=8 * 86_400)
    mirror.control("expire_tokens")
    target = mirror.ids()[0]
    mirror.control("edit", module="Deals", id=target, values={"Next_Step": "untold"})
    assert channel_state.status(at(days=8)).state == "critical"
    channels.look_after(now=at(days=8))
    assert sorted(watched()) == sorted(MODULES)
    assert channel_state.status(at(days=8)).state == "healthy"
    catch_up = SyncRun.objects.get(kind="delta", trigger="webhook")
    assert catch_up.status == "succeeded"
    assert Deal.objects.get(zoho_id=target).next_step == "untold"


def test_row_74_a_channel_that_somebody_removed_is_noticed_within_the_hour(mirror: Crm) -> None:
    set_up()
    with client_from_settings() as client:
        client.unwatch([NotificationChannel.objects.get(module="Deals").channel_id])
    mirror.control("config", clock_offset_s=1.1 * 3_600)
    mirror.control("expire_tokens")
    mirror.control("reset_stats")
    assert [row.module for row in channels.look_after(now=at(hours=1.1))] == ["Deals"]
    assert mirror.control("stats")["by_path"]["POST /crm/v8/actions/watch"] == 1
    assert sorted(watched()) == sorted(MODULES)
    assert SyncRun.objects.filter(kind="delta", trigger="webhook").count() == 1


@pytest.mark.parametrize("what", ["address", "token"])
def test_a_changed_address_or_token_is_told_at_once(mirror: Crm, what: str) -> None:
    set_up()
    if what == "address":
        mirror.settings.APP_BASE_URL = "http://127.0.0.1:8011"
    else:
        mirror.settings.WEBHOOK_TOKENS = ["the-next-token", LIVE]
    assert len(channels.look_after(now=at(minutes=1))) == 4
    assert channels.look_after(now=at(minutes=2)) == []
    assert watched()["Deals"].notify_url == f"{mirror.settings.APP_BASE_URL}/api/zoho/webhook"


def _delta_that_finds(mirror: Crm, text: str) -> SyncRun:
    mirror.control("edit", module="Deals", id=mirror.ids()[0], values={"Next_Step": text})
    return mirror.sync("delta")


def test_row_74_two_deltas_that_find_what_nobody_told_raise_the_alarm(mirror: Crm) -> None:
    set_up()
    NotificationChannel.objects.update(created_at=at(hours=-5))
    _delta_that_finds(mirror, "one")
    assert channel_state.note_silence(timezone.now()) == []
    _delta_that_finds(mirror, "two")
    silent = channel_state.note_silence(timezone.now())
    assert [row.module for row in silent] == ["Deals"]
    state = channel_state.status(timezone.now())
    assert (state.state, "Deals" in state.sentence) == ("warning", True)


def test_row_74_a_channel_that_tells_or_is_new_raises_no_alarm(mirror: Crm) -> None:
    set_up()
    _delta_that_finds(mirror, "one")
    _delta_that_finds(mirror, "two")
    assert channel_state.note_silence(timezone.now()) == []  # it is too young to say
    NotificationChannel.objects.update(created_at=at(hours=-5), last_event_at=timezone.now())
    assert channel_state.note_silence(timezone.now()) == []
    assert channel_state.status(timezone.now()).state == "healthy"


def test_row_74_quiet_days_raise_no_alarm(mirror: Crm) -> None:
    set_up()
    NotificationChannel.objects.update(created_at=at(hours=-5))
    mirror.sync("delta")
    mirror.sync("delta")
    assert channel_state.note_silence(timezone.now()) == []


def test_the_schedule_keeps_channels_and_what_goes_wrong_stands_on_them(mirror: Crm) -> None:
    assert PeriodicTask.objects.get(task="crm.tasks.keep_channels").enabled
    tasks.keep_channels()
    assert watched() == {}  # with a real CRM only a person sets them up
    set_up()
    NotificationChannel.objects.update(registered_at=at(days=-8))
    mirror.sandbox.stop()
    tasks.keep_channels()
    state = channel_state.status(timezone.now())
    assert state.state == "warning"
    assert state.channels[0].row.error_code


def test_an_error_that_passed_is_forgotten_once_the_crm_answers_and_a_refusal_is_not(
    mirror: Crm,
) -> None:
    set_up()
    down = {"do": "status", "status": 503, "times": 0, "path": "/crm/v8/actions/watch"}
    mirror.control("faults", rules=[down])
    channels.keep(now=at(hours=2))
    assert channel_state.status(at(hours=2)).state == "warning"
    assert set(NotificationChannel.objects.values_list("error_code", flat=True)) != {""}
    NotificationChannel.objects.filter(module="Leads").update(state=NotificationChannel.REFUSED)
    mirror.control("clear_faults")
    channels.keep(now=at(hours=4))  # long before their half-life
    told = dict(NotificationChannel.objects.values_list("module", "error_code"))
    assert told.pop("Leads")
    assert set(told.values()) == {""}


def test_the_sandbox_of_our_own_run_gets_its_channels_by_itself(mirror: Crm) -> None:
    mirror.settings.SANDBOX = True
    tasks.keep_channels()
    assert sorted(watched()) == sorted(MODULES)


# -- the CRM really calls -----------------------------------------------------------------------


@pytest.fixture
def served(mirror: Crm, live_server: Any) -> Iterator[Crm]:
    """Our webhook at an address that the CRM reaches, with channels."""
    mirror.settings.APP_BASE_URL = live_server.url
    webhook.flood = webhook.Flood()
    set_up()
    yield mirror
    channels.remove()


def _wait_until(is_so: Any) -> None:
    deadline = time.monotonic() + 20
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


def test_a_change_in_the_crm_is_here_without_any_sync(served: Crm) -> None:
    edited, deleted = served.ids()[:2]
    served.control("edit", module="Deals", id=edited, values={"Next_Step": "told"})
    _wait_until(lambda: Deal.objects.get(zoho_id=edited).next_step == "told")
    served.control("delete", module="Deals", ids=[deleted])
    _wait_until(lambda: Deal.objects.get(zoho_id=deleted).deleted_at is not None)
    made = served.control("insert", module="Accounts", values={"Account_Name": "Told Ltd"})
    _wait_until(lambda: Account.objects.filter(zoho_id=made["id"]).exists())
    _wait_until(lambda: not Notice.objects.exclude(status=Notice.DONE).exists())
    served.assert_mirrored()


def test_the_round_trip_asks_the_crm_and_calls_our_own_address(served: Crm) -> None:
    steps = channel_state.round_trip()
    assert [(step.name, step.is_ok) for step in steps] == [("channels", True), ("address", True)]
    assert not Notice.objects.exists()


def test_the_round_trip_says_what_is_wrong(served: Crm) -> None:
    with client_from_settings() as client:
        client.unwatch([NotificationChannel.objects.get(module="Deals").channel_id])
    served.settings.APP_BASE_URL = "http://127.0.0.1:9"
    one, two = channel_state.round_trip()
    assert (one.is_ok, "Deals" in one.message) == (False, True)
    assert (two.is_ok, "does not answer" in two.message) == (False, True)


@pytest.mark.breaks_rules
def test_an_address_that_leads_elsewhere_is_told(served: Crm) -> None:
    served.settings.APP_BASE_URL = served.sandbox.url
    [_, two] = channel_state.round_trip()
    assert (two.is_ok, "instead of 202" in two.message) == (False, True)
