"""Faults as they stand on the pages: what a rep reads, what ops read besides, and what is kept."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.utils.html import escape

from crm import tasks
from crm.models import CrmConnection, Deal, DeletionHold, MirrorState, outbox
from crm.sync import credits
from crm.tests.synced import Crm
from crm.tests.test_credit_floors import floors, leave
from crm.tests.writing import a_deal, change, only_entry, send_now, there

DECIDE = "/admin/crm/deletionhold/?status__exact=held"


def words(client: Client, path: str = "/") -> str:
    """A page as it is read."""
    answer = client.get(path)
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())


def marks() -> dict[str, Any]:
    return dict(MirrorState.objects.values_list("module", "watermark"))


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_row_26_a_sync_out_of_credits_says_until_when_it_is_paused_and_changes_still_go(
    crm: Crm, settings: Any, rep_client: Client, kind: str
) -> None:
    crm.sync("full")
    leave(crm, 40)
    floors(settings, full=60, delta=60)
    before = marks()
    run = crm.sync(kind)
    assert (run.status, run.error_code) == ("failed", credits.CODE)
    paused = f"The sync is paused until about {credits.until(run.ended_at)}."
    for path in ("/", "/opportunities"):
        page = words(rep_client, path)
        assert paused in page and "goes on by itself" in page
    assert "You see the state of" in words(rep_client)
    # How many are left is learnt with the first answer: a delta has read Accounts by then.
    assert marks()["Deals"] == before["Deals"]
    # Write-back is the last to stop: what people entered still goes.
    deal = a_deal(crm)
    change(deal, next_step="sent all the same")
    send_now()
    assert only_entry(deal).status in (outbox.SENT, outbox.DONE)
    assert there(crm, deal, "Next_Step") == "sent all the same"


def test_row_30_a_revoked_token_is_said_once_and_nobody_calls_any_more(
    crm: Crm, rep_client: Client, ops_client: Client
) -> None:
    crm.sync("full")
    shown = words(rep_client, "/opportunities")
    deal = a_deal(crm)
    assert deal.name in shown
    crm.control("revoke_refresh_token")
    run = crm.sync("delta")
    assert (run.status, run.error_code, run.can_resume) == ("failed", "invalid_code", False)
    asked = crm.requests()
    for _ in range(3):
        crm.sync("delta")
        tasks.sweep()
    assert crm.requests() == asked, "it is known to be refused"
    rep, ops = words(rep_client), words(ops_client)
    assert "The sync has stopped. You see the state of" in rep
    assert "Ops can see why and mend it." in rep
    assert "revoked" not in rep and "ZOHO_REFRESH_TOKEN" not in rep
    cause = CrmConnection.objects.get().error_message
    assert "revoked" in cause and "ZOHO_REFRESH_TOKEN" in cause
    assert " ".join(escape(cause).split()) in ops
    assert ops_client.get("/").content.decode().count('data-notice="disconnected"') == 1
    assert deal.name in words(rep_client, "/opportunities"), "the data stays"
    assert Deal.objects.live().count() == 50


def test_row_31_the_module_and_the_permission_that_is_missing_are_named(
    crm: Crm, rep_client: Client
) -> None:
    crm.sync("full")
    refused = {
        "code": "NO_PERMISSION", "details": {"permissions": ["Crm_Implied_View_Leads"]},
        "message": "permission denied", "status": "error",
    }  # fmt: skip
    down = {"do": "status", "path": "/crm/v8/Leads", "times": 0, "status": 403, "body": refused}
    crm.control("faults", rules=[down])
    run = crm.sync("delta")
    assert (run.status, run.deleted) == ("partial", 0)
    page = words(rep_client)
    assert "Leads" in page and "Crm_Implied_View_Leads" in page


def test_row_52_while_deletions_are_held_ops_are_asked_until_they_decide(
    big_crm: Crm, rep_client: Client, ops_client: Client
) -> None:
    big_crm.sync("full")
    ids = big_crm.ids()[:60]
    big_crm.control("vanish", module="Deals", ids=ids)
    run = big_crm.sync("full")
    assert run.deleted == 0 and "60 of 450" in run.message
    big_crm.sync("delta")  # the next run says nothing of it
    for client, link in ((rep_client, False), (ops_client, True)):
        page = client.get("/").content.decode()
        assert "Many records were found gone at once." in page
        assert (DECIDE in page) is link
    assert rep_client.get("/api/zoho/status").json()["has_holds"] is True
    hold = DeletionHold.objects.get()
    chosen = {"action": "confirm_deletion", "_selected_action": [hold.pk]}
    ops_client.post("/admin/crm/deletionhold/", chosen)
    assert Deal.objects.live().count() == 390
    assert "Many records were found gone at once." not in words(rep_client)
