"""Where the next delta of a module starts. Only the CRM's clock counts, never ours.

The mark moves to S0, the CRM's time at the start of a run, after everything up to it is stored,
and never backwards. Reading starts an overlap before it, because records may become visible late.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.utils import timezone

from crm.models import MirrorState

log = structlog.get_logger(__name__)
OVERLAP = timedelta(minutes=10)
# A mark further ahead of our clock than this was not set by a run.
PLAUSIBLE_LEAD = timedelta(days=1)


def watermark_of(module: str) -> datetime | None:
    """The mark, or None before the first complete run, and when the stored one is impossible."""
    mark = MirrorState.objects.filter(module=module).values_list("watermark", flat=True).first()
    return None if mark is not None and _is_impossible(mark) else mark


def _is_impossible(mark: datetime) -> bool:
    return mark > timezone.now() + PLAUSIBLE_LEAD


def impossible() -> dict[str, datetime]:
    """Modules whose mark no run can have set: what changed before it would never be read again."""
    rows = MirrorState.objects.filter(watermark__gt=timezone.now() + PLAUSIBLE_LEAD)
    return dict(rows.values_list("module", "watermark"))


def doubt(module: str) -> str:
    """The alarm about a mark that is not believed, or nothing."""
    mark = impossible().get(module)
    if mark is None:
        return ""
    log.error("watermark_impossible", module=module, watermark=mark.isoformat())
    return (
        f"Its watermark stood at {mark:%Y-%m-%d %H:%M} UTC, where no sync can have set it, so the "
        "whole module was read. Look who writes to the database, or whether a clock was wrong."
    )


def read_from(mark: datetime) -> datetime:
    """The instant from which a delta asks (inclusive)."""
    return mark - OVERLAP


def skip(module: str, why: str) -> None:
    """The CRM does not let us read this module: it is not waited for until it was read once."""
    MirrorState.objects.update_or_create(module=module, defaults={"skipped_message": why[:1000]})


def unreadable() -> list[str]:
    """Modules that were refused and never read."""
    refused = MirrorState.objects.exclude(skipped_message="").filter(watermark__isnull=True)
    return list(refused.values_list("module", flat=True))


def move(
    module: str, s0: datetime, *, is_full: bool, covered_at: datetime | None = None
) -> datetime:
    """Everything up to `s0` is stored: move the mark, return where it stands now.

    Freshness counts from `covered_at`, where that is another moment: a CRM that sends no Date
    gives a mark as old as its newest record, however young the mirror is.
    """
    covered_at = covered_at or s0
    with transaction.atomic():
        MirrorState.objects.get_or_create(module=module)
        state = MirrorState.objects.select_for_update().get(module=module)
        held = state.watermark
        if held is not None and _is_impossible(held):
            held = None
        state.previous_watermark = held
        state.watermark = max(filter(None, [held, s0]))
        # The CRM's clock may be far ahead of ours; nobody else may.
        state.watermark_limit = max(timezone.now(), state.watermark, covered_at) + PLAUSIBLE_LEAD
        state.complete_s0 = max(filter(None, [state.complete_s0 if held else None, covered_at]))
        state.skipped_message = ""
        fields = ["watermark", "watermark_limit", "previous_watermark", "complete_s0"]
        fields.append("skipped_message")
        if is_full:
            state.full_at = timezone.now()
            fields.append("full_at")
        state.save(update_fields=fields)
        return state.watermark
