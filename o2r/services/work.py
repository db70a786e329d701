"""What people do about an opportunity: action items, activities, and letting an alert wait.

Decides who may, what fits and what follows. Which items are proposed, and that one is closed when
its reason ends, is decided by `o2r/action_rules.py` and written by `o2r/recompute.py`.
Every function is one transaction.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from django.db import transaction

from crm.errors import FieldsRefused
from crm.models import CrmUser
from o2r.errors import NotNow
from o2r.models import ActionItem, Activity, Opportunity, Snooze
from o2r.permissions import may_do_item, may_record, may_snooze
from o2r.services.entry import (
    KEEP,
    existing_owner,
    fitting_day,
    raise_if_gone,
    require,
    text_of,
)
from o2r.written import day_words, moment_words

WHAT_TO_DO = "Say what is to be done."
WHAT_HAPPENED = "Say what it was about."
LONGEST_SNOOZE = timedelta(days=366)
TYPES = tuple(word for word, _ in Activity.TYPES)
OUTCOMES = tuple(word for word, _ in Activity.OUTCOMES)


# -- action items -----------------------------------------------------------------------------


def add_item(
    opportunity: Opportunity,
    *,
    text: str,
    user: Any,
    now: datetime,
    owner: CrmUser | int | None = KEEP,
    due_on: date | None = None,
) -> ActionItem:
    """An item for somebody, for the deal's owner unless said. Raises PermissionRefused,
    RecordGone, FieldsRefused."""
    deal = opportunity.deal
    require(may_record(user, deal))
    raise_if_gone(deal)
    return ActionItem.objects.create(
        opportunity=opportunity,
        text=text_of("text", text, most=500, why_needed=WHAT_TO_DO),
        owner=deal.owner if owner is KEEP else existing_owner("owner", owner),
        due_on=fitting_day("due_on", due_on),
        created_by=user,
        created_at=now,
        updated_at=now,
    )


def edit_item(
    item: ActionItem,
    *,
    user: Any,
    now: datetime,
    text: str = KEEP,
    owner: CrmUser | int | None = KEEP,
    due_on: date | None = KEEP,
) -> ActionItem:
    """Change what is said; a proposed item stays the rule's. Raises PermissionRefused, RecordGone,
    FieldsRefused."""
    _may_do(user, item)
    if text is not KEEP:
        item.text = text_of("text", text, most=500, why_needed=WHAT_TO_DO)
    if owner is not KEEP:
        item.owner = existing_owner("owner", owner)
    if due_on is not KEEP:
        item.due_on = fitting_day("due_on", due_on)
    item.updated_at = now
    item.save(update_fields=["text", "owner", "due_on", "updated_at"])
    return item


def tick(item: ActionItem, *, user: Any, now: datetime) -> ActionItem:
    """Done. In the same spell of its reason it is not proposed again. Twice is once."""
    _may_do(user, item)
    open_one = ActionItem.objects.filter(pk=item.pk, done_at__isnull=True)
    open_one.update(done_at=now, done_by=user, updated_at=now)
    item.refresh_from_db()
    return item


def reopen(item: ActionItem, *, user: Any, now: datetime) -> ActionItem:
    """Not done after all. Raises NotNow where its reason has ended or another stands for it."""
    _may_do(user, item)
    with transaction.atomic():
        item = ActionItem.objects.select_for_update(of=("self",)).get(pk=item.pk)
        if item.done_at is None:
            return item
        if item.closed_by_rule:
            raise NotNow("Its reason has ended: nothing is to do. Add an item of your own.")
        same = item.opportunity.action_items.filter(rule=item.rule, done_at__isnull=True)
        if item.rule and same.exists():
            raise NotNow("There is an open item for the same reason already.")
        item.done_at = item.done_by = None
        item.updated_at = now
        item.save(update_fields=["done_at", "done_by", "updated_at"])
    return item


def remove_item(item: ActionItem, *, user: Any) -> None:
    """Take back what a person made. Raises NotNow for a rule's: it would be proposed again."""
    _may_do(user, item)
    if item.rule:
        raise NotNow("A rule proposed it: tick it off, and it is not proposed again.")
    item.delete()


def _may_do(user: Any, item: ActionItem) -> None:
    require(may_do_item(user, item))
    raise_if_gone(item.opportunity.deal)


# -- activities -------------------------------------------------------------------------------


def add_activity(
    opportunity: Opportunity,
    *,
    user: Any,
    now: datetime,
    description: str,
    type: str = "call",
    scheduled_at: datetime | None = None,
    completed_at: datetime | None = None,
    outcome: str = "",
) -> Activity:
    """Planned, or told after it happened. Raises PermissionRefused, RecordGone, FieldsRefused."""
    require(may_record(user, opportunity.deal))
    raise_if_gone(opportunity.deal)
    activity = Activity(
        opportunity=opportunity, created_by=user, created_at=now, description="", type="call"
    )
    _say(activity, now, type, description, scheduled_at, completed_at, outcome)
    activity.save()
    return activity


def edit_activity(
    activity: Activity,
    *,
    user: Any,
    now: datetime,
    description: str = KEEP,
    type: str = KEEP,
    scheduled_at: datetime | None = KEEP,
    completed_at: datetime | None = KEEP,
    outcome: str = KEEP,
) -> Activity:
    """Change what is said, complete it, or move it. Raises as `add_activity`."""
    require(may_record(user, activity.opportunity.deal))
    raise_if_gone(activity.opportunity.deal)
    _say(activity, now, type, description, scheduled_at, completed_at, outcome)
    activity.save()
    return activity


def complete_activity(
    activity: Activity, *, user: Any, now: datetime, outcome: str = "successful"
) -> Activity:
    """It has happened just now, and so it went."""
    return edit_activity(activity, user=user, now=now, completed_at=now, outcome=outcome)


def remove_activity(activity: Activity, *, user: Any) -> None:
    require(may_record(user, activity.opportunity.deal))
    raise_if_gone(activity.opportunity.deal)
    activity.delete()


def _say(
    activity: Activity,
    now: datetime,
    type: str,
    description: str,
    scheduled_at: datetime | None,
    completed_at: datetime | None,
    outcome: str,
) -> None:
    """An outcome without a time: it happened now. No time any more: it has no outcome either."""
    if description is not KEEP:
        activity.description = text_of(
            "description", description, most=10_000, why_needed=WHAT_HAPPENED
        )
    if type is not KEEP:
        if type not in TYPES:
            raise FieldsRefused({"type": f"One of {', '.join(TYPES)}."})
        activity.type = type
    if scheduled_at is not KEEP:
        activity.scheduled_at = scheduled_at
    if outcome is not KEEP:
        if outcome and outcome not in OUTCOMES:
            raise FieldsRefused({"outcome": f"One of {', '.join(OUTCOMES)}."})
        activity.outcome = outcome
    if completed_at is not KEEP:
        if completed_at is not None and completed_at > now:
            raise FieldsRefused(
                {
                    "completed_at": f"{moment_words(completed_at)} is still to come. "
                    "Give it as the time for which it is scheduled."
                }
            )
        activity.completed_at = completed_at
        if completed_at is None and outcome is KEEP:
            activity.outcome = ""
    if activity.outcome and activity.completed_at is None:
        activity.completed_at = now
    activity.updated_at = now


# -- snooze -----------------------------------------------------------------------------------


def snooze(
    opportunity: Opportunity, *, user: Any, now: datetime, today: date, until: date, reason: str
) -> Snooze:
    """Its alerts wait until that day; the signal stays. A new word takes the place of an old one.

    Raises PermissionRefused, RecordGone, FieldsRefused.
    """
    require(may_snooze(user, opportunity.deal))
    raise_if_gone(opportunity.deal)
    reason = text_of("reason", reason, most=500, why_needed="Say why it may wait.")
    if until <= today:
        raise FieldsRefused({"until": f"A day after today ({day_words(today)}): it resumes then."})
    if until - today > LONGEST_SNOOZE:
        raise FieldsRefused({"until": "At most a year ahead."})
    with transaction.atomic():
        _one_at_a_time(opportunity)
        Snooze.objects.filter(opportunity=opportunity, ended_at__isnull=True).update(ended_at=now)
        return Snooze.objects.create(
            opportunity=opportunity, until=until, reason=reason, author=user, created_at=now
        )


def wake(opportunity: Opportunity, *, user: Any, now: datetime) -> bool:
    """Alerts come again at once. False if nothing was snoozed. Raises PermissionRefused."""
    require(may_snooze(user, opportunity.deal))
    open_ones = Snooze.objects.filter(opportunity=opportunity, ended_at__isnull=True)
    return open_ones.update(ended_at=now) > 0


def snooze_of(opportunity: Opportunity, today: date) -> Snooze | None:
    """The one in force on this day, with its author; one query."""
    in_force = Snooze.objects.filter(opportunity=opportunity.pk, ended_at__isnull=True)
    return in_force.filter(until__gt=today).select_related("author").first()


def _one_at_a_time(opportunity: Opportunity) -> None:
    """Two people who snooze at once follow each other. Inside a transaction."""
    Opportunity.objects.select_for_update().get(pk=opportunity.pk)
