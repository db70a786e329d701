"""Custom views: a few that every org has, as a condition over a module's records."""

from typing import Any

from crm.sandbox.errors import invalid_data
from crm.sandbox.metadata import module_param
from crm.sandbox.params import paging
from crm.sandbox.schema import Module, zoho_id
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store

COST = 3
FIRST_ID = 60_001
KINDS = (
    ("All {plural}", "ALLVIEWS", "1"),
    ("My {plural}", "MYVIEWS", "d.Owner = ?"),
    ("Unowned {plural}", "UNOWNED", "d.Owner is null"),
)
"""Display name, system name, condition; its only parameter is the token's user."""


def view_id(module: Module, n: int) -> str:
    """The id of the n-th view of a module."""
    return zoho_id(FIRST_ID + (int(module.id) % 1_000) * 100 + 2 * n)


def view_condition(store: Store, module: Module, query: dict[str, str]) -> tuple[str, list[Any]]:
    """SQL over `d` (with a leading `and`) and its parameters for `cvid`; none asked: nothing."""
    wanted = query.get("cvid")
    if wanted is None:
        return "", []
    for n, (_, _, condition) in enumerate(KINDS):
        if wanted == view_id(module, n):
            user = [int(store.org["current_user"])] if "?" in condition else []
            return f" and {condition}", user
    raise invalid_data(param_name="cvid")


def get_custom_views(store: Store, request: Request) -> Response:
    """GET /crm/v8/settings/custom_views?module="""
    module = module_param(store, request)
    page, per_page = paging(request.query)
    found = [
        {
            "id": view_id(module, n),
            "name": name.format(plural=module.plural),
            "display_value": name.format(plural=module.plural),
            "system_name": system,
            "system_defined": True,
            "default": n == 0,
            "favorite": None,
            "category": "public_views",
            "module": {"api_name": module.api_name, "id": module.id},
        }
        for n, (name, system, _) in enumerate(KINDS)
    ]
    shown = found[(page - 1) * per_page : page * per_page]
    if not shown:
        return Response(204)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "default": view_id(module, 0),
        "more_records": len(found) > page * per_page,
    }
    return Response.of({"custom_views": shown, "info": info})
