"""A CRM that tells the same otherwise, as its documentation allows: nothing is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from crm.models import ChangeEvent, CrmConnection, CrmField, Deal, Lead
from crm.tests.foreign_crm import ForeignCrm, foreign_crm
from crm.tests.synced import zoho_settings
from crm.tests.test_foreign_crm import insert, live, sync

HABITS = [
    "null_more",
    "int_ids",
    "lower_headers",
    "no_fields",
    "nameless",
    "odd_offsets",
    "stale_once",
    "gateway_once",
    "ms_expiry",
    "elsewhere",
]


@pytest.fixture
def crm(settings: Any, transactional_db: None) -> Iterator[ForeignCrm]:
    with foreign_crm(Accounts=5, Contacts=5, Leads=205, Deals=410) as crm:
        settings.ZOHO = zoho_settings(crm.url)
        yield crm


@pytest.mark.parametrize("way", ["queries", "pages"])
@pytest.mark.parametrize("habit", [*HABITS, "all"])
def test_a_crm_of_other_habits_is_mirrored(crm: ForeignCrm, habit: str, way: str) -> None:
    bends = {*HABITS} if habit == "all" else {habit}
    crm.flags = {*bends, *(["nocoql"] if way == "pages" else [])}
    run = sync()
    assert (run.status, run.failed, run.created) == ("succeeded", 0, 625), run.message
    crm.flags |= bends & {"stale_once", "gateway_once"}
    crm.ahead = timedelta(minutes=30)
    for zoho_id in crm.ids()[:205]:
        crm.edit(zoho_id, Deal_Name="changed", Amount=7.25)
    crm.delete(*crm.ids()[300:303])
    crm.delete(*crm.ids("Leads")[:2], module="Leads")
    run = sync("delta")
    assert (run.status, run.updated, run.deleted) == ("succeeded", 205, 5), run.message
    assert live() == crm.ids() and live("Leads") == crm.ids("Leads")
    changed = Deal.objects.live().filter(name="changed", amount_minor=725)
    assert changed.count() == 205
    assert set(Deal.objects.values_list("owner__zoho_id", flat=True)) == {4150868000000100000}
    events = ChangeEvent.objects.count()
    assert sync().status == "succeeded"
    assert ChangeEvent.objects.count() == events


def test_fields_that_the_crm_says_nothing_of_stay_known(crm: ForeignCrm) -> None:
    sync("full", "Deals")
    known = CrmField.objects.count()
    CrmConnection.objects.update(profile="och")
    crm.flags = {"no_fields"}
    sync("full", "Deals")
    assert CrmField.objects.count() == known > 0


@pytest.mark.parametrize("bend", [set(), {"null_more"}])
def test_converted_leads_beyond_what_page_tokens_reach_are_read(
    crm: ForeignCrm, bend: set[str]
) -> None:
    insert(crm, 600, "Leads")
    for zoho_id in crm.ids("Leads")[::3]:
        crm.records["Leads"][zoho_id]["Converted__s"] = True
    crm.flags, crm.reach = bend, 400
    run = sync("full", "Leads")
    assert run.status == "succeeded", run.message
    assert live("Leads") == crm.ids("Leads")
    assert Lead.objects.filter(is_converted=True).count() == len(crm.ids("Leads")[::3])
