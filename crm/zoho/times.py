"""Times as the CRM's API wants them."""

from __future__ import annotations

from datetime import UTC, datetime


def crm_time(moment: datetime) -> str:
    """With offset, no fractions (rounded down: rather twice than never)."""
    if moment.tzinfo is None:
        raise ValueError("a time for the CRM must be aware")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")
