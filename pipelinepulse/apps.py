"""App configuration of pipelinepulse."""

import logging

from django.apps import AppConfig
from django.conf import settings


class PipelinePulseConfig(AppConfig):
    name = "pipelinepulse"
    verbose_name = "Pipeline Pulse"

    def ready(self) -> None:
        for notice in settings.CONFIGURATION_NOTICES:
            logging.getLogger(__name__).warning(notice)
