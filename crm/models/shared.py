"""What all processes share beside the mirror: one text value by name, with a life.

Decides the row; `crm.shared_state` decides how it is read and written.
"""

from __future__ import annotations

from django.db import models


class SharedValue(models.Model):
    """A named value: a token (encrypted), a breaker's state, a bucket of permits, a lock.

    Times are seconds since 1970 by the clock that `crm.shared_state` names. `set_at` is kept
    because a clock that goes back must not lengthen a life.
    """

    name = models.CharField(max_length=200, primary_key=True)
    value = models.TextField()
    set_at = models.FloatField()
    expires_at = models.FloatField(null=True)

    class Meta:
        verbose_name = "shared value"

    def __str__(self) -> str:
        return self.name
