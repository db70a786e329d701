"""When the next sync is due, and what is said of a CRM that does not answer."""

from datetime import datetime, time, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from crm.freshness import sync_state
from crm.models import CrmConnection, MirrorState, SharedValue, SyncRun
from crm.models import runs as ledger
from crm.tasks import DELTA_TASK
from crm.tests.rows import SyncRunFactory, mirrored
from crm.tests.synced import Crm
from crm.zoho.errors import Unreachable
from crm.zoho.factory import client_from_settings

pytestmark = pytest.mark.django_db
EVERY = timedelta(minutes=15)


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    """A CRM is configured; nothing listens there."""
    address = "http://127.0.0.1:9"
    settings.ZOHO = SimpleNamespace(
        base_url=f"{address}/",
        accounts_url=address,
        api_version="v8",
        client_id="id",
        client_secret="secret",
        refresh_token="refresh",
        rate_limit_per_minute=100,
        concurrency=2,
        patience={},
    )


def known(**values: Any) -> None:
    """What the last attempt left on the connection."""
    CrmConnection.objects.update_or_create(pk=1, defaults=values)


def schedule(**values: Any) -> None:
    PeriodicTask.objects.filter(task=DELTA_TASK).update(**values)


# -- the next sync ------------------------------------------------------------------------------


def test_next_sync_counts_from_the_last_one_that_beat_sent(now) -> None:
    mirrored(now)
    known(last_attempt_at=now)
    schedule(last_run_at=now - timedelta(minutes=4))
    assert sync_state(now).next_sync_at == now + timedelta(minutes=11)


def test_before_the_first_one_it_counts_as_beat_does_and_comes_nearer(now) -> None:
    """A schedule that beat never sent counts from when its row was made."""
    mirrored(now)
    known(last_attempt_at=now)
    schedule(last_run_at=None, date_changed=now)
    for minutes, left in ((0, 15), (5, 10), (14, 1), (15, 0), (20, 0)):
        asked = now + timedelta(minutes=minutes)
        due = sync_state(asked).next_sync_at
        assert due is not None and due - asked == timedelta(minutes=left)


def test_beat_itself_counts_from_there(now) -> None:
    from django_celery_beat.schedulers import ModelEntry

    schedule(last_run_at=None, date_changed=now)
    entry = ModelEntry(PeriodicTask.objects.get(task=DELTA_TASK))
    assert entry.last_run_at + EVERY == sync_state(now).next_sync_at


def test_schedule_is_known_before_the_first_attempt(now) -> None:
    assert not CrmConnection.objects.exists()
    schedule(last_run_at=None, date_changed=now)
    assert sync_state(now).next_sync_at == now + EVERY


@pytest.mark.parametrize("is_tried", [True, False])
def test_schedule_that_is_off_has_no_next_sync(now, is_tried: bool) -> None:
    if is_tried:
        known()
    schedule(enabled=False)
    assert sync_state(now).next_sync_at is None


@pytest.mark.parametrize(
    ("minute", "hour", "sent", "due"),
    [
        ("*/5", "*", "10:05:01", "10:10"),
        ("0,20", "*", "10:20:01", "11:00"),
        ("0", "9-18", "18:00:02", "09:00 tomorrow"),
    ],
)
def test_next_sync_by_times_of_the_clock(minute: str, hour: str, sent: str, due: str) -> None:
    zone = ZoneInfo("Asia/Singapore")
    day = datetime(2026, 3, 10, tzinfo=zone)
    sent_at = datetime.combine(day, time.fromisoformat(sent), tzinfo=zone)
    clock, _, tomorrow = due.partition(" ")
    due_at = datetime.combine(day, time.fromisoformat(clock), tzinfo=zone)
    by_clock = CrontabSchedule.objects.create(pk=100, minute=minute, hour=hour, timezone=zone)
    schedule(interval=None, crontab=by_clock, last_run_at=sent_at)
    mirrored(sent_at)
    found = sync_state(sent_at + timedelta(seconds=30)).next_sync_at
    assert found == due_at + timedelta(days=bool(tomorrow))


# -- some modules only ----------------------------------------------------------------------------


def stands_still(*names: str, since: datetime, why: str = "") -> None:
    MirrorState.objects.filter(module__in=names).update(complete_s0=since, skipped_message=why)


@pytest.mark.parametrize("hours", [0.5, 2, 2000])
def test_a_module_that_may_not_be_read_is_named_and_the_rest_is_connected(
    now, hours: float
) -> None:
    mirrored(now - timedelta(minutes=3))
    known(org_name="Nimbus CRM")
    stands_still("Leads", since=now - timedelta(hours=hours), why="Give its profile the permission")
    state = sync_state(now)
    assert (state.state, state.is_connected) == ("delayed", True)
    assert state.sentence == "Leads are older than they should be; the rest is up to date."
    assert state.advice == "The CRM does not let us read Leads: ops can see why and mend it."
    assert state.cause == "Leads: Give its profile the permission"
    assert state.freshness_seconds == 180


def test_a_module_whose_reading_does_not_end_is_named_too(now) -> None:
    mirrored(now - timedelta(minutes=3))
    known()
    stands_still("Accounts", "Deals", since=now - timedelta(hours=2))
    stands_still("Leads", since=now - timedelta(hours=3), why="No.")
    state = sync_state(now)
    assert state.state == "delayed"
    assert state.sentence.startswith("Accounts, Leads and Deals are older")
    assert state.cause == "Leads: No."
    assert state.freshness_seconds == 2 * 3600


def test_a_module_that_was_never_let_read_is_no_delay(now) -> None:
    mirrored(now)
    known(org_name="Nimbus CRM")
    MirrorState.objects.filter(module="Leads").update(
        watermark=None, complete_s0=None, skipped_message="No."
    )
    assert sync_state(now).sentence == "Connected to Nimbus CRM."


def test_when_nothing_is_read_for_an_hour_refusals_are_not_the_matter(now) -> None:
    mirrored(now - timedelta(hours=2))
    known()
    stands_still("Leads", since=now - timedelta(hours=5), why="No.")
    state = sync_state(now)
    assert (state.state, state.freshness_seconds) == ("disconnected", 2 * 3600)
    assert state.cause == "Check that the worker and beat processes run."


def test_permission_withdrawn_from_one_module_and_given_back(crm: Crm) -> None:
    crm.sync("full")
    refusal = {"do": "status", "path": "/crm/v8/Leads", "times": 0, "status": 403, "body": {
        "code": "NO_PERMISSION", "details": {}, "message": "permission denied",
        "status": "error"}}  # fmt: skip
    crm.control("faults", rules=[refusal])
    later = 90 * 60
    crm.control("config", clock_offset_s=later)
    assert crm.sync("delta").status == "partial"
    now = timezone.now() + timedelta(seconds=later)
    state = sync_state(now)
    assert (state.state, state.sentence.split(" are ")[0]) == ("delayed", "Leads")
    assert "permission" in state.cause and state.freshness_seconds < 60
    crm.control("clear_faults")
    crm.sync("delta")
    assert sync_state(now).state == "connected"


# -- a CRM that does not answer -------------------------------------------------------------------


def fail_once() -> None:
    client = client_from_settings(purpose="check")
    try:
        with pytest.raises(Unreachable):
            client.org()
    finally:
        client.close()


def test_second_failure_in_a_row_is_an_outage_before_any_run_has_ended() -> None:
    now = timezone.now()
    mirrored(now)
    known(org_name="Nimbus CRM")
    found = []
    for _ in range(3):
        state = sync_state(timezone.now())
        found.append((state.failures, state.state, state.sentence))
        fail_once()
    assert found == [
        (0, "connected", "Connected to Nimbus CRM."),
        (1, "connected", "Connected to Nimbus CRM."),
        (2, "disconnected", "The CRM does not answer."),
    ]
    # Nobody has called for so long that it says nothing of today.
    SharedValue.objects.update(expires_at=now.timestamp() - 1)
    assert sync_state(timezone.now()).state == "connected"


@pytest.mark.parametrize(
    ("code", "can_resume", "sentence", "advice"),
    [
        ("unreachable", True, "The CRM does not answer.", "It catches up by itself."),
        ("http_503", True, "The CRM does not answer.", "It catches up by itself."),
        ("breaker_open", True, "The CRM does not answer.", "It catches up by itself."),
        ("disk_full", True, "The sync has stopped for now.", "It goes on by itself."),
        ("invalid_code", False, "The sync has stopped.", "Ops can see why and mend it."),
        ("http_404", False, "The sync has stopped.", "Ops can see why and mend it."),
    ],
)
def test_people_are_told_what_comes_of_it_and_ops_the_cause(
    now, code: str, can_resume: bool, sentence: str, advice: str
) -> None:
    mirrored(now)
    SyncRunFactory(status=ledger.FAILED, ended_at=now, can_resume=can_resume)
    known(error_code=code, error_message="Check ZOHO_BASE_URL.")
    state = sync_state(now)
    assert (state.state, state.sentence, state.advice) == ("disconnected", sentence, advice)
    assert state.cause == state.message == "Check ZOHO_BASE_URL."


def test_mirror_that_nobody_reads_is_a_matter_of_the_processes(now) -> None:
    mirrored(now - timedelta(hours=2))
    known()
    state = sync_state(now)
    assert state.sentence == "The CRM has not been read for over an hour."
    assert state.cause == "Check that the worker and beat processes run."
    assert not SyncRun.objects.exists()
