"""What did not fit: records kept aside, values that were left out, deletions held for ops."""

from django.conf import settings
from django.db import models


class FailedRecord(models.Model):
    """Quarantine: a record that could not be stored, with its payload and the reason."""

    module = models.CharField(max_length=16)
    zoho_id = models.BigIntegerField(null=True, blank=True)
    dedupe_key = models.CharField(max_length=64)
    code = models.CharField(max_length=40)
    message = models.TextField()
    payload = models.TextField(default="", blank=True)
    attempts = models.PositiveIntegerField(default=1)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    run_id = models.BigIntegerField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution = models.CharField(
        max_length=10,
        default="",
        blank=True,
        help_text="stored, gone or dismissed; empty where a later sync stored it.",
    )
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["module", "dedupe_key"], name="crm_failed_once")
        ]
        indexes = [models.Index(fields=["resolved_at", "last_seen_at"], name="crm_failed_open")]

    def __str__(self) -> str:
        return f"{self.module} {self.zoho_id or '?'}: {self.code}"


class RecordProblem(models.Model):
    """A value of a stored record that did not fit its field; replaced with each new state."""

    module = models.CharField(max_length=16)
    record_id = models.BigIntegerField()
    field = models.CharField(max_length=64)
    code = models.CharField(max_length=40)
    message = models.CharField(max_length=255)
    seen_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["module", "record_id"], name="crm_problem_record")]

    def __str__(self) -> str:
        return f"{self.module} {self.record_id}.{self.field}: {self.code}"


class DeletionHold(models.Model):
    """More records gone at once than is plausible: nothing is marked until ops decide."""

    HELD, APPLIED, DISMISSED = "held", "applied", "dismissed"
    CLEARED = "cleared"  # by a full sync: nothing is left to decide

    module = models.CharField(max_length=16)
    run_id = models.BigIntegerField(
        null=True, blank=True, help_text="Empty where sending found that they are gone."
    )
    zoho_ids = models.JSONField(default=list)
    unasked_ids = models.JSONField(
        default=list,
        blank=True,
        help_text="Of these ids, those that were missed but not asked for one by one.",
    )
    live_before = models.PositiveIntegerField()
    status = models.CharField(
        max_length=10,
        choices=[(s, s.title()) for s in (HELD, APPLIED, DISMISSED, CLEARED)],
        default=HELD,
    )
    held_at = models.DateTimeField()
    decided_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        unasked = f", {len(self.unasked_ids)} not asked for by id" if self.unasked_ids else ""
        return f"{self.module}: {len(self.zoho_ids)} of {self.live_before} gone{unasked}"
