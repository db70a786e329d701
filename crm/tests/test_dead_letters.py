"""What could not be done and waits for a person, in the admin: seen with its reason, tried again or
dismissed, and who did it stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from crm.models import Deal, DeletionHold, FailedRecord, Notice, OutboxEntry, outbox
from crm.sync import inbox
from crm.sync.modules import DEALS
from crm.tests import factories
from crm.tests.factories import NOON, connect, store
from crm.tests.notices import LIVE, known_channels, tell
from crm.tests.synced import Crm
from crm.tests.writing import a_deal, change, only_entry, switch, there
from crm.writeback.outbox import create, edit

FAILURES, OUTBOX, INBOX = (
    f"/admin/crm/{name}/" for name in ("failedrecord", "outboxentry", "notice")
)
PREVIEW = f"{OUTBOX}preview/"


def act(client: Client, path: str, action: str, *rows: Any) -> str:
    chosen = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(path, chosen, follow=True).content.decode()


def noted(who: Any) -> list[tuple[str, str]]:
    """What the log says that this person did, to which row."""
    rows = LogEntry.objects.filter(user=who).order_by("pk")
    return [(row.get_change_message(), row.object_id) for row in rows]


# -- an incoming record that could not be stored --------------------------------------------------


@pytest.mark.breaks_rules
def test_row_66_one_record_needs_a_look_and_ops_try_it_again_in_the_admin(
    crm: Crm, ops: Any, ops_client: Client, rep_client: Client
) -> None:
    crm.sync("full", "Accounts", "Contacts", "Leads")
    twice = {
        "do": "rewrite",
        "path": "/crm/v8/coql",
        "body_contains": "id <=",
        "twice": "Deal_Name",
    }
    crm.control("faults", rules=[twice])
    assert crm.sync("full", "Deals").status == "partial"
    failed = FailedRecord.objects.get()
    for client in (ops_client, rep_client):
        assert "1 record needs a look" in client.get("/").content.decode()
    link = f"{FAILURES}?resolved_at__isempty=1"
    assert link in ops_client.get("/").content.decode()
    assert link not in rep_client.get("/").content.decode(), "the admin is for ops"
    page = ops_client.get(link).content.decode()
    assert failed.message in page and "Try again" in page and "Dismiss" in page
    kept = ops_client.get(f"{FAILURES}{failed.pk}/change/").content.decode()
    assert "Deal_Name" in kept, "its payload is there to look at"

    crm.control("clear_faults")
    assert "The record is stored." in act(ops_client, FAILURES, "try_again", failed)
    failed.refresh_from_db()
    assert (failed.resolved_by, noted(ops)[0][1]) == (ops, str(failed.pk))
    crm.sync("full")
    crm.assert_mirrored()
    assert "needs a look" not in ops_client.get("/").content.decode()


# -- an outgoing change that was given up ---------------------------------------------------------


@pytest.fixture
def dead(crm: Crm, manager: Any) -> OutboxEntry:
    """Given up after twelve tries."""
    crm.sync("full")
    deal = a_deal(crm)
    change(deal, manager, next_step="Ours")
    OutboxEntry.objects.update(
        status=outbox.DEAD, attempts=12, code="http_503", message="The CRM refused it for days."
    )
    return only_entry(deal)


def test_a_change_that_was_given_up_is_sent_when_ops_try_it_again(
    crm: Crm, dead: OutboxEntry, ops: Any, ops_client: Client
) -> None:
    page = ops_client.get(f"{OUTBOX}?status__exact=dead").content.decode()
    assert "http_503" in page and "next_step" in page
    deal = Deal.objects.get(pk=dead.record_id)
    switch("on")
    assert "1 back in line." in act(ops_client, OUTBOX, "try_again", dead)
    dead.refresh_from_db()
    assert dead.decided_by == ops
    assert noted(ops) == [("Tried again.", str(dead.pk))]
    assert there(crm, deal, "Next_Step") == "Ours"


def test_a_change_that_was_given_up_is_dismissed_for_the_value_of_the_crm(
    crm: Crm, dead: OutboxEntry, ops: Any, ops_client: Client
) -> None:
    was = json.loads(dead.base or "null")
    assert "1 dismissed." in act(ops_client, OUTBOX, "dismiss", dead)
    dead.refresh_from_db()
    assert (dead.status, dead.decided_by) == (outbox.DISMISSED, ops)
    assert noted(ops) == [("Dismissed.", str(dead.pk))]
    assert Deal.objects.get(pk=dead.record_id).next_step == was
    crm.assert_mirrored("Deals")
    assert "Only what was refused" in act(ops_client, OUTBOX, "dismiss", dead)
    assert len(noted(ops)) == 1, "what was not done is not noted"


# -- a notice whose record could not be fetched ---------------------------------------------------


@pytest.fixture
def given_up(crm: Crm) -> Notice:
    crm.sync("full")
    known_channels()
    crm.settings.WEBHOOK_TOKENS = [LIVE]
    told = crm.ids()[0]
    crm.control("edit", module="Deals", id=told, values={"Next_Step": "told of"})
    Notice.objects.create(
        module="Deals", zoho_id=int(told), channel_id="1", status=Notice.DEAD,
        attempts=inbox.MAX_TRIES, error_code="http_500", message="Some fault of the CRM.",
        first_received_at=timezone.now(), received_at=timezone.now(),
        next_attempt_at=timezone.now(),
    )  # fmt: skip
    return Notice.objects.get()


def test_a_notice_that_was_given_up_is_fetched_when_ops_try_it_again(
    crm: Crm, given_up: Notice, ops: Any, ops_client: Client
) -> None:
    assert (
        "Some fault of the CRM." in ops_client.get(f"{INBOX}?status__exact=dead").content.decode()
    )
    assert "1 given-up notices wait again." in act(ops_client, INBOX, "try_again", given_up)
    given_up.refresh_from_db()
    assert (given_up.status, given_up.error_code) == (Notice.DONE, "")
    assert Deal.objects.get(zoho_id=given_up.zoho_id).next_step == "told of"
    assert noted(ops) == [("Tried again.", str(given_up.pk))]


def test_a_dismissed_notice_is_done_with_until_the_crm_speaks_again(
    crm: Crm, given_up: Notice, ops: Any, ops_client: Client
) -> None:
    asked = crm.requests()
    assert "1 given-up notices dismissed" in act(ops_client, INBOX, "dismiss", given_up)
    given_up.refresh_from_db()
    assert (given_up.status, given_up.attempts) == (Notice.DONE, 0)
    assert noted(ops) == [("Dismissed.", str(given_up.pk))]
    assert crm.requests() == asked
    tell(given_up.zoho_id)
    given_up.refresh_from_db()
    assert given_up.status == Notice.DONE
    assert Deal.objects.get(zoho_id=given_up.zoho_id).next_step == "told of"


# -- deletions that are held ----------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("action", ["confirm_deletion", "keep"])
def test_who_decided_upon_held_deletions_is_noted(
    ops: Any, ops_client: Client, action: str
) -> None:
    hold = DeletionHold.objects.create(
        module="Deals", zoho_ids=[5], held_at=timezone.now(), live_before=10
    )
    act(ops_client, "/admin/crm/deletionhold/", action, hold)
    ((said, which),) = noted(ops)
    assert which == str(hold.pk) and said


# -- what would be sent ---------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_outbox_leads_to_a_preview_of_what_would_be_sent(
    ops_client: Client, rep_client: Client, manager: Any, settings: Any
) -> None:
    settings.WRITE_BACK = "preview"
    connect(USD="1.0", SGD="1.35")
    store(factories.deal(1), factories.deal(2))
    assert "Nothing waits for the CRM." in ops_client.get(PREVIEW).content.decode()
    deal = Deal.objects.get(zoho_id=1)
    now = timezone.now()
    values = {"next_step": "<b>Ours</b>", "amount_minor": 150_050}
    edit(deal, values, author=manager, now=NOON)
    create(DEALS, {"name": "New", "currency": "USD"}, author=manager, now=now)
    assert PREVIEW in ops_client.get(OUTBOX).content.decode()
    page = ops_client.get(PREVIEW).content.decode()
    assert "2 records, 3 calls, 3 credits" in page
    assert "Write-back is <strong>preview</strong>: nothing is sent until it is on" in page
    assert deal.name in page
    assert f"next step: {deal.next_step} → <strong>&lt;b&gt;Ours&lt;/b&gt;</strong>" in page
    assert "amount: 1,000.00 SGD → <strong>1,500.50 SGD</strong>" in page
    assert "not in the CRM yet" in page and "<code>Deal_Name</code> = New" in page
    assert manager.get_username() in page
    assert rep_client.get(PREVIEW).status_code == 403
