"""Lead conversion and histories in the sandbox."""

import pytest

from crm.tests.sandbox_calls import Crm
from crm.tests.sandbox_process import running_sandbox

DEAL = {"Deal_Name": "Converted", "Stage": "Qualification", "Pipeline": "Standard",
        "Closing_Date": "2027-01-31", "Amount": 100}  # fmt: skip


@pytest.fixture(scope="module")
def crm(tmp_path_factory):
    with running_sandbox(tmp_path_factory.mktemp("convert"), deals=20) as running:
        yield Crm(running)


@pytest.fixture
def lead(crm):
    body = [{"Last_Name": "Ray", "First_Name": "Ana", "Company": "Rayline", "City": "Lima",
             "Email": "ana@rayline.example.com"}]  # fmt: skip
    return crm.write("POST", "Leads", body).json()["data"][0]["details"]["id"]


def convert(crm, lead, **wishes):
    return crm.write("POST", f"Leads/{lead}/actions/convert", [wishes])


def test_a_conversion_heeds_unique_fields_and_makes_nothing_then(crm, lead):
    taken = {**DEAL, "Account_Name": None, "Pulse_Id": "taken"}
    assert crm.write("POST", "Deals", [taken]).status_code == 201
    refused = convert(crm, lead, Deals={**DEAL, "Pulse_Id": "taken"})
    item = refused.json()["data"][0]
    assert (refused.status_code, item["code"]) == (400, "DUPLICATE_DATA")
    assert item["details"]["api_name"] == "Pulse_Id"
    assert crm.record("Leads", lead)["Converted__s"] is False
    assert convert(crm, lead, Deals={**DEAL, "Pulse_Id": "free"}).status_code == 200


def test_conversion_makes_account_contact_and_deal_that_belong_together(crm, lead):
    answer = convert(crm, lead, Deals=DEAL)
    made = answer.json()["data"][0]["details"]
    assert answer.status_code == 200
    account = crm.record("Accounts", made["Accounts"]["id"])
    contact = crm.record("Contacts", made["Contacts"]["id"])
    deal = crm.record("Deals", made["Deals"]["id"])
    assert (account["Account_Name"], account["Billing_City"]) == ("Rayline", "Lima")
    assert (contact["Full_Name"], contact["Account_Name"]["id"]) == ("Ana Ray", account["id"])
    assert deal["Account_Name"]["id"] == account["id"]
    assert deal["Contact_Name"]["id"] == contact["id"]
    assert deal["Probability"] == 10


def test_converted_lead_leaves_the_list_remembers_and_cannot_be_changed(crm, lead):
    made = convert(crm, lead, Deals=DEAL).json()["data"][0]["details"]
    assert lead not in {r["id"] for r in crm.all_pages("Leads", fields="Company")}
    assert crm.get("Leads/deleted", type="all").status_code == 204
    record = crm.record("Leads", lead)
    assert record["Converted__s"] is True
    assert record["Converted_Deal"]["id"] == made["Deals"]["id"]
    refused = crm.write("PUT", f"Leads/{lead}", [{"City": "Quito"}])
    assert refused.json()["data"][0]["code"] == "NOT_ALLOWED"
    again = convert(crm, lead, Deals=DEAL)
    assert (again.status_code, again.json()["data"][0]["code"]) == (400, "ID_ALREADY_CONVERTED")


def test_deal_may_be_left_out_and_existing_records_used(crm, lead):
    first = convert(crm, lead).json()["data"][0]["details"]
    assert first["Deals"] is None
    body = [{"Last_Name": "Ray", "Company": "Rayline"}]
    other = crm.write("POST", "Leads", body).json()["data"][0]["details"]["id"]
    second = convert(crm, other, Accounts={"id": first["Accounts"]["id"]},
                     Contacts={"id": first["Contacts"]["id"]})  # fmt: skip
    assert second.json()["data"][0]["details"] == first


@pytest.mark.parametrize("missing", ["Deal_Name", "Stage", "Pipeline", "Closing_Date"])
def test_incomplete_deal_converts_nothing(crm, lead, missing):
    before = crm.get("Accounts/actions/count").json()
    deal = {k: v for k, v in DEAL.items() if k != missing}
    answer = convert(crm, lead, Deals=deal)
    item = answer.json()["data"][0]
    assert (answer.status_code, item["code"]) == (400, "MANDATORY_NOT_FOUND")
    assert item["details"]["api_name"] == missing
    assert crm.record("Leads", lead)["Converted__s"] is False
    assert crm.get("Accounts/actions/count").json() == before


def test_options_name_matching_records(crm, lead):
    made = convert(crm, lead).json()["data"][0]["details"]
    body = [{"Last_Name": "Other", "Company": "Rayline", "Email": "ana@rayline.example.com"}]
    other = crm.write("POST", "Leads", body).json()["data"][0]["details"]["id"]
    options = crm.get(f"Leads/{other}/__conversion_options").json()["__conversion_options"]
    assert made["Accounts"]["id"] in {a["id"] for a in options["Accounts"]}
    assert made["Contacts"]["id"] in {c["id"] for c in options["Contacts"]}
