"""The mirrored records: deals, accounts, contacts, leads.

Columns hold mapped, canonical values; the record as received lies beside them in
`ReceivedRecord`. Rows are written by `crm/sync/store.py` alone. Money is whole minor units of its
currency (SQLite loses cents in a decimal column beyond 15 digits); SGD amounts are cents.
"""

from django.db import models

from crm.models.metadata import CrmUser

OPEN, WON, LOST = "open", "won", "lost"
STAGE_TYPES = [(OPEN, "Open"), (WON, "Won"), (LOST, "Lost")]


class LiveQuerySet(models.QuerySet):
    """Rows that the CRM still has and that were really read, not only named by another record."""

    def live(self) -> "LiveQuerySet":
        return self.filter(deleted_at__isnull=True, is_stub=False)


class MirroredRecord(models.Model):
    """What every mirrored module has.

    `zoho_id` is null only for a record made here that the CRM has not confirmed yet.
    `change_seq` grows in commit order per module: readers keep their own watermark over it.
    """

    zoho_id = models.BigIntegerField(null=True, blank=True, unique=True)
    owner = models.ForeignKey(
        CrmUser, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    modified_by = models.ForeignKey(
        CrmUser,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
    )
    crm_created_at = models.DateTimeField(null=True, blank=True)
    crm_modified_at = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(
        null=True, blank=True, help_text="When the CRM's answer with this state was requested."
    )
    content_hash = models.CharField(max_length=32, default="", editable=False)
    change_seq = models.BigIntegerField(default=0, editable=False)
    is_stub = models.BooleanField(
        default=False, help_text="Known only because another record names it."
    )
    deleted_at = models.DateTimeField(null=True, blank=True)
    deleted_source = models.CharField(max_length=12, default="", blank=True)
    deleted_by = models.CharField(max_length=255, default="", blank=True)
    first_seen_at = models.DateTimeField()
    updated_at = models.DateTimeField()

    objects = LiveQuerySet.as_manager()

    class Meta:
        abstract = True


class Account(MirroredRecord):
    name = models.CharField(max_length=255, default="")
    industry = models.CharField(max_length=255, null=True, blank=True)
    account_type = models.CharField(max_length=255, null=True, blank=True)
    country = models.CharField(max_length=255, null=True, blank=True)
    website = models.CharField(max_length=450, null=True, blank=True)
    phone = models.CharField(max_length=60, null=True, blank=True)
    employees = models.BigIntegerField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["change_seq"], name="crm_account_seq"),
            models.Index(fields=["name", "id"], name="crm_account_name"),
        ]

    def __str__(self) -> str:
        return self.name or f"Account {self.zoho_id}"


class Contact(MirroredRecord):
    first_name = models.CharField(max_length=255, null=True, blank=True)
    last_name = models.CharField(max_length=255, default="")
    email = models.CharField(max_length=320, null=True, blank=True)
    phone = models.CharField(max_length=60, null=True, blank=True)
    title = models.CharField(max_length=255, null=True, blank=True)
    account = models.ForeignKey(
        Account, null=True, blank=True, on_delete=models.PROTECT, related_name="contacts"
    )

    class Meta:
        indexes = [models.Index(fields=["change_seq"], name="crm_contact_seq")]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.first_name, self.last_name]))


class Lead(MirroredRecord):
    first_name = models.CharField(max_length=255, null=True, blank=True)
    last_name = models.CharField(max_length=255, default="")
    company = models.CharField(max_length=255, null=True, blank=True)
    email = models.CharField(max_length=320, null=True, blank=True)
    phone = models.CharField(max_length=60, null=True, blank=True)
    lead_source = models.CharField(max_length=255, null=True, blank=True)
    status = models.CharField(max_length=255, null=True, blank=True)
    is_converted = models.BooleanField(default=False)
    converted_at = models.DateTimeField(null=True, blank=True)
    converted_account_zoho_id = models.BigIntegerField(null=True, blank=True)
    converted_contact_zoho_id = models.BigIntegerField(null=True, blank=True)
    converted_deal_zoho_id = models.BigIntegerField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["change_seq"], name="crm_lead_seq")]

    def __str__(self) -> str:
        return " ".join(filter(None, [self.first_name, self.last_name]))


class Deal(MirroredRecord):
    """A deal of the CRM: mapped columns, then what follows from them (`crm/sync/derive.py`)."""

    name = models.CharField(max_length=255, default="")
    account = models.ForeignKey(
        Account, null=True, blank=True, on_delete=models.PROTECT, related_name="deals"
    )
    contact = models.ForeignKey(
        Contact,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="deals",
        db_index=False,  # nobody asks by contact, and every index is paid for by each new deal
    )
    pipeline = models.CharField(max_length=255, null=True, blank=True)
    crm_stage = models.CharField(max_length=255, null=True, blank=True)
    crm_probability = models.SmallIntegerField(null=True, blank=True)
    amount_minor = models.BigIntegerField(null=True, blank=True)
    currency = models.CharField(max_length=10, default="")
    given_sgd_minor = models.BigIntegerField(
        null=True, blank=True, help_text="The SGD amount that the CRM itself gives, in cents."
    )
    closing_date = models.DateField(null=True, blank=True)
    deal_type = models.CharField(max_length=255, null=True, blank=True)
    lead_source = models.CharField(max_length=255, null=True, blank=True)
    next_step = models.CharField(max_length=255, null=True, blank=True)
    description = models.TextField(null=True, blank=True)
    loss_reason = models.CharField(max_length=255, null=True, blank=True)
    territory = models.CharField(max_length=255, null=True, blank=True)
    service_line = models.CharField(max_length=255, null=True, blank=True)
    aws_funded = models.BooleanField(null=True, blank=True)
    aws_funded_tag = models.CharField(max_length=255, null=True, blank=True)
    alliance_motion = models.CharField(max_length=255, null=True, blank=True)
    strategic_account = models.BooleanField(null=True, blank=True)
    external_id = models.CharField(max_length=255, null=True, blank=True)
    proposal_date = models.DateField(null=True, blank=True)
    sow_date = models.DateField(null=True, blank=True)
    po_date = models.DateField(null=True, blank=True)
    kickoff_date = models.DateField(null=True, blank=True)
    signoff_date = models.DateField(null=True, blank=True)
    invoice_date = models.DateField(null=True, blank=True)
    payment_date = models.DateField(null=True, blank=True)
    revenue_date = models.DateField(null=True, blank=True)

    stage = models.CharField(max_length=16, default="other")
    stage_type = models.CharField(max_length=4, choices=STAGE_TYPES, default=OPEN)
    probability = models.SmallIntegerField(null=True, blank=True)
    amount_sgd_minor = models.BigIntegerField(null=True, blank=True)
    weighted_sgd_minor = models.BigIntegerField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["change_seq"], name="crm_deal_seq"),
            # the dashboard's lists: recent, top open, closing soon, past their closing date
            models.Index(fields=["crm_modified_at", "id"], name="crm_deal_modified"),
            # with the closing date: which of the largest ones are past it is seen in the index
            models.Index(
                fields=["stage_type", "amount_sgd_minor", "closing_date"], name="crm_deal_value"
            ),
            models.Index(fields=["stage_type", "closing_date", "id"], name="crm_deal_closing"),
            models.Index(fields=["crm_created_at"], name="crm_deal_created"),
        ]

    def __str__(self) -> str:
        return self.name or f"Deal {self.zoho_id}"
