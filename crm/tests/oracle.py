"""What the mirror must hold, worked out from the sandbox's own dump without our mapping.

An independent reading of the specification: plain dictionaries, fractions for money. `compare`
returns the differences in words, so that an empty answer means: the mirror is the CRM.
"""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

from crm.models import Account, Contact, CrmUser, Deal, Lead
from crm.sandbox.picklists import STAGES
from crm.tests.sandbox_process import Sandbox

MODELS = {"Accounts": Account, "Contacts": Contact, "Leads": Lead, "Deals": Deal}
TEXTS = {
    "Accounts": {
        "name": "Account_Name",
        "industry": "Industry",
        "account_type": "Account_Type",
        "country": "Billing_Country",
        "website": "Website",
        "phone": "Phone",
    },
    "Contacts": {
        "first_name": "First_Name",
        "last_name": "Last_Name",
        "email": "Email",
        "phone": "Phone",
        "title": "Title",
    },
    "Leads": {
        "first_name": "First_Name",
        "last_name": "Last_Name",
        "company": "Company",
        "email": "Email",
        "phone": "Phone",
        "lead_source": "Lead_Source",
        "status": "Lead_Status",
    },
    "Deals": {
        "name": "Deal_Name",
        "crm_stage": "Stage",
        "deal_type": "Type",
        "lead_source": "Lead_Source",
        "next_step": "Next_Step",
        "description": "Description",
        "loss_reason": "Reason_For_Loss__s",
        "territory": "Territory",
        "service_line": "Service_Line",
        "external_id": "Pulse_Id",
        "pipeline": "Pipeline",
    },
}
DATES = {
    "closing_date": "Closing_Date",
    "proposal_date": "Proposal_Date",
    "sow_date": "SOW_Date",
    "po_date": "PO_Date",
    "kickoff_date": "Kickoff_Date",
    "signoff_date": "Signoff_Date",
    "invoice_date": "Invoice_Date",
    "payment_date": "Payment_Date",
    "revenue_date": "Revenue_Date",
}
PEOPLE = {"owner": "Owner", "modified_by": "Modified_By"}
REFS = {
    "Accounts": PEOPLE,
    "Contacts": {**PEOPLE, "account": "Account_Name"},
    "Leads": PEOPLE,
    "Deals": {**PEOPLE, "account": "Account_Name", "contact": "Contact_Name"},
}
# Kept as the CRM's own id.
CONVERTED = {
    "converted_account_zoho_id": "Converted_Account",
    "converted_contact_zoho_id": "Converted_Contact",
    "converted_deal_zoho_id": "Converted_Deal",
}
MISSING, TOO_MANY = "missing", "too many"
NEVER_EMPTY = {"name", "last_name"}
SHOWN = {actual: display for display, actual, *_ in STAGES}
STAGE_OF = {
    "Qualification": ("qualification", "open", 10),
    "Needs Analysis": ("discovery", "open", 20),
    "Value Proposition": ("discovery", "open", 40),
    "Identify Decision Makers": ("discovery", "open", 60),
    "Proposal/Price Quote": ("proposal", "open", 75),
    "Negotiation/Review": ("negotiation", "open", 90),
    "Closed Won": ("closed_won", "won", 100),
    "Closed Lost": ("closed_lost", "lost", 0),
    "Closed-Lost to Competition": ("closed_lost", "lost", 0),
}
DECIMALS = {"JPY": 0, "KRW": 0, "VND": 0, "KWD": 3}


@dataclass(frozen=True)
class Difference:
    """One value, or a whole record (`field` is MISSING or TOO_MANY), that is not as in the CRM."""

    module: str
    zoho_id: int
    field: str
    actual: Any = None
    expected: Any = None

    @property
    def is_reference(self) -> bool:
        return self.field in REFS[self.module] or self.field in CONVERTED

    def __str__(self) -> str:
        if self.field in (MISSING, TOO_MANY):
            return f"{self.module} {self.zoho_id} is {self.field}"
        return f"{self.module} {self.zoho_id} {self.field}: {self.actual!r}, not {self.expected!r}"


def compare(sandbox: Sandbox, modules: Iterable[str] = MODELS) -> list[str]:
    """Every difference between the sandbox and the live rows, in words."""
    return [str(difference) for difference in differences(sandbox, modules)]


def differences(sandbox: Sandbox, modules: Iterable[str] = MODELS) -> Iterator[Difference]:
    """The same, one by one."""
    rates = rates_of(sandbox)
    for module in modules:
        expected = {
            int(record["id"]): expected_row(module, record, rates)
            for record in sandbox.control("dump", module=module)["records"]
        }
        actual = {row.zoho_id: actual_row(module, row) for row in live_rows(module)}
        yield from (Difference(module, i, MISSING) for i in expected.keys() - actual.keys())
        yield from (Difference(module, i, TOO_MANY) for i in actual.keys() - expected.keys())
        for zoho_id in expected.keys() & actual.keys():
            for name, value in expected[zoho_id].items():
                if actual[zoho_id][name] != value:
                    yield Difference(module, zoho_id, name, actual[zoho_id][name], value)


def api_name_of(module: str, field: str) -> str:
    """The CRM's field behind one of ours that is mapped as it is; empty for others."""
    dates = DATES if module == "Deals" else {}
    return {**TEXTS[module], **REFS[module], **CONVERTED, **dates}.get(field, "")


def compare_users(sandbox: Sandbox) -> list[str]:
    """Every user of the CRM, with name, address and whether still there."""
    with sqlite3.connect(f"file:{sandbox.db}?mode=ro", uri=True) as sql:
        rows = sql.execute("select definition from users").fetchall()
    expected = {
        int(user["id"]): (user["full_name"], user["email"], user["status"])
        for user in (json.loads(row[0]) for row in rows)
    }
    users = CrmUser.objects.values_list("zoho_id", "name", "email", "status")
    actual = {zoho_id: (name, email, status) for zoho_id, name, email, status in users}
    return [
        f"user {i}: {actual.get(i)!r}, not {expected.get(i)!r}"
        for i in sorted({*expected, *actual})
        if actual.get(i) != expected.get(i)
    ]


def live_rows(module: str) -> Iterable[Any]:
    related = [*REFS[module]]
    return MODELS[module].objects.live().select_related(*related)


def rates_of(sandbox: Sandbox) -> dict[str, Fraction]:
    """Units of each currency for one of the home currency, from the sandbox's file."""
    with sqlite3.connect(f"file:{sandbox.db}?mode=ro", uri=True) as sql:
        rows = sql.execute("select definition from currency").fetchall()
    found = [json.loads(row[0]) for row in rows]
    return {c["iso_code"]: Fraction(c["exchange_rate"]) for c in found}


def actual_row(module: str, row: Any) -> dict[str, Any]:
    names = [*TEXTS[module], "crm_created_at", "crm_modified_at"]
    if module == "Deals":
        names += [*DATES, "crm_probability", "currency", "amount_minor", "aws_funded"]
        names += ["strategic_account", "stage", "stage_type", "probability"]
        names += ["amount_sgd_minor", "weighted_sgd_minor"]
    if module == "Accounts":
        names.append("employees")
    if module == "Leads":
        names += ["is_converted", "converted_at", *CONVERTED]
    found = {name: getattr(row, name) for name in names}
    found |= {name: getattr(getattr(row, name), "zoho_id", None) for name in REFS[module]}
    return found


def expected_row(module: str, record: dict[str, Any], rates: dict[str, Fraction]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: text(record[api], "" if name in NEVER_EMPTY else None)
        for name, api in TEXTS[module].items()
    }
    found |= {name: ref(record[api]) for name, api in REFS[module].items()}
    found["crm_created_at"] = moment(record["Created_Time"])
    found["crm_modified_at"] = moment(record["Modified_Time"])
    if module == "Accounts":
        found["employees"] = record["Employees"]
    if module == "Leads":
        found["is_converted"] = record["Converted__s"]
        found["converted_at"] = moment(record["Converted_Date_Time"])
        found |= {name: ref(record[api]) for name, api in CONVERTED.items()}
    if module == "Deals":
        found |= deal_values(record, rates)
    return found


def deal_values(record: dict[str, Any], rates: dict[str, Fraction]) -> dict[str, Any]:
    stage = SHOWN.get(record["Stage"], record["Stage"])
    ours, kind, usual = STAGE_OF.get(stage, ("other", "open", None))
    percent = record["Probability"]
    probability = usual if percent is None else percent
    code = record["Currency"]
    scale = 10 ** DECIMALS.get(code, 2)
    amount = None if record["Amount"] is None else Fraction(str(record["Amount"]))
    sgd = None
    if amount is not None:
        amount = Fraction(
            half_up(amount * 10 ** DECIMALS.get(code, 2)), 10 ** DECIMALS.get(code, 2)
        )
        if code == "SGD":
            sgd = half_up(amount * 100)
        elif code in rates and "SGD" in rates:
            sgd = half_up(amount / rates[code] * rates["SGD"] * 100)
    return {
        **{name: record[api] and date.fromisoformat(record[api]) for name, api in DATES.items()},
        "crm_probability": percent,
        "currency": code,
        "amount_minor": None if amount is None else int(amount * scale),
        "aws_funded": record["AWS_Funded"],
        "strategic_account": record["Strategic_Account"],
        "crm_stage": stage,
        "stage": ours,
        "stage_type": kind,
        "probability": probability,
        "amount_sgd_minor": sgd,
        "weighted_sgd_minor": None
        if sgd is None or probability is None
        else half_up(Fraction(sgd * probability, 100)),
    }


def half_up(exact: Fraction) -> int:
    whole, rest = divmod(abs(exact.numerator), exact.denominator)
    whole += 2 * rest >= exact.denominator
    return whole if exact >= 0 else -whole


def text(value: str | None, empty: str | None) -> str | None:
    if value is None:
        return empty
    clean = value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return unicodedata.normalize("NFC", clean).strip() or empty


def ref(value: dict[str, Any] | None) -> int | None:
    return None if value is None else int(value["id"])


def moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).astimezone(UTC)
