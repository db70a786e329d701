"""What every act on an opportunity asks first: may they, is it still there, does the text fit.

Decides nothing of its own: permissions are `o2r/permissions.py`, the rest are the services'.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Final

from crm.errors import FieldsRefused, RecordGone
from crm.mapping.convert import FIRST_YEAR, LAST_YEAR, clean_text
from crm.models import CrmUser, Deal
from crm.stages import LOST
from o2r import recompute
from o2r.errors import Ended, PermissionRefused
from o2r.models import Opportunity
from o2r.permissions import Decision


class _Keep:
    """Stands for a field that was not said: it stays as it is. None clears."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final[Any] = _Keep()


def require(decision: Decision) -> None:
    """Raises PermissionRefused with why."""
    if not decision:
        raise PermissionRefused(decision.why)


def opportunity_of(deal: Deal) -> Opportunity:
    """The opportunity of a deal; of one that was mirrored a moment ago it is made now."""
    rows = Opportunity.objects.select_related("deal").filter(deal=deal)
    found = rows.first()
    if found is None:
        recompute.take_along([deal.pk])
        found = rows.get()
    return found


def raise_if_gone(deal: Deal) -> None:
    """Raises RecordGone for a deleted deal."""
    if deal.deleted_at is not None:
        raise RecordGone("This opportunity was deleted; nothing more is kept about it.")


def raise_if_ended(deal: Deal) -> None:
    """Raises Ended: nothing is recorded on a lost or deleted deal."""
    if deal.deleted_at is not None:
        raise Ended("This opportunity was deleted; nothing more can be recorded on it.")
    if deal.stage_type == LOST:
        raise Ended("This deal is lost. Reopen it first; then its milestones can be recorded.")


def text_of(field: str, value: str | None, *, most: int | None, why_needed: str = "") -> str:
    """Storable text. Raises FieldsRefused: too long, or empty where `why_needed` is said."""
    text = clean_text(value or "")
    if why_needed and not text:
        raise FieldsRefused({field: why_needed})
    if most is not None and len(text) > most:
        raise FieldsRefused({field: f"At most {most} characters; this has {len(text)}."})
    return text


def fitting_day(field: str, day: date | None) -> date | None:
    """Raises FieldsRefused for a year that no deal has."""
    if day is not None and not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise FieldsRefused({field: f"Years {FIRST_YEAR} to {LAST_YEAR} are known."})
    return day


def existing_owner(field: str, owner: CrmUser | int | None) -> CrmUser | None:
    """Raises FieldsRefused where no CRM user has this key."""
    if owner is None or isinstance(owner, CrmUser):
        return owner
    found = CrmUser.objects.filter(pk=owner).first()
    if found is None:
        raise FieldsRefused({field: "There is no such CRM user."})
    return found


def name_of(user: Any) -> str:
    return "" if user is None else (user.get_full_name() or user.get_username())[:255]
