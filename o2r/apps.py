"""App configuration of o2r."""

from django.apps import AppConfig


class O2RConfig(AppConfig):
    name = "o2r"
    verbose_name = "Opportunity to revenue"
