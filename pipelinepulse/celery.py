"""The Celery application. Tasks live in each app's `tasks.py`; schedules in the database.

A task is a nudge: the truth is a row, and what a lost message missed is swept up by Beat.
"""

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")

app = Celery("pipelinepulse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Somebody listens: that is enough for Celery to leave Django's logging as it is."""
