"""App configuration of pipelinepulse."""

import logging

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class PipelinePulseConfig(AppConfig):
    name = "pipelinepulse"
    verbose_name = "Pipeline Pulse"

    def ready(self) -> None:
        from pipelinepulse.roles import grant_ops

        post_migrate.connect(grant_ops, dispatch_uid="pulse-grant-ops")
        for notice in settings.CONFIGURATION_NOTICES:
            logging.getLogger(__name__).warning(notice)
