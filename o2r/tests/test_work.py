"""Action items, activities, reviews and snoozes: what is kept, refused, and by whom."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from crm.errors import FieldsRefused, RecordGone
from crm.models import Deal, MirrorState
from crm.tests.rows import CrmUserFactory, DealFactory
from o2r import recompute
from o2r.errors import NotNow, PermissionRefused
from o2r.filters import Selection
from o2r.models import ActionItem, Opportunity, Review, Snooze
from o2r.services import blocking, milestones, reviews, work
from o2r.services.entry import opportunity_of

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
TODAY = date(2026, 3, 10)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _gate(db: None) -> None:
    """Where a sync would have left it: behind the numbers that the deals have."""
    MirrorState.objects.update_or_create(module="Deals", defaults={"change_seq": 1_000_000})


def tracked(**columns: Any) -> Opportunity:
    created = datetime(2025, 1, 5, tzinfo=UTC)
    opportunity = opportunity_of(DealFactory(crm_created_at=created, **columns))
    recompute.refresh([opportunity.pk], now=NOW)
    opportunity.refresh_from_db()
    return opportunity


@pytest.fixture
def opportunity() -> Opportunity:
    return tracked()


@pytest.fixture
def stalled() -> Opportunity:
    """Proposed 40 days ago, no PO: red, with an item that the rule proposed."""
    return tracked(proposal_date=TODAY - 40 * DAY)


@pytest.fixture
def by(manager: Any) -> dict[str, Any]:
    return {"user": manager, "now": NOW}


# -- action items ---------------------------------------------------------------------------------


def test_an_item_is_for_the_owner_of_the_deal_unless_said(opportunity, by) -> None:
    other = CrmUserFactory()
    mine = work.add_item(opportunity, text="  Call ", due_on=TODAY, **by)
    assert (mine.text, mine.owner, mine.rule) == ("Call", opportunity.deal.owner, "")
    assert work.add_item(opportunity, text="Call", owner=other, **by).owner == other
    assert work.add_item(opportunity, text="Call", owner=None, **by).owner is None
    edited = work.edit_item(mine, text="Mail", due_on=None, **by)
    assert (edited.text, edited.due_on, edited.owner) == ("Mail", None, opportunity.deal.owner)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"text": " "}, "text"),
        ({"text": "x" * 501}, "text"),
        ({"text": "x", "due_on": date(1, 1, 1)}, "due_on"),
        ({"text": "x", "owner": 10**9}, "owner"),
    ],
)
def test_an_item_that_does_not_fit_is_refused(opportunity, by, said: dict, field: str) -> None:
    with pytest.raises(FieldsRefused) as refused:
        work.add_item(opportunity, **said, **by)
    assert list(refused.value.fields) == [field]


def test_a_ticked_item_is_not_proposed_again_in_the_same_spell(stalled, by) -> None:
    item = ActionItem.objects.get()
    assert (item.rule, item.owner) == ("proposal_no_po", stalled.deal.owner)
    work.tick(item, **by)
    work.tick(item, user=None or by["user"], now=NOW + DAY)  # twice is once
    item.refresh_from_db()
    assert (item.done_at, item.done_by, item.closed_by_rule) == (NOW, by["user"], False)
    recompute.refresh([stalled.pk], now=NOW + DAY)
    assert ActionItem.objects.count() == 1
    assert Opportunity.objects.get().health_signal == "red"
    # another proposal begins another spell
    milestones.record(stalled, key="proposal", completed_on=TODAY - 39 * DAY, today=TODAY, **by)
    assert ActionItem.objects.filter(done_at=None, rule="proposal_no_po").count() == 1


def test_an_item_is_reopened_unless_its_reason_has_ended(stalled, by) -> None:
    item = work.tick(ActionItem.objects.get(), **by)
    assert work.reopen(item, **by).done_at is None
    milestones.record(stalled, key="po", status="completed", today=TODAY, **by)
    item.refresh_from_db()
    assert item.closed_by_rule
    with pytest.raises(NotNow, match="reason has ended"):
        work.reopen(item, **by)


def test_what_a_rule_proposed_is_ticked_and_not_removed(stalled, opportunity, by) -> None:
    with pytest.raises(NotNow, match="tick it off"):
        work.remove_item(ActionItem.objects.get(), user=by["user"])
    own = work.add_item(opportunity, text="Call", **by)
    work.remove_item(own, user=by["user"])
    assert ActionItem.objects.count() == 1


def test_a_rep_does_their_own_items_on_a_deal_of_somebody_else(opportunity, by, rep) -> None:
    own = CrmUserFactory(email=rep.email)
    mine = work.add_item(opportunity, text="Call", owner=own, **by)
    other = work.add_item(opportunity, text="Call", **by)
    assert work.tick(mine, user=rep, now=NOW).done_by == rep
    with pytest.raises(PermissionRefused):
        work.tick(other, user=rep, now=NOW)
    with pytest.raises(PermissionRefused):
        work.add_item(opportunity, text="Call", user=rep, now=NOW)


def test_nothing_is_done_about_a_deleted_one(opportunity, by) -> None:
    item = work.add_item(opportunity, text="Call", **by)
    Deal.objects.update(deleted_at=NOW)
    opportunity.refresh_from_db()
    item = ActionItem.objects.get(pk=item.pk)
    for act in (
        lambda: work.add_item(opportunity, text="x", **by),
        lambda: work.tick(item, **by),
        lambda: work.add_activity(opportunity, description="x", **by),
        lambda: work.snooze(opportunity, until=TODAY + DAY, reason="x", today=TODAY, **by),
        lambda: reviews.review(opportunity, decision="x", today=TODAY, **by),
    ):
        with pytest.raises(RecordGone, match="was deleted"):
            act()


# -- activities -----------------------------------------------------------------------------------


def test_an_activity_is_planned_then_done(opportunity, by) -> None:
    call = work.add_activity(opportunity, description="Budget", scheduled_at=NOW + DAY, **by)
    assert (call.type, call.completed_at, call.outcome) == ("call", None, "")
    work.complete_activity(call, user=by["user"], now=NOW + DAY)
    assert (call.completed_at, call.outcome) == (NOW + DAY, "successful")
    work.edit_activity(call, completed_at=None, **by)
    assert (call.completed_at, call.outcome) == (None, "")
    work.edit_activity(call, outcome="rescheduled", scheduled_at=NOW + 9 * DAY, **by)
    assert call.completed_at == NOW


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"description": ""}, "description"),
        ({"description": "x", "type": "lunch"}, "type"),
        ({"description": "x", "outcome": "great"}, "outcome"),
        ({"description": "x", "completed_at": NOW + DAY}, "completed_at"),
    ],
)
def test_an_activity_that_does_not_fit_is_refused(opportunity, by, said, field) -> None:
    with pytest.raises(FieldsRefused) as refused:
        work.add_activity(opportunity, **said, **by)
    assert list(refused.value.fields) == [field]


# -- snooze ---------------------------------------------------------------------------------------


def test_a_snooze_waits_for_its_day_and_leaves_the_signal(stalled, by) -> None:
    first = work.snooze(stalled, until=TODAY + 5 * DAY, reason="Leave", today=TODAY, **by)
    assert work.snooze_of(stalled, TODAY + 4 * DAY) == first
    assert work.snooze_of(stalled, TODAY + 5 * DAY) is None
    assert Opportunity.objects.get().health_signal == "red"
    second = work.snooze(stalled, until=TODAY + 9 * DAY, reason="Longer", today=TODAY, **by)
    assert list(Snooze.objects.filter(ended_at=None)) == [second]
    assert work.wake(stalled, **by) and not work.wake(stalled, **by)
    assert work.snooze_of(stalled, TODAY) is None


@pytest.mark.parametrize(
    ("until", "reason", "field"),
    [(TODAY, "x", "until"), (TODAY + 400 * DAY, "x", "until"), (TODAY + DAY, " ", "reason")],
)
def test_a_snooze_needs_a_later_day_and_a_reason(stalled, by, until, reason, field) -> None:
    with pytest.raises(FieldsRefused) as refused:
        work.snooze(stalled, until=until, reason=reason, today=TODAY, **by)
    assert list(refused.value.fields) == [field]


# -- reviews --------------------------------------------------------------------------------------


def test_a_review_keeps_the_facts_as_they_were(stalled, by, rep) -> None:
    found = reviews.review(stalled, decision="Call the CFO", note="Late", today=TODAY, **by)
    assert (found.health_signal, found.current_phase, found.reviewed_on) == ("red", 2, TODAY)
    assert found.facts["proposal_date"] == "2026-01-29" and found.facts["po_date"] is None
    (reason,) = found.facts["reasons"]
    assert (reason["rule"], reason["days"]) == ("proposal_no_po", 40)
    milestones.record(stalled, key="po", status="completed", today=TODAY, **by)
    found.refresh_from_db()
    assert (found.health_signal, found.facts["po_date"]) == ("red", None)
    with pytest.raises(FieldsRefused):
        reviews.review(stalled, decision=" ", today=TODAY, **by)


def test_its_author_changes_it_on_the_same_business_day(stalled, by, rep, person) -> None:
    found = reviews.review(stalled, decision="Call", today=TODAY, **by)
    assert reviews.edit_review(found, note="Twice", today=TODAY, **by).decision == "Call"
    with pytest.raises(PermissionRefused, match="own day"):
        reviews.edit_review(found, note="x", today=TODAY + DAY, **by)
    with pytest.raises(PermissionRefused, match="Only its author"):
        reviews.edit_review(found, note="x", user=rep, now=NOW, today=TODAY)
    with pytest.raises(PermissionRefused):
        reviews.remove_review(found, user=rep, today=TODAY)
    reviews.remove_review(found, user=by["user"], today=TODAY)
    assert not Review.objects.exists()


def queue_of(user: Any) -> list[str]:
    return [deal.name for deal in reviews.queue(Selection({}, user), TODAY)]


def test_the_queue_is_blocked_red_yellow_then_what_turns_within_a_week(manager, by) -> None:
    sent = {"crm_stage": "Proposal/Price Quote"}
    tracked(name="turns in 8 days", proposal_date=TODAY - 7 * DAY, **sent)
    tracked(name="turns in 7 days", proposal_date=TODAY - 8 * DAY, **sent)
    tracked(name="yellow", proposal_date=TODAY - 15 * DAY, **sent)
    tracked(name="red, no value", proposal_date=TODAY - 31 * DAY, amount_minor=None, **sent)
    tracked(name="red", proposal_date=TODAY - 31 * DAY, amount_minor=5, **sent)
    tracked(name="red, larger", proposal_date=TODAY - 31 * DAY, amount_minor=9, **sent)
    tracked(name="green")
    tracked(name="lost", proposal_date=TODAY - 31 * DAY, crm_stage="Closed Lost")
    blocking.block(tracked(name="blocked", amount_minor=1), reason="x", today=TODAY, **by)
    assert queue_of(manager) == [
        *("blocked", "red, larger", "red", "red, no value", "yellow", "turns in 7 days"),
    ]


def test_next_week_opens_with_what_became_of_the_decisions(manager, by) -> None:
    moved, still = tracked(proposal_date=TODAY - 40 * DAY), tracked(proposal_date=TODAY - 50 * DAY)
    for each in (moved, still):
        reviews.review(each, decision="Ask for the PO", today=TODAY, **by)
    later = {"user": manager, "now": NOW + 2 * DAY}
    milestones.record(moved, key="po", status="completed", today=TODAY + 2 * DAY, **later)
    assert reviews.last_week(Selection({}, manager), TODAY) == []
    first, second = reviews.last_week(Selection({}, manager), TODAY + 7 * DAY)
    assert (first.review.opportunity, first.has_moved, first.recorded) == (still, False, [])
    assert (second.signal_then, second.signal_now, second.is_better) == ("red", "green", True)
    assert (second.recorded, second.phase_now, second.items_done) == (["po"], 3, 1)
    assert reviews.last_week(Selection({}, manager), TODAY + 8 * DAY) == []
