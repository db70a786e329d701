"""What people do about an opportunity: action items, activities, reviews, snoozes."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from crm.models import CrmUser
from o2r.models.opportunity import Opportunity

PERSON = settings.AUTH_USER_MODEL


class ActionItem(models.Model):
    """Something to do, made by a person or proposed by a rule (`rule` is its key).

    One open item per rule and opportunity; the same spell of a reason (`reason_since`) is not
    proposed again once it was ticked. `closed_by_rule`: the reason ended before anybody ticked it.
    """

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="action_items"
    )
    text = models.CharField(max_length=500)
    owner = models.ForeignKey(
        CrmUser, null=True, blank=True, on_delete=models.PROTECT, related_name="action_items"
    )
    due_on = models.DateField(null=True, blank=True)
    rule = models.SlugField(max_length=40, default="", blank=True)
    reason_since = models.DateField(
        null=True, blank=True, help_text="The day on which its spell began: the start of the rule."
    )
    done_at = models.DateTimeField(null=True, blank=True)
    done_by = models.ForeignKey(
        PERSON, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    closed_by_rule = models.BooleanField(default=False)
    created_by = models.ForeignKey(
        PERSON, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["due_on", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["opportunity", "rule"],
                condition=Q(done_at__isnull=True) & ~Q(rule=""),
                name="o2r_one_open_item_a_rule",
            )
        ]
        indexes = [
            # my tasks due
            models.Index(
                fields=["owner", "due_on"],
                condition=Q(done_at__isnull=True),
                name="o2r_item_due",
            )
        ]

    def __str__(self) -> str:
        return self.text


class Activity(models.Model):
    """A call, a meeting, a mail: planned, then done, and how it went."""

    TYPES = [(t, t.title()) for t in ("call", "meeting", "email", "task", "other")]
    OUTCOMES = [(o, o.title()) for o in ("successful", "failed", "rescheduled")]

    opportunity = models.ForeignKey(
        Opportunity, on_delete=models.CASCADE, related_name="activities"
    )
    type = models.CharField(max_length=8, choices=TYPES, default="call")
    description = models.TextField()
    scheduled_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    outcome = models.CharField(max_length=11, choices=OUTCOMES, default="", blank=True)
    created_by = models.ForeignKey(
        PERSON, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "activities"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(outcome="") | Q(completed_at__isnull=False),
                name="o2r_outcome_of_what_was_done",
            )
        ]

    def __str__(self) -> str:
        return f"{self.type}: {self.description[:60]}"


class Review(models.Model):
    """What was decided in a review, against the facts as they were. The server sets signal, phase
    and `facts`; the author may change note and decision on the same business day."""

    opportunity = models.ForeignKey(Opportunity, on_delete=models.CASCADE, related_name="reviews")
    reviewed_on = models.DateField()
    health_signal = models.CharField(max_length=7, default="", blank=True)
    current_phase = models.SmallIntegerField()
    facts = models.JSONField(
        default=dict, help_text="Reasons, dates, stage, amount and closing date as they were."
    )
    decision = models.CharField(max_length=500, default="", blank=True)
    note = models.TextField(default="", blank=True)
    reviewer = models.ForeignKey(PERSON, null=True, on_delete=models.SET_NULL, related_name="+")
    reviewer_name = models.CharField(max_length=255, default="")
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["reviewed_on"], name="o2r_review_day")]

    def __str__(self) -> str:
        return f"Review of {self.opportunity_id} on {self.reviewed_on}"


class Snooze(models.Model):
    """A person's word that an alert may wait: it hides the alert, never the signal."""

    opportunity = models.ForeignKey(Opportunity, on_delete=models.CASCADE, related_name="snoozes")
    until = models.DateField(help_text="The alert is back on this day.")
    reason = models.CharField(max_length=500)
    author = models.ForeignKey(PERSON, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["opportunity"],
                condition=Q(ended_at__isnull=True),
                name="o2r_one_snooze_at_a_time",
            )
        ]

    def __str__(self) -> str:
        return f"{self.opportunity_id} until {self.until}"
