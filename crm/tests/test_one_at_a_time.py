"""One full or delta sync at a time, whoever asks; each scheduled slot once; the sweeper's part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, connections
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from crm import tasks
from crm.errors import CrmNotConfigured, LeaseLost, SyncUnderWay
from crm.models import (
    Account,
    ChangeEvent,
    CrmUser,
    Deal,
    ExchangeRate,
    MirrorState,
    SyncLease,
    SyncRun,
)
from crm.sync import lease, runs, watermark
from crm.sync.execute import execute
from crm.sync.metadata import queue_derive
from crm.tests.factories import account, connect, deal, make_store, minutes, raws
from crm.tests.synced import Crm, zoho_settings

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Results, or exceptions, of `work` in threads that start together."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Any:
        try:
            barrier.wait(10)
            return work(number)
        except Exception as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


@pytest.fixture
def configured(settings: Any) -> None:
    settings.ZOHO = zoho_settings("http://127.0.0.1:9")
    settings.SYNC_LEASE_SECONDS, settings.SYNC_HEARTBEAT_SECONDS = 1, 1


def request(kind: str = "full", **options: Any) -> SyncRun:
    return runs.request_run(kind=kind, trigger="schedule", nudge=False, **options)


# -- asking ---------------------------------------------------------------------------------------


def test_row_6_of_two_requests_at_once_one_runs_and_the_other_is_told_which(
    configured: None,
) -> None:
    for _ in range(10):
        found = at_once(4, lambda n: request("full" if n % 2 else "delta"))
        begun = [run for run in found if isinstance(run, SyncRun)]
        refused = [error for error in found if isinstance(error, SyncUnderWay)]
        assert (len(begun), len(refused)) == (1, 3), found
        assert {error.run.pk for error in refused} == {begun[0].pk}
        assert all(f"run {begun[0].pk}" in error.message for error in refused)
        SyncRun.objects.update(status="failed")


def test_row_6_a_second_request_names_kind_and_start_of_the_run_under_way(configured: None) -> None:
    run = request("full")
    SyncRun.objects.filter(pk=run.pk).update(
        status="running", started_at=datetime(2026, 3, 10, 10, 2, tzinfo=UTC)
    )
    with pytest.raises(SyncUnderWay) as raised:
        request("delta")
    assert "full sync" in raised.value.message and "10:02" in raised.value.message
    assert raised.value.run.pk == run.pk
    assert SyncRun.objects.count() == 1


def test_two_that_open_an_aborted_run_again_are_one(configured: None) -> None:
    run = request("full")
    for _ in range(5):
        SyncRun.objects.update(status="aborted", ended_at=timezone.now())
        found = at_once(3, lambda n: request("full"))
        assert sum(isinstance(f, SyncRun) for f in found) == 1, found
        assert sum(isinstance(f, SyncUnderWay) for f in found) == 2
        assert SyncRun.objects.get().pk == run.pk


def test_an_old_aborted_run_is_not_opened_again(configured: None) -> None:
    old = request("full")
    SyncRun.objects.update(status="aborted", ended_at=timezone.now() - timedelta(hours=21))
    assert request("full").pk != old.pk


def test_without_settings_nothing_is_asked_of_the_ledger(settings: Any) -> None:
    settings.ZOHO = None
    with pytest.raises(CrmNotConfigured):
        request()
    assert not SyncRun.objects.exists()
    tasks.sweep()
    assert tasks.request_scheduled("delta", timezone.now()) is None


def test_the_ledger_refuses_counts_that_do_not_add_up(configured: None) -> None:
    run = request()
    with pytest.raises(IntegrityError):
        SyncRun.objects.filter(pk=run.pk).update(seen=5, created=4)


# -- the lease ------------------------------------------------------------------------------------


def test_row_6_of_many_that_reach_for_the_lease_one_holds_it(configured: None) -> None:
    for _ in range(10):
        held = [found for found in at_once(6, lambda n: lease.acquire()) if found is not None]
        assert len(held) == 1 and isinstance(held[0], lease.Lease), held
        held[0].release()


def test_row_5_each_holder_has_a_higher_fence_and_the_former_one_is_shut_out(
    configured: None,
) -> None:
    first = lease.acquire()
    assert first is not None and lease.is_held()
    first.renew()
    assert lease.acquire() is None
    first.release()
    assert not lease.is_held()
    second = lease.acquire()
    assert second is not None and second.fence > first.fence
    with pytest.raises(LeaseLost):
        first.renew()
    first.release()  # does not take it from the second
    assert lease.is_held()
    second.renew()


def test_row_18_a_lease_that_is_not_renewed_runs_out_by_the_clock_of_the_database(
    configured: None,
) -> None:
    held = lease.acquire()
    assert held is not None
    with time_machine.travel(timezone.now() + timedelta(days=365), tick=True):
        assert lease.acquire() is None  # our own clock does not count
    with time_machine.travel(timezone.now() - timedelta(days=365), tick=True):
        assert lease.is_held()
    SyncLease.objects.update(expires_ms=lease.now_ms() - 1)
    assert lease.acquire() is not None


def test_a_heartbeat_keeps_the_lease_through_a_slow_call(settings: Any, configured: None) -> None:
    settings.SYNC_HEARTBEAT_SECONDS = 0.1
    held = lease.acquire()
    assert held is not None
    with held.kept_alive():
        before = SyncLease.objects.get().expires_ms
        threading.Event().wait(0.5)
        assert SyncLease.objects.get().expires_ms > before
    after = SyncLease.objects.get().expires_ms
    threading.Event().wait(0.3)
    assert SyncLease.objects.get().expires_ms == after


def test_the_lease_of_a_process_of_this_machine_that_is_gone_is_free(configured: None) -> None:
    held = lease.acquire()
    assert held is not None
    host = held.holder.partition(":")[0]
    SyncLease.objects.update(expires_ms=2**50)
    assert not lease.is_free_or_orphaned()
    SyncLease.objects.update(holder=f"{host}:999999999:abc")
    assert lease.is_free_or_orphaned()
    SyncLease.objects.update(holder="elsewhere:999999999:abc", expires_ms=2**50)
    assert not lease.is_free_or_orphaned()


def test_row_8_the_same_run_executed_twice_at_once_runs_once(crm: Crm) -> None:
    run = request()
    done = at_once(2, lambda n: execute(run.pk))
    assert sorted(type(found).__name__ for found in done) == ["NoneType", "SyncRun"]
    run.refresh_from_db()
    assert run.status == "succeeded" and run.attempts == 0
    crm.assert_mirrored()


# -- the schedule ---------------------------------------------------------------------------------


@pytest.fixture
def every_quarter() -> None:
    every, _ = IntervalSchedule.objects.get_or_create(every=15, period="minutes")
    PeriodicTask.objects.update_or_create(
        task=tasks.DELTA_TASK, defaults={"name": "CRM: delta sync", "interval": every}
    )


def test_row_7_a_slot_that_fires_many_times_is_one_run(
    configured: None, every_quarter: None
) -> None:
    now = datetime(2026, 3, 10, 10, 14, 59, tzinfo=UTC)
    MirrorState.objects.bulk_create(
        MirrorState(module=m, watermark=now) for m in ("Accounts", "Contacts", "Leads", "Deals")
    )
    found = at_once(6, lambda n: _scheduled(now))
    assert sum(isinstance(f, SyncRun) for f in found) == 1, found
    assert all(f is None or isinstance(f, SyncRun) for f in found), found
    run = SyncRun.objects.get()
    assert (run.kind, run.slot) == ("delta", now)
    SyncRun.objects.update(status="succeeded")
    # Beat is late or early by seconds: the same slot again, then the next one, never none.
    assert _scheduled(now + timedelta(seconds=5)) is None
    following = now + timedelta(minutes=14, seconds=50)
    assert _scheduled(following).slot == following


def _scheduled(now: datetime) -> SyncRun | None:
    """Without a broker that would run it at once."""
    from celery import current_app

    current_app.conf.task_always_eager = False
    try:
        return tasks.request_scheduled("delta", now)
    finally:
        current_app.conf.task_always_eager = True


@pytest.mark.parametrize("minute", ["*/5", "*", "0-59/2"])
def test_row_7_a_delta_by_crontab_has_a_run_each_time_and_one_only(
    configured: None, minute: str
) -> None:
    now = datetime(2026, 3, 10, 10, 0, 0, tzinfo=UTC)
    MirrorState.objects.bulk_create(
        MirrorState(module=m, watermark=now) for m in ("Accounts", "Contacts", "Leads", "Deals")
    )
    by_clock = CrontabSchedule.objects.create(pk=100, minute=minute)
    PeriodicTask.objects.update_or_create(
        task=tasks.DELTA_TASK,
        defaults={"name": "CRM: delta sync", "interval": None, "crontab": by_clock},
    )
    due = [now.replace(minute=each) for each in sorted(by_clock.schedule.minute)][:6]
    for fires in due:
        for late in (timedelta(seconds=1), timedelta(seconds=20)):  # two beats
            _scheduled(fires + late)
            SyncRun.objects.update(status="succeeded")
    slots = SyncRun.objects.order_by("pk").values_list("slot", flat=True)
    assert list(slots) == [fires + timedelta(seconds=1) for fires in due]


def test_a_due_delta_is_skipped_while_another_delta_runs(
    configured: None, every_quarter: None
) -> None:
    now = timezone.now()
    MirrorState.objects.bulk_create(
        MirrorState(module=m, watermark=now) for m in ("Accounts", "Contacts", "Leads", "Deals")
    )
    request("delta")
    run = _scheduled(now)
    assert (run.status, run.error_code) == ("skipped", "sync_under_way")
    assert run.ended_at is not None


def test_a_delta_that_is_due_goes_in_between_the_pages_of_a_full_run(
    big_crm: Crm, every_quarter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm.sync import reading, session

    big_crm.sync("full")
    monkeypatch.setattr(reading, "RANGE_ROWS", 60)
    monkeypatch.setattr(session, "BETWEEN_CHECKS_S", 0.0)
    full = request("full")
    one = big_crm.ids()[0]
    seen: list[str] = []

    def on_page(run: SyncRun, part: Any) -> None:
        if run.pk == full.pk and part.module == "Accounts":
            big_crm.control("config", clock_offset_s=120)  # time goes by
        if run.pk == full.pk and part.module == "Deals" and not seen:
            seen.append("due")
            big_crm.control("edit", module="Deals", id=one, values={"Next_Step": "urgent"})
            tasks.request_scheduled("delta", timezone.now())
        elif run.kind == "delta":
            seen.append(part.module)
            assert SyncRun.objects.get(pk=full.pk).status == "running"

    execute(full.pk, on_page=on_page)
    nested = SyncRun.objects.get(kind="delta")
    full.refresh_from_db()
    assert (full.status, nested.status, nested.lane) == ("succeeded", "succeeded", None)
    assert "Deals" in seen
    assert Deal.objects.get(zoho_id=one).next_step == "urgent"
    assert ChangeEvent.objects.filter(field="next_step", run_id=nested.pk).count() == 1
    assert full.s0 < nested.s0  # the mirror is as fresh as the delta says
    assert watermark.watermark_of("Deals") == nested.s0
    big_crm.assert_mirrored()


def test_calls_of_a_nested_delta_are_counted_once(
    big_crm: Crm, every_quarter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crm.sync import session

    big_crm.sync("full")
    monkeypatch.setattr(session, "BETWEEN_CHECKS_S", 0.0)
    full = request("full")
    before = big_crm.requests()

    def on_page(run: SyncRun, part: Any) -> None:
        if run.pk == full.pk and not SyncRun.objects.filter(lane__isnull=True).exists():
            tasks.request_scheduled("delta", timezone.now())

    execute(full.pk, on_page=on_page)
    full.refresh_from_db()
    nested = SyncRun.objects.get(lane__isnull=True)
    assert (full.status, nested.status) == ("succeeded", "succeeded")
    assert nested.api_calls > 0
    assert full.api_calls + nested.api_calls == big_crm.requests() - before


def test_a_nested_delta_whose_full_run_ended_is_closed(configured: None) -> None:
    SyncRun.objects.create(kind="delta", trigger="schedule", lane=None, requested_at=timezone.now())
    SyncRun.objects.create(
        kind="full", trigger="schedule", status="failed", requested_at=timezone.now()
    )
    tasks.sweep()
    assert SyncRun.objects.get(kind="delta").status == "skipped"


# -- the sweeper ----------------------------------------------------------------------------------


def test_the_sweeper_starts_the_first_full_sync_and_then_has_nothing_to_do(crm: Crm) -> None:
    tasks.sweep()
    run = SyncRun.objects.get()
    assert (run.kind, run.trigger, run.status) == ("full", "startup", "succeeded")
    crm.assert_mirrored()
    calls = crm.requests()
    tasks.sweep()
    assert crm.requests() == calls
    assert SyncRun.objects.count() == 1


def test_row_12_the_sweeper_takes_up_a_queued_run_whose_nudge_was_lost(crm: Crm) -> None:
    crm.sync("full")
    run = request("delta")
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded"


def test_new_rates_are_applied_to_every_deal_by_the_sweeper(crm: Crm) -> None:
    crm.sync("full")
    deal_ = Deal.objects.filter(currency="USD", stage_type="open", amount_minor__gt=0).first()
    seq = MirrorState.objects.get(module="Deals").change_seq
    rate = ExchangeRate.objects.get(iso_code="USD")
    ExchangeRate.objects.create(
        iso_code="USD", day=rate.day, rate_nano=rate.rate_nano * 2, source="manual"
    )
    queue_derive()
    tasks.sweep()
    fresh = Deal.objects.get(pk=deal_.pk)
    assert abs(fresh.amount_sgd_minor * 2 - deal_.amount_sgd_minor) <= 1
    assert fresh.change_seq > seq
    assert not ChangeEvent.objects.filter(kind="changed").exists()
    assert not MirrorState.objects.get(module="Deals").derive_needed


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "jump", [timedelta(hours=2), -timedelta(hours=2), timedelta(days=4000)], ids=str
)
def test_row_18_our_clock_may_jump_and_no_change_is_missed(crm: Crm, jump: timedelta) -> None:
    crm.sync("full")
    ids = crm.ids()
    for n, now in enumerate([timezone.now() + jump, timezone.now()]):
        crm.control("edit", module="Deals", id=ids[n], values={"Next_Step": f"round {n}"})
        crm.control("delete", module="Deals", ids=ids[10 + n : 11 + n])
        with time_machine.travel(now, tick=True):
            run = crm.sync("delta")
        assert (run.status, run.deleted) == ("succeeded", 1), run.message
        crm.assert_mirrored("Deals")
    assert abs(watermark.watermark_of("Deals") - timezone.now()) < timedelta(minutes=5)
    assert crm.sync("delta").seen < 10  # and nothing is fetched for ever


# -- two writers at once --------------------------------------------------------------------------


def test_two_modules_that_name_the_same_unknown_records_share_their_stubs() -> None:
    connect()
    contact = {
        "Last_Name": "Lee",
        "Account_Name": {"id": "7001", "name": "Acme"},
        "Modified_Time": "2026-03-10T12:00:00+08:00",
        "Modified_By": {"id": "9001", "name": "Ann"},
    }
    for round_ in range(5):
        base = round_ * 100
        refs = {"Account_Name": {"id": str(7000 + round_), "name": "Acme"},
                "Owner": {"id": str(9100 + round_), "name": "Ann"}}  # fmt: skip
        pages = [
            ("Deals", [deal(base + n, **refs) for n in range(1, 30)]),
            ("Contacts", [{**contact, **refs, "id": str(base + n)} for n in range(1, 30)]),
            ("Accounts", [account(7000 + round_, Account_Name="Acme Ltd")]),
        ]

        def write(n: int, pages: list = pages) -> Any:
            module, records = pages[n]
            return make_store(module).store(raws(*records), read_at=minutes(1))

        done = at_once(3, write)
        assert all(not isinstance(found, Exception) for found in done), done
        one = Account.objects.get(zoho_id=7000 + round_)
        assert (one.name, one.is_stub) == ("Acme Ltd", False)
        assert one.deals.count() == one.contacts.count() == 29
        assert CrmUser.objects.filter(zoho_id=9100 + round_).count() == 1
    assert ChangeEvent.objects.filter(module="Accounts", kind="created").count() == 5


def test_pages_of_one_module_written_at_once_have_numbers_of_their_own() -> None:
    connect()

    def write(n: int) -> Any:
        page = raws(*[deal(n * 100 + i) for i in range(1, 41)])
        return make_store().store(page, read_at=minutes(1))

    done = at_once(4, write)
    assert all(not isinstance(found, Exception) for found in done), done
    seqs = list(Deal.objects.values_list("change_seq", flat=True))
    assert len(seqs) == len(set(seqs)) == 160
    assert max(seqs) <= MirrorState.objects.get(module="Deals").change_seq
