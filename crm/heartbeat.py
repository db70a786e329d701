"""Whether the workers do their work: each sweep leaves its time, pages look how old it is.

A row in the database, because what keeps the sweeps from coming may be the broker.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings

from crm.models import SharedValue

NAME = "worker_heartbeat"
# So many sweeps in a row do not come late by chance.
SWEEPS_MISSED, SHORTEST = 6, timedelta(minutes=1)


def beat(now: datetime) -> None:
    """A worker is at work."""
    said = {"value": "", "set_at": now.timestamp(), "expires_at": None}
    SharedValue.objects.update_or_create(name=NAME, defaults=said)


def silent_since(set_at: float | None, now: datetime) -> datetime | None:
    """Since when no worker was heard of, if that is too long; None while there is nothing to say,
    also before the first of them."""
    if set_at is None:
        return None
    heard = datetime.fromtimestamp(set_at, UTC)
    # Heard of in the future: our clock was set back since, which says nothing of today.
    patience = max(SHORTEST, timedelta(seconds=SWEEPS_MISSED * settings.SWEEP_SECONDS))
    return None if abs(now - heard) <= patience else min(heard, now)
