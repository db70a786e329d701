"""What the CRM says of itself: profile, stages, rates, users; what follows when they change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import time_machine
from django.utils import timezone

from crm.models import (
    ChangeEvent,
    CrmConnection,
    CrmField,
    CrmStage,
    CrmUser,
    Currency,
    Deal,
    ExchangeRate,
    FieldMapping,
    Pipeline,
)
from crm.tests.oracle import half_up, rates_of
from crm.tests.sandbox_process import running_sandbox
from crm.tests.synced import Crm


@pytest.fixture(scope="session")
def och_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with running_sandbox(tmp_path_factory.mktemp("och"), deals=60, profile="och") as process:
        return process.db


OCH = {
    "territory": "Business_Region",
    "service_line": "Solution_Type",
    "aws_funded_tag": "Type_of_Funding",
    "alliance_motion": "Market_Segment",
    "strategic_account": "Strategic_Account",
    "proposal_date": "Proposal_Submission_date",
    "po_date": "PO_Generation_Date",
    "kickoff_date": "Kick_off_Date",
    "invoice_date": "Invoice_Date",
    "payment_date": "Received_On",
    "revenue_date": "OB_Recognition_Date",
}


def test_an_och_organisation_is_recognised_and_mirrored_by_its_own_fields(
    make_crm: Callable[..., Crm], och_seed: Path, transactional_db: None
) -> None:
    crm = make_crm(och_seed)
    assert crm.sync("full").status == "succeeded"
    assert CrmConnection.objects.get().profile == "och"
    rates = rates_of(crm.sandbox)
    deals = {str(d.zoho_id): d for d in Deal.objects.live()}
    records = crm.control("dump", module="Deals")["records"]
    assert deals.keys() == {r["id"] for r in records}
    given = 0
    for record in records:
        deal = deals[record["id"]]
        for ours, api in OCH.items():
            value = getattr(deal, ours)
            assert (value.isoformat() if hasattr(value, "isoformat") else value) == record[api]
        assert deal.aws_funded == (record["Type_of_Funding"] not in ("None", "No", None))
        sgd, amount, code = (record[n] for n in ("Converted_OCH_Revenue", "Amount", "Currency"))
        if sgd is not None:
            given += 1
            assert deal.amount_sgd_minor == half_up(Fraction(str(sgd)) * 100)
        elif amount is not None and code in rates:
            assert deal.amount_sgd_minor == pytest.approx(
                float(Fraction(str(amount)) / rates[code] * rates["SGD"] * 100), abs=1
            )
    assert given > 40


def test_the_profile_in_the_settings_goes_before_the_guess(crm: Crm) -> None:
    crm.settings.ZOHO_FIELD_PROFILE = "och"
    crm.sync("full")
    assert CrmConnection.objects.get().profile == "och"
    assert not Deal.objects.exclude(territory=None).exists()


def test_stages_pipelines_users_and_currencies_are_the_crms(crm: Crm) -> None:
    crm.sync("full")
    stages = {s.display_name: (s.our_stage, s.forecast_type) for s in CrmStage.objects.all()}
    assert stages["Identify Decision Makers"] == ("discovery", "open")
    assert stages["Closed-Lost to Competition"] == ("closed_lost", "lost")
    assert CrmStage.objects.get(display_name="Closed Won").probability == 100
    assert Pipeline.objects.filter(is_default=True).count() == 1
    renewals = Pipeline.objects.get(name="Renewals")
    first = renewals.stages.select_related("stage").first()
    assert first.stage.display_name == "Qualification"
    assert CrmUser.objects.filter(status="active").exclude(email="").count() > 3
    assert not CrmUser.objects.filter(status="unknown").exists()
    held = {r.iso_code: Fraction(r.rate_nano, 10**9) for r in ExchangeRate.objects.all()}
    assert held == rates_of(crm.sandbox)
    assert Currency.objects.get(is_home=True).iso_code == CrmConnection.objects.get().home_currency
    assert CrmField.objects.filter(module="Deals", api_name="Stage").exists()


def test_a_new_rate_reaches_open_deals_and_makes_no_event(crm: Crm) -> None:
    crm.sync("full")
    before = {d.pk: d for d in Deal.objects.filter(currency="EUR", amount_sgd_minor__gt=0)}
    won_long_ago = [pk for pk, d in before.items() if d.stage_type != "open"]
    events, rates = ChangeEvent.objects.count(), ExchangeRate.objects.count()
    rate = rates_of(crm.sandbox)["EUR"]
    crm.control("currency", iso_code="EUR", exchange_rate=str(float(rate) / 2))
    with time_machine.travel(timezone.now() + timedelta(days=2), tick=True):
        crm.control("config", clock_offset_s=2 * 86_400)
        assert crm.sync("full").status == "succeeded"
    assert ExchangeRate.objects.count() == rates + 1
    assert ChangeEvent.objects.count() == events
    assert before
    for pk, old in before.items():
        new = Deal.objects.get(pk=pk)
        if pk in won_long_ago:
            assert new.amount_sgd_minor == old.amount_sgd_minor
        else:
            assert abs(new.amount_sgd_minor - 2 * old.amount_sgd_minor) <= 1
            assert new.change_seq > old.change_seq


def test_the_same_rates_again_are_kept_once(crm: Crm) -> None:
    crm.sync("full")
    count = ExchangeRate.objects.count()
    with time_machine.travel(timezone.now() + timedelta(days=1), tick=True):
        crm.sync("full")
    assert ExchangeRate.objects.count() == count


def test_a_field_that_ops_map_elsewhere_is_read_from_there(crm: Crm) -> None:
    crm.sync("full")
    FieldMapping.objects.create(module="Deals", our_field="territory", api_name="Lead_Source")
    FieldMapping.objects.create(module="Deals", our_field="next_step", api_name="")
    steps = dict(Deal.objects.values_list("pk", "next_step"))
    assert crm.sync("full").status == "succeeded"
    for deal in Deal.objects.all():
        assert deal.territory == deal.lead_source
    assert dict(Deal.objects.values_list("pk", "next_step")) == steps  # switched off: stays
