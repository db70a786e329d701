"""The schedules of the database, also after this machine's clock was wrong for a while."""

from __future__ import annotations

from typing import Any

from celery.schedules import schedstate
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry


class Entry(ModelEntry):
    """A schedule that last ran in the future is due: it would rest until that day otherwise."""

    def is_due(self) -> Any:
        if self.model.enabled and self.last_run_at > self._default_now():
            return schedstate(is_due=True, next=0)
        return super().is_due()


class Scheduler(DatabaseScheduler):
    Entry = Entry
