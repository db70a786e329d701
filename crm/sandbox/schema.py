"""What the stand-in CRM knows about its modules: fields, types, picklists, pipelines.

Pure tables and small classes. The store keeps them per database (fields can be created and
removed at run time); `metadata.py` renders them for the API.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from crm.sandbox.picklists import (
    ACCOUNT_TYPES,
    DEAL_TYPES,
    FUNDING_TAGS,
    INDUSTRIES,
    LEAD_SOURCES,
    LEAD_STATUSES,
    LOSS_REASONS,
    MARKET_SEGMENTS,
    PIPELINES,
    RATINGS,
    SERVICE_LINES,
    STAGES,
    TERRITORIES,
)

ID_BASE = 5_725_767_000_000_000_000
"""Every id of this org: 19 digits, above 2^53."""

ORG_ID = str(ID_BASE + 20_001)
PICKLIST_TYPES = {"picklist", "multiselectpicklist"}
TEXT_TYPES = {"text", "textarea", "email", "phone", "website", "picklist"}
NUMBER_TYPES = {"integer", "bigint", "double", "currency", "percent"}
JSON_TYPES = {
    "integer": "integer",
    "percent": "integer",
    "bigint": "long",
    "double": "double",
    "currency": "double",
    "boolean": "boolean",
    "lookup": "jsonobject",
    "ownerlookup": "jsonobject",
    "multiselectpicklist": "jsonarray",
}


@dataclass(frozen=True)
class Choice:
    """One picklist value. `extra` holds what only Stage has: probability, forecast type."""

    display: str
    actual: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """One field of a module, as `settings/fields` describes it."""

    api_name: str
    label: str
    data_type: str
    id: str = ""
    length: int = 0
    decimal_place: int | None = None
    custom: bool = False
    read_only: bool = False
    mandatory: bool = False
    unique: bool = False
    lookup: str | None = None
    choices: tuple[Choice, ...] = ()
    removed: bool = False

    @property
    def is_user(self) -> bool:
        return self.data_type == "ownerlookup"

    @property
    def is_lookup(self) -> bool:
        return self.data_type in ("lookup", "ownerlookup")

    def choice(self, text: str) -> Choice | None:
        """The choice whose display or actual value is `text`."""
        for choice in self.choices:
            if text in (choice.display, choice.actual):
                return choice
        return None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` reads back."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["choices"] = [[c.display, c.actual, c.extra] for c in self.choices]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Field":
        choices = tuple(Choice(*item) for item in plain["choices"])
        return cls(**{**plain, "choices": choices})


@dataclass
class Module:
    """A module's fields in order, with the plumbing ids the API shows."""

    api_name: str
    singular: str
    plural: str
    name_field: str
    id: str
    layout_id: str
    fields: dict[str, Field]

    def visible(self) -> dict[str, Field]:
        """The fields that exist for the API now: a removed one is as if it never was."""
        return {name: f for name, f in self.fields.items() if not f.removed}

    def get(self, api_name: str) -> Field | None:
        found = self.fields.get(api_name)
        return None if found is None or found.removed else found


def zoho_id(sequence: int) -> str:
    """The id text of a place in the org's number space."""
    return str(ID_BASE + sequence)


# -- picklistss ------------------------------------------------------------------------------

FORECAST_CATEGORY_IDS = {
    "Pipeline": zoho_id(36_001),
    "Closed": zoho_id(36_003),
    "Omitted": zoho_id(36_005),
}


def _plain(values: tuple[str, ...], *, none: bool = True) -> tuple[Choice, ...]:
    first = (Choice("-None-", "-None-"),) if none else ()
    return first + tuple(Choice(value, value) for value in values)


def _stage_choices() -> tuple[Choice, ...]:
    return tuple(
        Choice(display, actual, {"probability": p, "forecast_type": kind, "category": category})
        for display, actual, p, kind, category in STAGES
    )


# -- fields ---------------------------------------------------------------------------------


def _text(api: str, label: str, length: int = 255, **more: Any) -> Field:
    return Field(api, label, "text", length=length, **more)


def _typed(data_type: str, length: int, **fixed: Any):
    def make(api: str, label: str, **more: Any) -> Field:
        return Field(api, label, data_type, length=length, **{**fixed, **more})

    return make


_date = _typed("date", 20)
_moment = _typed("datetime", 120)
_boolean = _typed("boolean", 5)
_money = _typed("currency", 16, decimal_place=2)
_integer = _typed("integer", 9)
_double = _typed("double", 16, decimal_place=9)
_percent = _typed("percent", 5)
_area = _typed("textarea", 32_000)
_email = _typed("email", 100)
_phone = _typed("phone", 30)
_website = _typed("website", 450)
_owner = _typed("ownerlookup", 120)


def _pick(
    api: str, label: str, values: tuple[str, ...], *, none: bool = True, **more: Any
) -> Field:
    return Field(api, label, "picklist", length=120, choices=_plain(values, none=none), **more)


def _lookup(api: str, label: str, module: str) -> Field:
    return Field(api, label, "lookup", length=120, lookup=module)


def _system_fields(currencies: tuple[str, ...]) -> list[Field]:
    """What every module ends with; the money pair only where several currencies are on."""
    money = [
        _pick("Currency", "Currency", currencies, none=False),
        _double("Exchange_Rate", "Exchange Rate"),
    ]
    return [
        *(money if currencies else []),
        _owner("Created_By", "Created By", read_only=True),
        _owner("Modified_By", "Modified By", read_only=True),
        _moment("Created_Time", "Created Time", read_only=True),
        _moment("Modified_Time", "Modified Time", read_only=True),
        _moment("Last_Activity_Time", "Last Activity Time", read_only=True),
        Field("Tag", "Tag", "text", length=2_000, read_only=True),
        _boolean("Locked__s", "Locked", read_only=True),
        _pick("Record_Status__s", "Record Status", ("Available", "Draft"), read_only=True),
    ]


def _standard_business_fields(territory_is_text: bool) -> list[Field]:
    territory = (
        _text("Territory", "Territory", 120, custom=True)
        if territory_is_text
        else _pick("Territory", "Territory", TERRITORIES, custom=True)
    )
    return [
        territory,
        _pick("Service_Line", "Service Line", SERVICE_LINES, custom=True),
        _boolean("AWS_Funded", "AWS Funded", custom=True),
        _boolean("Strategic_Account", "Strategic Account", custom=True),
        _date("Proposal_Date", "Proposal Date", custom=True),
        _date("SOW_Date", "SOW Date", custom=True),
        _date("PO_Date", "PO Date", custom=True),
        _date("Kickoff_Date", "Kickoff Date", custom=True),
        _date("Signoff_Date", "Signoff Date", custom=True),
        _date("Invoice_Date", "Invoice Date", custom=True),
        _date("Payment_Date", "Payment Date", custom=True),
        _date("Revenue_Date", "Revenue Date", custom=True),
    ]


def _och_business_fields() -> list[Field]:
    return [
        _money("Converted_OCH_Revenue", "Converted OCH Revenue", custom=True),
        _pick("Business_Region", "Business Region", TERRITORIES, custom=True),
        _pick("Solution_Type", "Solution Type", SERVICE_LINES, custom=True),
        _pick("Type_of_Funding", "Type of Funding", FUNDING_TAGS, none=False, custom=True),
        _pick("Market_Segment", "Market Segment", MARKET_SEGMENTS, custom=True),
        _boolean("Strategic_Account", "Strategic Account", custom=True),
        _date("Proposal_Submission_date", "Proposal Submission date", custom=True),
        _date("PO_Generation_Date", "PO Generation Date", custom=True),
        _date("Kick_off_Date", "Kick off Date", custom=True),
        _date("Signoff_Date", "Signoff Date", custom=True),
        _date("Invoice_Date", "Invoice Date", custom=True),
        _date("Received_On", "Received On", custom=True),
        _date("OB_Recognition_Date", "OB Recognition Date", custom=True),
    ]


def _deal_fields(profile: str) -> list[Field]:
    business = (
        _och_business_fields()
        if profile == "och"
        else _standard_business_fields(territory_is_text=profile == "csv")
    )
    return [
        _text("Deal_Name", "Deal Name", 120, mandatory=True),
        _lookup("Account_Name", "Account Name", "Accounts"),
        _lookup("Contact_Name", "Contact Name", "Contacts"),
        _owner("Owner", "Deal Owner"),
        _pick("Pipeline", "Pipeline", tuple(p[1] for p in PIPELINES), none=False, mandatory=True),
        Field("Stage", "Stage", "picklist", length=120, mandatory=True, choices=_stage_choices()),
        _money("Amount", "Amount"),
        _percent("Probability", "Probability (%)"),
        _money("Expected_Revenue", "Expected Revenue", read_only=True),
        _date("Closing_Date", "Closing Date"),
        _pick("Type", "Type", DEAL_TYPES),
        _pick("Lead_Source", "Lead Source", LEAD_SOURCES),
        _text("Next_Step", "Next Step", 100),
        _area("Description", "Description"),
        _pick("Reason_For_Loss__s", "Reason For Loss", LOSS_REASONS),
        *business,
        _text("Pulse_Id", "Pulse Id", 64, custom=True, unique=True),
        _integer("Lead_Conversion_Time", "Lead Conversion Time", read_only=True),
        _integer("Sales_Cycle_Duration", "Sales Cycle Duration", read_only=True),
        _integer("Overall_Sales_Duration", "Overall Sales Duration", read_only=True),
    ]


def _account_fields() -> list[Field]:
    return [
        _text("Account_Name", "Account Name", 200, mandatory=True),
        _owner("Owner", "Account Owner"),
        _phone("Phone", "Phone"),
        _website("Website", "Website"),
        _pick("Account_Type", "Account Type", ACCOUNT_TYPES),
        _pick("Industry", "Industry", INDUSTRIES),
        _money("Annual_Revenue", "Annual Revenue"),
        _integer("Employees", "Employees"),
        _lookup("Parent_Account", "Parent Account", "Accounts"),
        _pick("Rating", "Rating", RATINGS),
        _text("Billing_Street", "Billing Street"),
        _text("Billing_City", "Billing City", 100),
        _text("Billing_State", "Billing State", 100),
        _text("Billing_Code", "Billing Code", 30),
        _text("Billing_Country", "Billing Country", 100),
        _area("Description", "Description"),
    ]


def _contact_fields() -> list[Field]:
    return [
        _text("First_Name", "First Name", 40),
        _text("Last_Name", "Last Name", 80, mandatory=True),
        _text("Full_Name", "Full Name", 120, read_only=True),
        _lookup("Account_Name", "Account Name", "Accounts"),
        _owner("Owner", "Contact Owner"),
        _email("Email", "Email"),
        _phone("Phone", "Phone"),
        _phone("Mobile", "Mobile"),
        _text("Title", "Title", 100),
        _text("Department", "Department", 50),
        _pick("Lead_Source", "Lead Source", LEAD_SOURCES),
        _text("Mailing_City", "Mailing City", 100),
        _text("Mailing_Country", "Mailing Country", 100),
        _area("Description", "Description"),
    ]


def _lead_fields() -> list[Field]:
    return [
        _text("First_Name", "First Name", 40),
        _text("Last_Name", "Last Name", 80, mandatory=True),
        _text("Full_Name", "Full Name", 120, read_only=True),
        _text("Company", "Company", 200, mandatory=True),
        _owner("Owner", "Lead Owner"),
        _email("Email", "Email"),
        _phone("Phone", "Phone"),
        _text("Designation", "Designation", 100),
        _pick("Lead_Source", "Lead Source", LEAD_SOURCES),
        _pick("Lead_Status", "Lead Status", LEAD_STATUSES),
        _pick("Industry", "Industry", INDUSTRIES),
        _money("Annual_Revenue", "Annual Revenue"),
        _integer("No_of_Employees", "No of Employees"),
        _text("City", "City", 100),
        _text("Country", "Country", 100),
        _area("Description", "Description"),
        _boolean("Converted__s", "Converted", read_only=True),
        _moment("Converted_Date_Time", "Converted Date Time", read_only=True),
        Field(
            "Converted_Account",
            "Converted Account",
            "lookup",
            length=120,
            read_only=True,
            lookup="Accounts",
        ),
        Field(
            "Converted_Contact",
            "Converted Contact",
            "lookup",
            length=120,
            read_only=True,
            lookup="Contacts",
        ),
        Field(
            "Converted_Deal",
            "Converted Deal",
            "lookup",
            length=120,
            read_only=True,
            lookup="Deals",
        ),
        _integer("Lead_Conversion_Time", "Lead Conversion Time", read_only=True),
    ]


MODULES: tuple[tuple[str, str, str, str, int], ...] = (
    ("Leads", "Lead", "Leads", "Full_Name", 2_175),
    ("Accounts", "Account", "Accounts", "Account_Name", 2_177),
    ("Contacts", "Contact", "Contacts", "Full_Name", 2_179),
    ("Deals", "Deal", "Deals", "Deal_Name", 2_181),
)
"""API name, singular, plural, the field that names a record, id sequence."""


def build_modules(profile: str, currencies: tuple[str, ...]) -> dict[str, Module]:
    """The modules of a new org. `profile` is standard, och or csv; no currencies: one only."""
    makers = {
        "Leads": _lead_fields,
        "Accounts": _account_fields,
        "Contacts": _contact_fields,
        "Deals": lambda: _deal_fields(profile),
    }
    modules = {}
    for place, (name, singular, plural, name_field, sequence) in enumerate(MODULES):
        fields = makers[name]() + _system_fields(currencies)
        numbered = {
            f.api_name: replace(f, id=zoho_id(3_001 + place * 2_000 + 2 * n))
            for n, f in enumerate(fields)
        }
        modules[name] = Module(
            name,
            singular,
            plural,
            name_field,
            zoho_id(sequence),
            zoho_id(91_055 + 2 * place),
            numbered,
        )
    return modules
