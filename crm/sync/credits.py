"""What a run leaves of the day's API credits: people, write-back and other programs need them too.

A full sync and a reconcile, which read everything, stop at 10 % left, a delta at 2 %
(`SYNC_CREDIT_FLOORS`). They stop like a run whose CRM is down: nothing is lost.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings

from crm.models import CrmConnection, CrmUser
from crm.zoho.errors import CreditsExhausted
from crm.zoho.limits import daily_credits, is_at_floor

CODE = "credits_low"
RECONCILE = "reconcile"
# When a stopped run is tried again: the sweeper repeats a full run, the schedule a delta.
PAUSE = timedelta(minutes=15)


def raise_if_low(kind: str, remaining: int | None, now: datetime) -> None:
    """Raises CreditsExhausted once no more than the floor of this kind of run is left.

    `remaining` as the CRM said last; None, or an edition whose credits we do not know: no floor.
    """
    if remaining is None:
        return
    edition = CrmConnection.objects.values_list("edition", flat=True).filter(pk=1).first()
    total = daily_credits(edition or "", CrmUser.objects.filter(status="active").count())
    if total is None or not is_at_floor(remaining, total, _floor(kind)):
        return
    # Of a reconcile there is one a night; what it costs is better spent on syncs until then.
    again = (
        "The reconcile has stopped and is made again the next night"
        if kind == RECONCILE
        else f"The {kind} sync is paused until about {until(now)} and then tried again"
    )
    raise CreditsExhausted(
        f"Of the CRM's {total:,} API credits a day only {remaining:,} are left. {again}; credits "
        "come back over 24 hours, and other programs use the same ones.",
        code=CODE,
        retry_after_s=PAUSE.total_seconds(),
    )


def until(stopped_at: datetime) -> str:
    """The time of day, in the business time zone, at which a stopped run is tried again."""
    again_at = (stopped_at + PAUSE).astimezone(ZoneInfo(settings.BUSINESS_TIME_ZONE))
    return f"{again_at:%H:%M}"


def _floor(kind: str) -> float:
    floors: dict[str, float] = settings.SYNC_CREDIT_FLOORS
    return floors.get(kind, floors["delta"])
