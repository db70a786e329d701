"""The live dashboard: the pipeline of one selection of deals, at a glance.

Decides what stands where, which link leads to the records behind a number, and when the page asks
again. What the figures mean is decided in `o2r/metrics.py`, which deals a list holds in
`o2r/querysets.py`, what the address may say in `o2r/filters.py`.

Two live parts: the figures, which the page brings along, and the lists under them, which follow
at once (or come along when the address names one), so that the first glance waits for less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from crm.models import Deal
from o2r import querysets
from o2r.filters import Selection
from o2r.metrics import Bucket, Change, PipelineFigures, changes_since, pipeline_figures
from o2r.models import Preference
from o2r.permissions import owner_pks_of, prefers_mine
from o2r.rollups import CLOSED
from o2r.views.cards import TONES, metric_cards
from o2r.views.links import Links, address
from o2r.views.shell import PageRequest, Shell, business_today, digest, for_sales, shell_of
from o2r.views.signals import SIGNALS

ATTENTION_ROWS, LIST_ROWS, BREAKDOWN_ROWS = 5, 8, 6
REFRESH_COUNTING, REFRESH_WAITING, REFRESH_IDLE = 2, 10, 240
SINCE_DAYS = {"day": 1, "week": 7}
CHANGES = {
    "new": ("New", "plus"),
    "stage": ("Stage moved", "arrow-right"),
    "amount": ("Amount changed", "coin"),
    "closing_date": ("Closing date moved", "calendar"),
    "won": ("Won", "trophy"),
    "lost": ("Lost", "circle-x"),
    "signal": ("Signal turned", "flag"),
}


@dataclass(frozen=True)
class Bar:
    """A row of a breakdown; shares are percent of the longest, ready for an SVG width."""

    key: str
    label: str
    count: int
    value: int
    weighted: int
    share: str
    weighted_share: str
    filter: str
    list: str
    active: bool


@dataclass(frozen=True)
class DealList:
    """One of the lists under the figures, chosen by `list=` in the address."""

    label: str
    empty: str
    rows: Callable[[Selection, date], Iterable[Deal]]
    behind: Callable[[Links, date], str]


LISTS = {
    "recent": DealList(
        "Recent",
        "No deals.",
        lambda selection, today: querysets.recent_opportunities(selection, LIST_ROWS),
        lambda links, today: links.records(outcome="all"),
    ),
    "top": DealList(
        "Top open",
        "No open deals with a value.",
        lambda selection, today: querysets.top_open(selection, LIST_ROWS),
        lambda links, today: links.open_records(),
    ),
    "closing": DealList(
        "Closing this month",
        "No open deal closes in the rest of this month.",
        lambda selection, today: querysets.closing_this_month(selection, today, LIST_ROWS),
        lambda links, today: links.open_records(
            closing_from=str(today), closing_to=str(end_of_month(today))
        ),
    ),
}


@for_sales
@require_safe
def dashboard(request: PageRequest) -> HttpResponse:
    """The page, or with htmx one of its live parts; 204 while that would look the same."""
    if comes_back_to_mine(request):
        return redirect(address(reverse("o2r:dashboard"), "mine=1"))
    now = timezone.now()
    today = business_today(now)
    links = links_of(request)
    shell = shell_of(request.user, now)
    context: dict[str, Any] = {
        "selection": links.selection,
        "here": links.here(),
        "links": page_links(links),
        "summary": address(reverse("o2r:tracker"), links.selection.query(period=None)),
        "shell": shell,
        "is_nobody": is_nobody(links.selection),
    }
    is_part = request.htmx and not request.htmx.history_restore_request
    if is_part and request.headers.get("X-Part") == "lists":
        part, context["lists"] = "#lists", lists_context(links, shell, today)
        revision = context["lists"]["revision"]
    else:
        part, context = "#live", context | figures_context(links, shell, today)
        revision = context["revision"]
    if is_part and request.headers.get("X-Revision") == revision:
        return HttpResponse(status=204)
    if not is_part and (links.view or not context["has_figures"]):
        context["lists"] = lists_context(links, shell, today)
    return render(request, f"o2r/dashboard.html{part if is_part else ''}", context)


def comes_back_to_mine(request: PageRequest) -> bool:
    """Whether a bare address means *mine* for this person; what they choose is remembered.

    A part that refreshes itself chooses nothing: its address may be older than the last choice.
    """
    said = request.GET.get("mine")
    preferred = prefers_mine(request.user)
    is_choice = not request.htmx or "X-Chosen" in request.headers
    if said in ("0", "1") and is_choice and (said == "1") != preferred:
        Preference.objects.update_or_create(user=request.user, defaults={"is_mine": said == "1"})
    return preferred and not request.GET and not request.htmx


def is_nobody(selection: Selection) -> bool:
    """Whether *mine* is asked for by somebody whom the CRM does not know."""
    return selection.mine and not owner_pks_of(selection.user)


def links_of(request: PageRequest) -> Links:
    """What the address selects, and which list and span of changes it shows."""
    selection = Selection.from_query(request.GET, request.user)
    if not selection.mine:
        selection.given.pop("mine", None)
    shown = {
        name: request.GET[name]
        for name, known in (("list", LISTS), ("since", SINCE_DAYS))
        if request.GET.get(name) in known
    }
    return Links(selection, shown)


def figures_context(links: Links, shell: Shell, today: date) -> dict[str, Any]:
    """The figures and what needs attention; the revision is a mark of all of it but ages."""
    selection = links.selection
    figures = pipeline_figures(selection, today=today)
    attention = attention_rows(selection, today)
    chips = [{"label": label, "href": links.page(query)} for label, query in selection.chips]
    return {
        "figures": figures,
        "has_figures": has_figures(figures, shell),
        "notice": notice_of(shell),
        "left_out": left_out(figures, links),
        "chips": chips,
        "cards": metric_cards(figures, links),
        "freshness_tone": TONES.get(shell.sync.state, "none"),
        "stages": stage_bars(figures.by_stage, links),
        "breakdowns": breakdowns(figures, links),
        "attention": attention,
        "attention_list": attention_list(attention, links, today),
        "refresh_seconds": refresh_seconds(shell, is_behind=figures.recompute_pending),
        "revision": digest(
            (
                today,
                links.here(),
                selection.ignored,
                figures,
                chips,
                [(deal.pk, deal.change_seq, deal.why, deal.crm_domain) for deal in attention],
                shell.sync.state,
                shell.sync.last_success_at,
                shell.ended,
                shell.sync.run if shell.is_first else None,
                refresh_seconds(shell),
            )
        ),
    }


def lists_context(links: Links, shell: Shell, today: date) -> dict[str, Any]:
    """What changed, and one list of deals; nothing of it before the first deal has arrived."""
    shown, since = links.view.get("list", "recent"), links.view.get("since", "day")
    deal_list = LISTS[shown]
    deals = list(deal_list.rows(links.selection, today))
    start = start_of_day(today - timedelta(days=SINCE_DAYS[since]))
    # While the mirror is filled everything would look new.
    changes = [] if shell.is_first else changes_since(links.selection, start)
    known_from = None if shell.is_first else changes_known_from(deals, start)
    return {
        "is_empty": shell.is_first and not deals,
        "is_first": shell.is_first,
        "refresh_seconds": refresh_seconds(shell),
        "since": since,
        "day": links.here(view={"since": "day"}),
        "week": links.here(view={"since": "week"}),
        "changes": [change_row(change, start, links) for change in changes if change.count],
        "known_from": known_from,
        "tabs": [
            {"label": each.label, "href": links.here(view={"list": name}), "active": name == shown}
            for name, each in LISTS.items()
        ],
        "deals": deals,
        "empty": deal_list.empty,
        "all": deal_list.behind(links, today),
        "revision": digest(
            (
                today,
                links.here(),
                changes,
                known_from,
                shell.is_first,
                refresh_seconds(shell),
                [(deal.pk, deal.change_seq, deal.crm_domain) for deal in deals],
            )
        ),
    }


def attention_rows(selection: Selection, today: date) -> list[Any]:
    """What needs attention, each with its signal in word and shape."""
    rows: list[Any] = list(querysets.needs_attention(selection, today, ATTENTION_ROWS))
    for deal in rows:
        deal.word, deal.icon = SIGNALS.get(deal.signal, ("", "alert-triangle"))
    return rows


def attention_list(attention: list[Any], links: Links, today: date) -> str:
    """The list behind what needs attention: the red and blocked ones, or those past their date."""
    if any(deal.signal for deal in attention):
        query = links.selection.query(period=None, mine=links.selection.mine or None)
        risky = urlencode({"health_signal": "red,blocked", "sort": "-value"})
        return address(reverse("o2r:tracker"), query, risky)
    return links.open_records(closing_to=str(today - timedelta(days=1)))


def changes_known_from(deals: list[Any], start: datetime) -> datetime | None:
    """Since when changes other than new deals are kept, if the span begins before that."""
    if not deals:
        return None
    first = deals[0].first_event_at
    return first if first is not None and first > start else None


def end_of_month(day: date) -> date:
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def start_of_day(day: date) -> datetime:
    """00:00 of that day where the business is."""
    return datetime.combine(day, time.min, tzinfo=ZoneInfo(settings.BUSINESS_TIME_ZONE))


def has_figures(figures: PipelineFigures, shell: Shell) -> bool:
    """Whether there is anything to count: a mirror that was filled once, or is being filled."""
    return not shell.is_first or any(bucket.count for bucket in figures.by_stage)


def notice_of(shell: Shell) -> str:
    """What must be said before the figures; "" when all is well."""
    if shell.sync.state in ("not_configured", "disconnected", "delayed"):
        return shell.sync.state
    if shell.is_first:
        return "first_sync" if shell.sync.run else "never_synced"
    return ""


def refresh_seconds(shell: Shell, *, is_behind: bool = False) -> int:
    """Every 2 s while the first sync fills the mirror or new changes are counted, every 10 s
    while that first sync is waited for, else 4 min.

    The end of any later sync is heard from the sync indicator, at once.
    """
    if is_filling(shell) or is_behind:
        return REFRESH_COUNTING
    return REFRESH_WAITING if shell.is_first and shell.sync.is_configured else REFRESH_IDLE


def is_filling(shell: Shell) -> bool:
    """Whether the first sync is under way."""
    return shell.is_first and shell.sync.run is not None


def left_out(figures: PipelineFigures, links: Links) -> list[dict[str, Any]]:
    """Open deals that the values leave out, by reason, with the lists of them."""
    return [
        {"count": count, "why": why, "list": links.open_records(missing=[name])}
        for count, why, name in (
            (figures.left_out.no_amount, "without an amount", "amount"),
            (figures.left_out.no_rate, "without a rate to SGD", "rate"),
        )
        if count
    ]


def page_links(links: Links) -> dict[str, str]:
    """The fixed links of the page."""
    return {
        "mine": links.here(mine="1"),
        # Said in the address too: a bare one means what the person chose last.
        "everyone": links.here(mine="0"),
        "year": links.here(period=None),
        "all_time": links.here(period="all"),
        "clear": links.page(cleared(links.selection)),
        "open": links.open_records(),
        "closed": links.closed_records(*CLOSED),
        "won": links.closed_records("closed_won"),
        "lists": links.here(view={"list": "recent"}),
        "changes": links.here(view={"since": "day"}),
    }


def cleared(selection: Selection) -> str:
    """The query without what the chips name: whose deals and which period stay."""
    kept = ("mine", "period")
    return selection.query(**{name: None for name in selection.given if name not in kept})


def stage_bars(buckets: list[Bucket], links: Links) -> dict[str, list[Bar]]:
    """Open stages on one scale; won and lost of all time are rows of their own."""
    chosen = links.selection.stage
    still_open = [b for b in buckets if b.key not in CLOSED]
    closed = [b for b in buckets if b.key in CLOSED]
    return {
        "open": bars(still_open, "stage", chosen, links.records, links),
        "closed": bars(closed, "stage", chosen, links.records, links),
    }


def bars(
    buckets: list[Bucket],
    name: str,
    chosen: list[str],
    records: Callable[..., str],
    links: Links,
) -> list[Bar]:
    longest = max((b.value_sgd_cents for b in buckets), default=0)
    return [bar(bucket, name, chosen, longest, records, links) for bucket in buckets]


def bar(
    bucket: Bucket,
    name: str,
    chosen: list[str],
    longest: int,
    records: Callable[..., str],
    links: Links,
) -> Bar:
    """A click on the label filters by it, or takes the filter away again."""
    is_active = bucket.key in chosen
    return Bar(
        key=bucket.key,
        label=bucket.label,
        count=bucket.count,
        value=bucket.value_sgd_cents,
        weighted=bucket.weighted_sgd_cents,
        share=share(bucket.value_sgd_cents, longest),
        weighted_share=share(bucket.weighted_sgd_cents, longest),
        filter=links.page(links.selection.query(**{name: [] if is_active else [bucket.key]})),
        list=records(**{name: [bucket.key]}),
        active=is_active,
    )


def share(value: int, longest: int) -> str:
    """Percent of the longest with one decimal; what is not nothing stays visible."""
    if value <= 0 or longest <= 0:
        return "0"
    tenths = max(5, value * 1000 // longest)
    return f"{tenths // 10}.{tenths % 10}"


def breakdowns(figures: PipelineFigures, links: Links) -> list[dict[str, Any]]:
    parts = [
        ("territory", "Territory", figures.by_territory, links.selection.territory),
        ("service_line", "Service line", figures.by_service_line, links.selection.service_line),
        ("owner", "Owner", figures.by_owner, links.selection.owner),
    ]
    return [breakdown(*part, links) for part in parts]


def breakdown(
    name: str, title: str, buckets: list[Bucket], chosen: list[str], links: Links
) -> dict[str, Any]:
    """The largest by value; the others in one line, so that nothing is left unsaid."""
    shown, others = buckets[:BREAKDOWN_ROWS], buckets[BREAKDOWN_ROWS:]
    rest = None
    if others:
        rest = {
            "label": f"{len(others)} more",
            "count": sum(b.count for b in others),
            "value": sum(b.value_sgd_cents for b in others),
        }
    return {
        "name": name,
        "title": title,
        "bars": bars(shown, name, chosen, links.open_records, links),
        "rest": rest,
    }


def change_row(change: Change, since: datetime, links: Links) -> dict[str, Any]:
    label, icon = CHANGES[change.kind]
    return {
        "label": label,
        "icon": icon,
        "count": change.count,
        "value": change.value_sgd_cents,
        "list": links.records(stage=None, changed=[change.kind], changed_since=since.isoformat()),
    }
