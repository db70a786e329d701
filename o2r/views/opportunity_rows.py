"""Opportunities as rows and as cards: what one of them shows, wherever it stands.

Decides the words; which opportunities there are and in which order, the pages decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.urls import reverse

from crm.models import Deal, OutboxEntry, outbox
from o2r.models import Opportunity
from o2r.models.opportunity import ACTIVE, LOST
from o2r.permissions import may_record
from o2r.phases import days_in_phase
from o2r.views.signals import PHASES, ROMAN, SignalShown, signal_shown


@dataclass(frozen=True)
class Row:
    """One opportunity. `way` tells for each phase whether it is done, here or ahead; `mark` what
    of it has not reached the CRM."""

    deal: Deal
    opportunity: Opportunity
    href: str
    signal: SignalShown
    roman: str
    phase: str
    days: int | None
    way: tuple[str, ...]
    mark: str
    may_record: bool


def rows_of(deals: Iterable[Deal], today: date, user: Any) -> list[Row]:
    """Deals with their opportunity at hand; one query for what is on its way to the CRM."""
    known = list(deals)
    marks = marks_of([deal.pk for deal in known])
    return [row_of(deal, today, user, marks.get(deal.pk, "")) for deal in known]


def row_of(deal: Deal, today: date, user: Any, mark: str = "") -> Row:
    opportunity: Opportunity = deal.opportunity
    phase, entered_on = opportunity.current_phase, opportunity.phase_entered_on
    is_active = opportunity.outcome == ACTIVE
    return Row(
        deal,
        opportunity,
        reverse("o2r:opportunity", args=[deal.pk]),
        signal_shown(opportunity, today),
        ROMAN[phase],
        PHASES[phase],
        days_in_phase(entered_on, today) if entered_on and is_active else None,
        way_of(opportunity),
        mark,
        bool(may_record(user, deal)),
    )


def way_of(opportunity: Opportunity) -> tuple[str, ...]:
    """`done`, `here`, `stopped` or `ahead` for each of the four phases."""
    here = opportunity.current_phase
    current = {ACTIVE: "here", LOST: "stopped"}.get(opportunity.outcome, "done")
    return tuple(
        "done" if number < here else current if number == here else "ahead" for number in PHASES
    )


def marks_of(deal_pks: list[int]) -> dict[int, str]:
    """`conflict` before `pending`, by deal; what the CRM has taken is neither."""
    rows = OutboxEntry.objects.filter(
        module="Deals", record_id__in=deal_pks, status__in=outbox.OPEN
    ).exclude(status=outbox.SENT)
    found: dict[int, str] = {}
    for pk, status in rows.values_list("record_id", "status"):
        mark = "conflict" if status == outbox.CONFLICT else "pending"
        found[pk] = mark if found.get(pk) != "conflict" else "conflict"
    return found
