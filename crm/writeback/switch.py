"""Whether changes go to the CRM: off, preview or on, and the switch that stops all at once.

An explicit WRITE_BACK=off in the environment always wins; else what ops set, else the setting.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings

from crm.errors import WriteBackForcedOff
from crm.models import WriteBack
from crm.models.outbox import OFF, ON, PREVIEW

__all__ = ["OFF", "ON", "PREVIEW", "is_killed", "kill", "mode", "mode_of", "set_mode"]


def mode() -> str:
    """off, preview or on, as it holds at this moment; one query."""
    row = WriteBack.objects.filter(pk=1).values_list("mode", "is_killed").first()
    return mode_of(*(row or ("", False)))


def mode_of(set_to: str | None, is_killed: bool | None) -> str:
    """The same from what the switch's row says; None where there is none."""
    if settings.WRITE_BACK_FORCED_OFF or is_killed:
        return OFF
    return set_to or settings.WRITE_BACK


def is_killed() -> bool:
    return WriteBack.objects.filter(pk=1, is_killed=True).exists()


def set_mode(wanted: str, *, by: Any, now: datetime) -> None:
    """Set the switch; a kill is lifted by it. Raises WriteBackForcedOff, ValueError."""
    if wanted not in (OFF, PREVIEW, ON):
        raise ValueError(f"{wanted!r} is none of off, preview, on")
    if settings.WRITE_BACK_FORCED_OFF and wanted != OFF:
        raise WriteBackForcedOff
    WriteBack.objects.update_or_create(
        pk=1,
        defaults={"mode": wanted, "is_killed": False, "changed_by": by, "changed_at": now},
    )


def kill(*, by: Any, now: datetime) -> None:
    """Nothing more is sent, by whatever process: it is asked before each call."""
    WriteBack.objects.update_or_create(
        pk=1, defaults={"is_killed": True, "changed_by": by, "changed_at": now}
    )
