"""The Celery application. Tasks live in each app's `tasks.py`; schedules in the database.

A task is a nudge: the truth is a row, and what a lost message missed is swept up by Beat.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pipelinepulse.settings")

app = Celery("pipelinepulse")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
