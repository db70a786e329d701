"""Selections of deals in business words; each list is one query, related names included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING

from django.db.models import Exists, F, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from crm.models import ChangeEvent, CrmConnection, Deal
from crm.stages import LOST, OPEN

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


def recognised(today: date) -> Q:
    """Revenue recognised: a date in the future is a plan, not yet a fact."""
    return Q(revenue_date__lte=today)


def unpaid_invoice(today: date) -> Q:
    return Q(invoice_date__lte=today) & ~Q(payment_date__lte=today, payment_date__isnull=False)


def with_outcome(rows: QuerySet, outcomes: Iterable[str], today: date) -> QuerySet:
    """active, realized or lost by today's facts; *all* leaves none out.

    Lost: a lost stage without recognised revenue. Realized: revenue recognised and no dated
    invoice unpaid. Active: the rest.
    """
    wanted = set(outcomes)
    if "all" in wanted or not wanted:
        return rows
    is_recognised = Q(revenue_date__isnull=False) & recognised(today)
    is_lost = Q(stage_type=LOST) & ~is_recognised
    is_realized = is_recognised & ~(Q(invoice_date__isnull=False) & unpaid_invoice(today))
    found = Q(pk__in=[])
    if "lost" in wanted:
        found |= is_lost
    if "realized" in wanted:
        found |= is_realized
    if "active" in wanted:
        found |= ~is_lost & ~is_realized
    return rows.filter(found)


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


def needs_attention(selection: Selection, today: date, limit: int) -> Iterator[Deal]:
    """Open deals whose closing date has passed, largest value first; `why` says so.

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
    # One list of keys: two joined by OR would have every deal read. Sliced ones cannot be united.
    keys = [Deal.objects.filter(pk__in=part).values("pk") for part in (largest[:limit], fill)]
    chosen = live_deals().filter(pk__in=keys[0].union(keys[1], all=True))
    found = shown(chosen).order_by(F("amount_sgd_minor").desc(nulls_last=True), "-id")[:limit]
    for deal in found:
        days = (today - deal.closing_date).days
        deal.why = f"closing date passed {days} day{'s' * (days != 1)} ago"
        yield deal
