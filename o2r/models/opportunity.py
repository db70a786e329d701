"""The tracking record of one deal: every mirrored deal has its opportunity.

All of it but `blocked_…` is derived from the deal, the milestones, the rules and the business day
by `o2r/recompute.py`, which alone writes these rows; nothing here is typed by anybody.
"""

from django.conf import settings
from django.db import models
from django.db.models import JSONField, Q, Value

from crm.models import Deal

ACTIVE, REALIZED, LOST = "active", "realized", "lost"
OUTCOMES = [(o, o.title()) for o in (ACTIVE, REALIZED, LOST)]
GREEN, YELLOW, RED, BLOCKED = "green", "yellow", "red", "blocked"
NO_ROWS = Value([], JSONField())
SIGNALS = (GREEN, YELLOW, RED, BLOCKED)


class Opportunity(models.Model):
    """Phase, signal and outcome as of the business day `as_of`, with what they follow from.

    `reasons` is a list of `{rule, severity, milestone, date, since, worse_on, text?}`, the worst
    first; their days grow while nobody writes here, so `health_signals.reasons_on` tells them.
    `findings` is a list of `{kind, milestone, other}` (`phases.Finding`). `turns_on` is the next
    day on which anything here changes by time alone: the daily turn looks at no other. `as_of` is
    the day for which these columns were written; they hold until `turns_on`. Without it nothing
    was derived yet.

    `counted_…` is what this opportunity last added to the roll-ups (all empty: nothing), together
    with the derived columns. They move by the difference between that and the deal as it is now,
    in the transaction that rewrites these columns: the same recompute twice changes nothing.
    """

    deal = models.OneToOneField(Deal, on_delete=models.PROTECT, related_name="opportunity")

    current_phase = models.SmallIntegerField(default=1, db_default=1)
    highest_phase = models.SmallIntegerField(
        default=1,
        db_default=1,
        help_text="The furthest it ever was; a date cleared later does not lower it.",
    )
    phase_entered_on = models.DateField(null=True)
    outcome = models.CharField(max_length=8, choices=OUTCOMES, default=ACTIVE, db_default=ACTIVE)
    health_signal = models.CharField(
        max_length=7,
        default="",
        db_default="",
        blank=True,
        help_text="Empty: it has ended, there is none.",
    )
    reasons = models.JSONField(default=list, db_default=NO_ROWS)
    worse_on = models.DateField(null=True)
    turns_on = models.DateField(null=True)
    findings = models.JSONField(default=list, db_default=NO_ROWS)
    sow_estimated_on = models.DateField(
        null=True, help_text="The day it entered the SOW stage, where the CRM has no SOW date."
    )
    cycle_days = models.IntegerField(
        null=True, help_text="Proposal to revenue recognised; empty: not counted."
    )
    phase1_days = models.IntegerField(null=True, help_text="Of its completed stay; so below.")
    phase2_days = models.IntegerField(null=True)
    phase3_days = models.IntegerField(null=True)
    phase4_days = models.IntegerField(null=True)
    is_recognised = models.BooleanField(
        default=False, db_default=False, help_text="Its revenue is recognised."
    )
    is_overdue = models.BooleanField(
        default=False, db_default=False, help_text="A payment is overdue."
    )
    as_of = models.DateField(null=True)

    blocked_reason = models.TextField(default="", db_default="", blank=True)
    blocked_on = models.DateField(null=True, blank=True)
    blocked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    is_counted = models.BooleanField(default=False)
    counted_stage = models.CharField(max_length=16, default="")
    counted_territory = models.CharField(max_length=255, default="")
    counted_service_line = models.CharField(max_length=255, default="")
    counted_owner_id = models.BigIntegerField(default=0)
    counted_closed_on = models.DateField(null=True)
    counted_sgd_minor = models.BigIntegerField(null=True)
    counted_weighted_minor = models.BigIntegerField(null=True)
    counted_has_amount = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "opportunities"
        constraints = [
            models.CheckConstraint(
                condition=Q(blocked_on__isnull=True) | ~Q(blocked_reason=""),
                name="o2r_blocked_by_person_has_a_reason",
                violation_error_message="Say what blocks it.",
            )
        ]
        indexes = [
            # the daily turn: few of all rows are due on a day
            models.Index(
                fields=["turns_on"], condition=Q(turns_on__isnull=False), name="o2r_turns_on"
            ),
            # the review queue and the calendar of future reds
            models.Index(
                fields=["worse_on"], condition=Q(worse_on__isnull=False), name="o2r_worse_on"
            ),
            # lists by outcome and signal, the largest of those at risk
            models.Index(
                fields=["outcome", "health_signal", "counted_sgd_minor"], name="o2r_outcome_signal"
            ),
            models.Index(fields=["outcome", "current_phase"], name="o2r_outcome_phase"),
            # the list behind that figure
            models.Index(fields=["deal"], condition=Q(is_overdue=True), name="o2r_overdue"),
        ]

    def __str__(self) -> str:
        return f"Opportunity of deal {self.deal_id}"
