"""Hears that deals changed and has them recomputed; a nudge, the watermark is the truth."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from crm.signals import deals_changed


@receiver(deals_changed, dispatch_uid="o2r-recompute")
def queue_recompute(sender: Any, pks: list[int], **kwargs: Any) -> None:
    from crm.tasks import nudge
    from o2r.tasks import recompute

    nudge(recompute)
