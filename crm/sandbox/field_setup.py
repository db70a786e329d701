"""Creating, changing and deleting custom fields through the API."""

import re
from dataclasses import replace
from typing import Any

from crm.sandbox.errors import ApiError
from crm.sandbox.metadata import module_param
from crm.sandbox.params import body_list, json_object
from crm.sandbox.schema import Choice, Field, Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store

MAX_NEW_FIELDS = 5
MAX_LABEL = 25
CREATABLE_TYPES = {
    "text": 255,
    "textarea": 2_000,
    "date": 20,
    "datetime": 120,
    "integer": 9,
    "double": 16,
    "currency": 16,
    "percent": 5,
    "boolean": 5,
    "picklist": 120,
    "email": 100,
    "phone": 30,
    "website": 450,
}


def create_fields(store: Store, request: Request) -> Response:
    """POST /crm/v8/settings/fields?module=, at most five; the API name comes from the label."""
    module = module_param(store, request)
    wanted = body_list(json_object(request), "fields")
    if len(wanted) > MAX_NEW_FIELDS:
        raise ApiError(
            400,
            "LIMIT_EXCEEDED",
            "the number of fields exceeds the limit",
            {"limit": MAX_NEW_FIELDS, "api_name": "fields"},
        )
    results, failed = [], 0
    with store.write() as tx:
        for n, item in enumerate(wanted):
            try:
                new = _new_field(module, item, n)
                store.put_field(tx, module.api_name, new)
                results.append(_done(new.id, "field created"))
            except ApiError as error:
                failed += 1
                results.append(error.item())
    status = 201 if not failed else 207 if failed < len(wanted) else 400
    return Response.of({"fields": results}, status)


def _done(field_id: str, message: str) -> dict[str, Any]:
    return {"code": "SUCCESS", "details": {"id": field_id}, "message": message,
            "status": "success"}  # fmt: skip


def _refusal(code: str, message: str, name: str, n: int, **more: Any) -> ApiError:
    return ApiError(
        400,
        code,
        message,
        {"api_name": name, "json_path": f"$.fields[{n}].{name}", **more},
        counts=False,
    )


def _new_field(module: Module, item: Any, n: int) -> Field:
    if not isinstance(item, dict):
        raise _refusal("INVALID_DATA", "invalid data", "fields", n)
    label, data_type = item.get("field_label"), item.get("data_type")
    for name, value in (("field_label", label), ("data_type", data_type)):
        if not value:
            raise _refusal("MANDATORY_NOT_FOUND", "required field not found", name, n)
    if not isinstance(label, str) or len(label) > MAX_LABEL:
        raise _refusal("INVALID_DATA", "invalid data", "field_label", n, maximum_length=MAX_LABEL)
    if data_type not in CREATABLE_TYPES:
        raise _refusal("INVALID_DATA", "invalid data", "data_type", n,
                       supported_values=sorted(CREATABLE_TYPES))  # fmt: skip
    if any(f.label == label for f in module.visible().values()):
        raise _refusal("DUPLICATE_DATA", "duplicate data", "field_label", n)
    choices = tuple(
        Choice(str(c["display_value"]), str(c.get("actual_value", c["display_value"])))
        for c in item.get("pick_list_values") or []
        if isinstance(c, dict) and "display_value" in c
    )
    if data_type == "picklist" and not choices:
        raise _refusal("MANDATORY_NOT_FOUND", "required field not found", "pick_list_values", n)
    return Field(
        _api_name(module, label),
        label,
        data_type,
        id=str(max(int(f.id) for f in module.fields.values()) + 2),
        length=item.get("length") or CREATABLE_TYPES[data_type],
        decimal_place=item.get("decimal_place", 2) if data_type in ("double", "currency") else None,
        custom=True,
        unique=bool(item.get("unique")),
        choices=choices,
    )


def _api_name(module: Module, label: str) -> str:
    """Spaces become underscores; a clash gets a number. A removed field's name is free."""
    stem = re.sub(r"\W+", "_", label.strip(), flags=re.ASCII).strip("_") or "Field"
    name, number = stem, 0
    while name in module.fields and not module.fields[name].removed:
        number += 1
        name = f"{stem}{number}"
    return name


def _custom_field(store: Store, request: Request, field_id: str) -> tuple[Module, Field]:
    module = module_param(store, request)
    for f in module.visible().values():
        if f.id == field_id:
            if not f.custom:
                raise ApiError(400, "NOT_ALLOWED", "system fields cannot be changed", {"id": f.id})
            return module, f
    raise ApiError(
        400, "INVALID_DATA", "the id given seems to be invalid", {"resource_path_index": 2}
    )


def update_field(store: Store, request: Request, field_id: str) -> Response:
    """PATCH /crm/v8/settings/fields/{id}?module=: label, length, picklist values."""
    module, old = _custom_field(store, request, field_id)
    item = body_list(json_object(request), "fields")[0]
    changes: dict[str, Any] = {}
    if isinstance(item.get("field_label"), str):
        changes["label"] = item["field_label"][:MAX_LABEL]
    if isinstance(item.get("length"), int):
        changes["length"] = item["length"]
    if isinstance(item.get("pick_list_values"), list):
        changes["choices"] = tuple(
            Choice(c["display_value"], c.get("actual_value", c["display_value"]))
            for c in item["pick_list_values"]
        )
    with store.write() as tx:
        store.put_field(tx, module.api_name, replace(old, **changes))
    return Response.of({"fields": [_done(field_id, "field updated")]})


def delete_field(store: Store, request: Request, field_id: str) -> Response:
    """DELETE /crm/v8/settings/fields/{id}?module="""
    module, old = _custom_field(store, request, field_id)
    with store.write() as tx:
        store.set_removed(tx, module.api_name, old.api_name, True)
    return Response.of({"fields": [_done(field_id, "field deleted")]})
