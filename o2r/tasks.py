"""Celery shells of o2r."""

from __future__ import annotations

from celery import shared_task

from crm.tasks import is_stopping
from o2r import receivers
from o2r import recompute as engine


@shared_task
def recompute() -> None:
    """Also run by Beat now and then, for nudges that got lost; nothing to do costs two queries."""
    receivers.forget_nudge()
    engine.catch_up(is_stopping)
