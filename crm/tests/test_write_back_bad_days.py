"""Changes on their way here while the CRM fails, refuses, or somebody is quicker.

None is lost, sent unasked or put over another's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from crm.models import CrmConnection, Deal, DeletionHold, OutboxEntry, Reconciliation, outbox
from crm.sync.modules import DEALS
from crm.tests.synced import Crm
from crm.tests.test_write_back_conversion import a_lead, converted
from crm.tests.writing import a_deal, change, entries, only_entry, send_now, there
from crm.tests.writing import switch as switch_to
from crm.writeback import decisions, switch
from crm.writeback.outbox import create, delete, edit
from crm.zoho.factory import client_from_settings

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mirror(crm: Crm) -> Crm:
    crm.sync()
    return crm


class Meanwhile:
    """The real client; something happens right before or after one of its calls."""

    def __init__(self, **steps: Any) -> None:
        self._client, self._steps = client_from_settings(purpose="write"), steps

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        before, after = self._steps.get(name), self._steps.get(f"after_{name}")
        if before is None and after is None:
            return call

        def around(*args: Any, **options: Any) -> Any:
            if before is not None:
                before(*args)
            answer = call(*args, **options)
            if after is not None:
                after(*args)
            return answer

        return around


def open_deals(number: int) -> list[Deal]:
    return list(Deal.objects.live().filter(stage_type="open").order_by("pk")[:number])


def theirs(crm: Crm, deal: Deal, **values: Any) -> None:
    crm.control("edit", module="Deals", id=deal.zoho_id, values=values or {"Next_Step": "Theirs"})


def a_new_deal(crm: Crm, author: Any, **values: Any) -> Deal:
    wanted = {"name": "New", "crm_stage": "Qualification", "closing_date": "2027-03-01"}
    pipeline = a_deal(crm).pipeline
    switch_to("off")
    made = {**wanted, "pipeline": pipeline, **values}
    return Deal.objects.get(pk=create(DEALS, made, author=author, now=timezone.now()).record_id)


def remove(deal: Deal, author: Any) -> None:
    delete(Deal.objects.get(pk=deal.pk), author=author, now=timezone.now())


def test_row_77_an_unknown_edit_beside_a_deletion_overwrites_nobody(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    mirror.control("faults", rules=[{"do": "reset", "method": "PUT", "when": "before"}])
    assert send_now().unknown == 1
    theirs(mirror, deal)
    remove(deal, manager)
    send_now(later=120)
    assert there(mirror, deal, "Next_Step") == "Theirs"
    assert {e.kind: e.status for e in entries(deal)} == {
        outbox.EDIT: outbox.CONFLICT,
        outbox.DELETE: outbox.CONFLICT,
    }


def test_row_77_a_deletion_between_claim_and_reading_overwrites_nobody(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")

    def changed(*_: Any) -> None:
        theirs(mirror, deal)

    def removed(*_: Any) -> None:
        if len(entries(deal)) == 1:
            remove(deal, manager)

    send_now(make_client=lambda: Meanwhile(by_ids=changed, after_by_ids=removed))
    assert there(mirror, deal, "Next_Step") == "Theirs"


def test_row_81_an_edit_that_arrived_after_all_does_not_stop_its_records_deletion(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    mirror.control("faults", rules=[{"do": "reset", "method": "PUT", "when": "after"}])
    assert send_now().unknown == 1
    remove(deal, manager)
    send_now(later=120)
    assert str(deal.zoho_id) not in mirror.ids()
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.sync("delta")
    mirror.assert_mirrored()


@pytest.mark.parametrize("told_by", ["answer", "list"])
def test_an_edit_that_waits_beside_an_own_deletion_becomes_no_draft(mirror, manager, told_by):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    remove(deal, manager)
    if told_by == "list":
        mirror.control("delete", module="Deals", ids=[deal.zoho_id])
        mirror.sync("delta")
    send_now()
    send_now(later=100)
    assert {e.kind: e.status for e in entries(deal)} == {
        outbox.EDIT: outbox.WITHDRAWN,
        outbox.DELETE: outbox.DONE,
    }
    assert str(deal.zoho_id) not in mirror.ids()


def test_row_80_a_refusal_shows_what_a_notice_told_meanwhile(mirror, manager):
    deal, other = open_deals(2)  # one alone would be told by its Modified_Time
    for each in (deal, other):
        change(each, manager, next_step="Ours")

    def meanwhile(*_: Any) -> None:
        theirs(mirror, deal)
        mirror.sync("delta")
        mirror.control("hold", module="Deals", ids=[deal.zoho_id], **{"as": "access"})

    send_now(make_client=lambda: Meanwhile(update=meanwhile))
    deal.refresh_from_db()
    assert deal.next_step == "Theirs"


def test_nothing_goes_to_another_organisation(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    CrmConnection.objects.update(fingerprint="of another")
    mirror.control("reset_stats")
    assert send_now().stopped == "other_organisation"
    assert mirror.requests() == 0
    assert only_entry(deal).status == outbox.PENDING


def test_on_said_of_one_organisation_is_not_said_of_another(mirror, manager):
    mirror.settings.WRITE_BACK = "off"
    switch.set_mode("on", by=manager, now=timezone.now())
    assert switch.mode() == "on"
    CrmConnection.objects.update(org_id="4711")
    assert switch.mode() == "off"
    switch.set_mode("off", by=manager, now=timezone.now())
    mirror.settings.WRITE_BACK = "on"
    CrmConnection.objects.update(org_id="4712")
    assert switch.mode() == "off"


def test_killed_during_a_call_nothing_more_is_sent(mirror, manager):
    mirror.settings.ZOHO = replace(mirror.settings.ZOHO, concurrency=1)
    deals = open_deals(6)
    for deal in deals:
        change(deal, manager, next_step="Ours")
    OutboxEntry.objects.update(deaths=2)  # each goes alone

    def killed(*_: Any) -> None:
        switch.kill(by=None, now=timezone.now())

    report = send_now(make_client=lambda: Meanwhile(update=killed))
    assert (report.sent, report.stopped) == (1, "off")
    assert sum(there(mirror, deal, "Next_Step") == "Ours" for deal in deals) == 1
    waiting = OutboxEntry.objects.filter(status=outbox.PENDING)
    assert [e.attempts for e in waiting] == [0] * 5


def test_a_stop_among_creations_settles_those_under_way(mirror, manager):
    for _ in range(3):
        a_new_deal(mirror, manager)
    OutboxEntry.objects.update(deaths=2)  # each goes alone
    before = set(mirror.ids())
    mirror.settings.ZOHO = replace(mirror.settings.ZOHO, concurrency=1)

    def killed(*_: Any) -> None:
        switch.kill(by=None, now=timezone.now())

    assert send_now(make_client=lambda: Meanwhile(upsert=killed)).sent == 1
    assert len(set(mirror.ids()) - before) == 1
    statuses = sorted(OutboxEntry.objects.values_list("status", flat=True))
    assert statuses == [outbox.DONE, outbox.PENDING, outbox.PENDING]


# -- reading ---------------------------------------------------------------------------------------


def test_row_80_a_record_that_cannot_be_read_holds_up_no_other(mirror, manager):
    deals = open_deals(10)
    for deal in deals:
        change(deal, manager, next_step="Ours")
    hidden = deals[0]
    # The list tells none of them, so that each is asked for by itself.
    nothing = {"do": "status", "status": 204, "body": "", "method": "GET", "path": "/crm/v8/Deals"}
    denied = {"code": "NO_PERMISSION", "status": "error", "message": "denied", "details": {}}
    rule = {"do": "status", "status": 403, "method": "GET", "times": 0, "body": denied}
    rule["path"] = f"/crm/v8/Deals/{hidden.zoho_id}"
    mirror.control("faults", rules=[{**nothing, "times": 1}, rule])
    report = send_now()
    assert (report.sent, report.waiting, report.stopped) == (9, 1, "")
    entry = only_entry(hidden)
    assert (entry.status, entry.code) == (outbox.PENDING, "NO_PERMISSION")
    mirror.control("clear_faults")
    assert send_now(later=3600).sent == 1


def test_many_records_gone_at_once_are_held_for_ops(big_crm, manager):
    big_crm.sync()
    deals = open_deals(80)
    for deal in deals:
        change(deal, manager, next_step="Ours")
    nothing = {"do": "status", "status": 204, "body": "", "method": "GET", "times": 0}
    big_crm.control("faults", rules=[{**nothing, "path": "/crm/v8/Deals"}])
    send_now()
    assert Deal.objects.live().filter(pk__in=[deal.pk for deal in deals]).count() == 80
    held = DeletionHold.objects.get(status=DeletionHold.HELD)
    assert set(held.zoho_ids) == {deal.zoho_id for deal in deals}
    assert set(OutboxEntry.objects.values_list("status", "code")) == {
        (outbox.PENDING, "deletions_held")
    }
    big_crm.control("clear_faults")
    assert send_now(later=3600).sent == 80  # nothing of it was true


def test_row_80_a_vanished_record_that_cannot_be_asked_for_loses_no_answer(mirror, manager):
    deals = open_deals(10)
    for deal in deals:
        change(deal, manager, next_step="Ours")
    gone = deals[0]

    def vanish(*_: Any) -> None:
        mirror.control("delete", module="Deals", ids=[gone.zoho_id])
        path = f"/crm/v8/Deals/{gone.zoho_id}"
        rule = {"do": "status", "status": 503, "method": "GET", "times": 0, "path": path}
        mirror.control("faults", rules=[rule])

    report = send_now(make_client=lambda: Meanwhile(after_by_ids=vanish))
    assert (report.sent, report.waiting) == (9, 1)
    mirror.control("clear_faults")
    send_now(later=3600)
    assert only_entry(gone).code == "record_deleted"


def test_row_83_what_the_crm_always_calls_modified_is_given_up(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    item = {"code": "ALREADY_MODIFIED", "status": "error", "message": "m", "details": {}}
    rule = {"do": "status", "method": "PUT", "status": 412, "times": 0, "path": "/crm/v8/Deals"}
    mirror.control("faults", rules=[{**rule, "body": {"data": [item]}}])
    for step in range(14):
        send_now(later=60 * step)
    entry = only_entry(deal)
    assert (entry.status, entry.code) == (outbox.DEAD, "ALREADY_MODIFIED")
    assert entry.attempts == 12


# -- creations and conversions ---------------------------------------------------------------------


def test_row_82_a_deal_that_is_bound_already_is_not_sent_whole_again(mirror, manager):
    deal = a_new_deal(mirror, manager, next_step="Ours")
    assert send_now().sent == 1
    deal.refresh_from_db()
    # as after a worker's death right behind the binding, where queries are refused
    OutboxEntry.objects.update(status=outbox.UNKNOWN, attempts=1)
    theirs(mirror, deal)
    refusal = {"code": "INVALID_QUERY", "status": "error", "message": "no", "details": {}}
    rule = {"do": "status", "status": 400, "method": "POST", "path": "/crm/v8/coql"}
    mirror.control("faults", rules=[{**rule, "body": refusal}])
    send_now(later=100)
    assert there(mirror, deal, "Next_Step") == "Theirs"
    assert only_entry(deal).status == outbox.DONE


def test_row_82_a_lost_conversion_is_not_refused_because_its_deal_cannot_be_read(mirror):
    lead = a_lead()
    pk = converted(lead)
    rule = {"do": "reset", "method": "POST", "when": "after", "path": "/crm/v8/Leads/"}
    mirror.control("faults", rules=[rule])
    assert send_now().unknown == 1
    down = {"do": "status", "status": 503, "method": "GET", "times": 0, "path": "/crm/v8/Deals"}
    mirror.control("faults", rules=[down])
    assert send_now(later=120).refused == 0
    mirror.control("clear_faults")
    send_now(later=7200)
    assert only_entry(lead, "Leads").status == outbox.DONE
    deal = Deal.objects.live().get(pk=pk)
    assert str(deal.zoho_id) in mirror.ids()
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_a_dismissed_conversion_takes_its_deal_back_with_its_changes(mirror, manager):
    lead = a_lead()
    pk = converted(lead)
    edit(Deal.objects.get(pk=pk), {"next_step": "x"}, author=manager, now=timezone.now())
    entry = only_entry(lead, "Leads")
    OutboxEntry.objects.filter(pk=entry.pk).update(status=outbox.DEAD)
    decisions.dismiss(entry.pk, by=manager, now=timezone.now())
    deal = Deal.objects.get(pk=pk)
    assert deal.deleted_at is not None
    assert {e.status for e in entries(deal)} == {outbox.WITHDRAWN}


def test_edits_of_a_refused_conversions_deal_wait_no_more(mirror, manager):
    lead = a_lead()
    pk = converted(lead)
    edit(Deal.objects.get(pk=pk), {"next_step": "x"}, author=manager, now=timezone.now())
    refusal = {"code": "NOT_ALLOWED", "status": "error", "message": "no", "details": {}}
    rule = {"do": "status", "method": "POST", "status": 400, "path": "/crm/v8/Leads/"}
    mirror.control("faults", rules=[{**rule, "body": {"data": [refusal]}}])
    assert send_now().refused == 1
    assert {e.status for e in entries(Deal.objects.get(pk=pk))} == {outbox.WITHDRAWN}


def test_the_nightly_proof_does_not_call_a_deletion_that_waits_a_difference(mirror, manager):
    switch_to("off")
    remove(a_deal(mirror), manager)
    mirror.sync("reconcile")
    assert Reconciliation.objects.get().is_exact


@pytest.mark.parametrize("undone_by", ["refusal", "dismissal"])
def test_row_88_a_deletion_undone_shows_what_the_crm_has_by_now(mirror, manager, undone_by):
    deal = a_deal(mirror)
    switch_to("off")
    remove(deal, manager)
    theirs(mirror, deal)
    mirror.sync("delta")
    decisions.resolve(only_entry(deal).pk, "ours", by=manager, now=timezone.now())
    if undone_by == "refusal":
        type(manager).objects.filter(pk=manager.pk).update(is_active=False)
        assert send_now().refused == 1
    else:
        OutboxEntry.objects.update(status=outbox.DEAD)
        decisions.dismiss(only_entry(deal).pk, by=manager, now=timezone.now())
    deal.refresh_from_db()
    assert (deal.deleted_at, deal.next_step) == (None, "Theirs")
    mirror.assert_mirrored()
