"""Rows of the mirror for tests, with what follows from them computed as the sync does."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import factory

from crm.models import (
    Account,
    Contact,
    CrmConnection,
    CrmStage,
    CrmUser,
    Deal,
    Lead,
    MirrorState,
    Pipeline,
    PipelineStage,
    SyncRun,
)
from crm.models import runs as ledger
from crm.stages import default_table

SEEN = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
FIRST_ID = 3652397000000000000  # the CRM's ids have 19 digits


class CrmUserFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = CrmUser

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 100_000 + n)
    name = factory.Sequence(lambda n: f"Seller {n}")
    email = factory.Sequence(lambda n: f"seller{n}@example.com")
    status = "active"
    updated_at = SEEN


class _RecordFactory(factory.django.DjangoModelFactory):
    class Meta:
        abstract = True

    owner = factory.SubFactory(CrmUserFactory)
    crm_created_at = SEEN
    crm_modified_at = SEEN
    read_at = SEEN
    first_seen_at = SEEN
    updated_at = SEEN


class AccountFactory(_RecordFactory):
    class Meta:
        model = Account

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 200_000 + n)
    name = factory.Sequence(lambda n: f"Account {n}")


class ContactFactory(_RecordFactory):
    class Meta:
        model = Contact

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 300_000 + n)
    first_name = "Kim"
    last_name = factory.Sequence(lambda n: f"Tan {n}")
    account = factory.SubFactory(AccountFactory)


class LeadFactory(_RecordFactory):
    class Meta:
        model = Lead

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 400_000 + n)
    last_name = factory.Sequence(lambda n: f"Lim {n}")
    company = factory.Sequence(lambda n: f"Prospect {n}")
    status = "Contacted"


class DealFactory(_RecordFactory):
    """An open deal in SGD; the stage's type, our stage and the weighted value follow."""

    class Meta:
        model = Deal

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 500_000 + n)
    name = factory.Sequence(lambda n: f"Deal {n}")
    account = factory.SubFactory(AccountFactory)
    contact = factory.SubFactory(ContactFactory)
    crm_stage = "Qualification"
    stage = factory.LazyAttribute(lambda deal: default_table().meaning(deal.crm_stage).ours)
    stage_type = factory.LazyAttribute(lambda deal: default_table().meaning(deal.crm_stage).type)
    probability = 10
    amount_minor = 100_000
    currency = "SGD"
    amount_sgd_minor = factory.LazyAttribute(
        lambda deal: deal.amount_minor if deal.currency == "SGD" else None
    )
    weighted_sgd_minor = factory.LazyAttribute(
        lambda deal: (
            None
            if deal.amount_sgd_minor is None or deal.probability is None
            else deal.amount_sgd_minor * deal.probability // 100
        )
    )
    closing_date = date(2026, 4, 1)
    change_seq = factory.Sequence(lambda n: n + 1)


class SyncRunFactory(factory.django.DjangoModelFactory):
    """A delta that has ended well."""

    class Meta:
        model = SyncRun

    kind = "delta"
    trigger = "schedule"
    status = ledger.SUCCEEDED
    requested_at = SEEN
    started_at = SEEN
    ended_at = SEEN
    modules = ["Accounts", "Contacts", "Leads", "Deals"]


class PipelineFactory(factory.django.DjangoModelFactory):
    """`stages=["Qualification", …]` gives it these stages of the CRM, in order."""

    class Meta:
        model = Pipeline
        skip_postgeneration_save = True

    zoho_id = factory.Sequence(lambda n: FIRST_ID + 600_000 + n)
    name = factory.Sequence(lambda n: f"Pipeline {n}")

    @factory.post_generation
    def stages(self, create: bool, names: list[str] | None, **kwargs: Any) -> None:
        for at, name in enumerate(names or []):
            meaning = default_table().meaning(name)
            stage, _ = CrmStage.objects.get_or_create(
                actual_name=name,
                defaults={
                    "display_name": name,
                    "forecast_type": meaning.type,
                    "our_stage": meaning.ours,
                    "probability": meaning.probability,
                },
            )
            PipelineStage.objects.create(pipeline=self, stage=stage, sequence=at)


def mirrored(at: datetime = SEEN) -> None:
    """Every module was completely read at that moment, over a connection that was tried."""
    CrmConnection.objects.get_or_create(pk=1)
    for module in ("Accounts", "Contacts", "Leads", "Deals"):
        MirrorState.objects.update_or_create(
            module=module, defaults={"watermark": at, "complete_s0": at}
        )
