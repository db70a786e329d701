"""Deals made here whose answer was lost: one there, none doubled, none back after a deletion."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from crm.models import Deal, OutboxEntry, outbox
from crm.tests.replay import live_values, replayed
from crm.tests.synced import Crm
from crm.tests.test_write_back_bad_days import a_new_deal, remove
from crm.tests.writing import change, entries, is_settled, only_entry, send_now, there
from crm.writeback import decisions
from crm.writeback.outbox import edit
from crm.zoho.factory import client_from_settings

pytestmark = pytest.mark.django_db(transaction=True)
UPSERT = "/crm/v8/Deals/upsert"


@pytest.fixture
def mirror(crm: Crm) -> Crm:
    crm.sync()
    return crm


def lost(crm: Crm, when: str = "after") -> None:
    crm.control("faults", rules=[{"do": "reset", "method": "POST", "when": when, "path": UPSERT}])


def without_queries(crm: Crm) -> None:
    said = {"code": "INVALID_QUERY", "status": "error", "message": "no", "details": {}}
    rule = {"do": "status", "status": 400, "method": "POST", "path": "/crm/v8/coql", "times": 0}
    crm.control("faults", rules=[{**rule, "body": said}])


def a_lost_deal(crm: Crm, author: Any, *, when: str = "after", **values: Any) -> Deal:
    """Made here, sent, and nobody here knows whether it arrived."""
    deal = a_new_deal(crm, author, **values)
    lost(crm, when)
    assert send_now().unknown == 1
    return deal


def given_up(deal: Deal, manager: Any, *, again: bool = False) -> None:
    OutboxEntry.objects.filter(record_id=deal.pk, kind=outbox.CREATE).update(
        status=outbox.DEAD, attempts=12
    )
    if again:
        decisions.try_again(only_entry(deal).pk, by=manager, now=timezone.now())
        OutboxEntry.objects.filter(record_id=deal.pk).update(status=outbox.DEAD)


def settle(crm: Crm) -> None:
    for step in range(4):
        send_now(later=7200 * (step + 1))
    crm.sync("delta")
    send_now(later=90_000)
    crm.sync("full")


@pytest.mark.parametrize("arrived", ["after", "before"])
@pytest.mark.parametrize("told_by", ["sending", "delta"])
@pytest.mark.parametrize("again", [False, True])
def test_row_82_given_up_and_deleted_here_it_is_nowhere(mirror, manager, arrived, told_by, again):
    before = set(mirror.ids())
    deal = a_lost_deal(mirror, manager, when=arrived)
    given_up(deal, manager, again=again)
    remove(deal, manager)
    if told_by == "delta":
        mirror.sync("delta")
    settle(mirror)
    assert set(mirror.ids()) == before
    assert Deal.objects.live().filter(name="New").count() == 0
    assert Deal.objects.filter(name="New").count() == 1
    assert is_settled()
    mirror.assert_mirrored()


def test_row_82_edited_while_given_up_it_is_made_once(mirror, manager):
    before = set(mirror.ids())
    deal = a_lost_deal(mirror, manager)
    given_up(deal, manager)
    edit(Deal.objects.get(pk=deal.pk), {"next_step": "More"}, author=manager, now=timezone.now())
    settle(mirror)
    (made,) = set(mirror.ids()) - before
    deal.refresh_from_db()
    assert str(deal.zoho_id) == made
    assert Deal.objects.filter(name="New").count() == 1
    mirror.assert_mirrored()


def test_row_82_deleted_while_unknown_it_is_not_made_for_its_deletion(mirror, manager):
    deal = a_lost_deal(mirror, manager, when="before")
    remove(deal, manager)
    mirror.control("reset_stats")
    send_now(later=7200)
    calls = mirror.control("stats")["by_path"]
    assert not any("upsert" in path for path in calls), calls
    assert {e.status for e in entries(deal)} == {outbox.WITHDRAWN}
    assert replayed("Deals") == live_values("Deals")


def test_row_82_what_appears_after_it_was_withdrawn_is_deleted_there(mirror, manager):
    """The request was under way for longer than anybody waited."""
    deal = a_lost_deal(mirror, manager, when="before")
    remove(deal, manager)
    send_now(later=7200)
    assert is_settled()
    body = {"Deal_Name": "New", "Stage": "Qualification", "Closing_Date": "2027-03-01"}
    body |= {"Pulse_Id": deal.external_id, "Pipeline": deal.pipeline}
    with client_from_settings() as late:
        made = late.insert("Deals", [body])[0].id
    mirror.sync("delta")
    deal.refresh_from_db()
    assert deal.deleted_at is not None and str(deal.zoho_id) == str(made)
    assert send_now(later=7200).sent == 1
    assert str(made) not in mirror.ids()
    mirror.sync("delta")
    mirror.assert_mirrored()
    assert Deal.objects.filter(name="New").count() == 1


def test_row_82_one_that_somebody_changed_there_is_not_deleted_unasked(mirror, manager):
    before = set(mirror.ids())
    deal = a_lost_deal(mirror, manager)
    given_up(deal, manager)
    (made,) = set(mirror.ids()) - before
    mirror.control("edit", module="Deals", id=made, values={"Closing_Date": "2027-04-01"})
    remove(deal, manager)
    send_now(later=7200)
    send_now(later=14_400)
    assert made in mirror.ids()
    assert {e.kind: e.status for e in entries(deal)} == {
        outbox.CREATE: outbox.DONE,
        outbox.DELETE: outbox.CONFLICT,
    }


def test_row_82_a_dismissed_creation_that_arrived_is_deleted_there(mirror, manager):
    before = set(mirror.ids())
    deal = a_lost_deal(mirror, manager)
    given_up(deal, manager)
    decisions.dismiss(only_entry(deal).pk, by=manager, now=timezone.now())
    settle(mirror)
    assert set(mirror.ids()) == before
    assert is_settled()
    mirror.assert_mirrored()


def test_a_refused_creation_that_is_deleted_asks_no_more(mirror, manager):
    deal = a_new_deal(mirror, manager, name="X" * 121)  # the CRM takes 120 characters
    send_now()
    assert only_entry(deal).status == outbox.DEAD
    remove(deal, manager)
    send_now(later=60)
    assert {e.status for e in entries(deal)} == {outbox.WITHDRAWN}


@pytest.mark.parametrize("queries", [True, False])
@pytest.mark.parametrize("arrived", ["after", "before"])
def test_row_82_sent_again_it_overwrites_nobody(mirror, manager, queries, arrived):
    before = set(mirror.ids())
    deal = a_lost_deal(mirror, manager, when=arrived, next_step="Ours")
    if arrived == "after":
        (made,) = set(mirror.ids()) - before
        mirror.control("edit", module="Deals", id=made, values={"Next_Step": "Theirs"})
    if not queries:
        without_queries(mirror)
    send_now(later=7200)
    (made,) = set(mirror.ids()) - before
    assert there(mirror, deal, "Next_Step") == ("Theirs" if arrived == "after" else "Ours")
    assert (str(deal.zoho_id), only_entry(deal).status) == (made, outbox.DONE)
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_row_82_one_that_no_list_shows_is_not_overwritten_either(mirror, manager):
    """Waiting for approval it is in no list and no query; the guard of the second sending names
    it."""
    before = set(mirror.ids())
    deals = [a_new_deal(mirror, manager, next_step="Ours", name=f"New {n}") for n in range(3)]
    lost(mirror)
    assert send_now().unknown == 3
    made = set(mirror.ids()) - before
    hidden = next(i for i in made if mirror.record(i)["Deal_Name"] == "New 1")
    mirror.control("edit", module="Deals", id=hidden, values={"Next_Step": "Theirs"})
    mirror.control("hold", module="Deals", ids=[hidden], **{"as": "approval"})
    send_now(later=7200)
    assert mirror.record(hidden)["Next_Step"] == "Theirs"
    assert set(mirror.ids()) - before == made
    for deal in deals:
        deal.refresh_from_db()
    assert {str(deal.zoho_id) for deal in deals} == made
    assert is_settled()


def test_a_change_of_a_record_that_the_crm_never_had_is_refused(mirror, manager):
    deal = a_new_deal(mirror, manager)
    OutboxEntry.objects.all().delete()
    change(deal, manager, next_step="Ours")
    mirror.control("reset_stats")
    assert send_now().refused == 1
    entry = only_entry(deal)
    assert (entry.status, entry.code) == (outbox.REFUSED, "not_in_crm")
    assert "does not have this record" in entry.message
    assert mirror.requests() == 0
    remove(deal, manager)
    send_now()
    assert entries(deal)[-1].status == outbox.WITHDRAWN
    deal.refresh_from_db()
    assert deal.deleted_at is not None
