"""How pages write money, days, times and shares, and the small marks that all pages have.

Only presentation: what a figure means is decided in `o2r/metrics.py`. Everything here is pure but
`shell`, which asks for the state of the sync once a page, and `ago`, which reads the clock.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache

from django import template
from django.conf import settings
from django.template.context import RequestContext
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

from crm.links import record_url
from crm.mapping.convert import decimals_of
from crm.models import Deal
from o2r.views.shell import Shell, shell_of
from o2r.written import business, day_words, moment_words

register = template.Library()

NONE = mark_safe('<span class="none">–</span>')
SPRITE = "vendor/tabler-icons-3.51.0.svg"
THOUSANDS = [(10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")]


def exact(minor: int, decimals: int = 2) -> str:
    """`12534050` → `125,340.50`."""
    sign = "-" if minor < 0 else ""
    units, rest = divmod(abs(minor), 10**decimals)
    return f"{sign}{units:,}.{rest:0{decimals}d}" if decimals else f"{sign}{units:,}"


def compact(cents: int) -> str:
    """Three significant figures, rounded half up: `12534050` → `125K`, `120000000` → `1.20M`."""
    sign, units = ("-" if cents < 0 else ""), (abs(cents) + 50) // 100
    for index, (size, letter) in enumerate(THOUSANDS):
        if units < size:
            continue
        decimals = max(0, 3 - len(str(units // size)))
        scaled = (units * 10**decimals * 2 + size) // (2 * size)
        if scaled >= 1000 and decimals:
            decimals -= 1
            scaled = (units * 10**decimals * 2 + size) // (2 * size)
        if scaled >= 1000 * 10**decimals and index:
            return f"{sign}1.00{THOUSANDS[index - 1][1]}"
        whole, rest = divmod(scaled, 10**decimals)
        fraction = f".{rest:0{decimals}d}" if decimals else ""
        return f"{sign}{whole:,}{fraction}{letter}"
    return f"{sign}{units}"


@register.filter
def sgd(cents: int | None) -> SafeString:
    """SGD cents as `SGD 125K`; the exact amount on hover and in `value`."""
    return sgd_data(cents, "SGD&nbsp;")


@register.filter
def sgd_cell(cents: int | None) -> SafeString:
    """The same without the code, under a heading that names it."""
    return sgd_data(cents, "")


def sgd_data(cents: int | None, code: str) -> SafeString:
    if cents is None:
        return NONE
    amount = exact(cents)
    value = amount.replace(",", "")
    return mark_safe(  # noqa: S308 - digits only
        f'<data value="{value}" title="SGD {amount}">{code}{compact(cents)}</data>'
    )


@register.filter
def exactly(figure: int | Decimal | None) -> str:
    """SGD cents in full, or a share as percent, as plain text for a title."""
    if figure is None:
        return "none"
    return percent(figure) if isinstance(figure, Decimal) else f"SGD {exact(figure)}"


@register.filter
def money(minor: int | None, currency: str = "SGD") -> SafeString:
    """An exact amount in its own currency: `USD 92,000.00`."""
    if minor is None:
        return NONE
    return format_html("{}&nbsp;{}", currency or "SGD", exact(minor, decimals_of(currency)))


@register.filter
def count(number: int | None) -> str:
    """`12345` → `12,345`."""
    return NONE if number is None else f"{number:,}"


@register.filter
def percent(share: Decimal | None) -> str:
    """`Decimal("0.6324")` → `63.2%`."""
    if share is None:
        return NONE
    rounded = (share * 100).quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"{rounded.normalize():f}%"


@register.filter
def day(value: date | None) -> str:
    """`12 Oct 2026`."""
    return NONE if value is None else day_words(value)


@register.filter
def moment(value: datetime | None) -> str:
    """`20 Nov 2026, 17:40`, in the business time zone."""
    return NONE if value is None else moment_words(value)


@register.filter
def clock(value: datetime | None) -> str:
    """`17:40`, in the business time zone; with its day if that is not today."""
    if value is None:
        return NONE
    local = business(value)
    if local.date() == business(timezone.now()).date():
        return f"{local:%H:%M}"
    return moment_words(value)


def duration(seconds: float) -> str:
    """`just now`-free length of time: `45 s`, `12 min`, `3 h`, `2 days`."""
    whole = int(seconds)
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if whole >= size:
            number = whole // size
            return f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''}"
    return f"{whole} s"


@register.filter
def lasting(seconds: float | None) -> str:
    """A length of time: `45 s`, `12 min`, `3 h`, `2 days`."""
    return NONE if seconds is None else duration(max(0.0, seconds))


@register.filter
def ago(value: datetime | None) -> SafeString:
    """`3 min ago`, which `app.js` lets grow older; the moment itself on hover."""
    if value is None:
        return mark_safe("never")
    seconds = (timezone.now() - value).total_seconds()
    words = "just now" if seconds < 10 else f"{duration(seconds)} ago"
    return mark_safe(  # noqa: S308 - made of digits and our own words
        f'<time datetime="{value.isoformat()}" title="{moment(value)}" data-ago>{words}</time>'
    )


@lru_cache(maxsize=64)
def icon_markup(name: str) -> SafeString:
    return format_html(
        '<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>', static(SPRITE), name
    )


@register.filter
def crm_address(deal: Deal) -> str:
    """Where the CRM shows this deal; "" where that is not known. `deal.crm_domain` comes with
    the lists of `o2r/querysets.py`."""
    return record_url("Deals", deal.zoho_id, getattr(deal, "crm_domain", None) or "") or ""


@register.simple_tag
def deal_name(deal: Deal) -> SafeString:
    """The name as a link to the opportunity's page; beside it, where its address is known, one
    into the CRM."""
    name = deal.name or "(no name)"
    page = format_html(
        '<a class="deal-name" href="{}" title="{}">{}</a>',
        reverse("o2r:opportunity", args=[deal.pk]),
        name,
        name,
    )
    address = crm_address(deal)
    if not address:
        return page
    return format_html(
        '{} <a class="crm-link" href="{}" rel="noopener" title="Open it in the CRM">{}'
        '<span class="sr">{}: open it in the CRM</span></a>',
        page,
        address,
        icon_markup("external-link"),
        name,
    )


@register.simple_tag
def icon(name: str) -> SafeString:
    """A decorative icon; what it says stands beside it in words."""
    return icon_markup(name)


@register.simple_tag(takes_context=True)
def nav_item(context: RequestContext, label: str, url_name: str, symbol: str, key: str) -> str:
    """One line of the navigation; `key` is what `g` is followed by."""
    address = reverse(url_name)
    here = context["request"].path == address
    return format_html(
        '<a class="nav-item" href="{}" data-key="{}"{}>{}<span>{}</span></a>',
        address,
        key,
        mark_safe(' aria-current="page"') if here else "",
        icon_markup(symbol),
        label,
    )


@register.simple_tag(takes_context=True)
def shell(context: RequestContext) -> Shell:
    """What the frame of every page shows; the page's view may have asked already."""
    known = context.get("shell")
    return known if known is not None else shell_of(context["request"].user, timezone.now())


@register.simple_tag
def business_zone() -> str:
    """The name of the business time zone, said once a page."""
    return settings.BUSINESS_TIME_ZONE


@register.filter
def stage_mark(stage: str) -> SafeString:
    """The coloured dot before a stage's name."""
    return format_html('<i class="dot stage-{}" aria-hidden="true"></i>', conditional_escape(stage))
