"""Dated facts on the way of one opportunity, and what people say about them."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from o2r.models.opportunity import Opportunity

PENDING, COMPLETED, DELAYED, BLOCKED = "pending", "completed", "delayed", "blocked"
STATUSES = [(s, s.title()) for s in (PENDING, COMPLETED, DELAYED, BLOCKED)]


class Milestone(models.Model):
    """What is known of one milestone beside the deal's own date columns.

    For a key that the CRM has a field for (`milestones.MAPPED`), the day it was reached is the
    deal's column: `completed_on` stays empty here. For any other it is kept here and goes nowhere.
    `status` is what a person said; *completed* follows from the date, *delayed* also from a target
    that has passed (`milestones.status_of`). A row exists once somebody has said something.
    """

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="milestones"
    )
    key = models.SlugField(max_length=64, help_text="One of the built-in keys, or your own.")
    title = models.CharField(
        max_length=120,
        default="",
        blank=True,
        help_text="Of one of your own.",
    )
    target_on = models.DateField(null=True, blank=True)
    completed_on = models.DateField(null=True, blank=True)
    status = models.CharField(max_length=9, choices=STATUSES, default=PENDING)
    note = models.TextField(default="", blank=True)
    blocked_reason = models.TextField(default="", blank=True)
    blocked_on = models.DateField(
        null=True, blank=True, help_text="Business day on which it was marked blocked."
    )
    amount_minor = models.BigIntegerField(
        null=True, blank=True, help_text="Of a part invoice or payment; empty: the deal's amount."
    )
    currency = models.CharField(max_length=10, default="", blank=True)
    is_early_confirmed = models.BooleanField(
        default=False, help_text="Somebody said that the day before the deal's creation is right."
    )
    recorded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    recorded_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["opportunity", "key"], name="o2r_milestone_once"),
            models.CheckConstraint(
                condition=~Q(status=BLOCKED) | ~Q(blocked_reason=""),
                name="o2r_blocked_has_a_reason",
                violation_error_message="Say what blocks it.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} of {self.opportunity_id}"


class MilestoneChange(models.Model):
    """Append-only: who recorded or changed what of a milestone, from what to what."""

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="milestone_changes"
    )
    key = models.SlugField(
        max_length=64, blank=True, help_text="Empty: a person's block of the opportunity itself."
    )
    old = models.JSONField(default=dict, help_text="The fields that changed, as they were.")
    new = models.JSONField(default=dict)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    author_name = models.CharField(max_length=255, default="", blank=True)
    at = models.DateTimeField()
    version = models.BigIntegerField(
        default=0,
        help_text="The deal's version with this change: whoever has an older one did not see it.",
    )

    class Meta:
        indexes = [models.Index(fields=["opportunity", "id"], name="o2r_milestone_story")]

    def __str__(self) -> str:
        return f"{self.key} of {self.opportunity_id}"
