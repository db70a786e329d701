"""What was changed here and is on its way to the CRM, and the switch that lets it go."""

import json
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

EDIT, CREATE, DELETE, CONVERT = "edit", "create", "delete", "convert"
KINDS = [(kind, kind) for kind in (EDIT, CREATE, DELETE, CONVERT)]

PENDING, READING, SENDING, UNKNOWN = "pending", "reading", "sending", "unknown"
SENT, CONFLICT, DEAD = "sent", "conflict", "dead"
DONE, WITHDRAWN, REFUSED, DISMISSED = "done", "withdrawn", "refused", "dismissed"
STATUSES = [PENDING, READING, SENDING, UNKNOWN, SENT, CONFLICT, DEAD]
STATUSES += [DONE, WITHDRAWN, REFUSED, DISMISSED]
# The row shows our value while the entry is in one of these.
OPEN = (PENDING, READING, SENDING, UNKNOWN, SENT, CONFLICT, DEAD)
# A later edit of the field changes the entry itself: nobody has read or sent it yet.
WAITING = (PENDING, CONFLICT, DEAD)
# A worker has it, or had it when it died.
IN_FLIGHT = (READING, SENDING, UNKNOWN)

OFF, PREVIEW, ON = "off", "preview", "on"
MODES = [(OFF, "Off"), (PREVIEW, "Preview"), (ON, "On")]


class OutboxEntry(models.Model):
    """One change on its way: one field of one record, or a creation, deletion, conversion.

    `base` is the CRM's value that the change was made on, `new` ours, `theirs` what the CRM has
    instead (of a conflict): JSON in the form of `ChangeEvent` (money in minor units, dates ISO,
    references as our primary keys). `details` hold what a conversion is made of, what the CRM
    said of a refusal, and of money what `writeback/money.py` keeps. `sent` means: the CRM has taken
    it, its echo has not come yet.
    """

    module = models.CharField(max_length=16)
    record_id = models.BigIntegerField()
    kind = models.CharField(max_length=8, choices=KINDS, default=EDIT)
    field = models.CharField(max_length=64, default="", blank=True)
    base = models.TextField(null=True, blank=True)
    new = models.TextField(null=True, blank=True)
    theirs = models.TextField(null=True, blank=True)
    theirs_by = models.CharField(max_length=255, default="", blank=True)
    theirs_at = models.DateTimeField(null=True, blank=True)
    details = models.JSONField(default=dict, blank=True)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    author_name = models.CharField(
        max_length=255, default="", blank=True, help_text="Empty for a change by a rule."
    )
    status = models.CharField(max_length=10, choices=[(s, s) for s in STATUSES], default=PENDING)
    code = models.CharField(max_length=64, default="", blank=True)
    message = models.TextField(default="", blank=True)
    attempts = models.PositiveIntegerField(default=0)
    deaths = models.PositiveIntegerField(
        default=0, help_text="Workers that died while they had it."
    )
    has_left = models.BooleanField(
        default=False,
        editable=False,
        help_text="It was sent at least once: whatever the answer, the CRM may have it.",
    )
    created_at = models.DateTimeField()
    next_attempt_at = models.DateTimeField()
    claim = models.CharField(max_length=32, default="", blank=True)
    claimed_until = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(
        null=True, blank=True, help_text="When the CRM's answer to it had come."
    )
    sent_modified_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    flipped_at = models.DateTimeField(
        null=True, blank=True, help_text="When the CRM was seen to have changed it again."
    )
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    undoes = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        verbose_name = "outbox entry"
        verbose_name_plural = "outbox"
        permissions = [("write_through_api", "Can change records by an API token")]
        constraints = [
            # Later edits fold into the one that waits, whoever is quicker.
            models.UniqueConstraint(
                fields=["module", "record_id", "kind", "field"],
                condition=Q(status__in=WAITING),
                name="crm_outbox_one_waits",
            ),
            # Order per field: the next is not taken before the outcome of this is known.
            models.UniqueConstraint(
                fields=["module", "record_id", "kind", "field"],
                condition=Q(status__in=IN_FLIGHT),
                name="crm_outbox_one_flies",
            ),
            models.CheckConstraint(
                condition=Q(status__in=STATUSES), name="crm_outbox_known_status"
            ),
        ]
        indexes = [
            # asked by every stored page, for its records; small, because most entries are closed
            models.Index(
                fields=["module", "record_id"],
                condition=Q(status__in=OPEN),
                name="crm_outbox_open",
            ),
            # what is due, oldest first, and what a dead worker left
            models.Index(
                fields=["status", "next_attempt_at"],
                condition=Q(status__in=(PENDING, *IN_FLIGHT)),
                name="crm_outbox_due",
            ),
            # a worker finds its own again
            models.Index(fields=["claim"], condition=~Q(claim=""), name="crm_outbox_claim"),
            # one record's story, and how often a field was changed back lately
            models.Index(fields=["module", "record_id", "id"], name="crm_outbox_record"),
            # how the way back stands: everything but what is long done
            models.Index(
                fields=["status", "created_at"],
                condition=Q(status__in=(*OPEN, REFUSED)),
                name="crm_outbox_state",
            ),
            # when something was sent last
            models.Index(
                fields=["-sent_at"], condition=Q(sent_at__isnull=False), name="crm_outbox_sent"
            ),
            # drafts and conflicts of a person
            models.Index(fields=["author", "status"], name="crm_outbox_author"),
        ]

    def __str__(self) -> str:
        what = self.field if self.kind == EDIT else self.kind
        return f"{self.module} {self.record_id}: {what} ({self.status})"

    @property
    def base_value(self) -> Any:
        return json.loads(self.base or "null")

    @property
    def new_value(self) -> Any:
        return json.loads(self.new or "null")

    @property
    def theirs_value(self) -> Any:
        return json.loads(self.theirs or "null")

    @property
    def is_open(self) -> bool:
        return self.status in OPEN


class WriteBack(models.Model):
    """The switch. `mode` empty: as the setting WRITE_BACK says. `is_killed` stops at once."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    mode = models.CharField(max_length=8, choices=MODES, default="", blank=True)
    is_killed = models.BooleanField(default=False)
    org_id = models.CharField(
        max_length=32,
        default="",
        blank=True,
        editable=False,
        help_text="The organisation for which the mode was said; it holds for no other.",
    )
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    changed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = verbose_name_plural = "write-back"
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="crm_write_back_is_one")
        ]

    def __str__(self) -> str:
        return "killed" if self.is_killed else self.mode or "as configured"
