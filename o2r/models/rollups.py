"""Figures kept up to date with each recompute, so that a page never groups a million rows.

Written by `o2r/rollups.py` alone, in the transaction in which opportunities are recomputed.
"""

from django.db import models


class PipelineCell(models.Model):
    """Count and sums of the live deals of one stage, territory, service line and owner.

    "" and 0 stand for none given. Money in cents of SGD.
    """

    stage = models.CharField(max_length=16)
    territory = models.CharField(max_length=255)
    service_line = models.CharField(max_length=255)
    owner_id = models.BigIntegerField()
    count = models.BigIntegerField(default=0)
    sgd_minor = models.BigIntegerField(default=0)
    weighted_minor = models.BigIntegerField(default=0)
    no_amount = models.BigIntegerField(default=0)
    no_rate = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["stage", "territory", "service_line", "owner_id"], name="o2r_cell_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.stage} {self.territory} {self.service_line} {self.owner_id}: {self.count}"


class ClosedDay(models.Model):
    """Won and lost deals by closing date, in all and along one dimension at a time.

    `dimension` is all, territory, service_line or owner; `value` its value ("" for all and for
    none given). Filters by several dimensions at once are answered from the deals instead.
    """

    day = models.DateField()
    stage = models.CharField(max_length=16)
    dimension = models.CharField(max_length=12)
    value = models.CharField(max_length=255)
    count = models.BigIntegerField(default=0)
    sgd_minor = models.BigIntegerField(default=0)
    with_value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dimension", "value", "day", "stage"], name="o2r_closed_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.stage} {self.dimension}={self.value}: {self.count}"


class PipelineMove(models.Model):
    """By how much the open deals of one stage grew (or shrank, negative) on one business day.

    `dimension` and `value` as in `ClosedDay`. What the pipeline was at the end of a day is what it
    is now less the moves of the days after it; a day on which nothing moved has no row. Told from
    `RecomputeState.moves_from` on.
    """

    day = models.DateField()
    stage = models.CharField(max_length=16)
    dimension = models.CharField(max_length=12)
    value = models.CharField(max_length=255)
    count = models.BigIntegerField(default=0)
    sgd_minor = models.BigIntegerField(default=0)
    weighted_minor = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dimension", "value", "day", "stage"], name="o2r_move_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.stage} {self.dimension}={self.value}: {self.count:+}"


class RecomputeState(models.Model):
    """How far o2r has followed the mirror: `deal_seq` is its watermark over `Deal.change_seq`.

    The row is locked while a batch is recomputed: one writer of opportunities and roll-ups.
    `moves_from` is the business day on which it first had caught up with a whole mirror: what the
    pipeline was at the end of that day, and of each later one, is known.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    deal_seq = models.BigIntegerField(default=0)
    caught_up_at = models.DateTimeField(null=True)
    revision = models.BigIntegerField(default=0)
    moves_from = models.DateField(null=True)

    def __str__(self) -> str:
        return f"followed to {self.deal_seq}"
