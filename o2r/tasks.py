"""Celery shells of o2r."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from crm.tasks import is_stopping
from o2r import receivers
from o2r import recompute as engine


@shared_task
def recompute() -> None:
    """Also run by Beat now and then, for nudges that got lost; nothing to do costs three queries.

    The turn follows: after a first sync figures say of which day they are.
    """
    receivers.forget_nudge()
    engine.catch_up(is_stopping)
    engine.turn(timezone.now(), is_stopping)


@shared_task
def turn() -> None:
    """Asked by Beat every minute, so that it runs at 00:00 business time wherever the machine's
    clock stands; once it has run, asking costs one query until the next day."""
    engine.turn(timezone.now(), is_stopping)
