"""The sandbox describing itself: org, users, currencies, fields, pipelines, new fields."""

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox


@pytest.fixture(scope="module")
def crm(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("meta"), deals=40) as running:
        yield Crm(running)


def fields_of(crm, module="Deals"):
    found = crm.get("settings/fields", module=module).json()["fields"]
    return {f["api_name"]: f for f in found}


def test_org_names_home_currency_zone_and_edition(crm):
    org = crm.get("org").json()["org"][0]
    assert (org["iso_code"], org["mc_status"], org["time_zone"]) == ("SGD", True, "Asia/Singapore")
    assert org["license_details"]["paid_type"] == "enterprise"


def test_currencies_are_texts_with_nine_decimals_relative_to_home(crm):
    rates = {c["iso_code"]: c for c in crm.get("org/currencies").json()["currencies"]}
    assert set(rates) == {"SGD", "USD", "EUR", "INR", "JPY", "AUD", "GBP", "KWD"}
    assert rates["SGD"]["exchange_rate"] == "1.000000000"
    assert [c for c, r in rates.items() if r["is_base"]] == ["SGD"]
    assert all(len(r["exchange_rate"].split(".")[1]) == 9 for r in rates.values())
    assert 0.5 < float(rates["USD"]["exchange_rate"]) < 1 < float(rates["JPY"]["exchange_rate"])


def test_users_by_type(crm):
    def mails(kind):
        return {u["email"] for u in crm.get("users", type=kind).json()["users"]}

    assert {"rep@example.com", "manager@example.com", "ops@example.com"} <= mails("ActiveUsers")
    assert mails("CurrentUser") == {"integration@example.com"}
    assert len(mails("DeactiveUsers")) == 2
    assert len(mails("DeletedUsers")) == 1
    assert mails("AllUsers") == mails("ActiveUsers") | mails("DeactiveUsers")
    assert crm.get("users", type="Nonsense").json()["code"] == "INVALID_DATA"


def test_every_listed_field_can_be_read_and_described(crm):
    for module in ("Deals", "Accounts", "Contacts", "Leads"):
        fields = fields_of(crm, module)
        records = crm.get(module, fields=",".join(fields), per_page=1).json()["data"]
        assert set(records[0]) == {*fields, "id"}
        for f in fields.values():
            assert {
                "api_name", "data_type", "json_type", "lookup", "multiselectlookup",
                "pick_list_values", "read_only", "custom_field", "unique",
            } <= set(f)  # fmt: skip


def test_stage_choices_have_probability_forecast_and_two_names(crm):
    choices = {c["display_value"]: c for c in fields_of(crm)["Stage"]["pick_list_values"]}
    assert choices["Identify Decision Makers"]["actual_value"] == "Id. Decision Makers"
    assert choices["Proposal/Price Quote"]["probability"] == 75
    assert choices["Closed Won"]["forecast_type"] == "Closed Won"
    assert choices["Closed-Lost to Competition"]["forecast_type"] == "Closed Lost"


def test_layout_leads_to_pipelines_whose_stages_share_ids(crm):
    layout = crm.get("settings/layouts", module="Deals").json()["layouts"][0]["id"]
    pipelines = crm.get("settings/pipeline", layout_id=layout).json()["pipeline"]
    assert [p["default"] for p in pipelines] == [True, False]
    assert pipelines[0]["display_value"] == "Standard (Standard)"
    ids = [{m["display_value"]: m["id"] for m in p["maps"]} for p in pipelines]
    assert ids[1].items() <= ids[0].items()
    assert all("probability" not in m for m in pipelines[0]["maps"])
    assert crm.get("settings/pipeline").json()["details"] == {"param_name": "layout_id"}


def test_fields_need_a_known_module(crm):
    assert crm.get("settings/fields").json()["code"] == "REQUIRED_PARAM_MISSING"
    assert crm.get("settings/fields", module="Nope").json()["code"] == "INVALID_MODULE"


def create(crm, *fields):
    return crm.call(
        "POST", "/crm/v8/settings/fields", params={"module": "Deals"}, json={"fields": list(fields)}
    )


def test_created_field_takes_its_name_from_the_label_and_holds_values(crm):
    answer = create(crm, {"field_label": "Partner Note", "data_type": "text", "length": 20})
    assert answer.status_code == 201
    assert "Partner_Note" in fields_of(crm)
    deal = crm.get("Deals", fields="Partner_Note", per_page=1).json()["data"][0]
    assert deal["Partner_Note"] is None
    crm.write("PUT", f"Deals/{deal['id']}", [{"Partner_Note": "hello"}])
    assert crm.record("Deals", deal["id"])["Partner_Note"] == "hello"


def test_field_creation_reports_each_and_takes_five_at_most(crm):
    mixed = create(crm, {"field_label": "Good One", "data_type": "date"},
                   {"field_label": "x" * 26, "data_type": "date"})  # fmt: skip
    assert mixed.status_code == 207
    assert [r["status"] for r in mixed.json()["fields"]] == ["success", "error"]
    again = create(crm, {"field_label": "Good One", "data_type": "date"})
    assert again.json()["fields"][0]["code"] == "DUPLICATE_DATA"
    six = create(crm, *[{"field_label": f"F{n}", "data_type": "date"} for n in range(6)])
    assert six.json()["code"] == "LIMIT_EXCEEDED"


def test_deleted_custom_field_is_gone_but_system_fields_stay(crm):
    create(crm, {"field_label": "Short Lived", "data_type": "date"})
    fields = fields_of(crm)
    path = "/crm/v8/settings/fields/"
    gone = crm.call("DELETE", path + fields["Short_Lived"]["id"], params={"module": "Deals"})
    kept = crm.call("DELETE", path + fields["Amount"]["id"], params={"module": "Deals"})
    assert (gone.status_code, kept.json()["code"]) == (200, "NOT_ALLOWED")
    assert "Short_Lived" not in fields_of(crm)


def test_och_profile_uses_its_own_field_names(tmp_path):
    with running_sandbox(tmp_path, deals=200, profile="och") as sandbox:
        crm = Crm(sandbox)
        names = set(fields_of(crm))
        assert {
            "Converted_OCH_Revenue", "Business_Region", "Solution_Type", "Type_of_Funding",
            "Market_Segment", "Strategic_Account", "Proposal_Submission_date",
            "PO_Generation_Date", "Kick_off_Date", "Invoice_Date", "Received_On",
            "OB_Recognition_Date", "Pulse_Id",
        } <= names  # fmt: skip
        assert not names & {"Territory", "Service_Line", "AWS_Funded", "PO_Date"}
        records = sandbox.control("dump", module="Deals")["records"]
        assert sum(r["Converted_OCH_Revenue"] is not None for r in records) > 150
        assert any(r["OB_Recognition_Date"] for r in records)
