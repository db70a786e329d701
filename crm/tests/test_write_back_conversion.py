"""A lead converted here is converted there once, with its deal, also when the answer is lost."""

from __future__ import annotations

import pytest
from django.utils import timezone

from crm.errors import EditConflict, RecordGone
from crm.models import Account, Contact, Deal, Lead, outbox
from crm.tests.replay import live_values, replayed
from crm.tests.writing import is_settled, only_entry, send_now
from crm.writeback.outbox import convert, edit
from crm.zoho.factory import client_from_settings

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mirror(crm):
    crm.sync()
    return crm


def a_lead() -> Lead:
    lead = Lead.objects.live().filter(is_converted=False, company__isnull=False).first()
    assert lead is not None
    return lead


def converted(lead: Lead, **options) -> int:
    pipeline = Deal.objects.exclude(pipeline=None).first().pipeline
    deal = {
        "name": f"{lead.company} – {lead.last_name}",
        "crm_stage": "Qualification",
        "closing_date": "2027-03-01",
        "pipeline": pipeline,
    }
    kept = convert(lead, deal=deal, author=None, now=timezone.now(), **options)
    return kept.record_id


@pytest.mark.parametrize("answer", ["whole", "lost"])
def test_row_82_a_lead_is_converted_there_once(mirror, answer):
    lead = a_lead()
    deals, accounts = set(mirror.ids()), set(mirror.ids("Accounts"))
    pk = converted(lead)
    lead.refresh_from_db()
    assert lead.is_converted and Deal.objects.get(pk=pk).zoho_id is None
    mirror.sync("delta")  # the CRM knows nothing of it yet
    lead.refresh_from_db()
    assert lead.is_converted
    if answer == "lost":
        rule = {"do": "reset", "method": "POST", "when": "after", "path": "/crm/v8/Leads/"}
        mirror.control("faults", rules=[rule])
        assert send_now().unknown == 1
    send_now(later=120)
    (made,) = set(mirror.ids()) - deals
    assert len(set(mirror.ids("Accounts")) - accounts) == 1
    assert str(Deal.objects.get(pk=pk).zoho_id) == made
    assert only_entry(lead, "Leads").status == outbox.DONE
    mirror.sync("delta")
    assert is_settled()
    mirror.assert_mirrored()
    lead.refresh_from_db()
    assert str(lead.converted_deal_zoho_id) == made


def test_a_lead_goes_into_the_records_that_were_chosen(mirror):
    lead = a_lead()
    account = Account.objects.live().first()
    contact = Contact.objects.live().filter(account=account).first()
    accounts = mirror.ids("Accounts")
    pk = converted(lead, account_id=account.pk, contact_id=contact.pk if contact else None)
    assert send_now().sent == 1
    assert mirror.ids("Accounts") == accounts
    assert mirror.record(Deal.objects.get(pk=pk).zoho_id)["Account_Name"]["id"] == str(
        account.zoho_id
    )
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_a_conversion_that_the_crm_refuses_is_undone_with_its_deal(mirror, manager):
    lead = a_lead()
    pk = converted(lead)
    refusal = {"code": "NOT_ALLOWED", "status": "error", "message": "no", "details": {}}
    rule = {"do": "status", "method": "POST", "status": 400, "path": "/crm/v8/Leads/"}
    rule["body"] = {"data": [refusal]}
    mirror.control("faults", rules=[rule])
    assert send_now().refused == 1
    lead.refresh_from_db()
    assert not lead.is_converted
    assert Deal.objects.get(pk=pk).deleted_at is not None
    entry = only_entry(lead, "Leads")
    assert (entry.status, entry.code) == (outbox.REFUSED, "NOT_ALLOWED")
    for module in ("Leads", "Deals"):
        assert replayed(module) == live_values(module)


def test_a_lead_that_somebody_converted_there_before_keeps_theirs(mirror):
    lead = a_lead()
    pk = converted(lead)
    with client_from_settings() as other:
        assert other.convert(lead.zoho_id, {}).ok
    assert send_now().refused == 1
    lead.refresh_from_db()
    assert lead.is_converted and lead.converted_deal_zoho_id is None
    assert Deal.objects.get(pk=pk).deleted_at is not None
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_while_it_is_converted_a_lead_takes_no_edits(mirror):
    lead = a_lead()
    edit(lead, {"company": "Newer Co"}, author=None, now=timezone.now())
    converted(lead)
    with pytest.raises(RecordGone):
        edit(lead, {"company": "Newest Co"}, author=None, now=timezone.now())
    assert send_now().sent == 2  # first the edit, then the conversion
    assert mirror.record(lead.zoho_id, "Leads")["Company"] == "Newer Co"
    with pytest.raises(EditConflict):
        converted(lead)
