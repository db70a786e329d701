"""What was said of an opportunity when; append-only, written by `o2r/recompute.py` alone."""

from django.conf import settings
from django.db import models

from o2r.models.opportunity import Opportunity


class PhaseChange(models.Model):
    """From one phase to another. `from_phase` 0: the first one known. `to_phase` 0: it ended.

    `happened_on` is the business day of the fact, `learnt_at` when we came to know it. The first
    look at a deal writes one row per fact that led it on, why "from CRM dates".
    """

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="phase_changes"
    )
    from_phase = models.SmallIntegerField(default=0)
    to_phase = models.SmallIntegerField()
    happened_on = models.DateField()
    learnt_at = models.DateTimeField()
    milestone = models.SlugField(max_length=64, default="", help_text="The fact; empty: the stage.")
    why = models.CharField(max_length=255)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        indexes = [models.Index(fields=["opportunity", "id"], name="o2r_phase_story")]

    def __str__(self) -> str:
        return f"{self.opportunity_id}: {self.from_phase} → {self.to_phase}"


class SignalChange(models.Model):
    """From one signal to another. "" stands for none (ended, or the first look)."""

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="signal_changes"
    )
    from_signal = models.CharField(max_length=7, default="")
    to_signal = models.CharField(max_length=7, default="")
    happened_on = models.DateField(help_text="The business day on which it turned.")
    learnt_at = models.DateTimeField()
    reasons = models.JSONField(default=list, help_text="As they were after the change.")

    class Meta:
        indexes = [
            models.Index(fields=["opportunity", "id"], name="o2r_signal_story"),
            # "changed since yesterday: signal"
            models.Index(fields=["happened_on"], name="o2r_signal_day"),
        ]

    def __str__(self) -> str:
        return f"{self.opportunity_id}: {self.from_signal} → {self.to_signal}"
