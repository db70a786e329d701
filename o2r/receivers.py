"""Hears that deals changed and has them recomputed; a nudge, the watermark is the truth."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.dispatch import receiver

from crm.signals import deals_changed
from o2r import recompute as engine

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
