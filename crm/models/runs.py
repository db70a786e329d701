"""The run ledger, the lease that lets one run at a time, and the state of the mirror per module."""

from datetime import UTC, datetime

from django.conf import settings
from django.db import models
from django.db.models import F, Q

KINDS = ["full", "delta", "webhook", "replay", "reconcile"]
TRIGGERS = ["schedule", "user", "api", "command", "webhook", "startup"]
QUEUED, RUNNING = "queued", "running"
SUCCEEDED, PARTIAL, FAILED = "succeeded", "partial", "failed"
ABORTED, SUPERSEDED, SKIPPED = "aborted", "superseded", "skipped"
STATUSES = [QUEUED, RUNNING, SUCCEEDED, PARTIAL, FAILED, ABORTED, SUPERSEDED, SKIPPED]


class SyncRun(models.Model):
    """One execution of a sync. Totals are the sums of its `SyncRunModule` rows when it ends.

    `lane` is "sync" for a run that needs the lease, null for one nested in it: the partial unique
    constraint makes a second active full or delta impossible, whoever asks for it.
    """

    kind = models.CharField(max_length=10, choices=[(k, k) for k in KINDS])
    trigger = models.CharField(max_length=10, choices=[(t, t) for t in TRIGGERS])
    status = models.CharField(max_length=10, choices=[(s, s) for s in STATUSES], default=QUEUED)
    lane = models.CharField(max_length=8, null=True, blank=True, default="sync")
    slot = models.DateTimeField(null=True, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    requested_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    modules = models.JSONField(default=list)
    since = models.DateTimeField(null=True, blank=True)
    method = models.CharField(max_length=8, default="auto")
    s0 = models.DateTimeField(
        null=True, blank=True, help_text="The CRM's clock at the first answer of the run."
    )
    fence = models.BigIntegerField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    error_code = models.CharField(max_length=64, default="", blank=True)
    can_resume = models.BooleanField(
        default=False, help_text="It stopped over something that passes: the next one goes on."
    )
    message = models.TextField(default="", blank=True)
    api_calls = models.PositiveIntegerField(default=0)
    retries = models.PositiveIntegerField(default=0)
    received_bytes = models.BigIntegerField(default=0)
    pages = models.PositiveIntegerField(default=0)
    seen = models.PositiveIntegerField(default=0)
    created = models.PositiveIntegerField(default=0)
    updated = models.PositiveIntegerField(default=0)
    unchanged = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    deleted = models.PositiveIntegerField(default=0)
    restored = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["lane"],
                condition=Q(status__in=[QUEUED, RUNNING]),
                name="crm_run_one_at_a_time",
            ),
            models.UniqueConstraint(
                fields=["kind", "slot"], condition=Q(slot__isnull=False), name="crm_run_one_a_slot"
            ),
            models.CheckConstraint(
                condition=Q(seen=F("created") + F("updated") + F("unchanged") + F("failed")),
                name="crm_run_counts_add_up",
            ),
        ]
        indexes = [models.Index(fields=["-requested_at"], name="crm_run_newest")]

    def __str__(self) -> str:
        return f"{self.kind} sync {self.pk} ({self.status})"

    @property
    def is_active(self) -> bool:
        return self.status in (QUEUED, RUNNING)


class SyncRunModule(models.Model):
    """Progress of one module within a run: the checkpoint and its counters, moved with each page.

    `cursor` holds the id intervals not stored yet (`{"open": [[after, upto], …]}`, upto null for
    "to the end") or the page token; with it the run goes on after any kill.
    """

    PENDING, READING, SWEEPING, DONE, UNSTABLE, REFUSED = (
        "pending",
        "reading",
        "sweeping",
        "done",
        "unstable",
        "refused",
    )

    run = models.ForeignKey(SyncRun, on_delete=models.CASCADE, related_name="parts")
    module = models.CharField(max_length=16)
    position = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=10, default=PENDING)
    method = models.CharField(max_length=8, default="")
    cursor = models.JSONField(default=dict)
    isolation = models.JSONField(
        default=dict, editable=False, help_text="Which records are suspected of killing workers."
    )
    expected = models.PositiveIntegerField(null=True)
    watermark_before = models.DateTimeField(null=True)
    watermark_after = models.DateTimeField(null=True)
    message = models.TextField(default="", blank=True)
    pages = models.PositiveIntegerField(default=0)
    seen = models.PositiveIntegerField(default=0)
    created = models.PositiveIntegerField(default=0)
    updated = models.PositiveIntegerField(default=0)
    unchanged = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    deleted = models.PositiveIntegerField(default=0)
    restored = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["run", "module"], name="crm_run_module_once")
        ]

    def __str__(self) -> str:
        return f"{self.module} of run {self.run_id}"


class SweepCandidate(models.Model):
    """A mirrored record that a full run did not meet where it should be: asked for by id later."""

    part = models.ForeignKey(SyncRunModule, on_delete=models.CASCADE, related_name="candidates")
    zoho_id = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["part", "zoho_id"], name="crm_candidate_once")
        ]

    def __str__(self) -> str:
        return str(self.zoho_id)


class SyncLease(models.Model):
    """One holder at a time; `fence` grows with each holder, so that a late one cannot write.

    Times are milliseconds of the database's clock: machines may disagree, the database does not.
    """

    name = models.CharField(max_length=16, primary_key=True)
    holder = models.CharField(max_length=64, default="")
    fence = models.BigIntegerField(default=0)
    expires_ms = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} fence {self.fence}"


class MirrorState(models.Model):
    """How far the mirror of one module reaches. `change_seq` is the gate of every store: the row
    is locked while a batch is written, so its numbers appear in commit order.

    A watermark that no run has set would hide changes for ever: the database refuses one that lies
    beyond `watermark_limit` or out of all reason, whoever writes it.
    """

    module = models.CharField(max_length=16, primary_key=True)
    change_seq = models.BigIntegerField(default=0)
    watermark = models.DateTimeField(null=True, blank=True)
    previous_watermark = models.DateTimeField(null=True, blank=True)
    watermark_limit = models.DateTimeField(
        null=True,
        blank=True,
        help_text="The latest that the watermark can be: a day after it was last moved.",
    )
    complete_s0 = models.DateTimeField(
        null=True,
        blank=True,
        help_text="The CRM's clock at the start of the last complete run; freshness is its age.",
    )
    full_at = models.DateTimeField(null=True, blank=True)
    derive_needed = models.BooleanField(default=False)
    derive_cursor = models.BigIntegerField(default=0)
    derived_on = models.DateField(
        null=True, blank=True, help_text="The business day whose rates the open deals stand at."
    )
    replay_needed = models.BooleanField(
        default=False, help_text="The mapping changed: the kept records are to be mapped again."
    )
    skipped_message = models.TextField(default="", blank=True)
    lost_fields = models.JSONField(
        null=True,
        blank=True,
        help_text="Fields that the CRM had and has no more: name → since when.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    watermark__gte=datetime(2000, 1, 1, tzinfo=UTC),
                    watermark__lt=datetime(2100, 1, 1, tzinfo=UTC),
                ),
                name="crm_watermark_is_a_time",
            ),
            models.CheckConstraint(
                condition=Q(watermark__lte=F("watermark_limit")), name="crm_watermark_not_ahead"
            ),
            models.CheckConstraint(
                condition=Q(complete_s0__lte=F("watermark_limit")), name="crm_complete_not_ahead"
            ),
        ]

    def __str__(self) -> str:
        return self.module
