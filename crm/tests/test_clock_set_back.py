"""Our machine's clock stood in the future for a while: nothing waits until then for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from crm import tasks
from crm.models import CrmConnection, Deal, ExchangeRate, OutboxEntry, SyncRun, outbox
from crm.sync import runs
from crm.sync.page import Existing, is_older
from crm.tests.synced import Crm
from crm.tests.writing import a_deal, change, only_entry, send_now, there

FAR = timedelta(days=4400)


@pytest.mark.parametrize("ahead", [FAR, timedelta(hours=2)])
def test_row_18_a_deletion_learnt_in_the_future_can_be_undone_today(
    crm: Crm, ahead: timedelta
) -> None:
    crm.sync("full")
    one = crm.ids()[0]
    crm.control("vanish", module="Deals", ids=[one])
    with time_machine.travel(timezone.now() + ahead):
        assert crm.sync("full").deleted == 1
    crm.control("appear", module="Deals", ids=[one])
    assert crm.sync("full").restored == 1
    crm.assert_mirrored()


def test_a_reading_of_the_past_still_does_not_win_over_a_later_one(crm: Crm) -> None:
    """Two states of one second: the one that was read later is the newer."""
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    known = Existing(1, "", noon, noon + timedelta(seconds=5), False, False)
    later = noon + timedelta(minutes=1)
    assert is_older(noon, noon + timedelta(seconds=4), known, later)
    assert not is_older(noon, noon + timedelta(seconds=5), known, later)
    # Stamped by a clock that was ahead: it says nothing.
    assert not is_older(noon, noon + timedelta(seconds=3), known, noon + timedelta(seconds=4))


def test_row_18_rates_first_read_in_the_future_hold_today_after_the_next_delta(crm: Crm) -> None:
    with time_machine.travel(timezone.now() + FAR):
        crm.sync("full")
    ahead = ExchangeRate.objects.order_by("-day").first()
    assert ahead is not None and ahead.day > timezone.now().date() + timedelta(days=4000)
    crm.sync("delta")
    read_at = CrmConnection.objects.get().metadata_read_at
    assert read_at is not None and read_at <= timezone.now()
    crm.assert_mirrored()
    open_deals = Deal.objects.live().filter(stage_type="open", amount_minor__gt=0)
    assert open_deals.filter(currency="USD", amount_sgd_minor__gt=0).exists()


@pytest.mark.parametrize("kind", [runs.DELTA, runs.FULL])
def test_row_18_a_slot_of_the_future_does_not_swallow_those_of_today(db: None, kind: str) -> None:
    now = timezone.now().replace(microsecond=0)

    def give(slot: datetime) -> None:
        SyncRun.objects.create(
            kind=kind, trigger="schedule", slot=slot, status="succeeded", requested_at=slot
        )

    give(now + FAR)
    assert tasks.slot_of(kind, now) == now
    give(now)
    assert tasks.slot_of(kind, now + timedelta(seconds=5)) is None


def test_row_18_a_change_made_in_the_future_goes_today(crm: Crm) -> None:
    crm.sync("full")
    deal = a_deal(crm)
    with time_machine.travel(timezone.now() + FAR):
        change(deal, next_step="call them")
    assert only_entry(deal).next_attempt_at > timezone.now() + timedelta(days=4000)
    send_now()
    assert there(crm, deal, "Next_Step") == "call them"


def test_row_18_a_change_that_waits_as_told_is_not_hurried(crm: Crm) -> None:
    crm.sync("full")
    deal = a_deal(crm)
    change(deal, next_step="call them")
    entry = only_entry(deal)
    due = timezone.now() + timedelta(hours=4)
    OutboxEntry.objects.filter(pk=entry.pk).update(next_attempt_at=due)
    send_now()
    assert only_entry(deal).status == outbox.PENDING
    assert there(crm, deal, "Next_Step") != "call them"
