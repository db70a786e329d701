"""Accounts, contacts, leads and users change in the CRM; what people see of it here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from crm.models import Account, ChangeEvent, Contact, CrmConnection, CrmUser, Deal, Lead
from crm.tests.sandbox_calls import Crm as Caller
from crm.tests.synced import Crm

OLD, NEW = "Old Harbour Pte Ltd", "Neu & Söhne 東京"
SHOWN = "Neu &amp; Söhne 東京"


def text_of(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


@pytest.fixture
def largest(crm: Crm) -> Deal:
    """The largest open deal, of an account by the name of OLD: every page shows it."""
    crm.control("edit", module="Deals", id=(one := crm.ids()[0]), values={
        "Stage": "Negotiation/Review", "Amount": 9_000_000, "Currency": "SGD",
        "Account_Name": {"id": crm.ids("Accounts")[0]},
    })  # fmt: skip
    crm.control("edit", module="Accounts", id=crm.ids("Accounts")[0], values={"Account_Name": OLD})
    crm.sync("full")
    return Deal.objects.select_related("account", "owner").get(zoho_id=one)


@pytest.mark.parametrize(
    "path", ["/opportunities?sort=-value", "/?list=top", "/opportunities?search=neu"]
)
def test_row_56_a_renamed_account_shows_its_new_name_wherever_its_deals_are_shown(
    crm: Crm, largest: Deal, rep_client: Client, path: str
) -> None:
    if "search" not in path:
        assert OLD in text_of(rep_client, path)
    crm.control("edit", module="Accounts", id=largest.account.zoho_id, values={"Account_Name": NEW})
    assert crm.sync("delta").status == "succeeded"
    page = text_of(rep_client, path)
    assert SHOWN in page and OLD not in page
    assert largest.name.split("–")[0].strip() in page
    assert not ChangeEvent.objects.filter(module="Deals", record_id=largest.pk, kind="changed")


@pytest.mark.parametrize("status", ["inactive", "deleted"])
def test_row_65_deals_of_a_person_who_left_are_shown_with_the_name(
    crm: Crm, largest: Deal, rep_client: Client, status: str
) -> None:
    name = largest.owner.name
    crm.control("user", id=str(largest.owner.zoho_id), status=status)
    crm.sync("full")
    assert CrmUser.objects.get(pk=largest.owner.pk).status == status
    assert name and name in text_of(rep_client, "/opportunities?sort=-value")
    assert Deal.objects.get(pk=largest.pk).owner == largest.owner


def test_row_65_a_deal_without_account_says_so(crm: Crm, largest: Deal, rep_client: Client) -> None:
    crm.control(
        "edit", module="Deals", id=str(largest.zoho_id), values={"Account_Name": None}, raw=True
    )
    assert crm.sync("delta").status == "succeeded"
    page = text_of(rep_client, "/?list=top")
    page = page[page.index('class="deals"') :]
    row = page[page.index(f">{largest.name}<") :]
    assert "No account" in row[: row.index("</tr>")]


def test_within_a_day_a_delta_learns_who_left(crm: Crm, largest: Deal) -> None:
    crm.control("user", id=str(largest.owner.zoho_id), status="inactive")
    crm.sync("delta")
    assert CrmUser.objects.get(pk=largest.owner.pk).status == "active"
    CrmConnection.objects.update(metadata_read_at=timezone.now() - timedelta(hours=25))
    crm.sync("delta")
    assert CrmUser.objects.get(pk=largest.owner.pk).status == "inactive"


def test_a_deal_given_to_somebody_new_names_the_new_owner(crm: Crm, largest: Deal) -> None:
    other = CrmUser.objects.filter(status="active").exclude(pk=largest.owner_id).first()
    assert other is not None
    values = {"Owner": {"id": str(other.zoho_id)}}
    crm.control("edit", module="Deals", id=largest.zoho_id, values=values)
    crm.sync("delta")
    assert Deal.objects.get(pk=largest.pk).owner == other
    event = ChangeEvent.objects.get(record_id=largest.pk, module="Deals", kind="changed")
    assert (event.field, event.old, event.new) == ("owner_id", str(largest.owner_id), str(other.pk))


# -- leads ----------------------------------------------------------------------------------------


def test_a_lead_that_is_converted_in_the_crm_says_what_it_became(
    crm: Crm, rep_client: Client
) -> None:
    crm.sync("full")
    lead = Lead.objects.live().filter(is_converted=False).first()
    assert lead is not None
    values = {"Deal_Name": "From the lead", "Stage": "Qualification", "Closing_Date": "2027-01-31"}
    wish = {"data": [{"Deals": {**values, "Pipeline": "Standard"}}]}
    answer = Caller(crm.sandbox).call(
        "POST", f"/crm/v8/Leads/{lead.zoho_id}/actions/convert", json=wish
    )
    assert answer.status_code == 200, answer.text
    crm.sync("delta")
    crm.assert_mirrored()
    found = Lead.objects.get(pk=lead.pk)
    deal = Deal.objects.live().get(name="From the lead")
    assert found.is_converted and found.deleted_at is None
    assert found.converted_deal_zoho_id == deal.zoho_id
    assert found.converted_account_zoho_id == deal.account.zoho_id
    assert found.converted_contact_zoho_id == deal.contact.zoho_id
    shown: Any = rep_client.get(f"/api/leads/{lead.pk}").json()
    assert shown["is_converted"] is True
    # And it stays: neither list of the CRM names it as gone, nor does a full run miss it.
    assert crm.sync("full").deleted == 0


# -- two that become one --------------------------------------------------------------------------


@pytest.mark.parametrize("is_noticed", [True, False])
def test_row_53_merged_contacts_leave_their_deals_with_the_one_that_stays(
    crm: Crm, is_noticed: bool
) -> None:
    stays, goes = crm.ids("Contacts")[:2]
    one = crm.ids()[0]
    crm.control("edit", module="Deals", id=one, values={"Contact_Name": {"id": goes}})
    crm.sync("full")
    moved = {"Contact_Name": {"id": stays}}
    for record in crm.control("dump", module="Deals")["records"]:
        if record["Contact_Name"] and record["Contact_Name"]["id"] == goes:
            crm.control("edit", module="Deals", id=record["id"], values=moved, touch=is_noticed)
    crm.control("delete", module="Contacts", ids=[goes], type="permanent")
    # What moves without its Modified_Time is for the next full run to see.
    crm.sync("delta" if is_noticed else "full")
    crm.assert_mirrored()
    gone = Contact.objects.get(zoho_id=goes)
    assert gone.deleted_at is not None and gone.last_name
    assert Deal.objects.get(zoho_id=one).contact == Contact.objects.get(zoho_id=stays)


def test_row_53_of_merged_deals_one_goes_on_and_the_other_is_kept_as_gone(crm: Crm) -> None:
    """What the CRM tells of a merge is an edit and a deletion; it names no way from one to the
    other, so the tombstone has none either."""
    stays, goes = crm.ids()[:2]
    crm.control("edit", module="Deals", id=stays, values={"Next_Step": None})
    crm.control("edit", module="Deals", id=goes, values={"Next_Step": "Call the buyer"})
    crm.sync("full")
    kept = Deal.objects.get(zoho_id=stays)
    crm.control("merge", module="Deals", id=stays, ids=[goes])
    run = crm.sync("delta")
    assert (run.status, run.created, run.deleted) == ("succeeded", 0, 1)
    crm.assert_mirrored("Deals")
    merged = Deal.objects.get(zoho_id=stays)
    assert (merged.pk, merged.next_step) == (kept.pk, "Call the buyer")
    gone = Deal.objects.get(zoho_id=goes)
    assert gone.deleted_at is not None and gone.name
    told = ChangeEvent.objects.filter(module="Deals", record_id__in=[merged.pk, gone.pk])
    assert told.filter(record_id=merged.pk, field="next_step", kind="changed").count() == 1
    assert told.filter(record_id=gone.pk, kind="deleted").count() == 1


def test_a_deleted_account_leaves_its_name_in_history_and_its_deals_without_it(
    crm: Crm, largest: Deal
) -> None:
    crm.control("delete", module="Accounts", ids=[str(largest.account.zoho_id)])
    assert crm.sync("delta").deleted == 1
    gone = Account.objects.get(pk=largest.account_id)
    assert (gone.name, gone.deleted_source) == (OLD, "list")
    crm.sync("full")  # the CRM empties the deal's lookup without touching the deal
    crm.assert_mirrored()
    assert Deal.objects.get(pk=largest.pk).account is None
