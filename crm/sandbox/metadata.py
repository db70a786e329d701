"""What describes the CRM rather than its records: org, users, currencies, fields, pipelines."""

import json
from collections.abc import Callable
from typing import Any

from crm.sandbox.clock import parse_instant
from crm.sandbox.errors import ApiError, invalid_data, missing_param
from crm.sandbox.params import paging
from crm.sandbox.picklists import PIPELINES
from crm.sandbox.schema import (
    FORECAST_CATEGORY_IDS,
    ID_BASE,
    JSON_TYPES,
    ORG_ID,
    Choice,
    Field,
    Module,
    zoho_id,
)
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store

PLAIN_CHOICE = frozenset({
    "id", "display_value", "actual_value", "reference_value", "sequence_number", "type",
    "colour_code",
})  # fmt: skip


# -- org and currencies ---------------------------------------------------------------------


def get_org(store: Store, _request: Request) -> Response:
    """GET /crm/v8/org"""
    org = store.org
    home = next((c for c in _currencies(store) if c["is_base"]), None)
    return Response.of(
        {
            "org": [
                {
                    "id": ORG_ID,
                    "zgid": org["zgid"],
                    "company_name": org["company_name"],
                    "currency": f"{home['name']} - {home['iso_code']}" if home else "",
                    "iso_code": org["home_currency"],
                    "currency_symbol": home["symbol"] if home else "",
                    "currency_locale": "en_SG",
                    "time_zone": "Asia/Singapore",
                    "country_code": "SG",
                    "domain_name": f"org{org['zgid']}",
                    "mc_status": org["mc_status"],
                    "license_details": {
                        "paid": org["edition"] != "free",
                        "paid_type": org["edition"],
                        "users_license_purchased": org["licences"],
                        "trial_type": None,
                        "trial_expiry": None,
                    },
                    "primary_email": "integration@example.com",
                    "primary_zuid": "772300001",
                    "max_per_page": 200,
                }
            ]
        }
    )


def _currencies(store: Store) -> list[dict[str, Any]]:
    with store.reader() as sql:
        rows = sql.execute("select definition from currency order by rowid").fetchall()
    return [json.loads(row[0]) for row in rows]


def get_currencies(store: Store, _request: Request) -> Response:
    """GET /crm/v8/org/currencies; nothing where only one currency is on."""
    if not store.org["mc_status"]:
        return Response(204)
    return Response.of({"currencies": _currencies(store)})


# -- users ----------------------------------------------------------------------------------

_USER_TYPES: dict[str, Callable[[dict[str, Any], str], bool]] = {
    "AllUsers": lambda u, _me: u["status"] != "deleted",
    "ActiveUsers": lambda u, _me: u["status"] == "active",
    "DeactiveUsers": lambda u, _me: u["status"] == "inactive",
    "ConfirmedUsers": lambda u, _me: u["status"] != "deleted" and u["confirm"],
    "NotConfirmedUsers": lambda u, _me: u["status"] != "deleted" and not u["confirm"],
    "DeletedUsers": lambda u, _me: u["status"] == "deleted",
    "ActiveConfirmedUsers": lambda u, _me: u["status"] == "active" and u["confirm"],
    "AdminUsers": lambda u, _me: u["profile"]["name"] == "Administrator",
    "ActiveConfirmedAdmins": lambda u, _me: (
        u["status"] == "active" and u["confirm"] and u["profile"]["name"] == "Administrator"
    ),
    "CurrentUser": lambda u, me: u["id"] == me,
}


def get_users(store: Store, request: Request) -> Response:
    """GET /crm/v8/users by type, paged."""
    kind = request.query.get("type", "AllUsers")
    if kind not in _USER_TYPES:
        raise invalid_data(param_name="type", supported_values=sorted(_USER_TYPES))
    page, per_page = paging(request.query)
    with store.reader() as sql:
        rows = sql.execute("select definition from users order by id").fetchall()
    chosen = [
        user
        for user in (json.loads(row[0]) for row in rows)
        if _USER_TYPES[kind](user, str(store.org["current_user"]))
    ]
    chosen = _changed_since(chosen, request)
    shown = chosen[(page - 1) * per_page : page * per_page]
    if not shown:
        return Response(304 if "if-modified-since" in request.headers else 204)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "more_records": len(chosen) > page * per_page,
    }
    return Response.of({"users": shown, "info": info})


def get_user(store: Store, _request: Request, user_id: str) -> Response:
    """GET /crm/v8/users/{id}"""
    with store.reader() as sql:
        found = sql.execute("select definition from users where id=?", (int(user_id),)).fetchone()
    return Response(204) if found is None else Response.of({"users": [json.loads(found[0])]})


def _changed_since(users: list[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    text = request.headers.get("if-modified-since")
    if text is None:
        return users
    instant = parse_instant(text)
    if instant is None:
        raise invalid_data(header_name="If-Modified-Since", expected_data_type="datetime")
    return [u for u in users if (parse_instant(u["Modified_Time"]) or 0) > instant]


# -- modules, fields, layouts, pipelines ----------------------------------------------------


def get_modules(store: Store, _request: Request) -> Response:
    """GET /crm/v8/settings/modules"""
    return Response.of({"modules": [_module(m) for m in store.modules.values()]})


def _module(m: Module) -> dict[str, Any]:
    return {
        "id": m.id,
        "api_name": m.api_name,
        "module_name": m.api_name,
        "singular_label": m.singular,
        "plural_label": m.plural,
        "generated_type": "default",
        "api_supported": True,
        "viewable": True,
        "creatable": True,
        "editable": True,
        "deletable": True,
        "convertable": m.api_name == "Leads",
        "status": "visible",
    }


def module_param(store: Store, request: Request) -> Module:
    name = request.query.get("module")
    if not name:
        raise missing_param("module")
    if name not in store.modules:
        raise ApiError(
            400,
            "INVALID_MODULE",
            "the module name given seems to be invalid",
            {"param_name": "module"},
        )
    return store.modules[name]


def get_fields(store: Store, request: Request) -> Response:
    """GET /crm/v8/settings/fields?module="""
    module = module_param(store, request)
    kind = request.query.get("type", "used")
    if kind not in ("all", "used", "unused"):
        raise invalid_data(param_name="type", supported_values=["all", "used", "unused"])
    if kind == "unused":
        return Response(204)
    return Response.of({"fields": [field_json(store, f) for f in module.visible().values()]})


def get_field(store: Store, request: Request, field_id: str) -> Response:
    """GET /crm/v8/settings/fields/{id}?module="""
    module = module_param(store, request)
    for f in module.visible().values():
        if f.id == field_id:
            return Response.of({"fields": [field_json(store, f)]})
    return Response(204)


def field_json(store: Store, f: Field) -> dict[str, Any]:
    """A field as the metadata API shows it."""
    target = store.modules.get(f.lookup or "")
    lookup = (
        {
            "module": {"api_name": target.api_name, "id": target.id},
            "display_label": target.plural,
            "api_name": f.api_name,
            "id": f.id,
        }
        if target
        else {}
    )
    writable = not f.read_only
    return {
        "id": f.id,
        "api_name": f.api_name,
        "field_label": f.label,
        "display_label": f.label,
        "data_type": f.data_type,
        "json_type": JSON_TYPES.get(f.data_type, "string"),
        "custom_field": f.custom,
        "created_source": "custom" if f.custom else "default",
        "system_mandatory": f.mandatory,
        "read_only": f.read_only,
        "field_read_only": f.read_only,
        "visible": True,
        "length": f.length,
        "decimal_place": f.decimal_place,
        "unique": {"casesensitive": "false"} if f.unique else {},
        "formula": {},
        "currency": {},
        "auto_number": {},
        "lookup": lookup,
        "multiselectlookup": {},
        "multiuserlookup": {},
        "association_details": None,
        "pick_list_values": [_choice_json(f, c, n) for n, c in enumerate(f.choices)],
        "history_tracking": None,
        "layout_associations": [],
        "profiles": [],
        "operation_type": {
            "web_update": writable,
            "api_create": writable,
            "web_create": writable,
            "api_update": writable,
        },
        "view_type": {"view": True, "edit": writable, "create": writable, "quick_create": False},
        "column_name": f.api_name.upper(),
        "searchable": f.data_type in ("text", "email", "phone"),
        "sortable": f.data_type != "textarea",
        "filterable": f.data_type != "textarea",
        "convert_mapping": None,
        "virtual_field": False,
        "type": "used",
    }


def _choice_json(f: Field, choice: Choice, n: int) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": stage_id(n) if f.api_name == "Stage" else _choice_id(f, n),
        "display_value": choice.display,
        "actual_value": choice.actual,
        "reference_value": choice.actual,
        "sequence_number": n + 1,
        "type": "used",
        "colour_code": None,
        "maps": [],
    }
    if f.api_name == "Stage" and choice.extra:
        category = choice.extra["category"]
        item["probability"] = choice.extra["probability"]
        item["forecast_type"] = choice.extra["forecast_type"]
        item["forecast_category"] = {"name": category, "id": FORECAST_CATEGORY_IDS[category]}
        item["deal_category"] = choice.extra["forecast_type"]
    return item


def _choice_id(f: Field, n: int) -> str:
    return zoho_id(10_000_000 + (int(f.id) - ID_BASE) * 1_000 + 2 * n)


def stage_id(n: int) -> str:
    """Stage ids are shared between the picklist and all pipelines."""
    return zoho_id(6_801 + 2 * n)


def get_pick_list_values(store: Store, request: Request, field_id: str) -> Response:
    """GET /crm/v8/settings/fields/{id}/pick_list_values?module="""
    module = module_param(store, request)
    for f in module.visible().values():
        if f.id == field_id and f.choices:
            # What a stage stands for is told by fields and layouts only.
            values = [
                {key: value for key, value in _choice_json(f, c, n).items() if key in PLAIN_CHOICE}
                for n, c in enumerate(f.choices)
            ]
            return Response.of({"pick_list_values": values})
    raise ApiError(
        400, "INVALID_DATA", "the id given seems to be invalid", {"resource_path_index": 2}
    )


def get_layouts(store: Store, request: Request) -> Response:
    """GET /crm/v8/settings/layouts?module="""
    module = module_param(store, request)
    fields = [field_json(store, f) for f in module.visible().values()]
    return Response.of(
        {
            "layouts": [
                {
                    "id": module.layout_id,
                    "name": "Standard",
                    "display_label": "Standard",
                    "api_name": "Standard",
                    "status": "active",
                    "visible": True,
                    "source": "system",
                    "sections": [
                        {
                            "display_label": f"{module.singular} Information",
                            "name": f"{module.singular} Information",
                            "sequence_number": 1,
                            "fields": fields,
                        }
                    ],
                    "profiles": [],
                }
            ]
        }
    )


def get_pipelines(store: Store, request: Request) -> Response:
    """GET /crm/v8/settings/pipeline?layout_id="""
    layout = request.query.get("layout_id")
    if not layout:
        raise missing_param("layout_id")
    deals = store.modules["Deals"]
    if deals.get("Pipeline") is None:
        return Response(204)  # an org without pipelines
    if layout != deals.layout_id:
        raise invalid_data(param_name="layout_id")
    stages = {c.display: (n, c) for n, c in enumerate(deals.fields["Stage"].choices)}
    pipelines = [
        {
            "id": zoho_id(95_001 + 2 * n),
            "display_value": display,
            "actual_value": actual,
            "default": n == 0,
            "child_available": False,
            "parent": None,
            "maps": [
                _stage_map(*stages[name], position)
                for position, name in enumerate(names, 1)
                if name in stages
            ],
        }
        for n, (display, actual, names) in enumerate(PIPELINES)
    ]
    return Response.of({"pipeline": pipelines})


def _stage_map(n: int, choice: Choice, position: int) -> dict[str, Any]:
    category = choice.extra["category"]
    return {
        "id": stage_id(n),
        "display_value": choice.display,
        "actual_value": choice.actual,
        "sequence_number": position,
        "forecast_type": choice.extra["forecast_type"],
        "forecast_category": {"id": FORECAST_CATEGORY_IDS[category], "name": category},
        "colour_code": "#25b52a",
    }
