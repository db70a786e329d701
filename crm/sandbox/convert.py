"""Lead conversion: a lead becomes an account, a contact and, if asked for, a deal."""

from typing import Any

from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.fragments import from_fragment, to_fragment
from crm.sandbox.params import body_list, json_object
from crm.sandbox.record_checks import check_unique, checked_columns, require_mandatory
from crm.sandbox.rows import acting_user, insert_row, update_row
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store, Transaction

COST = 5
ACCOUNT_FROM_LEAD = {
    "Account_Name": "Company",
    "Industry": "Industry",
    "Annual_Revenue": "Annual_Revenue",
    "Employees": "No_of_Employees",
    "Phone": "Phone",
    "Billing_City": "City",
    "Billing_Country": "Country",
}
CONTACT_FROM_LEAD = {
    "First_Name": "First_Name",
    "Last_Name": "Last_Name",
    "Email": "Email",
    "Phone": "Phone",
    "Title": "Designation",
    "Lead_Source": "Lead_Source",
    "Mailing_City": "City",
    "Mailing_Country": "Country",
}


def convert_lead(store: Store, request: Request, record_id: str) -> Response:
    """POST /crm/v8/Leads/{id}/actions/convert: all of it or nothing."""
    wishes = body_list(json_object(request), "data")[0]
    if not isinstance(wishes, dict):
        raise invalid_data(api_name="data", expected_data_type="jsonobject")
    try:
        with store.write() as tx:
            details = convert_in(tx, int(record_id), wishes)
    except ApiError as error:
        if error.counts:
            raise
        return Response.of({"data": [error.item()]}, error.status, credits=COST)
    result = {
        "code": "SUCCESS",
        "details": details,
        "message": "The record has been converted successfully",
        "status": "success",
    }
    return Response.of({"data": [result]}, credits=COST)


def convert_in(tx: Transaction, lead_id: int, wishes: dict[str, Any]) -> dict[str, Any]:
    """Convert within a transaction; names and ids of what came out. Raises ApiError."""
    lead = tx.row("Leads", lead_id)
    if lead is None:
        raise ApiError(
            400,
            "INVALID_DATA",
            "the id given seems to be invalid",
            {"resource_path_index": 1},
            counts=False,
        )
    if lead.get("Converted__s") == "true":
        raise ApiError(
            400,
            "ID_ALREADY_CONVERTED",
            "id already converted",
            {"id": str(lead_id)},
            counts=False,
        )
    owner = _owner(tx, wishes, lead)
    account = _account(tx, lead, wishes, owner)
    contact = _contact(tx, lead, wishes, owner, account)
    deal = _deal(tx, wishes, owner, account, contact)
    done = {
        "Converted__s": "true",
        "Converted_Date_Time": to_fragment(tx.now),
        "Converted_Account": account,
        "Converted_Contact": contact,
        "Converted_Deal": deal,
    }
    update_row(tx, tx.store.modules["Leads"], lead, done, acting_user(tx.store), "crm_api")
    return {
        "Contacts": _named(tx, "Contacts", contact),
        "Deals": _named(tx, "Deals", deal),
        "Accounts": _named(tx, "Accounts", account),
    }


def _named(tx: Transaction, module: str, record_id: int | None) -> dict[str, str] | None:
    row = tx.row(module, record_id) if record_id is not None else None
    if row is None:
        return None
    name = from_fragment(row[tx.store.modules[module].name_field])
    return {"name": name, "id": str(row["id"])}


def _given(tx: Transaction, wishes: dict[str, Any], module: str) -> int | None:
    """The existing record that the request names for this part."""
    wish = wishes.get(module)
    if wish is None:
        return None
    raw = wish.get("id") if isinstance(wish, dict) else wish
    text = str(raw)
    row = tx.row(module, int(text)) if text.isdigit() and len(text) < 20 else None
    if row is None:
        raise ApiError(
            400,
            "INVALID_DATA",
            "invalid data",
            {"api_name": "id", "json_path": f"$.data[0].{module}.id"},
            counts=False,
        )
    return row["id"]


def _owner(tx: Transaction, wishes: dict[str, Any], lead: dict[str, Any]) -> int:
    wish = wishes.get("assign_to")
    if wish is None:
        owner = lead.get("Owner")
        return owner if isinstance(owner, int) else acting_user(tx.store)
    raw = wish.get("id") if isinstance(wish, dict) else wish
    found = None
    if str(raw).isdigit():
        found = tx.sql.execute(
            "select id from users where id=? and status='active'", (int(str(raw)),)
        ).fetchone()
    if found is None:
        raise ApiError(
            400,
            "INVALID_DATA",
            "invalid data",
            {"api_name": "assign_to", "json_path": "$.data[0].assign_to"},
            counts=False,
        )
    return found[0]


def _copied(lead: dict[str, Any], table: dict[str, str], owner: int) -> dict[str, Any]:
    columns = {name: lead.get(source) for name, source in table.items()}
    columns["Owner"] = owner
    if lead.get("Currency") is not None:
        columns["Currency"] = lead["Currency"]
    return {name: value for name, value in columns.items() if value is not None}


def _account(tx: Transaction, lead: dict[str, Any], wishes: dict[str, Any], owner: int) -> int:
    chosen = _given(tx, wishes, "Accounts")
    if chosen is None and wishes.get("add_to_existing_record"):
        found = tx.sql.execute(
            "select id from m_Accounts where Account_Name=? order by id limit 1",
            (lead.get("Company"),),
        ).fetchone()
        chosen = found[0] if found else None
    if chosen is not None:
        return chosen
    columns = _copied(lead, ACCOUNT_FROM_LEAD, owner)
    return insert_row(tx, tx.store.modules["Accounts"], columns, acting_user(tx.store))["id"]


def _contact(
    tx: Transaction, lead: dict[str, Any], wishes: dict[str, Any], owner: int, account: int
) -> int:
    chosen = _given(tx, wishes, "Contacts")
    if chosen is None and wishes.get("add_to_existing_record") and lead.get("Email"):
        found = tx.sql.execute(
            "select id from m_Contacts where Email=? order by id limit 1", (lead["Email"],)
        ).fetchone()
        chosen = found[0] if found else None
    if chosen is not None:
        return chosen
    columns = {**_copied(lead, CONTACT_FROM_LEAD, owner), "Account_Name": account}
    return insert_row(tx, tx.store.modules["Contacts"], columns, acting_user(tx.store))["id"]


def _deal(
    tx: Transaction, wishes: dict[str, Any], owner: int, account: int, contact: int
) -> int | None:
    wish = wishes.get("Deals")
    if wish is None:
        return None
    if not isinstance(wish, dict):
        raise ApiError(
            400,
            "INVALID_DATA",
            "invalid data",
            {"api_name": "Deals", "expected_data_type": "jsonobject"},
            counts=False,
        )
    module = tx.store.modules["Deals"]
    columns = checked_columns(tx, module, 0, wish)
    require_mandatory(module, columns, 0, more=("Closing_Date",))
    check_unique(tx, module, 0, columns, None)
    columns |= {"Owner": columns.get("Owner") or owner, "Account_Name": account,
                "Contact_Name": contact}  # fmt: skip
    return insert_row(tx, module, columns, acting_user(tx.store))["id"]


def conversion_options(store: Store, _request: Request, record_id: str) -> Response:
    """GET /crm/v8/Leads/{id}/__conversion_options: records that match the lead."""
    with store.write() as tx:
        lead = tx.row("Leads", int(record_id))
        if lead is None:
            return Response(204)
        accounts = tx.sql.execute(
            "select id from m_Accounts where Account_Name=? order by id limit 100",
            (lead.get("Company"),),
        ).fetchall()
        contacts = tx.sql.execute(
            "select id from m_Contacts where Email=? order by id limit 100", (lead.get("Email"),)
        ).fetchall()
        matches = {
            "Accounts": [_match(tx, "Accounts", "Account_Name", row[0]) for row in accounts],
            "Contacts": [_match(tx, "Contacts", "Full_Name", row[0]) for row in contacts],
        }
    options = {name: found or None for name, found in matches.items()}
    return Response.of(
        {
            "__conversion_options": {
                "module_preference": None,
                **options,
                "Deals": None,
                "preference_field_matched_value": None,
                "modules_with_multiple_layouts": [],
            }
        }
    )


def _match(tx: Transaction, module: str, name_field: str, record_id: int) -> dict[str, Any]:
    row = tx.row(module, record_id) or {}
    return {
        "id": str(record_id),
        name_field: from_fragment(row.get(name_field)),
        "Email": from_fragment(row.get("Email")),
        "Locked__s": False,
        "$editable": True,
        "$approval_state": "approved",
    }
