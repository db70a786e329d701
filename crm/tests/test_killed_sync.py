"""A sync that dies at any place and goes on: the mirror is the CRM, nothing twice, nothing lost."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from crm import tasks
from crm.freshness import sync_state
from crm.models import (
    ChangeEvent,
    CrmConnection,
    Deal,
    FailedRecord,
    MirrorState,
    SyncLease,
    SyncRun,
    SyncRunModule,
)
from crm.sync import lease, reading, runs
from crm.sync.execute import execute
from crm.tests.processes import child, run_in_child
from crm.tests.synced import Crm
from crm.zoho.errors import Unreachable

pytestmark = pytest.mark.processes

KILLED = -signal.SIGKILL
PLACES = [
    "execute.before_parts",
    "store.after_rows:1",
    "store.after_rows:4",
    "store.before_commit:2",
    "store.before_commit:5",
    "store.after_commit:3",
    "store.after_commit:6",
    "full.before_sweep:1",
    "full.before_sweep:4",
    "full.before_watermark:2",
    "full.after_watermark:3",
    "execute.before_close",
]


@pytest.fixture
def paged(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> Crm:
    """Deals come in several pages."""
    monkeypatch.setattr(reading, "RANGE_ROWS", 15)
    crm.settings.ZOHO = replace(crm.settings.ZOHO, concurrency=2)
    return crm


def total(crm: Crm) -> int:
    return sum(len(crm.ids(m)) for m in ("Accounts", "Contacts", "Leads", "Deals"))


def begin(kind: str = "full", **options: Any) -> SyncRun:
    return runs.request_run(kind=kind, trigger="schedule", nudge=False, **options)


def assert_once(crm: Crm, run: SyncRun) -> None:
    run.refresh_from_db()
    assert run.status == "succeeded", run.message
    assert (run.created, run.seen, run.unchanged) == (total(crm),) * 2 + (0,)
    assert ChangeEvent.objects.count() == run.created
    for part in run.parts.all():
        assert part.created == len(crm.ids(part.module))
    crm.assert_mirrored()


@pytest.mark.parametrize("method", ["auto", "pages"])
@pytest.mark.parametrize("place", PLACES)
def test_row_1_a_first_sync_killed_anywhere_goes_on_and_counts_nothing_twice(
    paged: Crm, place: str, method: str
) -> None:
    if method == "pages" and place.startswith("store") and place[-1] > "4":
        place = place[:-1] + "4"  # there are fewer, larger pages
    run = begin(method=method)
    assert run_in_child(lambda: execute(run.pk), f"{place}=kill") == KILLED
    run.refresh_from_db()
    assert run.status == "running"
    tasks.sweep()
    assert_once(paged, run)
    assert SyncRun.objects.count() == 1


def test_row_2_killed_after_its_last_word_it_is_not_run_again(paged: Crm) -> None:
    run = begin()
    assert run_in_child(lambda: execute(run.pk), "execute.after_close=kill") == KILLED
    calls = paged.requests()
    tasks.sweep()
    assert execute(run.pk) is None  # the broker delivers it once more
    assert paged.requests() == calls
    assert_once(paged, run)


def test_row_1_killed_again_and_again_on_new_pages_it_still_ends(paged: Crm) -> None:
    run = begin()
    for nth in (1, 2, 3, 2, 1, 3):
        assert run_in_child(tasks.sweep, f"store.after_commit:{nth}=kill") == KILLED
    tasks.sweep()
    assert_once(paged, run)


def test_row_9_deaths_that_no_record_explains_end_the_run_with_a_word(
    paged: Crm, ops_client: Any
) -> None:
    run = begin()
    for _ in range(6):
        assert run_in_child(tasks.sweep, "execute.before_parts=kill") == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.error_code) == ("failed", "workers_died")
    assert "start it again" in run.message
    assert "6 workers died" in sync_state(timezone.now()).cause
    assert "6 workers died" in ops_client.get("/").content.decode()
    assert not MirrorState.objects.filter(watermark__isnull=False).exists()
    assert paged.sync("full").status == "succeeded"
    paged.assert_mirrored()


@pytest.mark.parametrize(
    "place",
    ["store.after_rows", "store.before_commit", "store.after_commit", "tombstones.before_commit",
     "tombstones.after_commit", "execute.before_close"],
)  # fmt: skip
def test_row_1_a_killed_delta_goes_on(paged: Crm, place: str) -> None:
    paged.sync("full")
    ids = paged.ids()
    for n, zoho_id in enumerate(ids[:20]):
        paged.control("edit", module="Deals", id=zoho_id, values={"Next_Step": f"step {n}"})
    paged.control("delete", module="Deals", ids=ids[20:25])
    before = ChangeEvent.objects.count()
    run = begin("delta")
    assert run_in_child(lambda: execute(run.pk), f"{place}=kill") == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.deleted) == ("succeeded", 5)
    assert ChangeEvent.objects.count() == before + 20 + 5
    paged.assert_mirrored()


def test_row_1_what_changes_between_death_and_resurrection_of_a_delta_is_not_lost(
    paged: Crm,
) -> None:
    paged.sync("full")
    ids = paged.ids()
    for zoho_id in ids[:40]:
        paged.control("edit", module="Deals", id=zoho_id, values={"Next_Step": "first"})
    run = begin("delta", module_names=["Deals"])
    assert run_in_child(lambda: execute(run.pk), "store.after_commit:2=kill") == KILLED
    # An id that is stored already, edited long before the run goes on.
    paged.control("edit", module="Deals", id=ids[0], values={"Next_Step": "second"})
    paged.control("config", clock_offset_s=3600)
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded"
    paged.sync("delta")
    paged.assert_mirrored("Deals")


def test_row_1_quarantine_is_not_counted_twice_over_a_kill(paged: Crm) -> None:
    paged.settings.ZOHO = replace(paged.settings.ZOHO, concurrency=1)  # read in the order stored
    rule = {"path": "/crm/v8/coql", "body_contains": "id <=", "do": "rewrite", "with": {"a": 1}}
    paged.control("faults", rules=[{**rule, "nth": 1}])
    run = begin(module_names=["Deals"])
    assert run_in_child(lambda: execute(run.pk), "store.after_commit:2=kill") == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.failed, run.seen) == ("partial", 1, 50)
    assert FailedRecord.objects.get().attempts == 1


# -- frozen and late ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["execute.before_parts", "store.after_commit:2", "store.after_commit:5",
     "full.before_watermark:2", "full.after_watermark:4", "execute.before_close"],
)  # fmt: skip
def test_row_5_a_frozen_process_that_wakes_up_writes_nothing(
    paged: Crm, rep_client: Any, place: str
) -> None:
    """The new holder goes on with the run's own line of the ledger; the late process gets a line
    that says what became of it."""
    paged.settings.SYNC_LEASE_SECONDS = 60
    run = begin()
    with child(lambda: execute(run.pk), f"{place}=stop") as frozen:
        frozen.wait_until_stopped()
        tasks.sweep()
        run.refresh_from_db()
        assert run.status == "running"  # its lease still holds
        first_fence = run.fence
        _let_the_lease_run_out()
        tasks.sweep()
        assert_once(paged, run)
        paged.control("edit", module="Deals", id=paged.ids()[0], values={"Next_Step": "later"})
        paged.sync("delta")
        before = what_a_late_process_could_spoil()
        frozen.signal(signal.SIGCONT)
        assert frozen.wait() == 0
    assert what_a_late_process_could_spoil() == before
    late = SyncRun.objects.get(status="superseded")
    assert (late.kind, late.lane, late.fence) == ("full", None, first_fence)
    assert (late.seen, late.error_code) == (0, "superseded")
    assert f"went on with run {run.pk}" in late.message
    shown = rep_client.get("/api/zoho/sync-runs").json()["results"]
    assert [r["status"] for r in shown] == ["superseded", "succeeded", "succeeded"]
    last = sync_state(timezone.now()).last_run
    assert last is not None and (last.kind, last.status) == ("delta", "succeeded")
    paged.assert_mirrored()


def what_a_late_process_could_spoil() -> list[Any]:
    """All that a sync writes but the calls it has spent."""
    apart = ("api_calls", "retries", "received_bytes", "heartbeat_at")
    ledger = [
        {name: value for name, value in row.items() if name not in apart}
        for row in SyncRun.objects.exclude(status="superseded").order_by("pk").values()
    ]
    models = (MirrorState, SyncRunModule, ChangeEvent, Deal, CrmConnection, FailedRecord)
    return [ledger, *(list(model.objects.order_by("pk").values()) for model in models)]


def test_row_5_what_a_late_process_met_is_not_said_of_the_connection(paged: Crm) -> None:
    """It wakes up in the middle of a call, which has run out of time by then."""
    paged.settings.SYNC_LEASE_SECONDS = 60
    run = begin()

    def wake_up_late() -> None:
        def time_out(*_: Any) -> None:
            if SyncRun.objects.filter(pk=run.pk, ended_at__isnull=False).exists():
                raise Unreachable("The CRM does not answer.", code="unreachable")

        execute(run.pk, on_page=time_out)

    with child(wake_up_late, "store.after_commit:2=stop") as frozen:
        frozen.wait_until_stopped()
        _let_the_lease_run_out()
        tasks.sweep()
        frozen.signal(signal.SIGCONT)
        assert frozen.wait() == 0
    assert_once(paged, run)
    assert CrmConnection.objects.get().error_code == ""
    assert sync_state(timezone.now()).state == "connected"
    assert SyncRun.objects.filter(status="superseded").count() == 1


def test_row_8_a_copy_delivered_while_it_runs_exits_at_once_and_writes_nothing(paged: Crm) -> None:
    paged.settings.SYNC_LEASE_SECONDS = 60
    run = begin()
    with child(lambda: execute(run.pk), "store.after_commit:2=stop") as first:
        first.wait_until_stopped()
        calls, events = paged.requests(), ChangeEvent.objects.count()
        ledger = SyncRun.objects.values().get()
        tasks.run_sync(run.pk)  # as the broker delivers it a second time
        assert paged.requests() == calls
        assert ChangeEvent.objects.count() == events
        after = SyncRun.objects.values().get()
        assert (after["attempts"], after["fence"]) == (ledger["attempts"], ledger["fence"])
        first.signal(signal.SIGCONT)
        assert first.wait() == 0
    assert_once(paged, run)


def test_row_1_with_the_shipped_settings_a_dead_run_resumes_within_ninety_seconds() -> None:
    """Its lease runs out, then the next sweep takes it up; each wait is a setting."""
    assert settings.SYNC_LEASE_SECONDS + settings.SWEEP_SECONDS <= 90


def _let_the_lease_run_out() -> None:
    """As its seconds do; waiting for them would be a race with a slow machine."""
    assert SyncLease.objects.update(expires_ms=lease.now_ms() - 1) == 1


def test_row_5_a_lost_lease_stops_a_page_before_it_is_written(paged: Crm) -> None:
    run = begin()

    def take_over(*_: Any) -> None:
        SyncLease.objects.update(fence=99)

    execute(run.pk, on_page=take_over)
    run.refresh_from_db()
    assert run.status == "running"
    assert run.pages == 1
    assert not SyncRun.objects.filter(status="superseded").exists(), "nobody has it yet"
    SyncLease.objects.update(expires_ms=0, holder="")
    tasks.sweep()
    assert_once(paged, run)


def test_row_4_an_orderly_stop_between_pages_gives_the_lease_back(paged: Crm) -> None:
    run = begin()
    pages = iter(range(100))
    execute(run.pk, should_stop=lambda: next(pages) == 2)
    run.refresh_from_db()
    assert (run.status, run.pages) == ("queued", 3)
    assert not lease.is_held()
    tasks.sweep()
    assert_once(paged, run)
    assert Deal.objects.live().count() == 50
