"""Counting and searching records; neither is a way to sync."""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
from typing import Any

from crm.sandbox.criteria import compile_criteria
from crm.sandbox.errors import ApiError
from crm.sandbox.fragments import quoted, table_of, to_fragment
from crm.sandbox.holds import approved_rule
from crm.sandbox.params import module_named, one_of, paging
from crm.sandbox.records import FIRST_RECORDS, converted_rule, record_sql
from crm.sandbox.schema import Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Store
from crm.sandbox.views import view_condition

COUNT_PARAMS = ("cvid", "criteria", "email", "phone", "word")


def count_records(store: Store, request: Request, module_name: str) -> Response:
    """GET /crm/v8/{module}/actions/count, of all or by a search criteria."""
    module = module_named(store, module_name)
    given = [name for name in COUNT_PARAMS if name in request.query]
    if len(given) > 1:
        raise ApiError(
            400,
            "AMBIGUITY_DURING_PROCESSING",
            "ambiguity while processing the request",
            {"ambiguity_due_to": [{"param_name": name} for name in given]},
        )
    where = "1"
    params: list[Any] = []
    if "criteria" in request.query:
        where, params = compile_criteria(store, module, request.query["criteria"])
    elif given and given[0] != "cvid":
        where, params = search_clause(module, given[0], request.query[given[0]])
    view, user = view_condition(store, module, request.query)
    where, params = f"({where}){view}", params + user
    converted = one_of(request.query, "converted", "false", ("true", "false", "both"))
    where += converted_rule(module.api_name, converted)
    where += approved_rule(store, module.api_name, request.query.get("approved", "true"))
    with store.reader() as sql:
        count = sql.execute(
            f"select count(*) from {table_of(module.api_name)} d where {where}", params
        ).fetchone()[0]
    return Response.of({"count": count})


def search_clause(module: Module, kind: str, text: str) -> tuple[str, list[Any]]:
    """Where for a search by email, phone or word: any such field, ignoring case."""
    types = {"email": {"email"}, "phone": {"phone"}, "word": {"text", "email", "phone"}}[kind]
    names = [f.api_name for f in module.visible().values() if f.data_type in types]
    pattern = f"%{text}%" if kind == "word" else to_fragment(text)
    clause = " or ".join(f"d.{quoted(name)} like ?" for name in names) or "0"
    return f"({clause})", [pattern] * len(names)


def search_records(store: Store, request: Request, module_name: str) -> Response:
    """GET /crm/v8/{module}/search: at most the first 2000."""
    module = module_named(store, module_name)
    given = [n for n in ("criteria", "email", "phone", "word") if request.query.get(n)]
    if not given:
        raise ApiError(
            400,
            "EXPECTED_PARAM_MISSING",
            "one of the expected parameter is missing",
            {"param_names": ["criteria", "email", "phone", "word"]},
        )
    page_number, per_page = paging(request.query)
    if page_number * per_page > FIRST_RECORDS:
        raise ApiError(
            400,
            "LIMIT_REACHED",
            "You can get only the first 2000 records",
            {"limit": FIRST_RECORDS},
        )
    if given[0] == "criteria":
        where, params = compile_criteria(store, module, request.query["criteria"])
    else:
        where, params = search_clause(module, given[0], request.query[given[0]])
    converted = one_of(request.query, "converted", "false", ("true", "false", "both"))
    approved = approved_rule(store, module.api_name, request.query.get("approved", "true"))
    view, user = view_condition(store, module, request.query)
    visible = module.visible()
    names = tuple(n for n in request.query.get("fields", "").split(",") if n in visible) or None
    with store.reader() as sql:
        page = store.select(
            sql,
            record_sql(store, module.api_name, names),
            where=f"({where}){view}{converted_rule(module.api_name, converted)}{approved}",
            params=params + user,
            order="d.id desc",
            limit=per_page,
            offset=(page_number - 1) * per_page,
        )
    if page.count == 0:
        return Response(204)
    info = {
        "per_page": per_page,
        "count": page.count,
        "page": page_number,
        "more_records": page.more,
    }
    return Response(200, b'{"data":[' + page.body + b'],"info":' + json.dumps(info).encode() + b"}")
