"""A record added or changed as one person does at one moment: defaults, derived fields, history.

Columns come here checked; whether a write is allowed at all is decided by its caller.
"""

from typing import Any

from crm.sandbox.derive import derive
from crm.sandbox.fragments import to_fragment
from crm.sandbox.schema import Module
from crm.sandbox.store import Store, Transaction

SYSTEM = {"Created_Time", "Modified_Time", "Created_By", "Modified_By"}


def acting_user(store: Store) -> int:
    """The user the token belongs to: our integration's own."""
    return int(store.org["current_user"])


def person(store: Store, user_id: Any) -> dict[str, str] | None:
    """A user as {name, id}; None if unknown."""
    name = store.user_names().get(user_id)
    return None if name is None else {"name": name, "id": str(user_id)}


def insert_row(
    tx: Transaction,
    module: Module,
    columns: dict[str, Any],
    user: int,
    index: int = 0,
    at: str | None = None,
) -> dict[str, Any]:
    """Add a record of checked columns, with the CRM's defaults; returns the whole row.

    `at` is the moment it was made (default: now): a record can become visible late.
    """
    now = to_fragment(at or tx.now)
    defaults: dict[str, Any] = {
        "Owner": user,
        "Created_By": user,
        "Modified_By": user,
        "Created_Time": now,
        "Modified_Time": now,
        "Last_Activity_Time": now,
        "Tag": "[]",
        "Locked__s": "false",
        "Record_Status__s": '"Available"',
    }
    if module.api_name == "Leads":
        defaults["Converted__s"] = "false"
    if "Currency" in module.fields:
        defaults["Currency"] = to_fragment(tx.store.org["home_currency"])
    known = {k: v for k, v in defaults.items() if k in module.fields}
    row = {**known, **{k: v for k, v in columns.items() if v is not None or k not in known}}
    derive(tx, module, row, set(row), index)
    record_id = tx.next_id()
    tx.insert(module.api_name, record_id, row)
    return {"id": record_id, **row}


def update_row(
    tx: Transaction,
    module: Module,
    row: dict[str, Any],
    columns: dict[str, Any],
    user: int,
    source: str,
    index: int = 0,
) -> dict[str, Any]:
    """Change a record as one person does at one moment; returns the whole new row."""
    new = {**row, **columns}
    derive(tx, module, new, set(columns), index)
    new["Modified_Time"] = to_fragment(tx.now)
    new["Modified_By"] = user
    changed = {k: v for k, v in new.items() if k != "id" and (k in columns or v != row.get(k))}
    changed["Modified_Time"], changed["Modified_By"] = new["Modified_Time"], user
    diff = [
        [name, row.get(name), value]
        for name, value in changed.items()
        if name not in SYSTEM and value != row.get(name)
    ]
    tx.update(module.api_name, row["id"], changed)
    # The moment before is kept too, so that what the record's past tells does not move with it.
    diff.append(["Modified_Time", row.get("Modified_Time"), new["Modified_Time"]])
    tx.remember(module.api_name, row["id"], user, source, diff)
    return new
