"""Metadata that changes, comes half, or says what nobody expects: deals follow, nothing is lost."""

from __future__ import annotations

import json
import signal
from datetime import date
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from crm import tasks
from crm.errors import OtherOrganisation
from crm.models import (
    CrmConnection,
    CrmField,
    CrmStage,
    Deal,
    ExchangeRate,
    MirrorState,
    Pipeline,
    PipelineStage,
)
from crm.sync import dry_run, metadata, rederive, stage_metadata
from crm.sync.context import SyncContext, stage_table
from crm.sync.stage_metadata import StageFacts
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm, zoho_settings
from crm.zoho.paging import parse_whole


def stages_of(name: str) -> set[tuple[str, str, int | None]]:
    """How the deals that carry this name stand here."""
    deals = Deal.objects.filter(crm_stage=name, crm_probability=None)
    return set(deals.values_list("stage", "stage_type", "probability"))


def said_to_be_won(crm: Crm) -> str:
    """The name of an open stage with deals in it that the CRM called won until now."""
    crm.sync("full")
    name = Deal.objects.filter(stage_type="open").values_list("crm_stage", flat=True)[0]
    CrmStage.objects.filter(display_name=name).update(
        forecast_type="won", our_stage="closed_won", probability=100
    )
    metadata.queue_derive()
    rederive.run_if_needed()
    assert set(Deal.objects.filter(crm_stage=name).values_list("stage_type", flat=True)) == {"won"}
    return name


def assert_open(name: str) -> None:
    assert set(Deal.objects.filter(crm_stage=name).values_list("stage_type", flat=True)) == {"open"}


def test_a_stage_that_changed_before_a_refresh_stopped_still_reaches_its_deals(crm: Crm) -> None:
    name = said_to_be_won(crm)
    down = {"do": "status", "path": "/crm/v8/org/currencies", "times": 0, "status": 503}
    crm.control("faults", rules=[down])
    assert crm.sync("full").status == "failed"
    assert CrmStage.objects.get(display_name=name).forecast_type == "open"
    crm.control("clear_faults")
    assert crm.sync("full").status == "succeeded"
    assert_open(name)


@pytest.mark.processes
@pytest.mark.parametrize("place", ["metadata.after_stages", "metadata.after_rates"])
def test_a_refresh_killed_between_the_change_and_what_follows_from_it(crm: Crm, place: str) -> None:
    name = said_to_be_won(crm)
    euros = Deal.objects.filter(currency="EUR", stage_type="open", amount_minor__gt=0)
    before = {deal.pk: deal.amount_sgd_minor for deal in euros}
    assert before
    ExchangeRate.objects.filter(iso_code="EUR").update(day=date(2020, 1, 1))
    rate = ExchangeRate.objects.filter(iso_code="EUR").latest("day").rate_nano
    crm.control("currency", iso_code="EUR", exchange_rate=str(rate / 2 / 10**9))
    run = metadata_killed_at(crm, place)
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded"
    assert_open(name)
    for pk, value in before.items():
        assert abs(Deal.objects.get(pk=pk).amount_sgd_minor - 2 * value) <= 1


def metadata_killed_at(crm: Crm, place: str) -> Any:
    from crm.sync import runs
    from crm.sync.execute import execute

    run = runs.request_run(kind="full", trigger="command", nudge=False)
    assert run_in_child(lambda: execute(run.pk), f"{place}=kill") == -signal.SIGKILL
    return run


def test_rows_41_62_a_stage_renamed_again_and_again_keeps_the_deals_that_were_not_read_since(
    crm: Crm,
) -> None:
    crm.sync("full")
    one = crm.ids()[0]
    name = "Closed-Lost to Competition"
    crm.control("edit", module="Deals", id=one, values={"Stage": name, "Probability": None})
    crm.sync("delta")
    before = stages_of(name)
    assert before == {("closed_lost", "lost", 0)}
    stage = CrmStage.objects.get(display_name=name)
    for shown in ("Lost to a competitor", "Lost to a rival", name, "Lost to others"):
        facts = StageFacts(shown, stage.sequence, "Closed Lost", 0)
        assert stage_metadata.save_stages({stage.actual_name: facts})
        metadata.queue_derive()
        rederive.run_if_needed()
        assert stages_of(name) == before
    meaning = stage_table().meaning
    assert meaning("Lost to a competitor") == meaning("Lost to others") == meaning(name)


def test_pipelines_stay_where_layouts_may_not_be_read(crm: Crm) -> None:
    crm.sync("full")
    before = Pipeline.objects.count(), PipelineStage.objects.count()
    assert all(before)
    refused = {"do": "status", "path": "/crm/v8/settings/layouts", "times": 0, "status": 404}
    crm.control("faults", rules=[refused])
    run = crm.sync("full")
    assert run.status == "succeeded" and "layouts" in run.message
    assert (Pipeline.objects.count(), PipelineStage.objects.count()) == before


# -- texts that nobody expects --------------------------------------------------------------------

PICKLIST = {"api_name": "Stage", "data_type": "picklist"}
ODD_FIELDS: list[dict[str, Any]] = [
    {"api_name": "A", "display_label": "half a letter \ud83d"},
    {"api_name": "A", "display_label": "a NUL \x00", "data_type": "x\x00", "json_type": "\ud83d"},
    {"api_name": "A\x00", "length": 10**30, "decimal_place": True},
    {**PICKLIST, "pick_list_values": [{"display_value": "x\x00", "actual_value": "y\x00"}]},
    {**PICKLIST, "pick_list_values": [{"display_value": "x\ud83d", "actual_value": ["\ud83d"]}]},
    {**PICKLIST, "pick_list_values": [{"display_value": "x", "probability": 1e999}]},
    {**PICKLIST, "pick_list_values": [{"display_value": "x", "forecast_type": {"n\x00": "\x00"}}]},
    {**PICKLIST, "pick_list_values": [{"display_value": "x", "sequence_number": 10**25}]},
    {**PICKLIST, "pick_list_values": [7, None], "display_label": {"no": "text"}},
]


class _Fields:
    """A client that answers with these fields of each module, as the wire brings them."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = [parse_whole(json.dumps(item).encode()) for item in items]

    def fields(self, module: str) -> list[Any]:
        return self.items


@pytest.mark.parametrize("item", ODD_FIELDS, ids=range(len(ODD_FIELDS)))
@pytest.mark.django_db
def test_no_text_of_the_metadata_stops_a_sync(item: dict[str, Any]) -> None:
    metadata._read_fields(_Fields(item), "Deals", timezone.now())  # type: ignore[arg-type]
    field = CrmField.objects.get()
    assert "\x00" not in field.api_name + field.label + json.dumps(field.picklist)
    stage_metadata.keep([], None)
    assert SyncContext(timezone.now()).mapper("Deals").index.keys() <= {"crm_stage"}


@pytest.mark.parametrize(("percent", "kept"), [(70000, None), (-1, None), (101, None), (100, 100)])
@pytest.mark.django_db
def test_a_probability_beyond_a_hundred_is_none(percent: int, kept: int | None) -> None:
    facts = StageFacts("x", 0)
    facts.complete("Open", percent)
    stage_metadata.save_stages({"x": facts})
    assert CrmStage.objects.get().probability == kept


@pytest.mark.parametrize(
    "layout",
    [{"sections": 5}, {"sections": [{"fields": "x"}]}, {"id": {}, "sections": [None]},
     {"sections": [{"fields": [{"api_name": "Stage", "pick_list_values": 1}]}]}],
)  # fmt: skip
@pytest.mark.django_db
def test_a_layout_of_another_shape_says_nothing(layout: dict[str, Any]) -> None:
    assert stage_metadata.keep([layout], None) is False
    assert stage_metadata.read_pipelines(None, [{"id": {}}, layout]) == []  # type: ignore[arg-type]


# -- which organisation it is ----------------------------------------------------------------------


class _Organisation:
    def __init__(self, **org: Any) -> None:
        self.answer = {"company_name": "X", "iso_code": "USD", **org}

    def org(self) -> dict[str, Any]:
        return self.answer


@pytest.mark.django_db
def test_an_answer_without_an_id_does_not_make_room_for_another_organisation(
    settings: Any,
) -> None:
    settings.ZOHO = zoho_settings("http://127.0.0.1:9")
    metadata._read_organisation(_Organisation(id="1"))  # type: ignore[arg-type]
    metadata._read_organisation(_Organisation())  # type: ignore[arg-type]
    assert CrmConnection.objects.get().org_id == "1"
    with pytest.raises(OtherOrganisation):
        metadata._read_organisation(_Organisation(id="2"))  # type: ignore[arg-type]


def test_a_dry_run_of_another_organisation_is_refused_and_stores_nothing(crm: Crm) -> None:
    crm.sync("full")
    CrmConnection.objects.update(org_id="1", org_name="Somebody else")
    asked = crm.requests()
    with pytest.raises(OtherOrganisation, match="Somebody else"):
        dry_run.preview("delta", [], since=None)
    assert crm.requests() == asked + 1
    assert CrmConnection.objects.get().org_id == "1"


# -- what ops say of a stage -----------------------------------------------------------------------


def test_what_ops_say_of_a_stage_stays_and_reaches_its_deals(crm: Crm, ops_client: Any) -> None:
    crm.sync("full")
    deal = Deal.objects.filter(crm_stage="Value Proposition").first()
    if deal is None:
        deal = Deal.objects.live().first()
    crm.control(
        "edit",
        module="Deals",
        id=str(deal.zoho_id),
        values={"Stage": "Value Proposition", "Probability": None},
    )
    crm.sync("delta")
    stage = CrmStage.objects.get(display_name="Value Proposition")
    url = reverse("admin:crm_crmstage_change", args=[stage.pk])
    response = ops_client.post(url, {"our_stage": "proposal", "probability": "33"})
    assert response.status_code == 302
    tasks.sweep()
    assert stages_of("Value Proposition") == {("proposal", "open", 33)}
    assert crm.sync("full").status == "succeeded"
    assert stages_of("Value Proposition") == {("proposal", "open", 33)}
    stage.refresh_from_db()
    assert (stage.our_stage, stage.probability, stage.is_edited) == ("proposal", 33, True)
    assert not MirrorState.objects.filter(derive_needed=True).exists()
