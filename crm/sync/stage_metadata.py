"""Stages and pipelines as the CRM's metadata tells them → our tables.

A stage is told in up to three places: the picklist of the field, that of each layout, and the
pipelines. The first word counts; what ops have set in the admin stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from crm import stages
from crm.mapping import convert
from crm.models import CrmField, CrmStage, Pipeline, PipelineStage
from crm.sync.said import cut, objects, percent, small
from crm.zoho.client import ZohoClient

NO_STAGE = "-None-"
# How many earlier names of a stage are kept: deals that were not read since still carry them.
FORMER_NAMES = 20


@dataclass
class StageFacts:
    """What the CRM says of a stage, gathered from wherever it says it; the first word counts."""

    display: str
    sequence: int
    forecast_type: str | None = None
    probability: int | None = None

    def complete(self, forecast_type: Any, probability: Any) -> None:
        self.forecast_type = self.forecast_type or _name_of(forecast_type)
        if self.probability is None:
            self.probability = percent(probability)


def keep(layouts: list[dict], pipelines: list[dict] | None) -> bool:
    """Stages from the field's picklist, then the layouts', then the pipelines (None: not read, and
    left as they are). True if what a name means may have changed: deals must be derived anew."""
    with transaction.atomic():
        changed = save_stages(_facts(layouts, pipelines))
        if pipelines is not None:
            _save_pipelines(pipelines)
    return changed


def _facts(layouts: list[dict], pipelines: list[dict] | None) -> dict[str, StageFacts]:
    found: dict[str, StageFacts] = {}
    picklist = (
        CrmField.objects.filter(module="Deals", api_name="Stage")
        .values_list("picklist", flat=True)
        .first()
    )
    for items in (picklist or [], *_layout_picklists(layouts)):
        for at, item in enumerate(items):
            display = cut(item.get("display_value") or item.get("actual_value"))
            actual = cut(item.get("actual_value")) or display
            if actual and actual != NO_STAGE:
                sequence = small(item.get("sequence_number")) or at
                facts = found.setdefault(actual, StageFacts(display or actual, sequence))
                facts.complete(item.get("forecast_type"), item.get("probability"))
    for pipeline in pipelines or []:
        for at, item in enumerate(pipeline["maps"]):
            facts = found.setdefault(item["actual"], StageFacts(item["display"], at))
            facts.complete(item["forecast_type"], None)
    return found


def _layout_picklists(layouts: list[dict]) -> Iterable[list[dict]]:
    """The Stage field's items of each layout."""
    for layout in objects(layouts):
        for section in objects(layout.get("sections")):
            for item in objects(section.get("fields")):
                if item.get("api_name") == "Stage":
                    yield objects(item.get("pick_list_values"))


def _name_of(value: Any) -> str | None:
    return cut(value.get("name") if isinstance(value, dict) else value) or None


def read_pipelines(client: ZohoClient, layouts: list[dict]) -> list[dict]:
    """The pipelines of these layouts; stages without any name are left out."""
    found = []
    for layout in objects(layouts):
        layout_id = convert.record_id(layout.get("id"))
        if layout_id is None:
            continue
        for pipeline in objects(client.pipelines(str(layout_id))):
            zoho_id = convert.record_id(pipeline.get("id"))
            if zoho_id is None:
                continue
            found.append(
                {
                    "zoho_id": zoho_id,
                    "name": cut(pipeline.get("display_value") or pipeline.get("actual_value")),
                    "is_default": bool(pipeline.get("default")),
                    "maps": [item for raw in objects(pipeline.get("maps")) if (item := _map(raw))],
                }
            )
    return found


def _map(raw: dict) -> dict[str, Any] | None:
    display = cut(raw.get("display_value") or raw.get("actual_value"))
    actual = cut(raw.get("actual_value")) or display
    if not actual:
        return None
    return {
        "display": display or actual,
        "actual": actual,
        "forecast_type": _name_of(raw.get("forecast_type")),
    }


def save_stages(found: dict[str, StageFacts]) -> bool:
    """Keep these stages, by actual name; the rest is no longer in use. A stage that is shown
    otherwise keeps its former name. True if what a name means may have changed."""
    known = {stage.actual_name: stage for stage in CrmStage.objects.all()}
    changed = False
    for actual, facts in found.items():
        meaning = stages.default_meaning(
            actual, facts.display, facts.forecast_type, facts.probability
        )
        stage = known.get(actual) or CrmStage(actual_name=actual)
        before = _meaning_of(stage)
        if stage.pk and stage.display_name != facts.display:
            names = [n for n in stage.former_names if n not in (facts.display, stage.display_name)]
            stage.former_names = [*names, stage.display_name][-FORMER_NAMES:]
        stage.display_name, stage.sequence, stage.in_use = facts.display, facts.sequence, True
        stage.forecast_type = meaning.type
        if not stage.is_edited:
            stage.our_stage, stage.probability = meaning.ours, meaning.probability
        stage.save()
        changed |= before != _meaning_of(stage)
    if found:
        gone = CrmStage.objects.exclude(actual_name__in=found).filter(in_use=True)
        changed |= bool(gone.update(in_use=False))
    return changed


def _meaning_of(stage: CrmStage) -> tuple:
    """What decides which deals are in it, and what that makes of them."""
    return (
        stage.pk,
        stage.display_name,
        stage.in_use,
        stage.forecast_type,
        stage.our_stage,
        stage.probability,
    )


def _save_pipelines(pipelines: list[dict]) -> None:
    by_name = {stage.actual_name: stage for stage in CrmStage.objects.all()}
    Pipeline.objects.exclude(zoho_id__in=[p["zoho_id"] for p in pipelines]).delete()
    for item in pipelines:
        pipeline, _ = Pipeline.objects.update_or_create(
            zoho_id=item["zoho_id"],
            defaults={"name": item["name"], "is_default": item["is_default"]},
        )
        pipeline.stages.all().delete()
        PipelineStage.objects.bulk_create(
            [
                PipelineStage(pipeline=pipeline, stage=by_name[m["actual"]], sequence=at)
                for at, m in enumerate(item["maps"])
                if m["actual"] in by_name
            ],
            ignore_conflicts=True,
        )
