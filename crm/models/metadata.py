"""What the CRM says about itself: organisation, users, fields, stages, currencies and rates."""

from django.db import models


class CrmConnection(models.Model):
    """The one CRM organisation of this installation, and how the last attempt to reach it went."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    org_id = models.CharField(max_length=32, default="", blank=True)
    org_name = models.CharField(max_length=255, default="", blank=True)
    domain_name = models.CharField(max_length=64, default="", blank=True)
    edition = models.CharField(max_length=64, default="", blank=True)
    time_zone = models.CharField(max_length=64, default="", blank=True)
    home_currency = models.CharField(max_length=10, default="", blank=True)
    multi_currency = models.BooleanField(default=False)
    profile = models.CharField(max_length=16, default="", blank=True)
    fingerprint = models.CharField(max_length=32, default="", blank=True, editable=False)
    last_attempt_at = models.DateTimeField(null=True, blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=64, default="", blank=True)
    error_message = models.TextField(default="", blank=True)
    metadata_read_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "CRM connection"
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="crm_connection_is_one")
        ]

    def __str__(self) -> str:
        return self.org_name or "CRM"


class CrmUser(models.Model):
    """A user of the CRM: owner of records. Kept when deactivated or deleted there."""

    zoho_id = models.BigIntegerField(unique=True)
    name = models.CharField(max_length=255, default="")
    email = models.CharField(max_length=320, default="", blank=True, db_index=True)
    status = models.CharField(max_length=16, default="unknown")
    role = models.CharField(max_length=255, default="", blank=True)
    profile = models.CharField(max_length=255, default="", blank=True)
    updated_at = models.DateTimeField()

    class Meta:
        verbose_name = "CRM user"

    def __str__(self) -> str:
        return self.name or self.email or f"CRM user {self.zoho_id}"


class CrmField(models.Model):
    """A field of a module, as the CRM's metadata describes it."""

    module = models.CharField(max_length=16)
    api_name = models.CharField(max_length=100)
    label = models.CharField(max_length=255, default="")
    data_type = models.CharField(max_length=40, default="")
    json_type = models.CharField(max_length=40, default="")
    length = models.IntegerField(null=True)
    decimal_place = models.IntegerField(null=True)
    is_unique = models.BooleanField(default=False)
    is_read_only = models.BooleanField(default=False)
    picklist = models.JSONField(default=list)
    read_at = models.DateTimeField()

    class Meta:
        verbose_name = "CRM field"
        constraints = [
            models.UniqueConstraint(fields=["module", "api_name"], name="crm_field_once")
        ]

    def __str__(self) -> str:
        return f"{self.module}.{self.api_name}"


OUR_STAGES = [
    ("qualification", "Qualification"),
    ("discovery", "Discovery"),
    ("proposal", "Proposal"),
    ("negotiation", "Negotiation"),
    ("other", "Other"),
    ("closed_won", "Closed won"),
    ("closed_lost", "Closed lost"),
]


class CrmStage(models.Model):
    """A sales stage of the CRM and what it means here: `our_stage`, `probability` are editable."""

    actual_name = models.CharField(max_length=255, unique=True)
    display_name = models.CharField(max_length=255)
    former_names = models.JSONField(
        default=list,
        blank=True,
        editable=False,
        help_text="How it was shown before: deals that were not read since still say so.",
    )
    forecast_type = models.CharField(
        max_length=4, choices=[("open", "Open"), ("won", "Closed won"), ("lost", "Closed lost")]
    )
    our_stage = models.CharField(max_length=16, choices=OUR_STAGES, default="other")
    probability = models.SmallIntegerField(null=True, blank=True)
    is_edited = models.BooleanField(
        default=False, help_text="Set by ops: the CRM's metadata no longer changes it."
    )
    sequence = models.IntegerField(default=0)
    in_use = models.BooleanField(default=True)

    class Meta:
        verbose_name = "stage"
        ordering = ["sequence", "id"]

    def __str__(self) -> str:
        return self.display_name


class Pipeline(models.Model):
    zoho_id = models.BigIntegerField(unique=True)
    name = models.CharField(max_length=255)
    is_default = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name


class PipelineStage(models.Model):
    pipeline = models.ForeignKey(Pipeline, on_delete=models.CASCADE, related_name="stages")
    stage = models.ForeignKey(CrmStage, on_delete=models.CASCADE, related_name="+")
    sequence = models.IntegerField(default=0)

    class Meta:
        ordering = ["pipeline", "sequence"]
        constraints = [
            models.UniqueConstraint(fields=["pipeline", "stage"], name="crm_pipeline_stage_once")
        ]

    def __str__(self) -> str:
        return f"{self.pipeline_id}: {self.stage_id}"


class Currency(models.Model):
    """A currency of the organisation; its rates are kept by day in `ExchangeRate`."""

    iso_code = models.CharField(max_length=10, unique=True)
    name = models.CharField(max_length=100, default="")
    is_home = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    decimals = models.SmallIntegerField(default=2)

    class Meta:
        verbose_name_plural = "currencies"

    def __str__(self) -> str:
        return self.iso_code


class ExchangeRate(models.Model):
    """Units of the currency for one unit of the home currency, from this day on.

    Nine decimals as the CRM gives them, kept as a whole number of billionths: a decimal column
    of SQLite would round.
    """

    CRM, MANUAL = "crm", "manual"

    iso_code = models.CharField(max_length=10)
    day = models.DateField()
    rate_nano = models.BigIntegerField()
    source = models.CharField(
        max_length=6, choices=[(CRM, "from the CRM"), (MANUAL, "manual")], default=CRM
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["iso_code", "day", "source"], name="crm_rate_once"),
            models.CheckConstraint(condition=models.Q(rate_nano__gt=0), name="crm_rate_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.iso_code} {self.day}"
