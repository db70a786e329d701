"""The built-in field mappings as plain tables: which CRM field feeds which column of ours.

Two profiles exist for deals, `standard` and `och`; the other modules have one table. Ops override
single rows (`FieldMapping`), `effective_mapping` lays those over a profile. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

TEXT, LONG_TEXT, DATE, MOMENT, MONEY, SGD, PERCENT, INTEGER, FLAG, TAG, CURRENCY, PICK, REF = (
    "text",
    "long_text",
    "date",
    "moment",
    "money",
    "sgd",
    "percent",
    "integer",
    "flag",
    "tag",
    "currency",
    "pick",
    "ref",
)

STANDARD, OCH, AUTO = "standard", "och", "auto"
PROFILES = (STANDARD, OCH)
MODULES = ("Accounts", "Contacts", "Leads", "Deals")


@dataclass(frozen=True)
class FieldSpec:
    """One mapped field. `target` names the module of a reference ("Users", "Accounts", …).

    `optional`: its absence from the CRM is no finding.
    """

    ours: str
    api: str
    kind: str
    length: int = 255
    target: str = ""
    optional: bool = False


def _milestones(names: Mapping[str, str]) -> list[FieldSpec]:
    optional = {"signoff_date", "sow_date"}
    return [FieldSpec(ours, api, DATE, optional=ours in optional) for ours, api in names.items()]


_DEAL_CORE = [
    FieldSpec("name", "Deal_Name", TEXT),
    FieldSpec("account_id", "Account_Name", REF, target="Accounts"),
    FieldSpec("contact_id", "Contact_Name", REF, target="Contacts"),
    FieldSpec("owner_id", "Owner", REF, target="Users"),
    FieldSpec("pipeline", "Pipeline", PICK, optional=True),
    FieldSpec("crm_stage", "Stage", PICK),
    FieldSpec("crm_probability", "Probability", PERCENT),
    FieldSpec("currency", "Currency", CURRENCY, length=10, optional=True),
    FieldSpec("amount_minor", "Amount", MONEY),
    FieldSpec("closing_date", "Closing_Date", DATE),
    FieldSpec("deal_type", "Type", PICK),
    FieldSpec("lead_source", "Lead_Source", PICK),
    FieldSpec("next_step", "Next_Step", TEXT),
    FieldSpec("description", "Description", LONG_TEXT, length=65_000),
    FieldSpec("loss_reason", "Reason_For_Loss__s", PICK),
    FieldSpec("external_id", "Pulse_Id", TEXT),
]

_DEALS = {
    STANDARD: [
        *_DEAL_CORE,
        FieldSpec("territory", "Territory", PICK),
        FieldSpec("service_line", "Service_Line", PICK),
        FieldSpec("aws_funded", "AWS_Funded", FLAG),
        FieldSpec("strategic_account", "Strategic_Account", FLAG),
        *_milestones(
            {
                "proposal_date": "Proposal_Date",
                "sow_date": "SOW_Date",
                "po_date": "PO_Date",
                "kickoff_date": "Kickoff_Date",
                "signoff_date": "Signoff_Date",
                "invoice_date": "Invoice_Date",
                "payment_date": "Payment_Date",
                "revenue_date": "Revenue_Date",
            }
        ),
    ],
    OCH: [
        *_DEAL_CORE,
        FieldSpec("given_sgd_minor", "Converted_OCH_Revenue", SGD),
        FieldSpec("territory", "Business_Region", PICK),
        FieldSpec("service_line", "Solution_Type", PICK),
        FieldSpec("aws_funded_tag", "Type_of_Funding", TAG),
        FieldSpec("alliance_motion", "Market_Segment", PICK),
        FieldSpec("strategic_account", "Strategic_Account", FLAG),
        *_milestones(
            {
                "proposal_date": "Proposal_Submission_date",
                "sow_date": "SOW_Date",
                "po_date": "PO_Generation_Date",
                "kickoff_date": "Kick_off_Date",
                "signoff_date": "Signoff_Date",
                "invoice_date": "Invoice_Date",
                "payment_date": "Received_On",
                "revenue_date": "OB_Recognition_Date",
            }
        ),
    ],
}

_OTHERS = {
    "Accounts": [
        FieldSpec("name", "Account_Name", TEXT),
        FieldSpec("owner_id", "Owner", REF, target="Users"),
        FieldSpec("industry", "Industry", TEXT, optional=True),
        FieldSpec("account_type", "Account_Type", TEXT, optional=True),
        FieldSpec("country", "Billing_Country", TEXT, optional=True),
        FieldSpec("website", "Website", TEXT, length=450, optional=True),
        FieldSpec("phone", "Phone", TEXT, length=60, optional=True),
        FieldSpec("employees", "Employees", INTEGER, optional=True),
    ],
    "Contacts": [
        FieldSpec("first_name", "First_Name", TEXT, optional=True),
        FieldSpec("last_name", "Last_Name", TEXT),
        FieldSpec("owner_id", "Owner", REF, target="Users"),
        FieldSpec("email", "Email", TEXT, length=320, optional=True),
        FieldSpec("phone", "Phone", TEXT, length=60, optional=True),
        FieldSpec("title", "Title", TEXT, optional=True),
        FieldSpec("account_id", "Account_Name", REF, target="Accounts", optional=True),
    ],
    "Leads": [
        FieldSpec("first_name", "First_Name", TEXT, optional=True),
        FieldSpec("last_name", "Last_Name", TEXT),
        FieldSpec("company", "Company", TEXT),
        FieldSpec("owner_id", "Owner", REF, target="Users"),
        FieldSpec("email", "Email", TEXT, length=320, optional=True),
        FieldSpec("phone", "Phone", TEXT, length=60, optional=True),
        FieldSpec("lead_source", "Lead_Source", PICK, optional=True),
        FieldSpec("status", "Lead_Status", PICK, optional=True),
        FieldSpec("is_converted", "Converted__s", FLAG, optional=True),
        FieldSpec("converted_at", "Converted_Date_Time", MOMENT, optional=True),
        FieldSpec("converted_account_zoho_id", "Converted_Account", REF, optional=True),
        FieldSpec("converted_contact_zoho_id", "Converted_Contact", REF, optional=True),
        FieldSpec("converted_deal_zoho_id", "Converted_Deal", REF, optional=True),
    ],
}

# What every record brings besides its mapped fields.
SYSTEM_FIELDS = ("Created_Time", "Modified_Time", "Modified_By")


def builtin_mapping(module: str, profile: str) -> list[FieldSpec]:
    """The table of a module; `profile` matters for Deals alone."""
    return list(_DEALS[profile] if module == "Deals" else _OTHERS[module])


def effective_mapping(
    module: str, profile: str, overrides: Mapping[str, str] | None = None
) -> list[FieldSpec]:
    """The profile's table with `{our_field: api_name}` laid over it; an empty name drops the row.

    A field of ours that only the other profile maps can be switched on by an override.
    """
    overrides = dict(overrides or {})
    specs = []
    for spec in builtin_mapping(module, profile):
        api = overrides.pop(spec.ours, spec.api)
        if api:
            specs.append(replace(spec, api=api))
    others = {
        spec.ours: spec
        for other in PROFILES
        if other != profile
        for spec in builtin_mapping(module, other)
    }
    specs += [
        replace(others[ours], api=api) for ours, api in overrides.items() if api and ours in others
    ]
    return specs


def pick_profile(field_names: Iterable[str]) -> str:
    """The profile of which the organisation has more fields; `standard` when it is a draw."""
    present = set(field_names)

    def found(profile: str) -> int:
        return sum(spec.api in present for spec in _DEALS[profile])

    return OCH if found(OCH) > found(STANDARD) else STANDARD
