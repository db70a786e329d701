"""A record that waits for approval is hidden from the CRM's lists and queries, and is not gone."""

from __future__ import annotations

import pytest

from crm.models import Deal, Lead, Reconciliation
from crm.sync.modules import BY_NAME
from crm.tests.synced import Crm

WITHOUT_QUERIES = [
    "ZohoCRM.modules.ALL",
    "ZohoCRM.settings.ALL",
    "ZohoCRM.users.READ",
    "ZohoCRM.org.READ",
]


@pytest.mark.parametrize("kind", ["full", "reconcile"])
@pytest.mark.parametrize("module", ["Deals", "Leads"])
def test_what_waits_for_approval_is_not_taken_for_deleted(crm: Crm, module: str, kind: str) -> None:
    crm.sync()
    waiting = crm.ids(module)[3]
    crm.control("hold", module=module, ids=[waiting], **{"as": "approval"})
    run = crm.sync(kind, module)
    assert (run.status, run.deleted) == ("succeeded", 0), run.message
    assert BY_NAME[module].model.objects.live().filter(zoho_id=waiting).exists()
    crm.assert_mirrored(module)


def test_what_waits_for_approval_is_read_as_it_is_now(crm: Crm) -> None:
    crm.control("config", scopes=WITHOUT_QUERIES)
    crm.sync()
    waiting = crm.ids()[3]
    crm.control("edit", module="Deals", id=waiting, values={"Deal_Name": "Asked for"})
    crm.control("hold", module="Deals", ids=[waiting], **{"as": "approval"})
    assert crm.sync("full", "Deals").updated == 1
    assert Deal.objects.get(zoho_id=waiting).name == "Asked for"


def test_the_nightly_proof_counts_it_as_no_difference(crm: Crm) -> None:
    crm.sync()
    crm.control("hold", module="Leads", ids=crm.ids("Leads")[:2], **{"as": "approval"})
    crm.sync("reconcile", "Leads")
    assert Reconciliation.objects.get().differing == 0
    assert Lead.objects.live().count() == len(crm.ids("Leads"))


def test_what_goes_while_it_waits_is_told_as_gone(crm: Crm) -> None:
    crm.sync()
    waiting = crm.ids()[3]
    crm.control("hold", module="Deals", ids=[waiting], **{"as": "approval"})
    crm.control("delete", module="Deals", ids=[waiting])
    assert crm.sync("full", "Deals").deleted == 1
    assert not Deal.objects.live().filter(zoho_id=waiting).exists()
