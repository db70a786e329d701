"""Hears that deals or rules changed and has opportunities recomputed; a nudge, the watermark is
the truth."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from crm.signals import deals_changed
from o2r import recompute as engine
from o2r.models import SignalRule, StagePhase, TrackerSettings

# So many at once are recomputed where they were stored: by the broker it takes longer than that.
AT_ONCE = 100
NUDGED_KEY = "o2r:recompute:nudged"
# A nudge that got lost is given again after this; Beat looks anyway.
NUDGE_LASTS_S = 10


@receiver(deals_changed, dispatch_uid="o2r-recompute")
def queue_recompute(sender: Any, pks: list[int], is_awaited: bool = False, **kwargs: Any) -> None:
    if is_awaited and len(pks) <= AT_ONCE and engine.take_along(pks):
        return
    wake_worker()


def wake_worker() -> None:
    """One message for all the pages of a sync, rather than a queue of them before other work."""
    from crm.tasks import nudge
    from o2r.tasks import recompute

    if cache.add(NUDGED_KEY, 1, NUDGE_LASTS_S) and not nudge(recompute):
        forget_nudge()


def forget_nudge() -> None:
    """Called by the worker before it looks: what comes from now on nudges again."""
    cache.delete(NUDGED_KEY)


@receiver(post_save, sender=SignalRule, dispatch_uid="o2r-rule-saved")
@receiver(post_save, sender=StagePhase, dispatch_uid="o2r-stage-phase-saved")
@receiver(post_save, sender=TrackerSettings, dispatch_uid="o2r-settings-saved")
@receiver(post_delete, sender=SignalRule, dispatch_uid="o2r-rule-deleted")
@receiver(post_delete, sender=StagePhase, dispatch_uid="o2r-stage-phase-deleted")
@receiver(post_delete, sender=TrackerSettings, dispatch_uid="o2r-settings-deleted")
def queue_full_recompute(sender: Any, raw: bool = False, **kwargs: Any) -> None:
    """In the transaction of the change: no batch of the old rules comes after it."""
    if raw:
        return
    engine.start_over()
    transaction.on_commit(wake_worker)
