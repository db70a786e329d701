"""Whether changes go to the CRM: off, preview or on, and the switch that stops all at once.

An explicit WRITE_BACK=off in the environment always wins; else what ops set, else the setting.
What ops set holds for the organisation that was connected then: “on” said of a demonstration does
not reach the real CRM.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Subquery

from crm.errors import WriteBackForcedOff
from crm.models import CrmConnection, WriteBack
from crm.models.outbox import OFF, ON, PREVIEW
from crm.sync import metadata

__all__ = ["OFF", "ON", "PREVIEW", "is_killed", "is_same_crm", "kill", "mode", "mode_of"]
__all__ += ["set_mode"]


def mode() -> str:
    """off, preview or on, as it holds at this moment; one query."""
    now = CrmConnection.objects.filter(pk=1).values("org_id")[:1]
    row = (
        WriteBack.objects.filter(pk=1)
        .annotate(connected=Subquery(now))
        .values_list("mode", "is_killed", "org_id", "connected")
        .first()
    )
    return mode_of(*(row or ("", False, "", "")))


def mode_of(
    set_to: str | None, is_killed: bool | None, said_for: str | None, connected: str | None
) -> str:
    """The same from what the switch's row says, and the organisation that is connected; None where
    there is none. “off” holds for every organisation."""
    if settings.WRITE_BACK_FORCED_OFF or is_killed:
        return OFF
    if set_to != OFF and (said_for or "") != (connected or ""):
        return settings.WRITE_BACK
    return set_to or settings.WRITE_BACK


def is_same_crm() -> bool:
    """Whether the configured CRM is the one that the mirror was read from."""
    found = CrmConnection.objects.filter(pk=1).values_list("fingerprint", flat=True).first()
    return found is not None and found == metadata.credentials_fingerprint()


def is_killed() -> bool:
    return WriteBack.objects.filter(pk=1, is_killed=True).exists()


def set_mode(wanted: str, *, by: Any, now: datetime) -> None:
    """Set the switch; a kill is lifted by it. Raises WriteBackForcedOff, ValueError."""
    if wanted not in (OFF, PREVIEW, ON):
        raise ValueError(f"{wanted!r} is none of off, preview, on")
    if settings.WRITE_BACK_FORCED_OFF and wanted != OFF:
        raise WriteBackForcedOff
    found = CrmConnection.objects.filter(pk=1).values_list("org_id", flat=True).first()
    said = {"mode": wanted, "org_id": found or "", "is_killed": False}
    WriteBack.objects.update_or_create(pk=1, defaults={**said, "changed_by": by, "changed_at": now})


def kill(*, by: Any, now: datetime) -> None:
    """Nothing more is sent, by whatever process: it is asked before each call."""
    WriteBack.objects.update_or_create(
        pk=1, defaults={"is_killed": True, "changed_by": by, "changed_at": now}
    )
