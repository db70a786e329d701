"""From a notice to the mirror: fetched, stored, settled; gathered, tried again, given up."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone

from crm import tasks, webhook
from crm.models import (
    ChangeEvent,
    Deal,
    DeletionHold,
    FailedRecord,
    Notice,
    NotificationChannel,
    SyncRun,
)
from crm.sync import events, inbox
from crm.tests.notices import LIVE, OLD, known_channels, nobody_works, statuses, tell
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm

KILLED = -signal.SIGKILL


@pytest.fixture
def mirror(crm: Crm) -> Crm:
    """Fifty deals, mirrored, with channels; a worker that is there at once."""
    crm.sync()
    _prepare(crm)
    return crm


@pytest.fixture
def big_mirror(big_crm: Crm) -> Crm:
    big_crm.sync()
    _prepare(big_crm)
    return big_crm


def _prepare(crm: Crm) -> None:
    crm.settings.WEBHOOK_TOKENS = [LIVE, OLD]
    crm.settings.WEBHOOK_PER_SECOND = 1_000_000
    webhook.flood = webhook.Flood()
    cache.clear()
    known_channels()
    crm.control("reset_stats")


def edit(crm: Crm, zoho_id: str, text: str) -> None:
    crm.control("edit", module="Deals", id=zoho_id, values={"Next_Step": text})


def next_step(zoho_id: str) -> str:
    return Deal.objects.get(zoho_id=zoho_id).next_step


def work() -> int:
    return events.take_waiting(wait=lambda seconds: None)


def calls(crm: Crm) -> int:
    """Requests to the records of the CRM since the statistics were reset."""
    paths: dict[str, int] = crm.control("stats")["by_path"]
    return sum(n for path, n in paths.items() if "oauth" not in path)


# -- the way of one notice ------------------------------------------------------------------------


def test_a_notice_brings_the_record_and_nothing_it_says_itself(mirror: Crm) -> None:
    target = mirror.ids()[0]
    edit(mirror, target, "call them")
    tell(target, affected_values=[{"record_id": target, "values": {"Next_Step": "a lie"}}])
    assert next_step(target) == "call them"
    assert statuses() == {int(target): Notice.DONE}
    event = ChangeEvent.objects.latest("pk")
    assert (event.source, event.field, event.new) == ("webhook", "next_step", '"call them"')
    mirror.assert_mirrored("Deals")


def test_a_new_record_and_its_account_come_by_notice(mirror: Crm) -> None:
    made = mirror.control(
        "insert", module="Deals", values={"Deal_Name": "New", "Stage": "Qualification"}
    )
    tell(made["id"], operation="insert")
    assert Deal.objects.get(zoho_id=made["id"]).name == "New"


def test_each_round_is_a_run_in_the_ledger(mirror: Crm) -> None:
    one, two = mirror.ids()[:2]
    with nobody_works(mirror.settings):
        tell(one)
        tell(*mirror.ids("Accounts")[:3], module="Accounts")
        edit(mirror, two, "x")
        tell(two)
    work()
    run = SyncRun.objects.get(kind="webhook")
    assert (run.trigger, run.status, run.lane) == ("webhook", "succeeded", None)
    assert (run.seen, run.updated, run.unchanged, run.api_calls) == (5, 1, 4, 2)
    assert [(part.module, part.seen) for part in run.parts.all()] == [("Accounts", 3), ("Deals", 2)]
    assert run.ended_at is not None


def test_a_channel_remembers_when_it_last_told_something(mirror: Crm) -> None:
    before = timezone.now()
    tell(*mirror.ids()[:2])
    tell(mirror.ids()[0])
    channel = NotificationChannel.objects.get(module="Deals")
    assert channel.last_event_at is not None
    assert before <= channel.last_event_at <= timezone.now()
    assert channel.events == 3


def test_nothing_is_fetched_before_the_mirror_was_read(crm: Crm) -> None:
    _prepare(crm)
    tell(crm.ids()[0])
    assert set(statuses().values()) == {Notice.WAITING}
    crm.sync()
    work()
    assert set(statuses().values()) == {Notice.DONE}


def test_nothing_is_fetched_from_a_crm_that_the_mirror_was_not_read_from(mirror: Crm) -> None:
    mirror.settings.ZOHO = replace(mirror.settings.ZOHO, client_id="1000.OTHER")
    tell(mirror.ids()[0])
    assert set(statuses().values()) == {Notice.WAITING}
    assert calls(mirror) == 0


def test_row_68_ignored_notices_make_no_call(mirror: Crm) -> None:
    tell(mirror.ids()[0], channel_id="99")
    tell("1", module="Tasks")
    assert calls(mirror) == 0
    assert Notice.objects.filter(status=Notice.IGNORED).count() == 2


# -- 54: every order ------------------------------------------------------------------------------

FOUR = ["insert", "update", "delete", "page"]


@pytest.mark.parametrize("order", list(permutations(FOUR)), ids="-".join)
def test_row_54_whatever_comes_first_the_crm_is_what_counts(
    mirror: Crm, order: tuple[str, ...]
) -> None:
    """A record is made, edited and deleted; its three notices and a delta arrive in any order."""
    made = mirror.control(
        "insert", module="Deals", values={"Deal_Name": "Short", "Stage": "Qualification"}
    )["id"]
    acts = {"insert": None, "update": "edit", "delete": "delete"}
    for step in order:
        if step == "page":
            mirror.sync("delta", "Deals")
        else:
            if acts[step] == "edit" and _is_there(mirror, made):
                edit(mirror, made, "edited")
            elif acts[step] == "delete":
                mirror.control("delete", module="Deals", ids=[made])
            tell(made, operation=step)
    mirror.assert_mirrored("Deals")
    assert not Deal.objects.live().filter(zoho_id=made).exists()
    assert set(statuses().values()) == {Notice.DONE}


def _is_there(crm: Crm, zoho_id: str) -> bool:
    return zoho_id in crm.ids()


def test_row_54_a_page_read_before_the_notice_does_not_overwrite_it(mirror: Crm) -> None:
    """The page was on its way when the record changed and its notice was worked off."""
    target = mirror.ids()[0]
    was_told = []

    def tell_meanwhile(run: SyncRun, part: Any) -> None:
        if part.module == "Leads" and not was_told:
            was_told.append(True)
            edit(mirror, target, "newer")
            tell(target)

    mirror.sync("full", on_page=tell_meanwhile)
    assert was_told
    assert next_step(target) == "newer"
    mirror.assert_mirrored()


# -- 69: repeats, bursts ------------------------------------------------------------------------


def test_row_69_a_thousand_repeats_are_fetched_once(mirror: Crm) -> None:
    target = mirror.ids()[0]
    with nobody_works(mirror.settings):
        for _ in range(1000):
            tell(target)
    assert Notice.objects.count() == 1
    work()
    assert (calls(mirror), Notice.objects.get().status) == (1, Notice.DONE)


def test_row_69_while_it_is_fetched_repeats_wait_and_are_fetched_once_more(mirror: Crm) -> None:
    target = mirror.ids()[0]
    told = []

    original = events.deletions.verify

    def verify(*arguments: Any) -> Any:
        for verdict in original(*arguments):
            if not told:
                told.append(True)
                edit(mirror, target, "changed while it was fetched")
                for _ in range(50):
                    tell(target)  # the worker that this wakes leaves it to the one at work
                assert Notice.objects.get().status == Notice.TAKEN
                assert calls(mirror) == 1
            yield verdict

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events.deletions, "verify", verify)
        tell(target)
    assert calls(mirror) == 2
    assert next_step(target) == "changed while it was fetched"
    assert (Notice.objects.get().status, Notice.objects.get().times) == (Notice.DONE, 51)


def test_a_burst_of_a_thousand_notices_makes_at_most_twenty_calls(big_mirror: Crm) -> None:
    """A thousand notices of 450 records, one after the other, while a worker works."""
    ids = big_mirror.ids()
    for zoho_id in ids:
        edit(big_mirror, zoho_id, "burst")
    big_mirror.control("reset_stats")
    arriving = iter((ids * 3)[:1000])

    def arrive(seconds: float) -> None:
        """Five hundred a second, for as long as the worker waits, and 60 ms for its round."""
        with nobody_works(big_mirror.settings):
            for _, zoho_id in zip(range(int((seconds + 0.06) * 500)), arriving, strict=False):
                tell(zoho_id)

    arrive(0)
    assert events.take_waiting(wait=arrive) > 1
    assert Notice.objects.exclude(status=Notice.DONE).count() == 0
    assert calls(big_mirror) <= 20
    assert set(Deal.objects.live().values_list("next_step", flat=True)) == {"burst"}


def test_a_burst_of_deletions_is_asked_for_in_fifties(big_mirror: Crm) -> None:
    gone = big_mirror.ids()[:120]
    big_mirror.control("delete", module="Deals", ids=gone)
    big_mirror.control("reset_stats")
    with nobody_works(big_mirror.settings):
        tell(*gone, operation="delete")
    work()
    assert calls(big_mirror) == 3
    hold = DeletionHold.objects.get()
    assert (hold.module, len(hold.zoho_ids)) == ("Deals", 120)


def test_pauses_grow_while_more_keeps_coming_and_never_before_the_second_round() -> None:
    pauses = [events.pause_after(rounds) for rounds in range(1, 9)]
    assert pauses == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_steady_notices_leave_half_of_the_calls_to_the_syncs(mirror: Crm) -> None:
    mirror.settings.ZOHO = replace(mirror.settings.ZOHO, rate_limit_per_minute=10)
    pauses: list[float] = []
    for zoho_id in mirror.ids()[:6]:
        with nobody_works(mirror.settings):
            tell(zoho_id)
        mirror.settings.ZOHO = replace(mirror.settings.ZOHO, rate_limit_per_minute=10)
        events.take_waiting(wait=pauses.append)
    assert pauses == [0.0] * 4 + [12.0] * 2


# -- deletions ----------------------------------------------------------------------------------


def test_a_deleted_record_becomes_a_tombstone_and_comes_back(mirror: Crm) -> None:
    target = mirror.ids()[0]
    mirror.control("delete", module="Deals", ids=[target])
    tell(target, operation="delete")
    row = Deal.objects.get(zoho_id=target)
    assert (row.deleted_at is not None, row.deleted_source) == (True, "webhook")
    mirror.control("restore", module="Deals", ids=[target])
    mirror.sync("delta", "Deals")  # the restore was told to nobody
    assert Deal.objects.get(zoho_id=target).deleted_at is None
    mirror.assert_mirrored("Deals")


def test_a_notice_of_a_deletion_that_did_not_happen_marks_nothing(mirror: Crm) -> None:
    target = mirror.ids()[0]
    tell(target, operation="delete")
    assert Deal.objects.get(zoho_id=target).deleted_at is None


def test_what_was_missing_once_is_asked_for_again_before_it_is_marked(mirror: Crm) -> None:
    target = mirror.ids()[0]
    mirror.control(
        "faults",
        rules=[{"path": "/crm/v8/Deals", "do": "status", "status": 204, "body": ""}],
    )
    edit(mirror, target, "alive")
    tell(target)
    assert Deal.objects.get(zoho_id=target).deleted_at is None
    assert next_step(target) == "alive"


def test_a_record_that_was_never_ours_and_is_gone_leaves_nothing(mirror: Crm) -> None:
    tell(10**17, operation="delete")
    assert set(statuses().values()) == {Notice.DONE}
    assert not Deal.objects.filter(zoho_id=10**17).exists()


# -- what fails ---------------------------------------------------------------------------------


def test_a_crm_that_is_down_blames_no_notice(mirror: Crm) -> None:
    mirror.control(
        "faults", rules=[{"path": "/crm/v8/Deals", "times": 0, "do": "status", "status": 503}]
    )
    target = mirror.ids()[0]
    edit(mirror, target, "later")
    tell(target)
    notice = Notice.objects.get()
    assert (notice.status, notice.attempts) == (Notice.WAITING, 0)
    assert notice.next_attempt_at > timezone.now()
    run = SyncRun.objects.get(kind="webhook")
    assert run.status == "failed"
    assert run.message
    mirror.control("clear_faults")
    assert work() == 0  # not yet
    _make_due()
    assert work() == 1
    assert next_step(target) == "later"


def _make_due() -> None:
    Notice.objects.filter(status=Notice.WAITING).update(next_attempt_at=timezone.now())


def test_what_the_crm_refuses_for_good_is_given_up_and_can_be_tried_again(mirror: Crm) -> None:
    refusal = {"code": "INVALID_REQUEST", "message": "no", "status": "error", "details": {}}
    rule = {"path": "/crm/v8/Deals", "times": 0, "do": "status", "status": 400, "body": refusal}
    mirror.control("faults", rules=[rule])
    target = mirror.ids()[0]
    edit(mirror, target, "at last")
    tell(target)
    for _ in range(inbox.MAX_TRIES + 2):
        _make_due()
        work()
    dead = Notice.objects.get()
    assert (dead.status, dead.attempts, dead.error_code) == (
        Notice.DEAD,
        inbox.MAX_TRIES,
        "INVALID_REQUEST",
    )
    mirror.control("clear_faults")
    assert inbox.retry(Notice.objects.all(), timezone.now()) == 1
    work()
    assert statuses() == {int(target): Notice.DONE}
    assert next_step(target) == "at last"


def test_a_new_notice_of_a_given_up_record_begins_anew(mirror: Crm) -> None:
    target = mirror.ids()[0]
    tell(target)
    Notice.objects.update(status=Notice.DEAD, attempts=inbox.MAX_TRIES)
    tell(target)
    assert Notice.objects.get().status == Notice.DONE


def test_what_failed_is_taken_in_smaller_parts_until_the_bad_one_is_alone(mirror: Crm) -> None:
    """Whatever round holds the bad one fails as a whole."""
    bad, *good = (int(zoho_id) for zoho_id in mirror.ids())
    with nobody_works(mirror.settings):
        tell(bad, *good)
    now, sizes = timezone.now(), []
    while (claim := inbox.claim_due(now)) is not None:
        held = list(claim.hints["Deals"])
        sizes.append(len(held))
        if bad in held:
            inbox.blame(claim, "Deals", code="bad", message="A bad one.")
        else:
            with transaction.atomic():
                inbox.settle(claim, "Deals", held)
        now += timedelta(hours=1)
    assert Counter(statuses().values()) == {Notice.DONE: 49, Notice.DEAD: 1}
    assert statuses()[bad] == Notice.DEAD
    assert sizes[0] == 50
    assert sizes[-1] == 1


def test_a_record_that_cannot_be_stored_is_kept_as_a_failure(mirror: Crm) -> None:
    target = mirror.ids()[0]
    rule = {"path": "/crm/v8/Deals", "nth": 1, "do": "rewrite", "with": {"a": 1}}
    mirror.control("faults", rules=[rule])
    tell(target)
    assert FailedRecord.objects.count() == 1
    assert SyncRun.objects.get(kind="webhook").status == "partial"
    assert Deal.objects.get(zoho_id=target).deleted_at is None


def test_a_fault_of_our_own_is_blamed_and_seen(mirror: Crm, monkeypatch: Any) -> None:
    def break_down(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(events._Round, "_store", break_down)
    tell(mirror.ids()[0])
    notice = Notice.objects.get()
    assert (notice.status, notice.attempts, notice.error_code) == (Notice.WAITING, 1, "internal")
    assert SyncRun.objects.get(kind="webhook").status == "failed"


# -- 75: killed ---------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    "place",
    ["events.after_claim", "store.after_rows", "store.before_commit", "store.after_commit",
     "events.before_settle"],
)  # fmt: skip
def test_row_75_killed_at_any_place_it_is_processed_by_the_sweeper(mirror: Crm, place: str) -> None:
    target = mirror.ids()[0]
    edit(mirror, target, "survives")
    with nobody_works(mirror.settings):
        tell(target)
    mirror.settings.SYNC_LEASE_SECONDS = 5
    assert run_in_child(work, f"{place}=kill") == KILLED
    later = timezone.now() + timedelta(seconds=6)
    tasks.sweep()  # the sync's own sweeper leaves a round alone
    assert SyncRun.objects.filter(kind="webhook", status="running").exists()
    inbox.release_lapsed(timezone.now())
    events.sweep(later)
    _make_due()
    work()
    assert next_step(target) == "survives"
    assert statuses() == {int(target): Notice.DONE}
    assert ChangeEvent.objects.filter(source="webhook").count() == 1
    assert not SyncRun.objects.filter(status="running").exists()
    mirror.assert_mirrored("Deals")


def test_row_75_stored_and_nobody_woken(mirror: Crm) -> None:
    target = mirror.ids()[0]
    edit(mirror, target, "found")
    with nobody_works(mirror.settings):
        tell(target)
    tasks.sweep_notices()
    assert next_step(target) == "found"


def test_a_worker_that_comes_back_late_settles_nothing(mirror: Crm) -> None:
    target = mirror.ids()[0]
    with nobody_works(mirror.settings):
        tell(target)
    late = inbox.claim_due(timezone.now())
    assert late is not None
    inbox.release_lapsed(timezone.now() + timedelta(minutes=5))
    assert statuses() == {int(target): Notice.WAITING}
    with transaction.atomic():
        inbox.settle(late, "Deals", [int(target)])
    assert statuses() == {int(target): Notice.WAITING}
    assert SyncRun.objects.get(kind="webhook").status == "aborted"


def test_a_record_that_kills_its_worker_each_time_is_given_up(mirror: Crm) -> None:
    with nobody_works(mirror.settings):
        tell(mirror.ids()[0])
    now = timezone.now()
    for _ in range(inbox.MAX_TRIES):
        now += timedelta(hours=1)
        assert inbox.claim_due(now) is not None
        inbox.release_lapsed(now + timedelta(minutes=5))
    assert set(statuses().values()) == {Notice.DEAD}


def test_old_rounds_and_ignored_notices_are_forgotten(mirror: Crm) -> None:
    tell(mirror.ids()[0])
    tell(mirror.ids()[1], channel_id="99")
    inbox.forget_old(timezone.now() + timedelta(days=29))
    assert Notice.objects.count() == 2
    inbox.forget_old(timezone.now() + timedelta(days=31))
    assert Notice.objects.get().status == Notice.DONE
    assert not SyncRun.objects.filter(kind="webhook").exists()
    assert SyncRun.objects.filter(kind="full").exists()
