"""History that cannot be rebuilt: every observed change, and each record as received."""

from django.conf import settings
from django.db import models


class ChangeEvent(models.Model):
    """One observed change of one field of a mirrored record; append-only.

    A record's first event is *created*: `new` holds a JSON object of its non-empty mapped values.
    Every later difference is one *changed* event with `old` and `new` as JSON values (our column
    values: money in minor units, dates ISO, references as our primary keys). `changed_at` is when
    it became so in the CRM, as far as the CRM tells (its Modified_Time), `learnt_at` when we read
    it.
    """

    CREATED, CHANGED, DELETED, RESTORED = "created", "changed", "deleted", "restored"
    KINDS = [(k, k.title()) for k in (CREATED, CHANGED, DELETED, RESTORED)]

    module = models.CharField(max_length=16)
    record_id = models.BigIntegerField()
    kind = models.CharField(max_length=8, choices=KINDS)
    field = models.CharField(max_length=64, default="")
    old = models.TextField(null=True)
    new = models.TextField(null=True)
    changed_at = models.DateTimeField(null=True)
    learnt_at = models.DateTimeField()
    source = models.CharField(max_length=12)
    run_id = models.BigIntegerField(null=True)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        db_index=False,  # a person's changes are found through the outbox
        help_text="Who changed it here; empty for what was read from the CRM.",
    )

    class Meta:
        indexes = [
            models.Index(fields=["module", "record_id", "id"], name="crm_event_record"),
            # "what changed since": creations are told by the records themselves
            models.Index(
                fields=["module", "changed_at"],
                condition=models.Q(kind="changed"),
                name="crm_event_changed",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.module} {self.record_id}: {self.kind} {self.field}".strip()


class ReceivedRecord(models.Model):
    """The newest state of a record, letter for letter as the CRM sent it."""

    module = models.CharField(max_length=16)
    record_id = models.BigIntegerField()
    body = models.TextField()
    received_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["module", "record_id"], name="crm_received_once")
        ]

    def __str__(self) -> str:
        return f"{self.module} {self.record_id}"
