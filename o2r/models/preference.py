"""What a person chose for their own pages, wherever they sign in."""

from django.conf import settings
from django.db import models


class Preference(models.Model):
    """One row a person, made by the first choice; without one the defaults hold."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="preference"
    )
    is_mine = models.BooleanField(
        "my deals first", default=False, help_text="The dashboard opens with their own deals."
    )

    def __str__(self) -> str:
        return f"Preference of {self.user}"
