"""The tracking record of one deal: every mirrored deal has its opportunity."""

from django.db import models

from crm.models import Deal


class Opportunity(models.Model):
    """`counted_…` is what this opportunity last added to the roll-up (all empty: nothing).

    The roll-up moves by the difference between that and the deal as it is now, in the transaction
    that rewrites these columns: the same recompute twice changes nothing.
    """

    deal = models.OneToOneField(Deal, on_delete=models.PROTECT, related_name="opportunity")
    is_counted = models.BooleanField(default=False)
    counted_stage = models.CharField(max_length=16, default="")
    counted_territory = models.CharField(max_length=255, default="")
    counted_service_line = models.CharField(max_length=255, default="")
    counted_owner_id = models.BigIntegerField(default=0)
    counted_closed_on = models.DateField(null=True)
    counted_sgd_minor = models.BigIntegerField(null=True)
    counted_weighted_minor = models.BigIntegerField(null=True)
    counted_has_amount = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "opportunities"

    def __str__(self) -> str:
        return f"Opportunity of deal {self.deal_id}"
