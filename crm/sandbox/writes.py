"""Insert, update, upsert, delete: positional results, one per record, none lost by another.

Decides what a write means in the CRM: defaults, a stage's probability, derived fields, unique
fields, the optimistic lock. `values.py` judges single values; the store keeps what comes out.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

from collections.abc import Callable
from typing import Any

from crm.sandbox.clock import parse_instant
from crm.sandbox.derive import derive
from crm.sandbox.errors import ApiError, invalid_data, missing_param
from crm.sandbox.fragments import from_fragment, quoted, table_of, to_fragment
from crm.sandbox.params import body_list, json_object, module_named
from crm.sandbox.schema import Field, Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store, Transaction
from crm.sandbox.values import clean

MAX_RECORDS = 100
SYSTEM = {"Created_Time", "Modified_Time", "Created_By", "Modified_By"}


# -- the calls ------------------------------------------------------------------------------


def insert_records(store: Store, request: Request, module_name: str) -> Response:
    """POST /crm/v8/{module}"""
    module = module_named(store, module_name)
    records, _ = _records_of(request)
    user = acting_user(store)
    return _each(store, records, lambda tx, n, r: _insert_one(tx, module, n, r, user), created=True)


def update_records(
    store: Store, request: Request, module_name: str, record_id: str | None = None
) -> Response:
    """PUT /crm/v8/{module} and /crm/v8/{module}/{id}"""
    module = module_named(store, module_name)
    records, _ = _records_of(request)
    user = acting_user(store)
    unmodified = _unmodified_since(request)
    if record_id is not None:
        records = [{**r, "id": record_id} if isinstance(r, dict) else r for r in records[:1]]
    return _each(store, records, lambda tx, n, r: _update_one(tx, module, n, r, user, unmodified))


def upsert_records(store: Store, request: Request, module_name: str) -> Response:
    """POST /crm/v8/{module}/upsert, by `duplicate_check_fields` in order."""
    module = module_named(store, module_name)
    records, content = _records_of(request)
    names = _duplicate_fields(module, content)
    user = acting_user(store)
    unmodified = _unmodified_since(request)

    def act(tx: Transaction, n: int, record: Any) -> dict[str, Any]:
        found, by = _existing(tx, module, names, record)
        if found is None:
            return {
                **_insert_one(tx, module, n, record, user),
                "action": "insert",
                "duplicate_field": None,
            }
        result = _update_one(tx, module, n, {**record, "id": found}, user, unmodified)
        return {**result, "action": "update", "duplicate_field": by}

    return _each(store, records, act)


def delete_records(
    store: Store, request: Request, module_name: str, record_id: str | None = None
) -> Response:
    """DELETE /crm/v8/{module}?ids= and /crm/v8/{module}/{id}: to the recycle bin."""
    module = module_named(store, module_name)
    if record_id is not None:
        ids: list[Any] = [record_id]
    elif "ids" not in request.query:
        raise missing_param("ids")
    else:
        ids = [text for text in request.query["ids"].split(",") if text]
    _check_amount(ids, "ids")
    user = acting_user(store)
    return _each(store, ids, lambda tx, n, raw: _delete_one(tx, module, n, raw, user))


# -- around the records ---------------------------------------------------------------------


def acting_user(store: Store) -> int:
    """The user the token belongs to: our integration's own."""
    return int(store.org["current_user"])


def _records_of(request: Request) -> tuple[list[Any], dict[str, Any]]:
    content = json_object(request)
    records = body_list(content, "data")
    _check_amount(records, "data")
    if not isinstance(content.get("trigger", []), list):
        raise invalid_data(api_name="trigger", expected_data_type="jsonarray")
    return records, content


def _check_amount(items: list[Any], name: str) -> None:
    if len(items) > MAX_RECORDS:
        raise ApiError(
            400,
            "LIMIT_EXCEEDED",
            "the number of records exceeds the limit",
            {"maximum_length": MAX_RECORDS, "api_name": name},
        )


def _unmodified_since(request: Request) -> float | None:
    text = request.headers.get("if-unmodified-since")
    if text is None:
        return None
    instant = parse_instant(text)
    if instant is None:
        raise invalid_data(header_name="If-Unmodified-Since", expected_data_type="datetime")
    return instant


def _each(
    store: Store,
    items: list[Any],
    act: Callable[[Transaction, int, Any], dict[str, Any]],
    created: bool = False,
) -> Response:
    """Do each item under its own savepoint; the status says all, some or none went well."""
    results = []
    failed: list[ApiError] = []
    with store.write() as tx:
        for n, item in enumerate(items):
            tx.sql.execute("savepoint item")
            noted = len(tx.changes)
            try:
                results.append(act(tx, n, item))
            except ApiError as error:
                tx.sql.execute("rollback to item")
                del tx.changes[noted:]
                failed.append(error)
                results.append(error.item())
            tx.sql.execute("release item")
    status = 201 if created else 200
    if failed:
        status = 207 if len(failed) < len(items) else failed[0].status
    return Response.of({"data": results}, status, credits=-(-len(items) // 10))


def _success(row: dict[str, Any], message: str, store: Store) -> dict[str, Any]:
    return {"code": "SUCCESS", "details": _stamps(row, store), "message": message,
            "status": "success"}  # fmt: skip


def _stamps(row: dict[str, Any], store: Store) -> dict[str, Any]:
    return {
        "Modified_Time": from_fragment(row["Modified_Time"]),
        "Modified_By": person(store, row.get("Modified_By")),
        "Created_Time": from_fragment(row["Created_Time"]),
        "id": str(row["id"]),
        "Created_By": person(store, row.get("Created_By")),
        "$approval_state": "approved",
    }


def person(store: Store, user_id: Any) -> dict[str, str] | None:
    """A user as {name, id}; None if unknown."""
    name = store.user_names().get(user_id)
    return None if name is None else {"name": name, "id": str(user_id)}


# -- one record -----------------------------------------------------------------------------


def _as_object(record: Any, index: int) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ApiError(
            400,
            "INVALID_DATA",
            "invalid data",
            {"expected_data_type": "jsonobject", "json_path": f"$.data[{index}]"},
            counts=False,
        )
    return record


def _insert_one(
    tx: Transaction, module: Module, index: int, record: Any, user: int
) -> dict[str, Any]:
    columns = checked_columns(tx, module, index, _as_object(record, index))
    require_mandatory(module, columns, index)
    _check_unique(tx, module, index, columns, None)
    row = insert_row(tx, module, columns, user, index)
    return _success(row, "record added", tx.store)


def insert_row(
    tx: Transaction, module: Module, columns: dict[str, Any], user: int, index: int = 0
) -> dict[str, Any]:
    """Add a record of checked columns, with the CRM's defaults; returns the whole row."""
    now = to_fragment(tx.now)
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


def _update_one(
    tx: Transaction,
    module: Module,
    index: int,
    record: Any,
    user: int,
    unmodified_since: float | None,
) -> dict[str, Any]:
    record = _as_object(record, index)
    row = _row_of(tx, module, index, record.get("id"), "id" in record)
    if unmodified_since is not None:
        modified = parse_instant(str(from_fragment(row["Modified_Time"])))
        if modified is not None and modified > unmodified_since:
            raise ApiError(
                412,
                "ALREADY_MODIFIED",
                "record updated time has already passed if-unmodified-since time",
                _stamps(row, tx.store),
                counts=False,
            )
    if row.get("Converted__s") == "true":
        raise ApiError(
            400, "NOT_ALLOWED", "converted record cannot be changed",
            {"id": str(row["id"])}, counts=False,
        )  # fmt: skip
    columns = checked_columns(tx, module, index, record)
    for name, value in columns.items():
        if value is None and module.fields[name].mandatory:
            raise mandatory(module.fields[name], index)
    _check_unique(tx, module, index, columns, row["id"])
    new = update_row(tx, module, row, columns, user, "crm_api", index)
    return _success(new, "record updated", tx.store)


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
    if diff:
        tx.remember(module.api_name, row["id"], user, source, diff)
    return new


def _delete_one(tx: Transaction, module: Module, index: int, raw: Any, user: int) -> dict[str, Any]:
    row = _row_of(tx, module, index, raw, True, "ids")
    tx.remove(module.api_name, row["id"], "recycle", user)
    return {
        "code": "SUCCESS",
        "details": {"id": str(row["id"])},
        "message": "record deleted",
        "status": "success",
    }


def require_mandatory(
    module: Module, columns: dict[str, Any], index: int, more: tuple[str, ...] = ()
) -> None:
    """MANDATORY_NOT_FOUND for the first field that a new record lacks."""
    for f in module.visible().values():
        if (f.mandatory or f.api_name in more) and columns.get(f.api_name) is None:
            raise mandatory(f, index)


def mandatory(f: Field, index: int) -> ApiError:
    return ApiError(
        400,
        "MANDATORY_NOT_FOUND",
        "required field not found",
        {"api_name": f.api_name, "json_path": f"$.data[{index}].{f.api_name}"},
        counts=False,
    )


def _row_of(
    tx: Transaction, module: Module, index: int, raw: Any, given: bool, name: str = "id"
) -> dict[str, Any]:
    path = f"$.data[{index}].id" if name == "id" else f"$.query.ids[{index}]"
    if not given:
        raise ApiError(
            400, "MANDATORY_NOT_FOUND", "required field not found",
            {"api_name": "id", "json_path": path}, counts=False,
        )  # fmt: skip
    text = str(raw)
    whole = text.isascii() and text.isdigit() and len(text) < 20
    row = tx.row(module.api_name, int(text)) if whole else None
    if row is None:
        raise ApiError(
            400, "INVALID_DATA", "the id given seems to be invalid",
            {"api_name": "id", "json_path": path}, counts=False,
        )  # fmt: skip
    return row


def checked_columns(
    tx: Transaction, module: Module, index: int, record: dict[str, Any]
) -> dict[str, Any]:
    """The record's writable fields as columns. Unknown and read-only keys are passed over."""
    columns, errors = {}, []
    for name, value in record.items():
        f = module.get(name)
        if f is None or f.read_only:
            continue
        try:
            columns[name] = clean(tx, f, value, index)
        except ApiError as error:
            errors.append(error)
    if len(errors) > 1:
        raise ApiError(
            400,
            "MULTIPLE_OR_MULTI_ERRORS",
            "multiple errors in the record",
            {"errors": [error.item() for error in errors]},
            counts=False,
        )
    if errors:
        raise errors[0]
    return columns


def _check_unique(
    tx: Transaction, module: Module, index: int, columns: dict[str, Any], own: int | None
) -> None:
    for name, value in columns.items():
        if not module.fields[name].unique or value is None:
            continue
        other = _find(tx, module, name, value)
        if other is not None and other != own:
            raise ApiError(
                400,
                "DUPLICATE_DATA",
                "duplicate data",
                {
                    "api_name": name,
                    "json_path": f"$.data[{index}].{name}",
                    "id": str(other),
                    "duplicate_record": {
                        "id": str(other),
                        "module": {"api_name": module.api_name, "id": module.id},
                    },
                    "more_records": False,
                },
                counts=False,
            )


def _find(tx: Transaction, module: Module, name: str, value: Any) -> int | None:
    found = tx.sql.execute(
        f"select id from {table_of(module.api_name)} where {quoted(name)}=? order by id limit 1",
        (value,),
    ).fetchone()
    return None if found is None else found[0]


def _duplicate_fields(module: Module, content: dict[str, Any]) -> list[str]:
    names = content.get("duplicate_check_fields")
    if names is None:
        return [f.api_name for f in module.visible().values() if f.unique] + (
            ["Account_Name"] if module.api_name == "Accounts" else []
        )
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise invalid_data(api_name="duplicate_check_fields", expected_data_type="jsonarray")
    for name in names:
        if module.get(name) is None:
            raise invalid_data(api_name="duplicate_check_fields", field=name)
    return names


def _existing(
    tx: Transaction, module: Module, names: list[str], record: Any
) -> tuple[int | None, str | None]:
    if isinstance(record, dict):
        if record.get("id"):
            text = str(record["id"])
            if text.isdigit() and len(text) < 20 and tx.row(module.api_name, int(text)):
                return int(text), None
        for name in names:
            value = record.get(name)
            if isinstance(value, str) and value.strip():
                found = _find(tx, module, name, to_fragment(value.strip()))
                if found is not None:
                    return found, name
    return None, None
