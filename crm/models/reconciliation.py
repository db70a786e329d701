"""What the nightly reconcile found: the mirror held against the CRM, and what was done about it."""

from django.db import models


class Reconciliation(models.Model):
    """The result of one reconcile: one sentence, and per module what was compared.

    `modules`: module → `checked` (records of the CRM that were compared), `ours` and `theirs` (how
    many each side has), `waiting` (changed after the mark of the mirror: due with the next delta),
    `found` (kind → differing records, after asking by id), `repaired`, `left`, `sampled` (records
    compared in every field), `months` (those whose counts or sums differ, as first seen).
    """

    run = models.OneToOneField("crm.SyncRun", on_delete=models.CASCADE, related_name="result")
    ended_at = models.DateTimeField(null=True, blank=True)
    is_exact = models.BooleanField(
        default=False, help_text="Nothing differs, or what did was repaired."
    )
    differing = models.PositiveIntegerField(default=0)
    repaired = models.PositiveIntegerField(default=0)
    sentence = models.TextField(default="", blank=True)
    modules = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.sentence or f"Reconcile of run {self.run_id}"


class MirrorDifference(models.Model):
    """One record that differs. `fields`: our field → [ours, theirs]; empty for a record that one
    side does not have at all."""

    MISSING, GONE, STALE, DRIFT = "missing", "gone", "stale", "drift"
    KINDS = [
        (MISSING, "not here"),
        (GONE, "no longer in the CRM"),
        (STALE, "a change was missed"),
        (DRIFT, "changed there without a new time"),
    ]
    FOUND, REPAIRED, HELD, LEFT = "found", "repaired", "held", "left"
    STATES = [(s, s.title()) for s in (FOUND, REPAIRED, HELD, LEFT)]

    reconciliation = models.ForeignKey(
        Reconciliation, on_delete=models.CASCADE, related_name="differences"
    )
    module = models.CharField(max_length=16)
    zoho_id = models.BigIntegerField()
    kind = models.CharField(max_length=8, choices=KINDS)
    state = models.CharField(max_length=8, choices=STATES, default=FOUND)
    fields = models.JSONField(default=dict, blank=True)
    note = models.CharField(max_length=255, default="", blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["reconciliation", "module", "zoho_id"], name="crm_difference_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.module} {self.zoho_id}: {self.get_kind_display()}"
