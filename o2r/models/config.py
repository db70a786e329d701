"""What ops set: thresholds of the signals, what a stage says about the phase, which rules run.

Shipped with the defaults of the specification by migration; edited in the admin. A change queues
a recompute of every opportunity (`o2r/recompute.py`).
"""

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q

from crm.models import CrmStage

PHASES = [(n, f"phase{n}") for n in (1, 2, 3, 4)]


class SignalRule(models.Model):
    """One rule of `health_signals.RULES`: on or off, and after how many days it turns.

    Strictly more days than the threshold turn it; empty: it never has that colour.
    """

    key = models.SlugField(primary_key=True, max_length=40)
    is_on = models.BooleanField("on", default=True)
    yellow_days = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(0)]
    )
    red_days = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(0)])
    updated_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["key"]
        constraints = [
            models.CheckConstraint(
                condition=Q(yellow_days__isnull=True)
                | Q(red_days__isnull=True)
                | Q(yellow_days__lt=F("red_days")),
                name="o2r_rule_yellow_before_red",
                violation_error_message="Yellow must come before red: give it fewer days.",
            )
        ]

    def __str__(self) -> str:
        return self.key


class StagePhase(models.Model):
    """The least phase of deals in one stage of the CRM; won stages are at least in phase 3
    unless a row says otherwise. Without a row a stage says nothing."""

    stage = models.OneToOneField(CrmStage, on_delete=models.CASCADE, related_name="least_phase")
    phase = models.SmallIntegerField(
        choices=[(0, "none"), *PHASES],
        help_text="At least this phase; none: the stage says nothing.",
    )

    class Meta:
        verbose_name = "least phase of a stage"
        verbose_name_plural = "least phases of stages"

    def __str__(self) -> str:
        return f"{self.stage}: {self.get_phase_display()}"


class TrackerSettings(models.Model):
    """One row: what else ops decide about O2R."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    sow_stage = models.ForeignKey(
        CrmStage,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name="SOW stage",
        help_text="Where the CRM has no SOW date, it is estimated from the day a deal entered this "
        "stage. None: it is not estimated.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "O2R settings"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="o2r_settings_are_one")]

    def __str__(self) -> str:
        return "O2R settings"
