"""Wires the product together: settings, addresses, Celery, the supervisor."""

from pipelinepulse.celery import app as celery_app

__all__ = ["celery_app"]
