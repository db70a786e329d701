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


class TrackerSums(models.Model):
    """Count and sums of the live opportunities of one standing; the standing's columns."""

    outcome = models.CharField(max_length=8)
    phase = models.SmallIntegerField()
    highest_phase = models.SmallIntegerField()
    signal = models.CharField(max_length=7)
    is_overdue = models.BooleanField()
    is_recognised = models.BooleanField()
    count = models.BigIntegerField(default=0)
    sgd_minor = models.BigIntegerField(default=0)
    weighted_minor = models.BigIntegerField(default=0)
    no_amount = models.BigIntegerField(default=0)
    no_rate = models.BigIntegerField(default=0)

    class Meta:
        abstract = True


STANDING = ("outcome", "phase", "highest_phase", "signal", "is_overdue", "is_recognised")


class TrackerCell(TrackerSums):
    """Of one territory, service line and owner; "" and 0 stand for none given. For filters."""

    territory = models.CharField(max_length=255)
    service_line = models.CharField(max_length=255)
    owner_id = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["territory", "service_line", "owner_id", *STANDING],
                name="o2r_tracker_cell_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.territory} {self.service_line} {self.owner_id}: {self.count}"


class TrackerMargin(TrackerSums):
    """The same along one dimension at a time (as in `ClosedDay`): far fewer rows than cells, for
    the page that filters nothing."""

    dimension = models.CharField(max_length=12)
    value = models.CharField(max_length=255)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dimension", "value", *STANDING], name="o2r_tracker_margin_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.dimension}={self.value}: {self.count}"


class DayCount(models.Model):
    """How many live opportunities took how many days: `counts` is {days: how many}.

    `kind` is cycle (proposal to revenue) or phase1 … phase4 (a completed stay); `dimension` and
    `value` as in `ClosedDay`. A median needs them all, and they are few: one row is read, not
    a row per day.
    """

    kind = models.CharField(max_length=8)
    dimension = models.CharField(max_length=12)
    value = models.CharField(max_length=255)
    counts = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["dimension", "value", "kind"], name="o2r_day_count_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.dimension}={self.value}"


class RecomputeState(models.Model):
    """How far o2r has followed the mirror: `deal_seq` is its watermark over `Deal.change_seq`.

    The row is locked while a batch is recomputed: one writer of opportunities and roll-ups.
    `moves_from` is the business day on which it first had caught up with a whole mirror: what the
    pipeline was at the end of that day, and of each later one, is known. `turned_on` is the
    business day as of which every phase and signal stands: the daily turn moves it when it ends.
    """

    id = models.SmallIntegerField(primary_key=True, default=1)
    deal_seq = models.BigIntegerField(default=0)
    caught_up_at = models.DateTimeField(null=True)
    revision = models.BigIntegerField(default=0)
    moves_from = models.DateField(null=True)
    turned_on = models.DateField(null=True)

    def __str__(self) -> str:
        return f"followed to {self.deal_seq}"
