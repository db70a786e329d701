"""Selections of deals in business words; each list is one query, related names included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING

from django.db.models import (
    Case,
    Exists,
    F,
    IntegerField,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from crm.models import ChangeEvent, CrmConnection, Deal
from crm.stages import OPEN
from o2r.health_signals import evidence, reasons_on
from o2r.models import Opportunity
from o2r.models.opportunity import ACTIVE, BLOCKED, RED

if TYPE_CHECKING:
    from o2r.filters import Selection


def live_deals() -> QuerySet:
    """Deals that the CRM still has, with account and owner at hand."""
    return Deal.objects.live().select_related("account", "owner")


def shown(rows: QuerySet) -> QuerySet:
    """With what a page tells beside the deals, in the same query: the CRM's name in addresses
    (`crm_domain`) and when the first event was kept (`first_event_at`)."""
    domain = CrmConnection.objects.order_by("pk").values("domain_name")[:1]
    first = ChangeEvent.objects.order_by("pk").values("learnt_at")[:1]
    return rows.annotate(crm_domain=Subquery(domain), first_event_at=Subquery(first))


def with_outcome(
    rows: QuerySet, outcomes: Iterable[str], *, is_recomputed: bool = False
) -> QuerySet:
    """active, realized or lost, as recomputed (`phases.outcome_of`); *all* leaves none out.

    A deal that was stored a moment ago is active until it is recomputed; `is_recomputed` leaves
    such out.
    """
    wanted = set(outcomes)
    if "all" in wanted or not wanted:
        return rows
    found = Q(opportunity__outcome__in=sorted(wanted))
    if "active" in wanted and not is_recomputed:
        found |= Q(opportunity__isnull=True)
    return rows.filter(found)


def at_risk(selection: Selection, limit: int) -> QuerySet:
    """Active, red or blocked; the largest value first, those without one last; with `opportunity`.

    One query.
    """
    chosen = _with_keys(_risky(selection, limit))
    largest_first = F("amount_sgd_minor").desc(nulls_last=True)
    return shown(chosen.select_related("account", "owner", "opportunity")).order_by(
        largest_first, "-id"
    )[:limit]


def _risky(selection: Selection, limit: int) -> list[QuerySet]:
    """Keys of what `at_risk` lists. Along the index by signal and value, however many are at risk:
    both signals together would have all of them sorted, as would an order with nulls in it."""
    rows = Opportunity.objects.filter(outcome=ACTIVE, is_counted=True)
    wanted = selection.without("outcome")
    if wanted.is_filtered:
        deals = wanted.deals(default_outcome="all").select_related(None)
        rows = deals.filter(opportunity__outcome=ACTIVE)
    way, key = ("opportunity__", "pk") if wanted.is_filtered else ("", "deal_id")
    parts = []
    for signal in (BLOCKED, RED):
        risky = rows.filter(**{f"{way}health_signal": signal})
        value = f"{way}counted_sgd_minor"
        valued = risky.filter(**{f"{value}__isnull": False}).order_by(f"-{value}", f"-{way}pk")
        unvalued = risky.filter(**{f"{value}__isnull": True}).order_by(f"-{way}pk")
        parts += [valued.values(key)[:limit], unvalued.values(key)[:limit]]
    return parts


def open_deals(selection: Selection) -> QuerySet:
    return selection.deals(default_outcome="all").filter(stage_type=OPEN)


def recent_opportunities(selection: Selection, limit: int) -> QuerySet:
    """Last changed in the CRM first."""
    rows = selection.deals(default_outcome="all")
    return shown(rows).order_by("-crm_modified_at", "-id")[:limit]


def top_open(selection: Selection, limit: int) -> QuerySet:
    """Open deals by SGD value, largest first; those without a value are not listed."""
    rows = open_deals(selection).filter(amount_sgd_minor__isnull=False)
    return shown(rows).order_by("-amount_sgd_minor", "-id")[:limit]


def closing_this_month(selection: Selection, today: date, limit: int) -> QuerySet:
    """Open deals with a closing date in the rest of this month, earliest first."""
    first_of_next = (today.replace(day=28) + timedelta(days=4)).replace(day=1)
    rows = open_deals(selection).filter(closing_date__gte=today, closing_date__lt=first_of_next)
    return shown(rows).order_by("closing_date", "id")[:limit]


def _with_keys(parts: list[QuerySet]) -> QuerySet:
    """Live deals of one list of keys: several joined by OR would have every deal read. Sliced
    parts cannot be united themselves."""
    first, *others = [Deal.objects.filter(pk__in=part).order_by().values("pk") for part in parts]
    return live_deals().filter(pk__in=first.union(*others, all=True))


def needs_attention(selection: Selection, today: date, limit: int) -> Iterator[Deal]:
    """Red or blocked ones, then open deals whose closing date has passed; within each the largest
    value first. `why` says so, `signal` is that of the first.

    One query. Those without a value come last; they are looked for only where there is room: the
    order by value with nulls in it could not use the index.
    """
    rows = open_deals(selection).select_related(None)
    # Hidden from the planner: the few largest are found along the index by value, however many
    # are past their date; along the index by date all of those would be sorted.
    past = Coalesce("closing_date", Value(date.max))
    valued = rows.alias(past=past).filter(past__lt=today, amount_sgd_minor__isnull=False)
    largest = valued.order_by("-amount_sgd_minor", "-id").values("pk")
    unvalued = rows.filter(closing_date__lt=today, amount_sgd_minor__isnull=True)
    is_full = Exists(largest[limit - 1 : limit])
    fill = unvalued.filter(~is_full).order_by("id").values("pk")[:limit]
    chosen = _with_keys([*_risky(selection, limit), largest[:limit], fill])
    is_risky = Q(opportunity__outcome=ACTIVE, opportunity__health_signal__in=(RED, BLOCKED))
    rank = Case(When(is_risky, then=Value(0)), default=Value(1), output_field=IntegerField())
    found = shown(chosen.select_related("opportunity")).annotate(rank=rank)
    value = F("amount_sgd_minor").desc(nulls_last=True)
    for deal in found.order_by("rank", value, "-id")[:limit]:
        if deal.rank == 0:
            (worst, *_) = reasons_on(deal.opportunity.reasons, today)
            deal.signal, deal.why = deal.opportunity.health_signal, evidence(worst)
        else:
            days = (today - deal.closing_date).days
            deal.signal, deal.why = "", f"closing date passed {days} day{'s' * (days != 1)} ago"
        yield deal
