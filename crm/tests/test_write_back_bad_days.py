"""Changes on their way here while the CRM fails, refuses, or somebody is quicker.

None is lost, sent unasked or put over another's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from crm.models import CrmConnection, Deal, OutboxEntry, outbox
from crm.sync.modules import DEALS
from crm.tests.synced import Crm
from crm.tests.writing import a_deal, change, entries, only_entry, send_now, there
from crm.tests.writing import switch as switch_to
from crm.writeback import switch
from crm.writeback.outbox import create, delete
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
