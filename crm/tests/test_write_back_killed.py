"""Whatever dies when: an edit is kept whole or not at all, and sent once."""

from __future__ import annotations

import signal

import pytest
from django.utils import timezone

from crm.models import ChangeEvent, Deal, OutboxEntry, outbox
from crm.sync.modules import DEALS
from crm.tests.processes import child, run_in_child
from crm.tests.writing import a_deal, change, entries, is_settled, only_entry, send_now, there
from crm.writeback.outbox import create, delete, edit

pytestmark = pytest.mark.django_db(transaction=True)
KILLED = -signal.SIGKILL
SENDING = [
    "send.after_claim",
    "send.after_reading",
    "send.before_call",
    "send.after_call",
    "send.before_settle",
    "settle.before_sent",
    "send.after_settle",
]


@pytest.fixture
def mirror(crm):
    crm.sync()
    return crm


def send_in_child(failing: str = "") -> int:
    return run_in_child(send_now, failing)


@pytest.mark.parametrize("place", ["outbox.between_writes", "outbox.before_commit"])
@pytest.mark.parametrize("act", ["edit", "create", "delete"])
def test_row_3_an_edit_and_its_entry_are_both_there_or_neither(mirror, act, place):
    deal = a_deal(mirror)
    told = ChangeEvent.objects.count()
    was = deal.next_step

    def work() -> None:
        now = timezone.now()
        if act == "edit":
            edit(deal, {"next_step": "Half"}, author=None, now=now)
        elif act == "delete":
            delete(deal, author=None, now=now)
        else:
            create(DEALS, {"name": "Half"}, author=None, now=now)

    assert run_in_child(work, f"{place}=kill") == KILLED
    deal.refresh_from_db()
    assert (deal.next_step, deal.deleted_at) == (was, None)
    assert not Deal.objects.filter(name="Half").exists()
    assert not OutboxEntry.objects.exists()
    assert ChangeEvent.objects.count() == told


@pytest.mark.parametrize("place", SENDING)
def test_row_81_a_sender_killed_anywhere_sends_the_edit_once(mirror, place):
    deal = a_deal(mirror)
    change(deal, next_step="Once")
    mirror.control("reset_stats")
    assert send_in_child(f"{place}=kill") == KILLED
    send_now(later=60)
    assert there(mirror, deal, "Next_Step") == "Once"
    calls = mirror.control("stats")["by_path"]
    assert sum(n for path, n in calls.items() if path.startswith("PUT")) == 1, calls
    mirror.sync("delta")
    assert is_settled()
    mirror.assert_mirrored()


@pytest.mark.parametrize("place", [*SENDING[:1], *SENDING[2:5]])
def test_row_82_a_sender_killed_anywhere_makes_a_deal_once(mirror, place):
    before = set(mirror.ids())
    values = {"name": "One", "crm_stage": "Qualification", "closing_date": "2027-03-01"}
    pipeline = a_deal(mirror).pipeline
    kept = create(DEALS, {**values, "pipeline": pipeline}, author=None, now=timezone.now())
    assert send_in_child(f"{place}=kill") == KILLED
    send_now(later=60)
    (made,) = set(mirror.ids()) - before
    assert str(Deal.objects.get(pk=kept.record_id).zoho_id) == made
    mirror.sync("delta")
    assert is_settled()
    mirror.assert_mirrored()


@pytest.mark.parametrize("place", ["send.before_call", "send.after_call"])
def test_a_sender_killed_over_a_deletion_deletes_once(mirror, place):
    deal = a_deal(mirror)
    delete(deal, author=None, now=timezone.now())
    assert send_in_child(f"{place}=kill") == KILLED
    send_now(later=60)
    assert str(deal.zoho_id) not in mirror.ids()
    mirror.sync("delta")
    assert is_settled()
    mirror.assert_mirrored()


def test_row_9_what_kills_its_workers_goes_alone_and_then_not_at_all(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Poison")
    for _ in range(5):
        assert send_in_child("send.before_call=kill") == KILLED
        OutboxEntry.objects.update(claimed_until=timezone.now())
    send_now(later=60)
    entry = only_entry(deal)
    assert (entry.status, entry.code, entry.deaths) == (outbox.DEAD, "workers_died", 5)
    deal.refresh_from_db()
    assert deal.next_step == "Poison"  # ours, until somebody decides


def test_a_frozen_worker_that_wakes_up_sends_nothing_any_more(mirror):
    """Taken over while it was away: what it still holds is not its own."""
    deal = a_deal(mirror)
    change(deal, next_step="First")
    with child(send_now, "send.after_reading=stop") as frozen:
        frozen.wait_until_stopped()
        send_now(later=60)
        change(deal, next_step="Second")
        send_now(later=60)
        assert there(mirror, deal, "Next_Step") == "Second"
        frozen.signal(signal.SIGCONT)
        assert frozen.wait() == 0
    assert there(mirror, deal, "Next_Step") == "Second"
    mirror.sync("delta")
    assert {entry.status for entry in entries(deal)} == {outbox.DONE}
