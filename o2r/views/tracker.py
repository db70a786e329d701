"""The O2R tracker: every opportunity between first call and recognised revenue, at a glance.

Decides what stands where and which list is behind a number. What a figure means is decided in
`o2r/tracker_metrics.py`, which opportunities a list holds in `o2r/filters.py`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.db.models import (
    Case,
    CharField,
    Count,
    F,
    IntegerField,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Cast
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from crm.models import CrmUser, Deal
from o2r import querysets
from o2r.filters import NONE, OF_ANY_OUTCOME, OUTCOMES, Selection
from o2r.metrics import Bucket
from o2r.models import TrackerMargin
from o2r.models.opportunity import ACTIVE, BLOCKED, RED
from o2r.permissions import may_export, owner_pks_of
from o2r.tracker_metrics import TrackerFigures, tracker_figures
from o2r.views.dashboard import breakdown, notice_of, refresh_seconds
from o2r.views.links import Links, address
from o2r.views.opportunities import (
    NO_VALUE,
    choice,
    has_empty_fields,
    kept_filters,
    page_number,
)
from o2r.views.opportunity_rows import Row, rows_of
from o2r.views.shell import PageRequest, Shell, business_today, digest, for_sales, shell_of
from o2r.views.signals import PHASES, ROMAN, SIGNALS

PAGE_ROWS = 25
AT_RISK = 6
# What `sort` may say: heading, and the columns in order; the key follows, so that pages never
# overlap. Values that are missing come last both ways.
SORTS: dict[str, tuple[str, Any]] = {
    "name": ("Opportunity", F("name")),
    "phase": ("Phase", F("opportunity__current_phase")),
    "since": ("In phase", F("opportunity__phase_entered_on")),
    "signal": ("Signal", None),
    "territory": ("Territory", F("territory")),
    "closing": ("Closing", F("closing_date")),
    "value": ("SGD", F("amount_sgd_minor")),
}
_WORST_LAST = Case(
    *(
        When(opportunity__health_signal=word, then=Value(rank))
        for rank, word in enumerate(("green", "yellow", "red", "blocked"), start=1)
    ),
    default=Value(0),
    output_field=IntegerField(),
)


class Address:
    """This page's address: its filters, and how its table is sorted and paged."""

    def __init__(self, request: PageRequest) -> None:
        self.selection = Selection.from_query(request.GET, request.user)
        said = request.GET.get("sort", "")
        self.sort = said if said.removeprefix("-") in SORTS else ""
        self.page = page_number(request)
        self.home = reverse("o2r:tracker")

    def here(self, query: str | None = None, *, sort: str | None = None, page: int = 1) -> str:
        sort = self.sort if sort is None else sort
        rest = {"sort": sort, "page": str(page) if page > 1 else ""}
        kept = urlencode({name: word for name, word in rest.items() if word})
        return address(self.home, self.selection.query() if query is None else query, kept)

    def by(self, **changes: Any) -> str:
        """With other filters, from the first page on."""
        return self.here(self.selection.query(**changes))

    def toggled(self, name: str, word: str) -> str:
        """Filtered by that word alone, or no more if it is already; of active ones, as counted."""
        is_on = self.selection.given.get(name) == [word]
        return self.by(**{name: None if is_on else [word], "outcome": None})


@for_sales
@require_safe
def tracker(request: PageRequest) -> HttpResponse:
    """The page, or with htmx its live part; 204 while that would look the same."""
    at = Address(request)
    if has_empty_fields(request):
        return redirect(at.here(page=at.page))
    now = timezone.now()
    today = business_today(now)
    is_part = bool(request.htmx) and not request.htmx.history_restore_request
    if is_part and request.headers.get("X-Part") == "summary":
        return summary(request, at, today)
    context = page_context(request, at, shell_of(request.user, now), today)
    if is_part and request.headers.get("X-Revision") == context["revision"]:
        return HttpResponse(status=204)
    # A filter chosen by a link changes what the bar shows, too.
    context["is_chosen"] = is_part and "X-Chosen" in request.headers
    return render(request, f"o2r/tracker.html{'#live' if is_part else ''}", context)


def summary(request: PageRequest, at: Address, today: date) -> HttpResponse:
    """Phases, health and cycle time of a selection, for other pages to show; their links lead
    here. 204 while it would look the same."""
    figures = tracker_figures(at.selection, today=today)
    revision = digest((today, at.here(), replace(figures, computed_at=None)))
    if request.headers.get("X-Revision") == revision:
        return HttpResponse(status=204)
    context = {
        "here": at.here(),
        "figures": figures,
        "cards": cards(figures, at, TrackerLinks(at.selection)),
        "progress": progress(figures, at),
        "revision": revision,
    }
    return render(request, "o2r/_tracker_summary.html", context)


def page_context(request: PageRequest, at: Address, shell: Shell, today: date) -> dict[str, Any]:
    """Everything on the page; `revision` is a mark of all of it but ages."""
    figures = tracker_figures(at.selection, today=today)
    risky, rows, has_more = lists(at, today, request.user)
    totals = totals_of_table(at.selection, figures)
    links = TrackerLinks(at.selection)
    return {
        "shell": shell,
        "today": today,
        "selection": at.selection,
        "notice": notice_of(shell),
        "has_figures": bool(figures.total_opportunities) or not shell.is_first,
        "is_nobody": at.selection.mine and not owner_pks_of(request.user),
        "everyone": at.by(mine=None),
        "here": at.here(page=at.page),
        "home": at.home,
        "sort": at.sort,
        "chips": chips(at),
        "filters": filters(at.selection),
        "kept": kept_filters(at.selection, SHOWN),
        "figures": figures,
        "cards": cards(figures, at, links),
        "progress": progress(figures, at),
        "breakdowns": breakdowns(figures, links),
        "left_out": left_out(figures, links),
        "at_risk_list": links.open_records(health_signal=[RED, BLOCKED]),
        "overdue_list": links.open_records(overdue=["1"]),
        "risky": risky,
        "rows": rows,
        "totals": totals,
        "heads": heads(at),
        "pager": pager(at, len(rows), has_more=has_more),
        "page": at.page,
        "first": at.here(),
        "exports": exports_of(at.selection) if may_export(request.user) else {},
        "may_start": shell.may_start,
        "refresh_seconds": refresh_seconds(shell, is_behind=figures.recompute_pending),
        "revision": digest(
            (
                today,
                at.here(page=at.page),
                at.selection.ignored,
                replace(figures, computed_at=None),
                totals,
                [
                    (row.deal.pk, row.deal.change_seq, row.signal, row.mark)
                    for row in (*risky, *rows)
                ],
                shell.sync.state,
                shell.ended,
            )
        ),
    }


# -- figures --------------------------------------------------------------------------------------


class TrackerLinks(Links):
    """Addresses of this page, and of the lists behind its numbers: active ones unless said."""

    def __init__(self, selection: Selection) -> None:
        super().__init__(selection, {})
        self.home = reverse("o2r:tracker")

    def open_records(self, **changes: Any) -> str:
        return self.records(**{"outcome": None, **changes})


def cards(figures: TrackerFigures, at: Address, links: TrackerLinks) -> dict[str, Any]:
    """Total pipeline, cycle time, health, phases. Parts filter this page; the rest opens lists."""
    return {
        "total": {"href": links.open_records()},
        "cycle": {
            "average": days_of(figures.cycle.average),
            "median": days_of(figures.cycle.median),
            "href": links.records(outcome="all", counted=["cycle"]),
        },
        "health": parts(figures.by_signal, "health_signal", "signal-", at),
        "phases": parts(figures.by_phase, "phase", "phase-", at),
    }


def parts(buckets: list[Bucket], name: str, mark: str, at: Address) -> list[dict[str, Any]]:
    """Each with its stretch of a bar of 100, by count."""
    whole = sum(bucket.count for bucket in buckets)
    found, start = [], 0
    for bucket in buckets:
        end = start + bucket.count
        found.append(
            {
                "label": bucket.label.replace(" · ", " ") if name == "phase" else bucket.label,
                "count": bucket.count,
                "value": bucket.value_sgd_cents,
                "mark": mark + bucket.key.removeprefix("phase"),
                "x": tenths(start, whole),
                "width": tenths(end, whole, less=tenths(start, whole)),
                "href": at.toggled(name, bucket.key),
                "active": at.selection.given.get(name) == [bucket.key],
            }
        )
        start = end
    return found


def tenths(part: int, whole: int, less: str = "0") -> str:
    """Percent with one decimal, ready for an SVG."""
    return str(Decimal(part * 1000 // whole if whole else 0) / 10 - Decimal(less))


def days_of(days: Decimal | None) -> str:
    """`23` or `23.5`; nothing for none."""
    return "" if days is None else f"{days.normalize():,f}"


def progress(figures: TrackerFigures, at: Address) -> list[dict[str, Any]]:
    """A row for each phase: what stands there, by signal, on one scale; how long it took those
    that have left it, and how many of those that reached it went on."""
    longest = max((bucket.value_sgd_cents for bucket in figures.by_phase), default=0)
    found = []
    for number, bucket in enumerate(figures.by_phase, start=1):
        took, went = figures.time_in_phase[bucket.key], figures.conversion[bucket.key]
        signals, start = [], 0
        for signal, (word, _) in SIGNALS.items():
            total = figures.by_phase_and_signal[bucket.key, signal]
            end = start + total.value_sgd_cents
            x = tenths(start, longest)
            signals.append(
                {
                    "mark": f"signal-{signal}",
                    "word": word,
                    "count": total.count,
                    "value": total.value_sgd_cents,
                    "x": x,
                    "width": tenths(end, longest, less=x),
                    "href": at.by(phase=[bucket.key], health_signal=[signal], outcome=None),
                }
            )
            start = end
        found.append(
            {
                "roman": ROMAN[number],
                "name": PHASES[number],
                "bucket": bucket,
                "signals": signals,
                "href": at.toggled("phase", bucket.key),
                "active": at.selection.given.get("phase") == [bucket.key],
                "average": days_of(took.average),
                "median": days_of(took.median),
                "took": took.count,
                "conversion": went,
            }
        )
    return found


def breakdowns(figures: TrackerFigures, links: TrackerLinks) -> list[dict[str, Any]]:
    chosen = links.selection
    return [
        breakdown("territory", "Territory", figures.by_territory, chosen.territory, links),
        breakdown(
            "service_line", "Service line", figures.by_service_line, chosen.service_line, links
        ),
        breakdown("owner", "Owner", figures.by_owner, chosen.owner, links),
    ]


def left_out(figures: TrackerFigures, links: TrackerLinks) -> list[dict[str, Any]]:
    """Active ones that the values leave out, by reason, with the lists of them."""
    return [
        {"count": count, "why": why, "list": links.records(missing=[name], outcome="active")}
        for count, why, name in (
            (figures.left_out.no_amount, "without an amount", "amount"),
            (figures.left_out.no_rate, "without a rate to SGD", "rate"),
        )
        if count
    ]


def totals_of_table(selection: Selection, figures: TrackerFigures) -> dict[str, Any]:
    """Of the whole table, not of its page: the figures know it where it holds active ones."""
    if not {"outcome", *OF_ANY_OUTCOME} & selection.given.keys() or (
        selection.given.get("outcome") == [ACTIVE] and not OF_ANY_OUTCOME & selection.given.keys()
    ):
        return {
            "count": figures.total_opportunities,
            "value": figures.total_value_sgd_cents,
            "weighted": figures.weighted_sgd_cents,
        }
    return (
        tracked(selection)
        .order_by()
        .aggregate(
            count=Count("pk"), value=Sum("amount_sgd_minor"), weighted=Sum("weighted_sgd_minor")
        )
    )


# -- filters ----------------------------------------------------------------------------------


SHOWN = (
    "phase",
    "health_signal",
    "territory",
    "service_line",
    "owner",
    "outcome",
    "search",
    "mine",
)


def filters(selection: Selection) -> list[dict[str, Any]]:
    """The filter bar: each filter with its choices, and which of them is chosen; one query."""
    known = words_known()
    given = selection.given
    return [
        choice(
            "phase",
            "Phase",
            [(f"phase{number}", f"{ROMAN[number]} {name}") for number, name in PHASES.items()],
            selection.phase,
        ),
        choice(
            "health_signal",
            "Signal",
            [(word, label) for word, (label, _) in SIGNALS.items()],
            selection.health_signal,
        ),
        choice("territory", "Territory", known["territory"], selection.territory),
        choice("service_line", "Service line", known["service_line"], selection.service_line),
        choice("owner", "Owner", known["owner"], selection.owner),
        choice(
            "outcome",
            "Outcome",
            [(word, word.capitalize()) for word in OUTCOMES if word != ACTIVE],
            [word for word in given.get("outcome", []) if word != ACTIVE],
            unsaid="Active",
        ),
    ]


def words_known() -> dict[str, list[tuple[str, str]]]:
    """The territories, service lines and owners that opportunities have."""
    margins = TrackerMargin.objects.exclude(count=0).exclude(dimension="all").order_by()
    owners = CrmUser.objects.order_by().annotate(as_text=Cast("pk", CharField()))
    rows = margins.values_list("dimension", "value", Value("")).union(
        owners.values_list(Value("name"), "as_text", "name")
    )
    found: dict[str, list[str]] = {"territory": [], "service_line": [], "owner": []}
    names: dict[str, str] = {}
    for kind, value, name in rows:
        if kind == "name":
            names[value] = name
        elif value not in ("", "0"):
            found[kind].append(value)
    known = {
        kind: sorted(
            ((word, names.get(word, word) if kind == "owner" else word) for word in words),
            key=lambda pair: pair[1],
        )
        for kind, words in found.items()
    }
    return {kind: [*words, (NONE, NO_VALUE[kind])] for kind, words in known.items()}


def exports_of(selection: Selection) -> dict[str, str]:
    """The table as a file, filtered as it is."""
    path, query = reverse("o2r:export"), selection.query()
    return {kind.upper(): address(path, query, f"as={kind}") for kind in ("csv", "xlsx")}


# -- lists ----------------------------------------------------------------------------------------


def lists(at: Address, today: date, user: Any) -> tuple[list[Row], list[Row], bool]:
    """The opportunities at risk that are worth most, and one page of the table."""
    risky = list(querysets.at_risk(at.selection, AT_RISK))
    start = (at.page - 1) * PAGE_ROWS
    ordered = in_order(tracked(at.selection), at.sort)
    deals: list[Deal] = list(ordered[start : start + PAGE_ROWS + 1])
    page = deals[:PAGE_ROWS]
    both = rows_of([*risky, *page], today, user)
    return both[: len(risky)], both[len(risky) :], len(deals) > PAGE_ROWS


def tracked(selection: Selection) -> QuerySet:
    """Deals with their opportunity, account and owner at hand."""
    rows = selection.deals().filter(opportunity__isnull=False)
    return querysets.shown(rows.select_related("account", "owner", "opportunity"))


def in_order(rows: QuerySet, sort: str) -> QuerySet:
    """As the address says; last changed in the CRM first unless it does."""
    if not sort:
        return rows.order_by("-crm_modified_at", "-id")
    name, is_down = sort.removeprefix("-"), sort.startswith("-")
    column = _WORST_LAST if name == "signal" else SORTS[name][1]
    if is_down:
        return rows.order_by(column.desc(nulls_last=name != "signal" or None), "-id")
    return rows.order_by(column.asc(nulls_last=name != "signal" or None), "id")


def heads(at: Address) -> dict[str, dict[str, Any]]:
    """Each heading of the table: its label, where a click sorts, and how it is sorted now."""
    found = {}
    for name, (label, _) in SORTS.items():
        is_up, is_down = at.sort == name, at.sort == f"-{name}"
        # What is asked for most often first: the largest, the worst, the longest.
        first = f"-{name}" if name in ("value", "signal") else name
        other = {name: f"-{name}", f"-{name}": name}.get(at.sort, first)
        found[name] = {
            "label": label,
            "href": at.here(sort=other),
            "sorted": "ascending" if is_up else "descending" if is_down else "",
            "icon": "arrow-up" if is_up else "arrow-down" if is_down else "",
        }
    return found


def chips(at: Address) -> list[dict[str, str]]:
    found = [{"label": label, "href": at.here(query)} for label, query in at.selection.chips]
    if at.selection.mine:
        found.append({"label": "Mine", "href": at.by(mine=None)})
    return found


def pager(at: Address, count: int, *, has_more: bool) -> dict[str, str]:
    first = (at.page - 1) * PAGE_ROWS + 1
    return {
        "words": f"{first:,} to {first + count - 1:,}" if count else "",
        "previous": at.here(page=at.page - 1) if at.page > 1 else "",
        "next": at.here(page=at.page + 1) if has_more else "",
    }
