"""Insert, update, upsert, delete: positional results, one per record, none lost by another.

Decides which writes go through: the optimistic lock, holds, converted leads. `record_checks.py`
judges records and `values.py` single values; `rows.py` knows what a write does.
"""

# Names in SQL come from the schema, never from a request; values are bound.

from collections.abc import Callable
from typing import Any

from crm.sandbox.clock import parse_instant
from crm.sandbox.errors import ApiError, invalid_data, missing_param
from crm.sandbox.fragments import from_fragment
from crm.sandbox.holds import approval_state, refuse_if_held
from crm.sandbox.params import body_list, json_object, module_named, one_of
from crm.sandbox.record_checks import (
    as_object,
    check_unique,
    checked_columns,
    duplicate_fields,
    existing,
    mandatory,
    passed_over,
    require_mandatory,
    row_of,
)
from crm.sandbox.rows import acting_user, insert_row, person, update_row
from crm.sandbox.schema import Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store, Transaction
from crm.sandbox.workflows import Automation

MAX_RECORDS = 100
TRIGGERS = ("workflow", "approval", "blueprint", "pathfinder", "orchestration")


# -- the calls ------------------------------------------------------------------------------


def insert_records(store: Store, request: Request, module_name: str) -> Response:
    """POST /crm/v8/{module}"""
    module = module_named(store, module_name)
    records, content = _records_of(request)
    user = acting_user(store)
    automation = Automation(store, module, content)

    def act(tx: Transaction, n: int, record: Any) -> dict[str, Any]:
        return automation.after(tx, record, _insert_one(tx, module, n, record, user))

    return _each(store, records, act, created=True, ignored=passed_over(module, records))


def update_records(
    store: Store, request: Request, module_name: str, record_id: str | None = None
) -> Response:
    """PUT /crm/v8/{module} and /crm/v8/{module}/{id}"""
    module = module_named(store, module_name)
    records, content = _records_of(request)
    user = acting_user(store)
    unmodified = _unmodified_since(request)
    automation = Automation(store, module, content)
    ignored = passed_over(module, records)
    if record_id is not None:
        ignored += ("records beyond the first",) * (len(records) > 1)
        records = [{**r, "id": record_id} if isinstance(r, dict) else r for r in records[:1]]

    def act(tx: Transaction, n: int, record: Any) -> dict[str, Any]:
        before = automation.before(tx, record)
        result = _update_one(tx, module, n, record, user, unmodified)
        return automation.after(tx, record, result, before)

    return _each(store, records, act, ignored=ignored)


def upsert_records(store: Store, request: Request, module_name: str) -> Response:
    """POST /crm/v8/{module}/upsert, by `duplicate_check_fields` in order."""
    module = module_named(store, module_name)
    records, content = _records_of(request)
    names = duplicate_fields(module, content)
    user = acting_user(store)
    unmodified = _unmodified_since(request)
    automation = Automation(store, module, content)

    def act(tx: Transaction, n: int, record: Any) -> dict[str, Any]:
        found, by = existing(tx, module, names, record)
        if found is None:
            result = _insert_one(tx, module, n, record, user)
            automation.after(tx, record, result)
            return {**result, "action": "insert", "duplicate_field": None}
        record = {**record, "id": found}
        before = automation.before(tx, record)
        result = _update_one(tx, module, n, record, user, unmodified)
        automation.after(tx, record, result, before)
        return {**result, "action": "update", "duplicate_field": by}

    return _each(store, records, act, ignored=passed_over(module, records))


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
    one_of(request.query, "wf_trigger", "true", ("true", "false"))
    user = acting_user(store)
    return _each(store, ids, lambda tx, n, raw: _delete_one(tx, module, n, raw, user))


# -- around the records ---------------------------------------------------------------------


def _records_of(request: Request) -> tuple[list[Any], dict[str, Any]]:
    content = json_object(request)
    records = body_list(content, "data")
    _check_amount(records, "data")
    trigger = content.get("trigger", [])
    if not isinstance(trigger, list):
        raise invalid_data(api_name="trigger", expected_data_type="jsonarray")
    if any(name not in TRIGGERS for name in trigger):
        raise invalid_data(api_name="trigger", supported_values=list(TRIGGERS))
    for name in ("apply_feature_execution", "skip_feature_execution"):
        wishes = content.get(name, [])
        if not isinstance(wishes, list) or not all(
            isinstance(wish, dict) and isinstance(wish.get("name"), str) for wish in wishes
        ):
            raise invalid_data(api_name=name, expected_data_type="jsonarray")
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
    ignored: tuple[str, ...] = (),
) -> Response:
    """Do each item under its own savepoint; the status says all, some or none went well.

    Sources differ on the status of mixed and failed writes: control may set either.
    """
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
    if failed and len(failed) < len(items):
        status = store.habits["mixed_status"] or 207
    elif failed:
        status = failed[0].status if failed[0].status == 412 else store.habits["failed_status"]
        status = status or failed[0].status
    cost = -(-len(items) // 10)
    return Response.of({"data": results}, status, credits=cost, ignored=ignored)


def _success(module: Module, row: dict[str, Any], message: str, store: Store) -> dict[str, Any]:
    state = {"$approval_state": approval_state(store, module.api_name, row["id"])}
    return {"code": "SUCCESS", "details": {**_stamps(row, store), **state}, "message": message,
            "status": "success"}  # fmt: skip


def _stamps(row: dict[str, Any], store: Store) -> dict[str, Any]:
    return {
        "Modified_Time": from_fragment(row["Modified_Time"]),
        "Modified_By": person(store, row.get("Modified_By")),
        "Created_Time": from_fragment(row["Created_Time"]),
        "id": str(row["id"]),
        "Created_By": person(store, row.get("Created_By")),
    }


# -- one record -----------------------------------------------------------------------------


def _insert_one(
    tx: Transaction, module: Module, index: int, record: Any, user: int
) -> dict[str, Any]:
    columns = checked_columns(tx, module, index, as_object(record, index))
    require_mandatory(module, columns, index)
    check_unique(tx, module, index, columns, None)
    row = insert_row(tx, module, columns, user, index)
    return _success(module, row, "record added", tx.store)


def _update_one(
    tx: Transaction,
    module: Module,
    index: int,
    record: Any,
    user: int,
    unmodified_since: float | None,
) -> dict[str, Any]:
    record = as_object(record, index)
    row = row_of(tx, module, index, record.get("id"), "id" in record)
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
    refuse_if_held(tx.store, module.api_name, row["id"], index, set(record))
    columns = checked_columns(tx, module, index, record)
    for name, value in columns.items():
        if value is None and module.fields[name].mandatory:
            raise mandatory(module.fields[name], index)
    check_unique(tx, module, index, columns, row["id"])
    new = update_row(tx, module, row, columns, user, "crm_api", index)
    return _success(module, new, "record updated", tx.store)


def _delete_one(tx: Transaction, module: Module, index: int, raw: Any, user: int) -> dict[str, Any]:
    row = row_of(tx, module, index, raw, True, "ids")
    refuse_if_held(tx.store, module.api_name, row["id"], index, None)
    tx.remove(module.api_name, row["id"], "recycle", user)
    return {
        "code": "SUCCESS",
        "details": {"id": str(row["id"])},
        "message": "record deleted",
        "status": "success",
    }
