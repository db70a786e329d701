"""How days, times and the business day are written, wherever text is made: pages, chips, notices.

Pure; the zone is the business's.
"""

from __future__ import annotations

from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.conf import settings

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@lru_cache(maxsize=4)
def zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def business(moment: datetime) -> datetime:
    """The same moment on the clock of the business."""
    return moment.astimezone(zone(settings.BUSINESS_TIME_ZONE))


def day_words(value: date) -> str:
    """`12 Oct 2026`."""
    return f"{value.day} {MONTHS[value.month - 1]} {value.year}"


def short_day(value: date, asked_on: date) -> str:
    """`2 Oct`; with the year where that is not the one of `asked_on`."""
    if value.year == asked_on.year:
        return f"{value.day} {MONTHS[value.month - 1]}"
    return day_words(value)


def moment_words(value: datetime) -> str:
    """`20 Nov 2026, 17:40`, in the business time zone."""
    local = business(value)
    return f"{day_words(local)}, {local:%H:%M}"
