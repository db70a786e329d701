"""Ours → what the CRM is sent → ours: the same again, for every kind of field."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.mapping import convert, profiles
from crm.mapping.apply import Mapper
from crm.mapping.payload import FieldFacts, PayloadWriter, Unfit
from crm.mapping.profiles import FieldSpec
from crm.zoho.v8 import plain

SPECS = [
    FieldSpec("name", "Deal_Name", profiles.TEXT),
    FieldSpec("description", "Description", profiles.LONG_TEXT, length=65_000),
    FieldSpec("crm_stage", "Stage", profiles.PICK),
    FieldSpec("aws_funded_tag", "Type_of_Funding", profiles.TAG),
    FieldSpec("closing_date", "Closing_Date", profiles.DATE),
    FieldSpec("currency", "Currency", profiles.CURRENCY, length=10),
    FieldSpec("amount_minor", "Amount", profiles.MONEY),
    FieldSpec("given_sgd_minor", "Converted_OCH_Revenue", profiles.SGD),
    FieldSpec("crm_probability", "Probability", profiles.PERCENT),
    FieldSpec("employees", "Employees", profiles.INTEGER),
    FieldSpec("strategic_account", "Strategic_Account", profiles.FLAG),
    FieldSpec("owner_id", "Owner", profiles.REF, target="Users"),
]
STAGES = {"Qualification": "Qualification", "Id. Decision Makers": "Identify Decision Makers"}
STAGES["Identify Decision Makers"] = "Identify Decision Makers"
PICKLISTS = {"Stage": STAGES}
limit = convert.MONEY_LIMIT

values = st.fixed_dictionaries(
    {
        "name": st.text(max_size=300),
        "description": st.text(max_size=300),
        "crm_stage": st.sampled_from(sorted({*STAGES.values()})),
        "aws_funded_tag": st.text(max_size=50),
        "closing_date": st.dates(date(1900, 1, 1), date(2200, 12, 31)),
        "amount_minor": st.integers(-limit, limit),
        "given_sgd_minor": st.integers(-limit * 100, limit * 100),
        "crm_probability": st.integers(0, 100),
        "employees": st.integers(-(10**12), 10**12),
        "strategic_account": st.booleans(),
    }
)


def writer(**types: str) -> PayloadWriter:
    facts = {api: FieldFacts(data_type) for api, data_type in types.items()}
    return PayloadWriter(SPECS, facts, PICKLISTS)


@given(values, st.sampled_from(["USD", "JPY", "KWD"]), st.sampled_from(["boolean", "text"]))
def test_row_89_what_goes_out_comes_back_as_it_was(given_values, currency, flag_type) -> None:
    """Through JSON and the mapping itself; what cannot come back is refused before it is kept."""
    out = writer(Strategic_Account=flag_type)
    kept: dict[str, Any] = {"currency": currency}
    for name, value in given_values.items():
        try:
            kept[name] = out.canonical(name, value, currency)
        except Unfit:
            assert name in ("name", "aws_funded_tag")  # too long, or "-None-"
            continue
        # canonical form: a second time changes nothing
        assert out.canonical(name, kept[name], currency) == kept[name]
    sent = {"id": "1"} | {
        out.api_name(name): plain(out.payload(name, value, currency))
        for name, value in kept.items()
    }
    received = json.loads(json.dumps(sent), parse_float=Decimal)
    mapper = Mapper(SPECS, home_currency="USD", picklists=PICKLISTS)
    mapped = mapper.apply(received)
    for name, value in kept.items():
        assert mapped.values[mapper.index[name]] == value, name


def test_a_reference_goes_as_the_crms_id() -> None:
    assert writer().payload("owner_id", convert.Ref(42, "Ann", ""), "") == {"id": "42"}
    assert convert.reference({"id": "42"}).id == 42
    assert writer().payload("owner_id", None, "") is None


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("closing_date", "2026-02-30", "no date"),
        ("amount_minor", 10.5, "minor units"),
        ("crm_probability", 101, "0 to 100"),
        ("crm_stage", "Nowhere", "picklist"),
        ("name", "x" * 256, "Cut"),
        ("strategic_account", "perhaps", "neither yes nor no"),
        ("owner_id", "somebody", "key of a record"),
    ],
)
def test_what_would_not_fit_is_refused_with_the_reason(name, value, why) -> None:
    with pytest.raises(Unfit, match=why):
        writer().canonical(name, value, "USD")


def test_a_flag_kept_in_a_picklist_is_sent_as_its_word() -> None:
    picklists = {"Strategic_Account": {"Yes": "Yes", "No": "No"}}
    facts = {"Strategic_Account": FieldFacts("picklist")}
    out = PayloadWriter(SPECS, facts, picklists)
    assert [out.payload("strategic_account", v, "") for v in (True, False)] == ["Yes", "No"]


@pytest.mark.parametrize(
    ("facts", "name", "why"),
    [
        ({}, "not_ours", "not mapped"),
        ({}, "external_id", "not mapped"),
        ({"Amount": FieldFacts("formula", is_read_only=True)}, "amount_minor", "read-only"),
    ],
)
def test_what_cannot_be_written_says_why(facts, name, why) -> None:
    assert why in PayloadWriter(SPECS, facts).why_not_writable(name)
    assert PayloadWriter(SPECS, facts).why_not_writable("name") == ""
