"""The weekly review: what is on its list, what was decided, and what became of it.

Decides who is looked at and in which order, and what a review keeps of the facts. The signal in it
is the opportunity's own, never the reviewer's word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, F, IntegerField, Q, QuerySet, Value, When

from crm.errors import FieldsRefused
from crm.models import Deal
from o2r import milestones
from o2r.filters import Selection
from o2r.health_signals import reasons_on
from o2r.models import ActionItem, MilestoneChange, Opportunity, Review
from o2r.models.opportunity import ACTIVE, BLOCKED, RED, YELLOW
from o2r.permissions import may_edit_review, may_review
from o2r.services.entry import KEEP, name_of, raise_if_gone, require, text_of

SOON = timedelta(days=7)


# -- the list of the meeting ------------------------------------------------------------------


def queue(selection: Selection, today: date) -> QuerySet:
    """Deals to walk through: blocked, red, yellow, then what turns within a week; the largest
    first within each. Each with its `opportunity`."""
    soon = Q(opportunity__worse_on__gt=today, opportunity__worse_on__lte=today + SOON)
    rank = Case(
        When(opportunity__health_signal=BLOCKED, then=Value(0)),
        When(opportunity__health_signal=RED, then=Value(1)),
        When(opportunity__health_signal=YELLOW, then=Value(2)),
        default=Value(3),
        output_field=IntegerField(),
    )
    rows = selection.deals().filter(
        Q(opportunity__health_signal__in=(BLOCKED, RED, YELLOW)) | soon,
        opportunity__outcome=ACTIVE,
    )
    return (
        rows.select_related("account", "owner", "opportunity")
        .annotate(review_rank=rank)
        .order_by("review_rank", F("amount_sgd_minor").desc(nulls_last=True), "pk")
    )


# -- writing one ------------------------------------------------------------------------------


def review(
    opportunity: Opportunity,
    *,
    user: Any,
    now: datetime,
    today: date,
    decision: str = "",
    note: str = "",
) -> Review:
    """Keep what was decided against the facts as they are. Raises PermissionRefused, RecordGone,
    FieldsRefused."""
    require(may_review(user))
    with transaction.atomic():
        opportunity = Opportunity.objects.select_related("deal").get(pk=opportunity.pk)
        raise_if_gone(opportunity.deal)
        decision, note = _said(decision, note)
        return Review.objects.create(
            opportunity=opportunity,
            reviewed_on=today,
            health_signal=opportunity.health_signal,
            current_phase=opportunity.current_phase,
            facts=facts_now(opportunity, today),
            decision=decision,
            note=note,
            reviewer=user,
            reviewer_name=name_of(user),
            created_at=now,
            updated_at=now,
        )


def edit_review(
    review: Review,
    *,
    user: Any,
    now: datetime,
    today: date,
    decision: str = KEEP,
    note: str = KEEP,
) -> Review:
    """Its author, on the same business day; the facts in it stay. Raises PermissionRefused,
    FieldsRefused."""
    require(may_edit_review(user, review, today))
    review.decision, review.note = _said(
        review.decision if decision is KEEP else decision, review.note if note is KEEP else note
    )
    review.updated_at = now
    review.save(update_fields=["decision", "note", "updated_at"])
    return review


def remove_review(review: Review, *, user: Any, today: date) -> None:
    """Its author, on the same business day. Raises PermissionRefused."""
    require(may_edit_review(user, review, today))
    review.delete()


def facts_now(opportunity: Opportunity, today: date) -> dict[str, Any]:
    """What a review remembers: dates, stage, amount and reasons as they are. JSON."""
    deal = opportunity.deal
    days = {name: getattr(deal, name) for name in (*milestones.KEY_OF, "closing_date")}
    return {
        "stage": deal.stage,
        "crm_stage": deal.crm_stage,
        "probability": deal.probability,
        "amount_minor": deal.amount_minor,
        "currency": deal.currency,
        "amount_sgd_minor": deal.amount_sgd_minor,
        "outcome": opportunity.outcome,
        "reasons": [reason.as_dict() for reason in reasons_on(opportunity.reasons, today)],
        "worse_on": opportunity.worse_on and opportunity.worse_on.isoformat(),
        "blocked_reason": opportunity.blocked_reason,
        **{name: day and day.isoformat() for name, day in days.items()},
    }


def _said(decision: str, note: str) -> tuple[str, str]:
    decision = text_of("decision", decision, most=500)
    note = text_of("note", note, most=10_000)
    if not decision and not note:
        raise FieldsRefused({"decision": "Say what was decided, or leave a note."})
    return decision, note


# -- what became of it ------------------------------------------------------------------------


@dataclass
class Became:
    """A review of last week beside the opportunity as it is now. `recorded` are the keys of the
    milestones that got a day since, here or in the CRM."""

    review: Review
    deal: Deal
    signal_now: str
    phase_now: int
    outcome_now: str
    recorded: list[str] = field(default_factory=list)
    items_done: int = 0
    is_deleted: bool = False

    @property
    def signal_then(self) -> str:
        return self.review.health_signal

    @property
    def is_better(self) -> bool:
        order = ("", "green", "yellow", "red", "blocked")
        return order.index(self.signal_now) < order.index(self.signal_then)

    @property
    def has_moved(self) -> bool:
        return bool(
            self.recorded
            or self.items_done
            or self.signal_now != self.signal_then
            or self.phase_now != self.review.current_phase
        )


def last_week(selection: Selection, today: date) -> list[Became]:
    """The newest review of each opportunity from the seven days before today, and what became of
    its decision. Five queries at most, however many there are."""
    found = (
        Review.objects.filter(reviewed_on__gte=today - SOON, reviewed_on__lt=today)
        .filter(opportunity__deal__in=selection.deals(default_outcome="all").values("pk"))
        .select_related("opportunity__deal__account", "opportunity__deal__owner")
        .order_by("-id")
    )
    newest: dict[int, Review] = {}
    for each in found:
        newest.setdefault(each.opportunity_id, each)
    became = [_became(each) for each in newest.values()]
    _tell_what_was_done(became)
    return sorted(became, key=lambda b: (b.has_moved, b.review.pk))


def _became(each: Review) -> Became:
    opportunity = each.opportunity
    return Became(
        review=each,
        deal=opportunity.deal,
        signal_now=opportunity.health_signal,
        phase_now=opportunity.current_phase,
        outcome_now=opportunity.outcome,
        recorded=[
            key
            for key, column in milestones.MAPPED.items()
            if getattr(opportunity.deal, column) and not each.facts.get(column)
        ],
        is_deleted=opportunity.deal.deleted_at is not None,
    )


def _tell_what_was_done(became: Iterable[Became]) -> None:
    by_pk = {each.review.opportunity_id: each for each in became}
    if not by_pk:
        return
    since = min(each.review.created_at for each in by_pk.values())
    changes = MilestoneChange.objects.filter(opportunity__in=by_pk, at__gte=since).order_by("id")
    for change in changes:
        one = by_pk[change.opportunity_id]
        is_new = change.new.get("completed_on") and change.at >= one.review.created_at
        if is_new and change.key not in one.recorded:
            one.recorded.append(change.key)
    items = ActionItem.objects.filter(opportunity__in=by_pk, done_at__gte=since)
    for opportunity_id, done_at in items.values_list("opportunity_id", "done_at"):
        one = by_pk[opportunity_id]
        one.items_done += done_at >= one.review.created_at
