"""App configuration of o2r: connects the receivers."""

from django.apps import AppConfig


class O2RConfig(AppConfig):
    name = "o2r"
    verbose_name = "Opportunity to revenue"

    def ready(self) -> None:
        from o2r import receivers  # noqa: F401
