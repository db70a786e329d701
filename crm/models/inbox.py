"""What the CRM tells us by itself: its notices, and the channels through which they come.

A notice is a hint that a record changed (decision 6): what it says of values is never used.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Notice(models.Model):
    """The inbox: one row a record, however often the CRM speaks of it.

    `times` counts what was received, `taken_times` how many of them the worker that took the row
    knew of: one that comes while the record is being fetched makes it wait again afterwards.
    Without a record (`zoho_id` null) it is only counted: an unknown channel or module.
    """

    WAITING, TAKEN, DONE, DEAD, IGNORED = "waiting", "taken", "done", "dead", "ignored"
    STATUSES = [(s, s.title()) for s in (WAITING, TAKEN, DONE, DEAD, IGNORED)]

    module = models.CharField(max_length=64)
    zoho_id = models.BigIntegerField(null=True, blank=True)
    channel_id = models.CharField(max_length=40)
    operation = models.CharField(max_length=16, default="", blank=True)
    status = models.CharField(max_length=8, choices=STATUSES, default=WAITING)
    times = models.PositiveIntegerField(default=1)
    taken_times = models.PositiveIntegerField(default=0)
    first_received_at = models.DateTimeField(help_text="The oldest that is not settled.")
    received_at = models.DateTimeField(help_text="The newest.")
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    taken_until = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    run_id = models.BigIntegerField(null=True, blank=True)
    error_code = models.CharField(max_length=64, default="", blank=True)
    message = models.TextField(default="", blank=True)

    class Meta:
        constraints = [
            # The webhook's single statement counts up on this one.
            models.UniqueConstraint(fields=["module", "zoho_id"], name="crm_notice_record_once"),
            models.UniqueConstraint(
                fields=["channel_id", "module"],
                condition=Q(zoho_id__isnull=True),
                name="crm_notice_ignored_once",
            ),
            models.CheckConstraint(
                condition=Q(status="ignored") | Q(zoho_id__isnull=False),
                name="crm_notice_names_a_record",
            ),
        ]
        indexes = [
            # What is due: asked after every notice, among rows that are nearly all done.
            models.Index(
                fields=["next_attempt_at"], condition=Q(status="waiting"), name="crm_notice_due"
            ),
            # Whether somebody is at it, and whose work has lapsed.
            models.Index(
                fields=["taken_until"], condition=Q(status="taken"), name="crm_notice_taken"
            ),
            # What ops must look at: a few rows.
            models.Index(
                fields=["-received_at"], condition=Q(status="dead"), name="crm_notice_dead"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.module} {self.zoho_id or '?'} ({self.status})"


class NotificationChannel(models.Model):
    """A subscription at the CRM for the changes of one module; it ends by itself within a week.

    `token_mark` tells which webhook token it was given, without telling the token.
    """

    PENDING, ACTIVE, REFUSED = "pending", "active", "refused"
    STATES = [(s, s.title()) for s in (PENDING, ACTIVE, REFUSED)]

    module = models.CharField(max_length=16, unique=True)
    channel_id = models.CharField(max_length=20, unique=True)
    state = models.CharField(max_length=8, choices=STATES, default=PENDING)
    notify_url = models.CharField(max_length=255)
    token_mark = models.CharField(max_length=32, default="", blank=True)
    created_at = models.DateTimeField()
    registered_at = models.DateTimeField(
        null=True, blank=True, help_text="When the CRM last accepted it."
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="As the CRM said.")
    checked_at = models.DateTimeField(
        null=True, blank=True, help_text="When the CRM last said that it exists."
    )
    last_event_at = models.DateTimeField(null=True, blank=True)
    events = models.BigIntegerField(default=0, help_text="Notices that came through it.")
    silent_since = models.DateTimeField(
        null=True, blank=True, help_text="Delta syncs find changes of which it did not tell."
    )
    error_code = models.CharField(max_length=64, default="", blank=True)
    message = models.TextField(default="", blank=True)

    def __str__(self) -> str:
        return f"{self.module} ({self.state})"
