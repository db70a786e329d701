"""The weekly review: what was decided last week, what is on the list today, one after another, and
what turns red next.

Decides the order of the page and how the list is walked; who is on the list and what a review
keeps is `o2r/services/reviews.py`, what time will do `o2r/future.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from crm.errors import CrmError, FieldsRefused
from crm.models import Deal
from crm.words import is_number
from o2r import forms
from o2r.filters import Selection
from o2r.future import Calendar, RedDay, future_reds
from o2r.milestones import title_of
from o2r.permissions import may_review, owner_pks_of
from o2r.services import reviews as service
from o2r.views.links import address
from o2r.views.opportunities import has_empty_fields
from o2r.views.opportunity_rows import row_of, rows_of
from o2r.views.shell import PageRequest, business_today, digest, for_sales, shell_of
from o2r.views.signals import SIGNALS, sentence, unless_words

# A meeting gets through no more; who wants others filters.
MOST = 500
LISTED = 20
SHOWN_A_DAY = 3
WEEKS = 4
REFRESH_S = 120


@dataclass(frozen=True)
class Walk:
    """The list as it is now, and where in it this page stands. `pks` are those of the deals."""

    pks: list[int]
    is_cut: bool
    at: int | None  # the deal looked at; None: the overview
    number: int  # its place from 0, or the one it had when it left the list

    @property
    def is_listed(self) -> bool:
        return self.at in self.pks

    @property
    def next(self) -> int | None:
        place = self.number + 1 if self.is_listed else self.number
        return self.pks[place] if place < len(self.pks) else None

    @property
    def previous(self) -> int | None:
        return self.pks[self.number - 1] if 0 < self.number <= len(self.pks) else None


@for_sales
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def reviews(request: PageRequest) -> HttpResponse:
    """The overview, or one opportunity of the list; posted to, the review of that one."""
    selection = Selection.from_query(request.GET, request.user)
    if has_empty_fields(request):
        return redirect(page_address(selection))
    now = timezone.now()
    today = business_today(now)
    walk = walk_of(request, selection, today)
    shell = shell_of(request.user, now)
    context: dict[str, Any] = {
        "shell": shell,
        "today": today,
        "selection": selection,
        "home": page_address(selection),
        "mine": page_address(selection, mine="1"),
        "everyone": page_address(selection, mine=None),
        "is_nobody": selection.mine and not owner_pks_of(request.user),
        "chips": [
            {"label": label, "href": address(reverse("o2r:reviews"), query)}
            for label, query in selection.chips
        ],
        "walk": walk,
        "count": len(walk.pks),
        "may_review": may_review(request.user),
        "refresh_seconds": REFRESH_S,
    }
    if walk.at is None:
        if request.method == "POST":
            raise Http404("Which opportunity is reviewed?")
        return overview(request, context, selection, walk, today)
    return one(request, context, selection, walk, now, today)


def page_address(
    selection: Selection, at: int | None = None, number: int = 0, **changes: Any
) -> str:
    rest = urlencode({"at": at, "n": number}) if at is not None else ""
    return address(reverse("o2r:reviews"), selection.query(**changes), rest)


def walk_of(request: PageRequest, selection: Selection, today: date) -> Walk:
    """The list is asked for anew each time: what was mended meanwhile has left it."""
    found = list(service.queue(selection, today).values_list("pk", flat=True)[: MOST + 1])
    pks = found[:MOST]
    word, place = request.GET.get("at", ""), request.GET.get("n", "")
    at = int(word) if is_number(word) else None
    number = int(place) if is_number(place) else 0
    if at in pks:
        number = pks.index(at)
    return Walk(pks, len(found) > MOST, at, min(number, len(pks)))


# -- the overview -------------------------------------------------------------------------------


def overview(
    request: PageRequest,
    context: dict[str, Any],
    selection: Selection,
    walk: Walk,
    today: date,
) -> HttpResponse:
    rows = service.queue(selection, today)[:LISTED]
    listed = rows_of(rows, today, request.user)
    context |= {
        "became": [became_row(each) for each in service.last_week(selection, today)],
        "queue": [
            {"row": row, "href": page_address(selection, row.deal.pk, place)}
            for place, row in enumerate(listed)
        ],
        "more": len(walk.pks) - len(listed),
        "start": page_address(selection, walk.pks[0]) if walk.pks else "",
        "calendar": calendar_weeks(future_reds(selection, today, days=7 * WEEKS), today),
        "here": page_address(selection),
    }
    context["revision"] = digest(
        (
            today,
            context["here"],
            walk.pks,
            [(row.deal.pk, row.deal.change_seq, row.signal, row.mark) for row in listed],
            [(each["review"].pk, each["words"], each["signal"]) for each in context["became"]],
            [(week["sgd"], week["count"]) for week in context["calendar"]["weeks"]],
        )
    )
    is_part = bool(request.htmx) and not request.htmx.history_restore_request
    if is_part and request.headers.get("X-Revision") == context["revision"]:
        return HttpResponse(status=204)
    return render(request, f"o2r/reviews.html{'#live' if is_part else ''}", context)


def became_row(became: service.Became) -> dict[str, Any]:
    """What was decided, and what has happened since, in words."""
    done = [f"{title_of(key)} recorded" for key in became.recorded]
    if became.items_done:
        done.append(f"{became.items_done} action item{'s' * (became.items_done != 1)} done")
    if became.is_deleted:
        done.append("deleted")
    elif became.outcome_now != "active" and became.signal_then:
        done.append(became.outcome_now)
    return {
        "review": became.review,
        "deal": became.deal,
        "href": "" if became.is_deleted else reverse("o2r:opportunity", args=[became.deal.pk]),
        "words": sentence(", ".join(done)) if done else "Nothing has happened",
        "then": SIGNALS.get(became.signal_then, ("", ""))[0],
        "signal": SIGNALS.get(became.signal_now, ("", ""))[0],
        "is_better": became.is_better,
        "has_moved": became.has_moved,
    }


def calendar_weeks(calendar: Calendar, today: date) -> dict[str, Any]:
    """Days by week; the bars on one scale."""
    longest = max((day.sgd_minor for day in calendar.days), default=0)
    weeks: list[dict[str, Any]] = []
    for day in calendar.days:
        monday = day.on - timedelta(days=day.on.weekday())
        if not weeks or weeks[-1]["monday"] != monday:
            weeks.append({"monday": monday, "days": [], "sgd": 0, "count": 0})
        weeks[-1]["days"].append(calendar_day(day, longest, today))
        weeks[-1]["sgd"] += day.sgd_minor
        weeks[-1]["count"] += len(day.turns)
    return {"weeks": weeks, "is_cut": calendar.is_cut}


def calendar_day(day: RedDay, longest: int, today: date) -> dict[str, Any]:
    """The largest few at once, the others a click away."""
    deals = [
        {
            "name": deal.name or "(no name)",
            "href": reverse("o2r:opportunity", args=[deal.pk]),
            "why": unless_words(turn),
            "sgd": deal.amount_sgd_minor,
        }
        for deal, turn in day.turns
    ]
    return {
        "on": day.on,
        "in_days": (day.on - today).days,
        "sgd": day.sgd_minor,
        "share": day.sgd_minor * 100 // longest if longest > 0 else 0,
        "deals": deals[:SHOWN_A_DAY],
        "others": deals[SHOWN_A_DAY:],
    }


# -- one after another --------------------------------------------------------------------------


def one(
    request: PageRequest,
    context: dict[str, Any],
    selection: Selection,
    walk: Walk,
    now: Any,
    today: date,
) -> HttpResponse:
    """The one that the address names, and the form for what is decided."""
    deal = deal_of(walk.at)
    form = forms.ReviewForm(request.POST if request.method == "POST" else None)
    go_on = next_address(selection, walk)
    status, banner = 200, ""
    if request.method == "POST" and form.is_valid():
        try:
            said = forms.with_defaults(forms.ReviewForm, form.cleaned_data)
            service.review(deal.opportunity, user=request.user, now=now, today=today, **said)
        except FieldsRefused as refused:
            form.refuse(refused)
            status = 422
        except CrmError as refused:
            status, banner = 409, refused.message
        else:
            messages.success(request, f"Review kept: {deal.name}")
            return redirect(go_on)
    elif request.method == "POST":
        status = 422
    opportunity = deal.opportunity
    context |= {
        "deal": deal,
        "row": row_of(deal, today, request.user),
        "form": form,
        "banner": banner,
        "number": walk.number + 1,
        "next": go_on,
        "has_next": walk.next is not None,
        "previous": previous_address(selection, walk),
        "items": list(opportunity.action_items.filter(done_at=None).select_related("owner")[:5]),
        "past": list(opportunity.reviews.all()[:3]),
        "dates": dates_of(deal, today),
        "here": request.get_full_path(),
        "revision": "",
    }
    is_part = bool(request.htmx) and not request.htmx.history_restore_request
    template = f"o2r/review_one.html{'#live' if is_part else ''}"
    return render(request, template, context, status=status)


def deal_of(pk: int | None) -> Deal:
    """Raises Http404."""
    rows = Deal.objects.live().select_related("account", "owner", "opportunity")
    deal = rows.filter(pk=pk, opportunity__isnull=False).first()
    if deal is None:
        raise Http404("This opportunity is not here any more; it may have been deleted.")
    return deal


def next_address(selection: Selection, walk: Walk) -> str:
    """Where the walk goes on; at its end, to the overview."""
    if walk.next is None:
        return page_address(selection)
    return page_address(selection, walk.next, walk.number + 1 if walk.is_listed else walk.number)


def previous_address(selection: Selection, walk: Walk) -> str:
    if walk.previous is None:
        return ""
    return page_address(selection, walk.previous, walk.number - 1)


def dates_of(deal: Deal, today: date) -> list[dict[str, Any]]:
    """The days that a meeting asks for, plans marked."""
    columns = ("proposal", "po", "kickoff", "signoff", "invoice", "payment", "revenue")
    found = []
    for key in columns:
        on = getattr(deal, f"{key}_date")
        if on is not None:
            found.append({"title": title_of(key), "on": on, "is_plan": on > today})
    return found
