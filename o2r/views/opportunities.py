"""The list of opportunities: what is behind every number of the dashboard, read-only.

Decides what a row shows and how pages follow each other. Which deals it holds, the address says
(`o2r/filters.py`), in the same words as everywhere. Totals of a large selection take longer than
its first rows, so they follow by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from crm import stages
from crm.models import CrmUser, Deal
from crm.words import joinable
from o2r import querysets
from o2r.filters import NONE, OUTCOMES, Selection, is_words_filter
from o2r.models import PipelineCell
from o2r.permissions import owner_pks_of
from o2r.views.shell import PageRequest, for_sales

PAGE_ROWS = 50
# Beyond it a reader is lost, and each page costs more than the one before: filters serve better.
LAST_PAGE = 200
NO_VALUE = {"territory": "None given", "service_line": "None given", "owner": "No owner"}


@for_sales
@require_safe
def opportunity_list(request: PageRequest) -> HttpResponse:
    """One page of the selection, last changed first; or with htmx its totals alone.

    A form sends its empty fields too: they are taken out of the address.
    """
    if has_empty_fields(request):
        return redirect(clean_address(request))
    selection = Selection.from_query(request.GET, request.user)
    rows = selection.deals()
    if request.htmx and request.headers.get("X-Part") == "totals":
        return render(request, "o2r/opportunity_list.html#totals", {"totals": totals_of(rows)})
    page = page_number(request)
    start = (page - 1) * PAGE_ROWS
    ordered = querysets.shown(rows).order_by("-crm_modified_at", "-id")
    deals: list[Deal] = list(ordered[start : start + PAGE_ROWS + 1])
    shown = deals[:PAGE_ROWS]
    query = selection.query()
    context: dict[str, Any] = {
        "selection": selection,
        "is_nobody": selection.mine and not owner_pks_of(request.user),
        "everyone": list_address(selection.query(mine=None)),
        "page": page,
        "first": list_address(query),
        "chips": [
            {"label": label, "href": list_address(query)} for label, query in chips(selection)
        ],
        "filters": filters(selection),
        "kept": kept_filters(selection),
        "here": list_address(query),
        # Said by nothing but the link for browsers without JavaScript.
        "counted": list_address(joined(query, "page=1")),
        "totals": totals_of(rows) if request.GET.get("page") == "1" else None,
        "deals": shown,
        "pager": pager(query, page, len(shown), has_more=len(deals) > PAGE_ROWS),
    }
    return render(request, "o2r/opportunity_list.html", context)


def has_empty_fields(request: PageRequest) -> bool:
    words = [value for _, values in request.GET.lists() for value in values]
    return not request.htmx and any(not str(value).strip() for value in words)


def clean_address(request: PageRequest) -> str:
    """The same address without its empty fields."""
    said = request.GET.copy()
    for name, values in request.GET.lists():
        said.setlist(name, [value for value in values if str(value).strip()])
    return list_address(said.urlencode())


def page_number(request: PageRequest) -> int:
    """The page that the address names; the first for anything that is none."""
    said = request.GET.get("page", "")
    number = int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 1
    return min(max(number, 1), LAST_PAGE)


def list_address(query: str) -> str:
    path = reverse("o2r:opportunity-list")
    return f"{path}?{query}" if query else path


def chips(selection: Selection) -> list[tuple[str, str]]:
    """The filters in use, and those that the Selection's own chips leave out."""
    more = []
    if selection.mine:
        more.append(("Mine", selection.query(mine=None)))
    if "period" in selection.given and selection.period != "all":
        more.append(("Closed in the last 12 months", selection.query(period=None)))
    return [*selection.chips, *more]


def totals_of(rows: QuerySet) -> dict[str, Any]:
    """Count, value and weighted value of the whole selection, not of the page; one query."""
    return rows.order_by().aggregate(
        count=Count("pk"),
        value=Sum("amount_sgd_minor"),
        weighted=Sum("weighted_sgd_minor", filter=Q(stage_type=stages.OPEN)),
        left_out=Count("pk", filter=Q(amount_sgd_minor__isnull=True)),
    )


def joined(*queries: str) -> str:
    return "&".join(filter(None, queries))


def pager(query: str, page: int, count: int, *, has_more: bool) -> dict[str, str]:
    """Where this page lies, and the addresses before and after it."""

    def at(number: int) -> str:
        return list_address(joined(query, f"page={number}" if number > 1 else ""))

    first = (page - 1) * PAGE_ROWS + 1
    words = f"{first:,} to {first + count - 1:,}" if count else ""
    if has_more and page == LAST_PAGE:
        words += "; set a filter to see further ones"
    return {
        "words": words,
        "previous": at(page - 1) if page > 1 else "",
        "next": at(page + 1) if has_more and page < LAST_PAGE else "",
    }


def filters(selection: Selection) -> list[dict[str, Any]]:
    """The filter bar: each filter with its choices, and which of them is chosen."""
    # What the list shows when the address says no outcome (`Selection.deals`).
    unsaid = "all" if says_which_stage(selection) else "active"
    outcome = selection.given.get("outcome", [])
    return [
        choice("stage", "Stage", list(stages.LABELS.items()), selection.stage),
        choice("territory", "Territory", words_of("territory"), selection.territory),
        choice("service_line", "Service line", words_of("service_line"), selection.service_line),
        choice("owner", "Owner", owners(), selection.owner),
        choice(
            "outcome",
            "Outcome",
            [(word, word.capitalize()) for word in OUTCOMES if word != unsaid],
            [] if outcome == [unsaid] else outcome,
            unsaid=unsaid.capitalize(),
        ),
    ]


def says_which_stage(selection: Selection) -> bool:
    return bool({"stage", "changed", "missing"} & selection.given.keys())


def choice(
    name: str,
    label: str,
    choices: list[tuple[str, str]],
    chosen: list[str],
    unsaid: str = "All",
) -> dict[str, Any]:
    """One filter. Several values from a link are one choice of their own, so that none is lost."""
    labels = dict(choices)
    choices = [(joinable(value), text) for value, text in choices]
    joined = ",".join(joinable(word) for word in chosen)
    if joined and joined not in {value for value, _ in choices}:
        choices = [(joined, ", ".join(labels.get(word, word) for word in chosen)), *choices]
    options = [
        {"value": value, "label": text, "chosen": value == joined} for value, text in choices
    ]
    return {"name": name, "label": label, "options": options, "unsaid": unsaid}


def words_of(name: str) -> list[tuple[str, str]]:
    """The values that deals have, from the roll-up: it is small however many deals there are."""
    cells = PipelineCell.objects.exclude(count=0).order_by(name)
    words = cells.values_list(name, flat=True).distinct()
    return [(word or NONE, word or NO_VALUE[name]) for word in words]


def owners() -> list[tuple[str, str]]:
    """The owners that deals have, by name."""
    cells = PipelineCell.objects.exclude(count=0)
    users = CrmUser.objects.filter(pk__in=cells.values("owner_id")).order_by("name", "pk")
    return [(str(user.pk), str(user)) for user in users] + [(NONE, NO_VALUE["owner"])]


SHOWN = ("stage", "territory", "service_line", "owner", "outcome", "search", "mine")


def kept_filters(selection: Selection, shown: Iterable[str] = SHOWN) -> list[tuple[str, str]]:
    """Filters that the bar has no field for, carried along when it is sent."""
    return [
        (name, joinable(word) if is_words_filter(name) else word)
        for name, words in selection.given.items()
        if name not in shown
        for word in words
    ]
