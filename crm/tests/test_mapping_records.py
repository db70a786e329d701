"""A record → columns and problems; the two profiles; the mapping held against metadata."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from crm.mapping import check, profiles
from crm.mapping.apply import MISSING, Mapped, Mapper, Unusable, content_hash
from crm.mapping.convert import Ref
from crm.mapping.profiles import (
    OCH,
    STANDARD,
    FieldSpec,
    builtin_mapping,
    effective_mapping,
    pick_profile,
)
from crm.zoho.client import DUPLICATE_KEYS

FULL_DEAL = {
    "id": "500",
    "Deal_Name": "Cloud move",
    "Account_Name": {"id": "7", "name": "Acme"},
    "Contact_Name": None,
    "Owner": {"id": "9", "name": "Ann", "email": "ann@x.com"},
    "Pipeline": "Standard",
    "Stage": "Qualification",
    "Probability": 10,
    "Currency": "USD",
    "Amount": Decimal("1234.565"),
    "Closing_Date": "2026-05-01",
    "Type": "New Business",
    "Lead_Source": "Partner",
    "Next_Step": "Call",
    "Description": "text",
    "Reason_For_Loss__s": None,
    "Pulse_Id": "P-1",
    "Territory": "APAC",
    "Service_Line": "Gen AI",
    "AWS_Funded": True,
    "Strategic_Account": "yes",
    "Proposal_Date": "2026-01-01",
    "SOW_Date": None,
    "PO_Date": None,
    "Kickoff_Date": None,
    "Signoff_Date": None,
    "Invoice_Date": None,
    "Payment_Date": None,
    "Revenue_Date": None,
    "Created_Time": "2026-01-01T08:00:00+08:00",
    "Modified_Time": "2026-01-02T08:00:00+08:00",
    "Modified_By": {"id": "9", "name": "Ann"},
}


def deals_mapper(profile: str = STANDARD, **options: Any) -> Mapper:
    options.setdefault("home_currency", "SGD")
    return Mapper(builtin_mapping("Deals", profile), **options)


def by_name(mapper: Mapper, mapped: Mapped) -> dict[str, Any]:
    return dict(zip(mapper.columns, mapped.values, strict=True))


def mapped_deal(record: Any, **options: Any) -> tuple[dict[str, Any], Mapped]:
    mapper = deals_mapper(**options)
    mapped = mapper.apply(record)
    return by_name(mapper, mapped), mapped


def test_a_whole_deal_becomes_our_columns() -> None:
    values, mapped = mapped_deal(FULL_DEAL)
    assert mapped.zoho_id == 500
    assert mapped.modified_at == datetime(2026, 1, 2, tzinfo=UTC)
    assert mapped.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert mapped.modified_by == Ref(9, "Ann", "")
    assert mapped.problems == []
    assert values == {
        "name": "Cloud move",
        "account_id": Ref(7, "Acme", ""),
        "contact_id": None,
        "owner_id": Ref(9, "Ann", "ann@x.com"),
        "pipeline": "Standard",
        "crm_stage": "Qualification",
        "crm_probability": 10,
        "currency": "USD",
        "amount_minor": 123457,
        "closing_date": "2026-05-01",
        "deal_type": "New Business",
        "lead_source": "Partner",
        "next_step": "Call",
        "description": "text",
        "loss_reason": None,
        "external_id": "P-1",
        "territory": "APAC",
        "service_line": "Gen AI",
        "aws_funded": True,
        "strategic_account": True,
        "proposal_date": "2026-01-01",
        "sow_date": None,
        "po_date": None,
        "kickoff_date": None,
        "signoff_date": None,
        "invoice_date": None,
        "payment_date": None,
        "revenue_date": None,
    }


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({}, "no_id"),
        ({"id": None}, "no_id"),
        ({"id": "x", "Deal_Name": "a"}, "no_id"),
        ({"id": ["1"]}, "no_id"),
        (["1"], "not_an_object"),
        ("500", "not_an_object"),
        (None, "not_an_object"),
        (DUPLICATE_KEYS, "not_an_object"),
    ],
)
def test_row_66_what_has_no_id_or_is_no_object_cannot_be_stored(record: Any, code: str) -> None:
    with pytest.raises(Unusable) as raised:
        deals_mapper().apply(record)
    assert raised.value.code == code


def test_a_missing_key_is_told_apart_from_null() -> None:
    record = {**FULL_DEAL, "Next_Step": None}
    del record["Description"]
    values, mapped = mapped_deal(record)
    assert values["next_step"] is None
    assert values["description"] is MISSING
    assert mapped.has_missing


def test_rows_58_61_63_64_values_that_do_not_fit_lose_only_themselves() -> None:
    record = {
        **FULL_DEAL,
        "Amount": "1,234.50",
        "Probability": "80%",
        "Closing_Date": "2026-02-30",
        "Proposal_Date": "2026-01-01T00:00:00+08:00",
        "Deal_Name": "x" * 300,
        "Account_Name": ["7"],
        "Stage": {"name": "?"},
    }
    values, mapped = mapped_deal(record)
    assert {p.field: p.code for p in mapped.problems} == {
        "amount_minor": "not_a_number",
        "crm_probability": "not_a_number",
        "closing_date": "bad_date",
        "proposal_date": "bad_date",
        "name": "too_long",
        "account_id": "bad_reference",
        "crm_stage": "wrong_type",
    }
    assert values["name"] == "x" * 255
    assert values["amount_minor"] is None and values["closing_date"] is None
    assert values["territory"] == "APAC" and values["currency"] == "USD"


def test_row_61_a_missing_probability_is_flagged_and_zero_is_a_value() -> None:
    _, mapped = mapped_deal({**FULL_DEAL, "Probability": None})
    assert [(p.field, p.code) for p in mapped.problems] == [("crm_probability", "missing")]
    values, mapped = mapped_deal({**FULL_DEAL, "Probability": 0})
    assert values["crm_probability"] == 0
    assert mapped.problems == []


def test_row_41_a_value_outside_its_picklist_is_kept_and_found() -> None:
    picklists = {"Territory": {"APAC": "APAC"}}
    values, mapped = mapped_deal({**FULL_DEAL, "Territory": "LATAM"}, picklists=picklists)
    assert values["territory"] == "LATAM"
    assert [(p.field, p.code) for p in mapped.problems] == [("territory", "not_in_picklist")]


# -- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("currency", "amount", "stored_currency", "minor"),
    [
        ("USD", Decimal("0.005"), "USD", 1),
        ("JPY", Decimal("1000.5"), "JPY", 1001),
        ("KWD", Decimal("1.2345"), "KWD", 1235),
        ("kwd", Decimal("1.2345"), "KWD", 1235),
        ("XYZ", Decimal("1.005"), "XYZ", 101),
        (None, Decimal("5.25"), "SGD", 525),
        ("", Decimal("5.25"), "SGD", 525),
        (["USD"], Decimal("5.25"), "SGD", 525),
        ("USD", Decimal("-3.10"), "USD", -310),
        ("USD", 0, "USD", 0),
        ("USD", None, "USD", None),
    ],
)
def test_rows_57_58_60_amounts_take_the_decimals_of_their_currency(
    currency: Any, amount: Any, stored_currency: str, minor: int | None
) -> None:
    values, _ = mapped_deal({**FULL_DEAL, "Currency": currency, "Amount": amount})
    assert (values["currency"], values["amount_minor"]) == (stored_currency, minor)


def test_without_multi_currency_every_amount_is_in_the_home_currency() -> None:
    values, _ = mapped_deal(
        {**FULL_DEAL, "Currency": "USD", "Amount": Decimal("10.5")},
        home_currency="JPY",
        multi_currency=False,
    )
    assert (values["currency"], values["amount_minor"]) == ("JPY", 11)


def test_an_amount_without_its_currency_key_is_in_the_currency_that_we_hold() -> None:
    record = {k: v for k, v in FULL_DEAL.items() if k != "Currency"}
    mapper = deals_mapper()
    mapped = mapper.apply({**record, "Amount": 1000})
    mapper.fill_missing(mapped, {"currency": "JPY", "amount_minor": 5})
    values = by_name(mapper, mapped)
    assert (values["currency"], values["amount_minor"]) == ("JPY", 1000)


def test_a_currency_without_its_amount_key_leaves_the_amount_what_it_was() -> None:
    record = {k: v for k, v in FULL_DEAL.items() if k != "Amount"}
    mapper = deals_mapper()
    mapped = mapper.apply({**record, "Currency": "JPY"})
    mapper.fill_missing(mapped, {"currency": "USD", "amount_minor": 250000})
    values = by_name(mapper, mapped)
    assert (values["currency"], values["amount_minor"]) == ("JPY", 2500)


def test_missing_keys_take_what_we_hold() -> None:
    mapper = deals_mapper()
    mapped = mapper.apply({"id": "1", "Deal_Name": "New"})
    mapper.fill_missing(mapped, {"name": "Old", "next_step": "Call", "currency": "USD"})
    values = by_name(mapper, mapped)
    assert (values["name"], values["next_step"], values["currency"]) == ("New", "Call", "USD")
    assert values["amount_minor"] is None and values["description"] is None


# -- the och profile ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "funded"),
    [("MAP", True), ("POC Credits", True), ("None", False), ("No", False), ("no", False),
     (None, False), ("", False)],
)  # fmt: skip
def test_in_och_funded_follows_from_the_tag(tag: Any, funded: bool) -> None:
    values, _ = mapped_deal({"id": "1", "Type_of_Funding": tag}, profile=OCH)
    assert values["aws_funded"] is funded
    assert values["aws_funded_tag"] == (tag or None)


def test_in_och_a_missing_tag_leaves_both_alone() -> None:
    values, _ = mapped_deal({"id": "1"}, profile=OCH)
    assert values["aws_funded"] is MISSING and values["aws_funded_tag"] is MISSING


@pytest.mark.parametrize(
    ("given", "cents"), [(0, 0), (Decimal("12.345"), 1235), (None, None), ("1", None)]
)
def test_in_och_the_crm_gives_the_sgd_amount_in_cents(given: Any, cents: int | None) -> None:
    values, _ = mapped_deal(
        {"id": "1", "Converted_OCH_Revenue": given, "Currency": "JPY", "Amount": 5}, profile=OCH
    )
    assert values["given_sgd_minor"] == cents
    assert values["amount_minor"] == 5


# The table of the specification, word for word: our field → (standard, och).
TABLE = {
    "amount_minor": ("Amount", "Amount"),
    "currency": ("Currency", "Currency"),
    "given_sgd_minor": (None, "Converted_OCH_Revenue"),
    "territory": ("Territory", "Business_Region"),
    "service_line": ("Service_Line", "Solution_Type"),
    "aws_funded": ("AWS_Funded", None),
    "aws_funded_tag": (None, "Type_of_Funding"),
    "alliance_motion": (None, "Market_Segment"),
    "strategic_account": ("Strategic_Account", "Strategic_Account"),
    "proposal_date": ("Proposal_Date", "Proposal_Submission_date"),
    "po_date": ("PO_Date", "PO_Generation_Date"),
    "kickoff_date": ("Kickoff_Date", "Kick_off_Date"),
    "invoice_date": ("Invoice_Date", "Invoice_Date"),
    "payment_date": ("Payment_Date", "Received_On"),
    "revenue_date": ("Revenue_Date", "OB_Recognition_Date"),
    "signoff_date": ("Signoff_Date", "Signoff_Date"),
    "sow_date": ("SOW_Date", "SOW_Date"),
    "next_step": ("Next_Step", "Next_Step"),
    "description": ("Description", "Description"),
    "deal_type": ("Type", "Type"),
    "lead_source": ("Lead_Source", "Lead_Source"),
    "contact_id": ("Contact_Name", "Contact_Name"),
    "pipeline": ("Pipeline", "Pipeline"),
    "loss_reason": ("Reason_For_Loss__s", "Reason_For_Loss__s"),
    "external_id": ("Pulse_Id", "Pulse_Id"),
    "name": ("Deal_Name", "Deal_Name"),
    "account_id": ("Account_Name", "Account_Name"),
    "crm_stage": ("Stage", "Stage"),
    "crm_probability": ("Probability", "Probability"),
    "closing_date": ("Closing_Date", "Closing_Date"),
    "owner_id": ("Owner", "Owner"),
}


@pytest.mark.parametrize("at", [0, 1])
def test_the_profiles_are_the_table_of_the_specification(at: int) -> None:
    found = {s.ours: s.api for s in builtin_mapping("Deals", profiles.PROFILES[at])}
    assert found == {ours: names[at] for ours, names in TABLE.items() if names[at]}


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_absent_dates_of_signoff_and_sow_are_no_finding(profile: str) -> None:
    optional = {s.ours for s in builtin_mapping("Deals", profile) if s.optional}
    assert {"signoff_date", "sow_date"} <= optional
    assert not {"amount_minor", "crm_stage", "proposal_date", "territory"} & optional


def test_auto_takes_the_profile_with_more_fields_found() -> None:
    standard = {s.api for s in builtin_mapping("Deals", STANDARD)}
    och = {s.api for s in builtin_mapping("Deals", OCH)}
    assert pick_profile(standard) == STANDARD
    assert pick_profile(och) == OCH
    assert pick_profile(standard & och) == STANDARD
    assert pick_profile([*(standard & och), "Market_Segment"]) == OCH
    assert pick_profile([]) == STANDARD


def test_overrides_replace_add_and_switch_off_single_fields() -> None:
    found = {
        s.ours: s.api
        for s in effective_mapping(
            "Deals",
            STANDARD,
            {"territory": "Region__c", "aws_funded": "", "alliance_motion": "Motion", "odd": "X"},
        )
    }
    assert found["territory"] == "Region__c"
    assert "aws_funded" not in found and "odd" not in found
    assert found["alliance_motion"] == "Motion"
    assert found["name"] == "Deal_Name"


# -- against the metadata -------------------------------------------------------------------------


def test_row_42_fields_that_the_crm_lacks_are_left_out_and_named() -> None:
    specs = builtin_mapping("Deals", STANDARD)
    types = {s.api: "text" for s in specs if s.ours in ("name", "closing_date")}
    present = check.present_specs(specs, types)
    assert {s.ours for s in present} == {"name", "closing_date"}
    found = {f.ours: f for f in check.findings("Deals", specs, types)}
    assert "name" not in found
    assert found["closing_date"].code == "wrong_type"
    assert "date" in found["closing_date"].advice
    assert found["territory"].code == "missing"
    assert "Territory" in found["territory"].advice and "Deals" in found["territory"].advice
    assert found["sow_date"].is_optional and not found["territory"].is_optional


def test_unknown_metadata_leaves_the_whole_mapping() -> None:
    specs = builtin_mapping("Deals", STANDARD)
    assert check.present_specs(specs, {}) == specs


def test_picklists_map_actual_and_shown_values_to_the_shown_one() -> None:
    items = [
        {"display_value": "-None-", "actual_value": "-None-"},
        {"display_value": " Asia ", "actual_value": "APAC"},
        {"display_value": "y" * 300, "actual_value": "long"},
        {"actual_value": "only"},
        {"display_value": ""},
    ]
    fields = {
        "Territory": {"data_type": "picklist", "picklist": items},
        "Name": {"data_type": "text", "picklist": items},
        "Empty": {"data_type": "picklist", "picklist": []},
    }
    found = check.picklists_of(fields)
    assert set(found) == {"Territory"}
    labels = found["Territory"]
    assert labels["APAC"] == labels[" Asia "] == labels["Asia"] == "Asia"
    assert labels["long"] == "y" * 255
    assert labels["only"] == "only"
    assert "" not in labels


# -- the hash -------------------------------------------------------------------------------------


def test_the_hash_tells_values_apart_and_repeats_itself() -> None:
    rows: list[list[Any]] = [
        [None, "a"], ["a", None], ["", "a"], [1, "a"], ["1", "a"], [True, "a"], [0, "a"],
        [False, "a"], [datetime(2026, 1, 1, tzinfo=UTC), "a"], [Ref(1, "x", "y"), "b"],
    ]  # fmt: skip
    specs = [FieldSpec("name", "A", "text"), FieldSpec("external_id", "B", "text")]
    tell = Mapper(specs, home_currency="SGD").told
    hashes = [content_hash(tell(row)) for row in rows]
    assert len(set(hashes)) == len(rows)
    assert hashes == [content_hash(tell(list(row))) for row in rows]


def test_what_is_told_is_json_without_what_is_not_there() -> None:
    specs = [FieldSpec(name, name, "text") for name in ("name", "pipeline", "external_id")]
    told = Mapper(specs, home_currency="SGD").told(['Ü "quoted" \n \ud83d', None, MISSING])
    assert json.loads(told) == {"name": 'Ü "quoted" \n \ud83d'}


@pytest.mark.parametrize("amount", [Decimal("1.5"), [1], {"a": Decimal(2)}, True, "12"])
def test_an_amount_that_waits_for_its_currency_can_be_told(amount: Any) -> None:
    """Its currency's key is missing; the stored row may know it, and then it is settled."""
    specs = [FieldSpec("currency", "Currency", "currency"), FieldSpec("amount_minor", "A", "money")]
    mapper = Mapper(specs, home_currency="SGD")
    mapped = mapper.apply({"id": "1", "A": amount})
    assert json.loads(mapper.told(mapped.values))
