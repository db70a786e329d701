"""What the CRM checks of a record that is sent to it, and how it finds the one that is meant."""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

from typing import Any

from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.fragments import quoted, table_of, to_fragment
from crm.sandbox.rows import person
from crm.sandbox.schema import Field, Module
from crm.sandbox.store import Transaction
from crm.sandbox.values import clean


def as_object(record: Any, index: int) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ApiError(
            400,
            "INVALID_DATA",
            "invalid data",
            {"expected_data_type": "jsonobject", "json_path": f"$.data[{index}]"},
            counts=False,
        )
    return record


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


def row_of(
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


def check_unique(
    tx: Transaction, module: Module, index: int, columns: dict[str, Any], own: int | None
) -> None:
    for name, value in columns.items():
        if not module.fields[name].unique or value is None:
            continue
        other = find(tx, module, name, value)
        if other is not None and other != own:
            owner = (tx.row(module.api_name, other) or {}).get("Owner")
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
                        "Owner": person(tx.store, owner),
                        "module": {"api_name": module.api_name, "id": module.id},
                    },
                    "more_records": False,
                },
                counts=False,
            )


def find(tx: Transaction, module: Module, name: str, value: Any) -> int | None:
    found = tx.sql.execute(
        f"select id from {table_of(module.api_name)} where {quoted(name)}=? order by id limit 1",
        (value,),
    ).fetchone()
    return None if found is None else found[0]


def duplicate_fields(module: Module, content: dict[str, Any]) -> list[str]:
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


def existing(
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
                found = find(tx, module, name, to_fragment(value.strip()))
                if found is not None:
                    return found, name
    return None, None


def passed_over(module: Module, records: list[Any]) -> tuple[str, ...]:
    """Keys of the records that the CRM drops without a word."""
    keys = {key for record in records if isinstance(record, dict) for key in record}
    keys = {key for key in keys if key != "id" and not key.startswith("$")}
    return tuple(
        f"{'unknown' if module.get(key) is None else 'read-only'} field {key}"
        for key in sorted(keys)
        if (f := module.get(key)) is None or f.read_only
    )
