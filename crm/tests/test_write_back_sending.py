"""Changes made here reach the CRM: each once, never over somebody else's, whatever the answer."""

from __future__ import annotations

import pytest
from django.utils import timezone

from crm.errors import NotInConflict
from crm.models import ChangeEvent, Deal, OutboxEntry, outbox
from crm.sync.modules import DEALS
from crm.tests.writing import (
    a_deal,
    change,
    entries,
    only_entry,
    send_now,
    there,
    value,
)
from crm.writeback import decisions, switch
from crm.writeback.outbox import create, delete, edit
from crm.writeback.send import send_due

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def mirror(crm):
    crm.sync()
    return crm


def test_an_edit_reaches_the_crm_and_its_echo_is_no_news(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Call the CFO", closing_date="2027-01-15", amount_minor=123_450)
    deal.refresh_from_db()
    assert (deal.next_step, deal.amount_minor) == ("Call the CFO", 123_450)
    report = send_now()
    assert (report.sent, report.stopped) == (3, "")
    assert there(mirror, deal, "Next_Step") == "Call the CFO"
    assert there(mirror, deal, "Closing_Date") == "2027-01-15"
    assert there(mirror, deal, "Amount") == 1234.5
    assert {e.status for e in entries(deal)} == {outbox.SENT}
    told = ChangeEvent.objects.count()
    run = mirror.sync("delta")
    assert (run.updated, run.created) == (0, 0)
    assert ChangeEvent.objects.count() == told
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


def test_row_77_the_same_field_changed_there_is_a_conflict_for_a_person(mirror, manager):
    deal = a_deal(mirror)
    base = deal.next_step
    change(deal, manager, next_step="Ours")
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Theirs"})
    report = send_now()
    assert (report.sent, report.conflicts) == (0, 1)
    assert there(mirror, deal, "Next_Step") == "Theirs"
    assert deal.next_step == "Ours"  # marked, until somebody decides
    entry = only_entry(deal)
    assert entry.status == outbox.CONFLICT
    assert [value(v) for v in (entry.base, entry.new, entry.theirs)] == [base, "Ours", "Theirs"]
    assert entry.theirs_by and entry.author == manager
    mirror.sync("delta")
    deal.refresh_from_db()
    assert deal.next_step == "Ours"

    decisions.resolve(entry.pk, "theirs", by=manager, now=timezone.now())
    deal.refresh_from_db()
    assert deal.next_step == "Theirs"
    assert only_entry(deal).status == outbox.WITHDRAWN
    mirror.assert_mirrored()


def test_row_77_ours_is_kept_by_a_person_and_sent_over_theirs(mirror, manager):
    deal = a_deal(mirror)
    change(deal, manager, next_step="Ours")
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Theirs"})
    mirror.sync("delta")  # the conflict is seen by whichever way in comes first
    entry = only_entry(deal)
    assert entry.status == outbox.CONFLICT
    decisions.resolve(entry.pk, "ours", by=manager, now=timezone.now())
    assert send_now().sent == 1
    assert there(mirror, deal, "Next_Step") == "Ours"
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_row_78_another_field_changed_there_survives(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Ours")
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Description": "Theirs"})
    assert send_now().sent == 1
    assert there(mirror, deal, "Next_Step") == "Ours"
    assert there(mirror, deal, "Description") == "Theirs"
    assert (deal.next_step, deal.description) == ("Ours", "Theirs")
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_row_79_the_same_value_there_needs_no_write(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Agreed")
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": " Agreed "})
    modified = there(mirror, deal, "Modified_Time")
    report = send_now()
    assert (report.sent, report.settled, report.conflicts) == (0, 1, 0)
    assert there(mirror, deal, "Modified_Time") == modified
    assert only_entry(deal).status == outbox.DONE


def test_row_80_of_a_hundred_the_failed_ones_alone_are_kept_back(big_crm):
    big_crm.sync()
    deals = list(Deal.objects.live().filter(stage_type="open").order_by("pk")[:100])
    for deal in deals:
        change(deal, next_step="Batch")
    locked = [deal.zoho_id for deal in deals[:4]]
    denied = [deal.zoho_id for deal in deals[4:7]]
    big_crm.control("hold", module="Deals", ids=locked, **{"as": "lock"})
    big_crm.control("hold", module="Deals", ids=denied, **{"as": "access"})
    big_crm.control("reset_stats")
    report = send_now()
    assert (report.sent, report.waiting, report.refused) == (93, 4, 3)
    calls = big_crm.control("stats")["by_path"]
    assert sum(calls.values()) == 3, calls  # two readings of fifty, one update of a hundred
    by_code = {e.code: e.status for e in OutboxEntry.objects.exclude(status=outbox.SENT)}
    assert by_code == {"RECORD_LOCKED": outbox.PENDING, "AUTHORIZATION_FAILED": outbox.REFUSED}
    refused = OutboxEntry.objects.filter(status=outbox.REFUSED).first()
    assert "may not change this record" in refused.message
    row = Deal.objects.get(pk=refused.record_id)
    assert row.next_step != "Batch"  # the CRM's value shows again; ours is in the draft
    assert value(refused.new) == "Batch"
    big_crm.control("release", module="Deals", ids=locked)
    assert send_now().sent == 0  # not before its time
    assert send_now(later=120).sent == 4
    big_crm.sync("delta")
    big_crm.assert_mirrored()


@pytest.mark.parametrize("when", ["after", "body", "before"])
def test_row_81_an_answer_that_was_lost_is_read_before_anything_is_sent_again(mirror, when):
    deal = a_deal(mirror)
    change(deal, next_step="Once")
    rule = {"do": "reset", "method": "PUT", "when": when, "times": 1}
    mirror.control("faults", rules=[{**rule, "at": 10} if when == "body" else rule])
    assert send_now().unknown == 1
    assert only_entry(deal).status == outbox.UNKNOWN
    modified = there(mirror, deal, "Modified_Time")
    mirror.control("reset_stats")
    report = send_now(later=120)
    if when == "before":
        assert (report.sent, report.settled) == (1, 0)
    else:
        assert (report.sent, report.settled) == (0, 1)
        assert there(mirror, deal, "Modified_Time") == modified
    assert there(mirror, deal, "Next_Step") == "Once"
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_row_81_what_somebody_wrote_after_a_lost_answer_is_not_overwritten(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Once")
    mirror.control("faults", rules=[{"do": "reset", "method": "PUT", "when": "after"}])
    send_now()
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Later"})
    assert send_now(later=120).sent == 0
    assert there(mirror, deal, "Next_Step") == "Later"
    assert only_entry(deal).status == outbox.CONFLICT


@pytest.mark.parametrize("answer", ["lost", "lost and told first", "whole"])
def test_row_82_a_deal_made_here_is_made_there_once(mirror, answer):
    before = set(mirror.ids())
    kept = create(
        DEALS,
        {
            "name": "From here",
            "crm_stage": "Qualification",
            "closing_date": "2027-03-01",
            "pipeline": a_deal(mirror).pipeline,
            "currency": "USD",
            "amount_minor": 100_050,
        },
        author=None,
        now=timezone.now(),
    )
    if answer != "whole":
        mirror.control("faults", rules=[{"do": "reset", "method": "POST", "when": "after",
                                         "path": "/crm/v8/Deals/upsert"}])  # fmt: skip
    send_now()
    if answer == "lost and told first":
        mirror.sync("delta")
        assert Deal.objects.get(pk=kept.record_id).zoho_id is not None
    send_now(later=120)
    (made,) = set(mirror.ids()) - before
    deal = Deal.objects.get(pk=kept.record_id)
    assert str(deal.zoho_id) == made
    assert there(mirror, deal, "Pulse_Id") == deal.external_id
    assert there(mirror, deal, "Amount") == 1000.5
    assert only_entry(deal).status == outbox.DONE
    mirror.sync("delta")
    mirror.assert_mirrored()
    assert Deal.objects.filter(name="From here").count() == 1


def test_row_83_what_changed_in_between_is_merged_again(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Ours")
    edit_there = {"do": "edit", "module": "Deals", "id": deal.zoho_id,
                  "values": {"Description": "In between"}}  # fmt: skip
    # The CRM's clock shows seconds: a change in the same one as the last is not seen.
    mirror.control("config", clock_offset_s=30)
    mirror.control("hook", after_requests=1, path="/crm/v8/Deals", run=edit_there)
    report = send_now()
    assert there(mirror, deal, "Description") == "In between"
    assert there(mirror, deal, "Next_Step") == "Ours"
    assert (report.waiting, report.sent) == (1, 1)


@pytest.mark.parametrize(
    ("hold", "code"),
    [("lock", "RECORD_LOCKED"), ("approval", "NOT_APPROVED"), ("review", "NOT_REVIEWED")],
)
def test_row_83_a_record_that_is_held_back_is_waited_for(mirror, hold, code):
    deal = a_deal(mirror)
    change(deal, next_step="Patient")
    mirror.control("hold", module="Deals", ids=[deal.zoho_id], **{"as": hold})
    assert send_now().waiting == 1
    entry = only_entry(deal)
    assert (entry.status, entry.code) == (outbox.PENDING, code)
    deal.refresh_from_db()
    assert deal.next_step == "Patient" and deal.deleted_at is None
    mirror.control("release", module="Deals", ids=[deal.zoho_id])
    assert send_now(later=5 * 3600).sent == 1
    assert there(mirror, deal, "Next_Step") == "Patient"


def test_row_83_a_validation_rule_leaves_the_other_fields_and_keeps_a_draft(mirror, manager):
    deal = a_deal(mirror)
    old = deal.service_line
    change(deal, manager, next_step="Fine", service_line="Security" if old is None else None)
    refusal = {
        "code": "INVALID_DATA",
        "status": "error",
        "message": "the value is refused by a rule",
        "details": {"api_name": "Service_Line", "json_path": "$.data[0].Service_Line"},
    }
    rule = {"do": "status", "method": "PUT", "status": 400, "body": {"data": [refusal]}}
    mirror.control("faults", rules=[rule])
    report = send_now()
    assert (report.refused, report.sent) == (1, 1)
    assert there(mirror, deal, "Next_Step") == "Fine"
    assert deal.service_line == old
    draft = next(e for e in entries(deal) if e.field == "service_line")
    assert (draft.status, draft.author) == (outbox.REFUSED, manager)
    assert "refused by a rule" in draft.message
    mirror.sync("delta")
    mirror.assert_mirrored()


@pytest.mark.parametrize("told_by", ["sending", "delta"])
def test_row_84_an_edit_of_a_deal_deleted_there_is_kept_as_a_note(mirror, told_by):
    deal = a_deal(mirror)
    change(deal, next_step="Too late")
    mirror.control("delete", module="Deals", ids=[deal.zoho_id])
    if told_by == "delta":
        mirror.sync("delta")
    report = send_now()
    assert report.sent == 0
    entry = only_entry(deal)
    assert (entry.status, entry.code) == (outbox.REFUSED, "record_deleted")
    assert "deleted in the CRM" in entry.message and value(entry.new) == "Too late"
    deal.refresh_from_db()
    assert deal.deleted_at is not None
    assert str(deal.zoho_id) not in mirror.ids()
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_row_85_our_own_echo_is_no_news_and_no_work(big_crm):
    big_crm.sync()
    for deal in Deal.objects.live().order_by("pk")[:250]:
        change(deal, next_step=f"Step {deal.pk}")
    assert send_now().sent == 250
    told = ChangeEvent.objects.count()
    count = OutboxEntry.objects.count()
    for kind in ("delta", "full", "delta"):
        run = big_crm.sync(kind)
        assert (run.created, run.updated) == (0, 0)
    assert ChangeEvent.objects.count() == told
    assert OutboxEntry.objects.count() == count
    assert set(OutboxEntry.objects.values_list("status", flat=True)) == {outbox.DONE}
    big_crm.assert_mirrored()


def test_row_86_a_workflow_that_changes_it_back_is_answered_three_times(mirror):
    deal = a_deal(mirror)
    mirror.control("workflow", module="Deals", when=["Next_Step"], revert=["Next_Step"])
    was = deal.next_step
    for _ in range(3):
        change(deal, next_step="Ours")
        assert send_now().sent == 1
        mirror.sync("delta")
        deal.refresh_from_db()
        assert deal.next_step == was
    change(deal, next_step="Ours")
    mirror.control("reset_stats")
    report = send_now()
    assert (report.sent, report.refused) == (0, 1)
    assert mirror.requests() == 0
    entry = entries(deal)[-1]
    assert (entry.status, entry.code) == (outbox.REFUSED, "changed_back")
    assert "3 times" in entry.message
    mirror.assert_mirrored()


def test_row_86_a_value_that_a_workflow_rewrites_is_taken_as_the_crms(mirror):
    deal = a_deal(mirror)
    mirror.control("workflow", module="Deals", when=["Next_Step"], set={"Next_Step": "By rule"})
    change(deal, next_step="Ours")
    send_now()
    mirror.sync("delta")
    deal.refresh_from_db()
    assert deal.next_step == "By rule"
    assert only_entry(deal).status == outbox.DONE
    mirror.assert_mirrored()


def test_row_87_two_quick_edits_go_as_one_and_the_later_wins(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="First")
    change(deal, next_step="Second")
    mirror.control("reset_stats")
    assert send_now().sent == 1
    assert there(mirror, deal, "Next_Step") == "Second"
    assert only_entry(deal).status == outbox.SENT


def test_row_87_an_edit_while_the_last_is_on_its_way_follows_it(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="First")
    mirror.control("faults", rules=[{"do": "reset", "method": "PUT", "when": "after"}])
    send_now()  # the first is there; nobody here knows it yet
    change(deal, next_step="Second")
    assert value(entries(deal)[-1].base) == "First"
    send_now(later=120)
    send_now(later=120)
    assert there(mirror, deal, "Next_Step") == "Second"
    mirror.sync("delta")
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


def test_row_88_who_may_not_any_more_sends_nothing(mirror, person):
    deal = a_deal(mirror)
    author = person("manager", "mia")
    was = deal.next_step
    change(deal, author, next_step="Mine")
    author.groups.clear()
    mirror.control("reset_stats")
    assert send_now().refused == 1
    assert mirror.requests() == 0
    entry = only_entry(deal)
    assert (entry.status, entry.code) == (outbox.REFUSED, "author_not_allowed")
    deal.refresh_from_db()
    assert deal.next_step == was
    change(deal, person("manager", "max"), next_step="Mine")
    type(author).objects.filter(username="max").update(is_active=False)
    send_now()
    assert "switched off" in entries(deal)[-1].message
    mirror.assert_mirrored()


def test_row_89_what_the_crm_writes_in_its_own_way_is_recognised(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="  Two  words  ", crm_stage="Identify Decision Makers")
    assert send_now().sent >= 1
    told = ChangeEvent.objects.filter(field__in=("next_step", "crm_stage")).count()
    mirror.sync("delta")
    mirror.sync("full")
    assert ChangeEvent.objects.filter(field__in=("next_step", "crm_stage")).count() == told
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


# -- deletions ---------------------------------------------------------------------------------


def test_a_deal_deleted_here_goes_to_the_crms_bin(mirror, manager):
    deal = a_deal(mirror)
    delete(deal, author=manager, now=timezone.now())
    mirror.sync("delta")  # the CRM still has it, and must not bring it back
    mirror.sync("full")
    deal.refresh_from_db()
    assert deal.deleted_at is not None
    assert send_now().sent == 1
    assert str(deal.zoho_id) not in mirror.ids()
    assert only_entry(deal).status == outbox.DONE
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_a_deletion_that_the_crm_refuses_is_undone(mirror, manager):
    deal = a_deal(mirror)
    delete(deal, author=manager, now=timezone.now())
    mirror.control("hold", module="Deals", ids=[deal.zoho_id], **{"as": "access"})
    assert send_now().refused == 1
    deal.refresh_from_db()
    assert deal.deleted_at is None
    assert only_entry(deal).status == outbox.REFUSED
    mirror.assert_mirrored()


def test_a_deal_that_changed_there_is_not_deleted_unasked(mirror, manager):
    deal = a_deal(mirror)
    delete(deal, author=manager, now=timezone.now())
    mirror.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Alive!"})
    assert send_now().conflicts == 1
    entry = only_entry(deal)
    assert value(entry.theirs) == {"next_step": "Alive!"}
    decisions.resolve(entry.pk, "theirs", by=manager, now=timezone.now())
    deal.refresh_from_db()
    assert (deal.deleted_at, deal.next_step) == (None, "Alive!")
    mirror.assert_mirrored()


def test_a_deletion_whose_answer_was_lost_is_found_done(mirror, manager):
    deal = a_deal(mirror)
    delete(deal, author=manager, now=timezone.now())
    mirror.control("faults", rules=[{"do": "reset", "method": "DELETE", "when": "after"}])
    assert send_now().unknown == 1
    send_now(later=120)
    assert only_entry(deal).status == outbox.DONE
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_a_sent_deletion_is_taken_back_in_the_crm_and_the_record_is_here_again(mirror, manager):
    deal = a_deal(mirror)
    delete(deal, author=manager, now=timezone.now())
    assert send_now().sent == 1
    with pytest.raises(NotInConflict, match="Restore it there"):
        decisions.undo(only_entry(deal).pk, by=manager, now=timezone.now())
    mirror.control("restore", module="Deals", ids=[deal.zoho_id])
    mirror.sync("full")
    deal.refresh_from_db()
    assert deal.deleted_at is None
    assert send_now().sent == 0
    mirror.assert_mirrored()


def test_undo_of_a_sent_change_is_a_change_of_its_own(mirror, manager):
    deal = a_deal(mirror)
    was = deal.next_step
    change(deal, manager, next_step="Ours")
    send_now()
    (sent,) = entries(deal)
    decisions.undo(sent.pk, by=manager, now=timezone.now())
    assert entries(deal)[-1].undoes == sent
    assert send_now().sent == 1
    assert there(mirror, deal, "Next_Step") == was
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_nothing_leaves_while_the_switch_is_off_or_killed(mirror, manager):
    deal = a_deal(mirror)
    change(deal, next_step="Ours")
    mirror.control("reset_stats")
    for mode in ("off", "preview"):
        switch.set_mode(mode, by=manager, now=timezone.now())
        assert send_due().stopped == "off"
    switch.set_mode("on", by=manager, now=timezone.now())
    switch.kill(by=manager, now=timezone.now())
    assert send_due().stopped == "off"
    mirror.settings.WRITE_BACK_FORCED_OFF = True
    assert switch.mode() == "off"
    assert mirror.requests() == 0


def test_an_outage_keeps_everything_waiting(mirror):
    deal = a_deal(mirror)
    change(deal, next_step="Patient")
    mirror.control("faults", rules=[{"do": "status", "status": 503, "times": 0,
                                     "path": "/crm/v8/Deals"}])  # fmt: skip
    report = send_now()
    assert report.stopped
    assert (only_entry(deal).status, only_entry(deal).attempts) == (outbox.PENDING, 0)
    mirror.control("clear_faults")
    assert send_now(later=3600).sent == 1


def test_an_edit_of_a_deal_waits_for_the_deal(mirror):
    kept = create(
        DEALS,
        {"name": "New", "crm_stage": "Qualification", "closing_date": "2027-03-01",
         "pipeline": a_deal(mirror).pipeline},
        author=None,
        now=timezone.now(),
    )  # fmt: skip
    deal = Deal.objects.get(pk=kept.record_id)
    edit(deal, {"next_step": "Soon"}, author=None, now=timezone.now())
    assert only_entry(deal).kind == outbox.CREATE  # it sends the record as it is by then
    send_now()
    assert there(mirror, deal, "Next_Step") == "Soon"
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_a_deal_made_here_was_created_when_the_crm_made_it(mirror):
    owner = a_deal(mirror).owner_id
    values = {"name": "New", "crm_stage": "Qualification", "crm_probability": 10,
              "closing_date": "2027-03-01", "pipeline": a_deal(mirror).pipeline,
              "owner_id": owner, "aws_funded": False, "strategic_account": False}  # fmt: skip
    kept = create(DEALS, values, author=None, now=timezone.now())
    mirror.control("config", clock_offset_s=7200)
    send_now()
    mirror.sync("delta")
    assert only_entry(Deal.objects.get(pk=kept.record_id)).status == outbox.DONE
    mirror.assert_mirrored()
