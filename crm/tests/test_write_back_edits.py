"""An edit here: the row, its event and its entry, all by the rules; nothing leaves by itself."""

from __future__ import annotations

from datetime import date

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from crm.errors import CreateNotPossible, EditConflict, FieldsRefused, RecordGone
from crm.models import ChangeEvent, CrmField, Deal, OutboxEntry, WriteBack, outbox
from crm.signals import deals_changed
from crm.sync.modules import ACCOUNTS, DEALS
from crm.sync.tombstones import tell_deletions
from crm.tests import factories
from crm.tests.factories import NOON, connect, minutes, store
from crm.tests.replay import live_values, replayed
from crm.tests.writing import entries, only_entry, value
from crm.writeback import decisions, switch
from crm.writeback.outbox import create, delete, edit
from crm.writeback.preview import preview

pytestmark = pytest.mark.django_db


@pytest.fixture
def deal(settings) -> Deal:
    settings.WRITE_BACK = "off"
    connect(USD="1.0", SGD="1.35")
    store(factories.deal(1))
    return Deal.objects.get(zoho_id=1)


def test_an_edit_changes_row_event_and_outbox_together(
    deal, manager, django_capture_on_commit_callbacks
):
    heard = []
    deals_changed.connect(heard_of := lambda pks, **kwargs: heard.append(pks))
    seq = deal.change_seq
    with django_capture_on_commit_callbacks(execute=True):
        kept = edit(
            deal,
            {"crm_stage": "Closed Won", "crm_probability": 100, "closing_date": date(2026, 3, 1)},
            author=manager,
            now=NOON,
        )
    deals_changed.disconnect(heard_of)
    assert kept.changed == ["closing_date", "crm_probability", "crm_stage"]
    assert heard == [[deal.pk]]
    deal.refresh_from_db()
    assert (deal.stage, deal.stage_type, deal.probability) == ("closed_won", "won", 100)
    assert deal.weighted_sgd_minor == deal.amount_sgd_minor == 100_000
    assert deal.change_seq > seq
    events = ChangeEvent.objects.filter(source="local")
    assert {e.author for e in events} == {manager}
    assert {e.field for e in events} == {"crm_stage", "crm_probability", "closing_date"}
    by_field = {e.field: (value(e.base), value(e.new)) for e in kept.entries}
    assert by_field["crm_stage"] == ("Qualification", "Closed Won")
    assert by_field["closing_date"] == ("2026-06-30", "2026-03-01")
    assert replayed("Deals") == live_values("Deals")


def test_later_edits_fold_and_folding_back_withdraws(deal, manager, rep):
    edit(deal, {"next_step": "One"}, author=rep, now=NOON)
    edit(deal, {"next_step": "Two"}, author=manager, now=minutes(1))
    entry = only_entry(deal)
    assert (value(entry.base), value(entry.new), entry.author) == ("Call", "Two", manager)
    edit(deal, {"next_step": "Call"}, author=manager, now=minutes(2))
    assert only_entry(deal).status == outbox.WITHDRAWN
    assert replayed("Deals") == live_values("Deals")


def test_every_field_that_cannot_be_kept_is_named_and_nothing_is(deal):
    CrmField.objects.create(
        module="Deals", api_name="Next_Step", is_read_only=True, read_at=NOON, data_type="text"
    )
    for api in ("Deal_Name", "Closing_Date", "Owner", "Pulse_Id"):
        CrmField.objects.create(module="Deals", api_name=api, read_at=NOON)
    with pytest.raises(FieldsRefused) as refused:
        edit(
            deal,
            {
                "name": "Kept?",
                "next_step": "x",
                "stage": "proposal",
                "closing_date": "2026-02-30",
                "owner_id": 999,
                "external_id": "mine",
            },
            author=None,
            now=NOON,
        )
    assert refused.value.fields.keys() == {
        "next_step", "stage", "closing_date", "owner_id", "external_id",
    }  # fmt: skip
    deal.refresh_from_db()
    assert deal.name == "Deal 1"
    assert not OutboxEntry.objects.exists()


def test_row_87_the_second_of_two_people_is_told_that_it_changed(deal, manager, rep):
    seen = deal.change_seq
    edit(deal, {"next_step": "Mine"}, author=manager, now=NOON, expected_version=seen)
    with pytest.raises(EditConflict, match="Look at it as it is now"):
        edit(deal, {"next_step": "Ours"}, author=rep, now=NOON, expected_version=seen)
    deal.refresh_from_db()
    assert deal.next_step == "Mine"


def test_a_page_from_before_keeps_ours_and_one_from_after_settles_it(deal):
    edit(deal, {"next_step": "Ours"}, author=None, now=NOON)
    told = ChangeEvent.objects.count()
    counts = store(factories.deal(1, modified=minutes(2)), read_at=minutes(2))
    assert (counts.unchanged, counts.updated) == (1, 0)
    deal.refresh_from_db()
    assert deal.next_step == "Ours" and only_entry(deal).status == outbox.PENDING
    counts = store(
        factories.deal(1, modified=minutes(3), Next_Step="Ours", Description="New"),
        read_at=minutes(3),
    )
    assert counts.updated == 1  # the other field's news is told, ours is none
    assert only_entry(deal).status == outbox.DONE
    assert ChangeEvent.objects.count() == told + 1
    assert replayed("Deals") == live_values("Deals")


def test_a_conflict_that_the_crm_takes_back_waits_again(deal):
    edit(deal, {"next_step": "Ours"}, author=None, now=NOON)
    store(factories.deal(1, modified=minutes(2), Next_Step="Theirs"), read_at=minutes(2))
    assert only_entry(deal).status == outbox.CONFLICT
    store(factories.deal(1, modified=minutes(3), Next_Step="Call"), read_at=minutes(3))
    entry = only_entry(deal)
    assert (entry.status, entry.theirs) == (outbox.PENDING, None)
    deal.refresh_from_db()
    assert deal.next_step == "Ours"
    assert replayed("Deals") == live_values("Deals")


def test_a_field_missing_from_an_answer_says_nothing_of_ours(deal):
    edit(deal, {"next_step": "Ours", "amount_minor": 5}, author=None, now=NOON)
    store(
        factories.deal(1, modified=minutes(2), drop=["Next_Step", "Currency"]), read_at=minutes(2)
    )
    deal.refresh_from_db()
    assert (deal.next_step, deal.amount_minor) == ("Ours", 5)
    assert {e.status for e in entries(deal)} == {outbox.PENDING}


def test_another_currency_keeps_the_amounts_worth_until_the_crm_answers(deal):
    edit(deal, {"currency": "JPY"}, author=None, now=NOON)
    deal.refresh_from_db()
    assert (deal.currency, deal.amount_minor) == ("JPY", 1000)
    store(factories.deal(1, modified=minutes(2)), read_at=minutes(2))
    deal.refresh_from_db()
    assert (deal.currency, deal.amount_minor) == ("JPY", 1000)
    store(factories.deal(1, modified=minutes(3), Currency="JPY"), read_at=minutes(3))
    assert only_entry(deal).status == outbox.DONE
    assert replayed("Deals") == live_values("Deals")


def test_row_84_a_record_deleted_there_takes_no_more_edits(deal):
    edit(deal, {"next_step": "Ours"}, author=None, now=NOON)
    tell_deletions(DEALS, [1], source="delta")
    assert only_entry(deal).code == "record_deleted"
    with pytest.raises(RecordGone):
        edit(deal, {"next_step": "More"}, author=None, now=NOON)
    with pytest.raises(RecordGone):
        delete(deal, author=None, now=NOON)


def test_creating_without_the_field_for_it_says_how_to_add_it(deal):
    CrmField.objects.create(module="Deals", api_name="Deal_Name", read_at=NOON)
    with pytest.raises(CreateNotPossible, match=r"API name Pulse_Id.*duplicate"):
        create(DEALS, {"name": "x"}, author=None, now=NOON)
    CrmField.objects.create(
        module="Deals", api_name="Pulse_Id", data_type="text", is_unique=False, read_at=NOON
    )
    with pytest.raises(CreateNotPossible, match="allows duplicates"):
        create(DEALS, {"name": "x"}, author=None, now=NOON)
    with pytest.raises(CreateNotPossible, match="only deals"):
        create(ACCOUNTS, {"name": "x"}, author=None, now=NOON)
    assert Deal.objects.count() == 1


def test_a_deal_made_and_deleted_before_the_crm_heard_of_it_is_not_sent(deal):
    kept = create(DEALS, {"name": "Short"}, author=None, now=NOON)
    delete(Deal.objects.get(pk=kept.record_id), author=None, now=NOON)
    assert {e.status for e in entries(Deal.objects.get(pk=kept.record_id))} == {outbox.WITHDRAWN}
    assert replayed("Deals") == live_values("Deals")


def test_a_dead_letter_is_tried_again_or_dismissed_by_a_person(deal, ops):
    edit(deal, {"next_step": "Ours"}, author=None, now=NOON)
    OutboxEntry.objects.update(status=outbox.DEAD, attempts=12)
    decisions.try_again(only_entry(deal).pk, by=ops, now=NOON)
    entry = only_entry(deal)
    assert (entry.status, entry.attempts, entry.decided_by) == (outbox.PENDING, 0, ops)
    OutboxEntry.objects.update(status=outbox.DEAD)
    decisions.dismiss(entry.pk, by=ops, now=NOON)
    deal.refresh_from_db()
    assert deal.next_step == "Call"
    assert only_entry(deal).status == outbox.DISMISSED
    assert replayed("Deals") == live_values("Deals")


def test_the_preview_shows_what_would_be_sent_and_what_it_costs(deal, manager):
    store(factories.deal(2), factories.deal(3), module="Deals")
    edit(deal, {"next_step": "Ours", "amount_minor": 150_050}, author=manager, now=NOON)
    edit(Deal.objects.get(zoho_id=2), {"closing_date": None}, author=manager, now=NOON)
    delete(Deal.objects.get(zoho_id=3), author=manager, now=NOON)
    kept = create(DEALS, {"name": "New", "currency": "USD"}, author=manager, now=NOON)
    found = preview(minutes(1))
    by_id = {row.record_id: row for row in found.rows}
    assert by_id[deal.pk].payload == {"Next_Step": "Ours", "Amount": 1500.5}
    assert by_id[Deal.objects.get(zoho_id=2).pk].payload == {"Closing_Date": None}
    assert by_id[kept.record_id].payload["Deal_Name"] == "New"
    # one reading of three, an update of two, a deletion of one, an upsert of one
    assert (found.calls, found.credits) == (4, 4)
    assert {e.status for e in OutboxEntry.objects.all()} == {outbox.PENDING}


def test_without_anything_open_a_page_costs_one_query_more_and_no_record_any(deal):
    page = [factories.deal(n) for n in range(1, 60)]
    store(*page)
    with CaptureQueriesContext(connection) as queries:
        store(*page, read_at=minutes(1))
    assert sum("crm_outboxentry" in query["sql"] for query in queries) == 1


def test_ops_switch_it_and_act_upon_the_outbox_in_the_admin(deal, ops, ops_client, settings):
    settings.WRITE_BACK_FORCED_OFF = False
    address = "/admin/crm/writeback/"
    ops_client.post(f"{address}add/", {"mode": "preview"})
    assert switch.mode() == "preview"
    ops_client.post(f"{address}1/change/", {"mode": "on", "is_killed": "on"})
    assert (switch.mode(), switch.is_killed()) == ("off", True)
    ops_client.post(f"{address}1/change/", {"mode": "on"})
    assert (switch.mode(), switch.is_killed()) == ("on", False)
    assert WriteBack.objects.get().changed_by == ops
    settings.WRITE_BACK_FORCED_OFF = True
    assert switch.mode() == "off"
    said = ops_client.post(f"{address}1/change/", {"mode": "on"}, follow=True)
    assert "WRITE_BACK=off" in said.content.decode()

    edit(deal, {"next_step": "Ours"}, author=None, now=NOON)
    store(factories.deal(1, modified=minutes(2), Next_Step="Theirs"), read_at=minutes(2))
    entry = only_entry(deal)
    chosen = {"_selected_action": [entry.pk], "action": "take_theirs"}
    ops_client.post("/admin/crm/outboxentry/", chosen)
    deal.refresh_from_db()
    assert deal.next_step == "Theirs"
    said = ops_client.post("/admin/crm/outboxentry/", chosen, follow=True).content.decode()
    assert "not in conflict any more" in said
