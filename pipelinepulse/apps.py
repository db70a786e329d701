"""App configuration of pipelinepulse."""

from django.apps import AppConfig


class PipelinePulseConfig(AppConfig):
    name = "pipelinepulse"
    verbose_name = "Pipeline Pulse"
