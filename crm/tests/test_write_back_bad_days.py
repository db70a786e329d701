"""Changes on their way here while the CRM fails, refuses, or somebody is quicker.

None is lost, sent unasked or put over another's.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from crm.models import Deal, outbox
from crm.tests.synced import Crm
from crm.tests.writing import a_deal, change, entries, send_now, there
from crm.writeback.outbox import delete
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
