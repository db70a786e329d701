"""A person's word that an opportunity is blocked, with the reason; and that it is not any more.

A single milestone is blocked by recording it so (`o2r/services/milestones.py`).
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.db import transaction

from o2r.errors import Ended
from o2r.models import Opportunity
from o2r.models.opportunity import ACTIVE
from o2r.permissions import may_record
from o2r.services.entry import require, text_of
from o2r.services.milestones import Held, hold, keep_change

WHY = "Say what blocks it."


def block(
    opportunity: Opportunity,
    *,
    user: Any,
    now: datetime,
    today: date,
    reason: str,
    version: int | None = None,
) -> Opportunity:
    """Blocked from today on, or for another reason than before.

    Raises PermissionRefused, Ended, RecordedMeanwhile, FieldsRefused.
    """
    require(may_record(user, opportunity.deal))
    reason = text_of("reason", reason, most=2_000, why_needed=WHY)
    with transaction.atomic():
        held = hold(opportunity, user=user, now=now, today=today, version=version)
        opportunity.refresh_from_db()
        if opportunity.outcome != ACTIVE:
            raise Ended("This opportunity has ended, so nothing blocks it any more.")
        if opportunity.blocked_reason != reason:
            _say(held, reason, opportunity.blocked_on or today, user)
    return opportunity


def unblock(
    opportunity: Opportunity, *, user: Any, now: datetime, today: date, version: int | None = None
) -> Opportunity:
    """Not blocked any more; one that was not is left as it is. Raises as `block`."""
    with transaction.atomic():
        held = hold(opportunity, user=user, now=now, today=today, version=version)
        opportunity.refresh_from_db()
        if opportunity.blocked_on is not None:
            _say(held, "", None, None)
    return opportunity


def _say(held: Held, reason: str, on: date | None, by: Any) -> None:
    opportunity = held.opportunity
    old = {"blocked_reason": opportunity.blocked_reason}
    opportunity.blocked_reason, opportunity.blocked_on, opportunity.blocked_by = reason, on, by
    opportunity.save(update_fields=["blocked_reason", "blocked_on", "blocked_by"])
    keep_change(held, "", old, {"blocked_reason": reason})
