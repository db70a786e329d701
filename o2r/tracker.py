"""One opportunity as page and API show it: each milestone as it stands, and whether its day is in
the CRM.

Reads only; what the states mean is decided in `o2r/milestones.py`. Five queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from crm.models import Deal, OutboxEntry, outbox
from crm.sync.modules import DEALS
from crm.writeback.context import why_not_writable
from o2r import milestones
from o2r.models import Milestone, Opportunity


@dataclass(frozen=True)
class MilestoneState:
    """`completed_on` may lie ahead: then `is_plan`. `in_crm`: its day goes to the CRM, where
    `pending` or `conflict` say that it has not arrived; else `stays_here` says why."""

    key: str
    title: str
    phase: int
    is_own: bool
    status: str
    completed_on: date | None
    is_plan: bool
    is_estimated: bool
    target_on: date | None
    note: str
    reason: str
    blocked_on: date | None
    amount_minor: int | None
    currency: str
    in_crm: bool
    stays_here: str
    pending: bool
    conflict: bool
    recorded_by: str
    recorded_at: datetime | None


def milestone_states(opportunity: Opportunity, today: date) -> list[MilestoneState]:
    """All built-in ones and those of one's own, in the order of the way."""
    said = Milestone.objects.filter(opportunity=opportunity.pk).select_related("recorded_by")
    rows = {row.key: row for row in said}
    on_the_way = _on_the_way(opportunity.deal)
    why_not = _why_not_sent()
    return [
        _state(opportunity, key, rows.get(key), on_the_way, why_not, today)
        for key in milestones.in_order({*milestones.BUILT_IN, *rows})
    ]


def _state(
    opportunity: Opportunity,
    key: str,
    row: Milestone | None,
    on_the_way: dict[str, str],
    why_not: dict[str, str],
    today: date,
) -> MilestoneState:
    row = row or Milestone(opportunity=opportunity, key=key)
    column = milestones.MAPPED.get(key, "")
    in_deal = getattr(opportunity.deal, column) if column else None
    day = in_deal or row.completed_on
    is_estimated = key == "sow" and day is None and opportunity.sow_estimated_on is not None
    day = opportunity.sow_estimated_on if is_estimated else day
    amount = row.amount_minor
    stays_here = why_not.get(key, "")
    status = on_the_way.get(column, "") if column else ""
    return MilestoneState(
        key=key,
        title=row.title or milestones.title_of(key),
        phase=milestones.phase_of_key(key),
        is_own=key not in milestones.BUILT_IN,
        status=milestones.status_of(row.status, day, row.target_on, today),
        completed_on=day,
        is_plan=day is not None and day > today,
        is_estimated=is_estimated,
        target_on=row.target_on,
        note=row.note,
        reason=row.blocked_reason,
        blocked_on=row.blocked_on,
        amount_minor=opportunity.deal.amount_minor if amount is None else amount,
        currency=row.currency if amount is not None else opportunity.deal.currency,
        in_crm=bool(column) and not stays_here,
        stays_here=stays_here,
        pending=bool(status) and status != outbox.CONFLICT,
        conflict=status == outbox.CONFLICT,
        recorded_by=_name(row),
        recorded_at=row.recorded_at,
    )


def _name(row: Milestone) -> str:
    person = row.recorded_by
    return "" if person is None else person.get_full_name() or person.get_username()


def _on_the_way(deal: Deal) -> dict[str, str]:
    """Column → status of what the CRM has not taken yet."""
    rows = OutboxEntry.objects.filter(
        module="Deals", record_id=deal.pk, status__in=outbox.OPEN
    ).exclude(status=outbox.SENT)
    return {
        field: status
        for field, status in rows.order_by("id").values_list("field", "status")
        if field
    }


def _why_not_sent() -> dict[str, str]:
    """Key → why its day stays here: no field in this CRM, or one that cannot be written."""
    columns = why_not_writable(DEALS, milestones.MAPPED.values())
    found = {milestones.KEY_OF[column]: why for column, why in columns.items()}
    none = dict.fromkeys(milestones.BUILT_IN, "The CRM has no field for it.")
    return {key: why for key, why in none.items() if key not in milestones.MAPPED} | found
