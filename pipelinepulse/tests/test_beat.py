"""Schedules survive a clock that stood ahead (RELIABILITY 18)."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django_celery_beat.models import PeriodicTask

pytestmark = pytest.mark.django_db


@pytest.fixture
def delta(db) -> PeriodicTask:
    return PeriodicTask.objects.get(task="crm.tasks.scheduled_delta")


def entry_of(task: PeriodicTask):
    scheduler_class = import_string(settings.CELERY_BEAT_SCHEDULER.replace(":", "."))
    return scheduler_class.Entry(task)


def test_row_18_a_schedule_that_ran_in_the_future_is_due_at_once(delta):
    delta.last_run_at = timezone.now() + timedelta(days=4000)
    entry = entry_of(delta)
    assert entry.is_due().is_due
    assert not next(entry).is_due().is_due  # and has run now, as any other


def test_row_18_a_schedule_that_has_just_run_is_not_due(delta):
    delta.last_run_at = timezone.now()
    due, in_seconds = entry_of(delta).is_due()
    assert not due
    assert 0 < in_seconds <= delta.interval.every * 60


def test_row_18_a_schedule_that_is_switched_off_stays_off(delta):
    delta.enabled = False
    delta.last_run_at = timezone.now() + timedelta(days=4000)
    assert not entry_of(delta).is_due().is_due
