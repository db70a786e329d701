"""Moving an open deal to another of our stages, and its probability; both go to the CRM.

Decides which stage of the CRM one of ours means for this deal, and whether the probability follows.
Nothing jumps to closed from here, nor out of it: that is closing and reopening.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.db import transaction

from crm import stages
from crm.errors import FieldsRefused
from crm.models import CrmStage, Deal, Pipeline, PipelineStage
from crm.sync.context import stage_table
from crm.writeback import outbox
from o2r import recompute
from o2r.errors import NotNow
from o2r.models import Opportunity
from o2r.services.entry import KEEP
from o2r.services.milestones import hold

CLOSED = ("closed_won", "closed_lost")


def move(
    opportunity: Opportunity,
    *,
    user: Any,
    now: datetime,
    today: date,
    stage: str = KEEP,
    probability: int | None = KEEP,
    version: int | None = None,
) -> bool:
    """Whether anything changed. A move sets the new stage's probability, unless the one it has was
    set by hand or one is said; a move to where it is writes nothing.

    Raises PermissionRefused, Ended, RecordedMeanwhile, NotNow, FieldsRefused (stage, probability).
    """
    with transaction.atomic():
        held = hold(opportunity, user=user, now=now, today=today, version=version)
        deal = held.deal
        if deal.stage_type != stages.OPEN:
            raise NotNow("This deal is closed. Reopen it to change its stage.")
        changes: dict[str, Any] = {}
        if stage is not KEEP and stage != deal.stage:
            name, usual = _crm_stage(deal, stage)
            changes["crm_stage"] = name
            if not _is_by_hand(deal):
                changes["crm_probability"] = usual
        if probability is not KEEP:
            if probability is not None and not 0 <= probability <= 100:
                raise FieldsRefused({"probability": "Between 0 and 100."})
            changes["crm_probability"] = probability
        if not changes:
            return False
        try:
            kept = outbox.edit(deal, changes, author=user, now=now)
        except FieldsRefused as refused:
            names = {"crm_stage": "stage", "crm_probability": "probability"}
            raise FieldsRefused({names[k]: why for k, why in refused.fields.items()}) from refused
        recompute.refresh([opportunity.pk], now=now, author=user)
        opportunity.refresh_from_db()
    return bool(kept.changed)


def _crm_stage(deal: Deal, ours: str) -> tuple[str, int | None]:
    """The first stage of the deal's own pipeline that is ours, and its usual probability."""
    if ours in CLOSED:
        raise NotNow("A deal is closed by “close”, which asks won or lost and the reason.")
    if ours not in stages.OPEN_STAGES:
        raise FieldsRefused({"stage": f"One of {', '.join(stages.OPEN_STAGES)}."})
    rows = PipelineStage.objects.filter(stage__our_stage=ours, stage__in_use=True)
    rows = rows.filter(stage__forecast_type=stages.OPEN).select_related("stage")
    own = _pipeline_of(deal)
    rows = rows if own is None else rows.filter(pipeline=own)
    placed = rows.order_by("pipeline_id", "sequence").first()
    if placed is not None:
        return placed.stage.display_name, placed.stage.probability
    if CrmStage.objects.exists():
        if not PipelineStage.objects.exists():
            known = CrmStage.objects.filter(our_stage=ours, in_use=True, forecast_type=stages.OPEN)
            found = known.order_by("sequence", "pk").first()
            if found is not None:
                return found.display_name, found.probability
        said = f"No stage of its pipeline in the CRM means {stages.LABELS[ours]}."
        raise FieldsRefused({"stage": said})
    for name, (meant, usual, _) in stages.DEFAULTS.items():
        if meant == ours:
            return name, usual
    raise FieldsRefused({"stage": f"No stage of the CRM means {stages.LABELS[ours]}."})


def _pipeline_of(deal: Deal) -> Pipeline | None:
    """The deal's own, else the default one. Deals say a pipeline's actual name; the CRM shows the
    standard one as “Standard (Standard)”."""
    known = list(Pipeline.objects.order_by("-is_default", "pk"))
    for pipeline in known:
        if deal.pipeline and deal.pipeline in (pipeline.name, pipeline.name.split(" (")[0]):
            return pipeline
    return known[0] if known else None


def _is_by_hand(deal: Deal) -> bool:
    """Whether its probability differs from what its stage usually has."""
    if deal.crm_probability is None:
        return False
    return deal.crm_probability != stage_table().meaning(deal.crm_stage).probability
