"""Reading records: lists with pages, one record, deleted ones (`page_tokens.py`, `search.py`)."""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
import sqlite3
from functools import lru_cache
from typing import Any

from crm.sandbox.clock import text_of
from crm.sandbox.errors import ApiError, invalid_data, missing_param
from crm.sandbox.fragments import (
    Column,
    RecordSql,
    id_sql,
    index_name,
    named_lookup_sql,
    object_expression,
    plain_sql,
    quoted,
    table_of,
    user_sql,
)
from crm.sandbox.holds import approved_rule, shown_state
from crm.sandbox.page_tokens import (
    TOKEN_LIFE_S,
    ListCall,
    continued,
    make_token,
    previous_token,
)
from crm.sandbox.params import ids_of, modified_since, module_named, one_of, paging
from crm.sandbox.schema import Field, Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import Page, Store
from crm.sandbox.views import COST as VIEW_COST
from crm.sandbox.views import view_condition

MAX_FIELDS = 50
MAX_FIELDS_TEXT = 1024
FIRST_RECORDS = 2_000
SORTS = ("id", "Created_Time", "Modified_Time")
SMALL_WINDOW = 20_000
DETAIL_TAIL = (
    ',"$currency_symbol":"$","$field_states":null,"$editable":true,"$state":"save",'
    '"$approved":true,"$approval":{"delegate":false,"approve":false,"reject":false,'
    '"resubmit":false},"$approval_state":"approved","$process_flow":false,"$review":null,'
    '"$review_process":{"approve":false,"reject":false,"resubmit":false},'
    '"$locked_for_me":false,"$orchestration":null,"$in_merge":false,"$has_more":{},'
    '"$zia_visions":null,"$wizard_connection_path":null'
)


# -- rows as the records API shows them -----------------------------------------------------


def record_sql(store: Store, module: str, names: tuple[str, ...] | None) -> RecordSql:
    """SQL for records of a module with these fields (None: all, as a single read shows)."""
    return _record_sql(store, store.schema_version, module, names)


@lru_cache(maxsize=256)
def _record_sql(
    store: Store, _version: int, module: str, names: tuple[str, ...] | None
) -> RecordSql:
    visible = store.modules[module].visible()
    fields = list(visible.values()) if names is None else [visible[n] for n in names]
    columns, joins = [], []
    for n, f in enumerate(fields):
        sql, join = _field_sql(store, f, f"j{n}")
        columns.append(Column(f.api_name, sql))
        joins.append(join)
    columns.append(Column("id", id_sql("d")))
    tail = DETAIL_TAIL if names is None else ""
    return RecordSql(module, object_expression(columns, tail), " ".join(filter(None, joins)))


def _field_sql(store: Store, f: Field, alias: str) -> tuple[str, str]:
    column = f"d.{quoted(f.api_name)}"
    if f.is_user:
        return user_sql("d", f.api_name, alias), f"left join users {alias} on {alias}.id={column}"
    if f.lookup in store.modules:
        target = store.modules[f.lookup].name_field
        join = f"left join {table_of(f.lookup)} {alias} on {alias}.id={column}"
        return named_lookup_sql("d", f.api_name, alias, target), join
    return plain_sql("d", f.api_name), ""


# -- list -----------------------------------------------------------------------------------


def list_records(store: Store, request: Request, module_name: str) -> Response:
    """GET /crm/v8/{module}"""
    module = module_named(store, module_name)
    call, page_number = _checked(store, module, request)
    version = store.versions[module.api_name]
    cost = VIEW_COST if call.view else 1
    with store.reader() as sql:
        page = _list_page(store, sql, call)
    if page.count == 0:
        return Response(304 if call.since else 204, credits=cost)
    info = json.dumps(_info(store, call, page_number, page, version)).encode()
    return Response(200, b'{"data":[' + page.body + b'],"info":' + info + b"}", credits=cost)


def _checked(store: Store, module: Module, request: Request) -> tuple[ListCall, int]:
    query = request.query
    names = _field_names(module, query)
    page_number, per_page = paging(query)
    sort_by, descending = _sorting(query)
    if "page" in query and "page_token" in query:
        raise ApiError(
            400,
            "AMBIGUITY_DURING_PROCESSING",
            "ambiguity while processing the request",
            {"ambiguity_due_to": [{"param_name": "page"}, {"param_name": "page_token"}]},
        )
    call = ListCall(
        module.api_name,
        names,
        per_page,
        sort_by,
        descending,
        ids_of(query),
        one_of(query, "converted", "false", ("true", "false", "both")),
        modified_since(request),
        query.get("approved", "true"),
        query.get("cvid"),
        (page_number - 1) * per_page,
        None,
    )
    approved_rule(store, module.api_name, call.approved)
    view_condition(store, module, query)
    if "page_token" in query:
        return continued(store, call, query["page_token"]), 1
    if page_number * per_page > FIRST_RECORDS:
        raise ApiError(
            400,
            "DISCRETE_PAGINATION_LIMIT_EXCEEDED",
            "You can only get the first 2000 records without using page_token param",
            {"limit": FIRST_RECORDS},
        )
    return call, page_number


def _field_names(module: Module, query: dict[str, str]) -> tuple[str, ...]:
    text = query.get("fields", "").strip()
    if not text:
        raise missing_param("fields")
    asked = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if len(asked) > MAX_FIELDS:
        raise ApiError(
            400,
            "LIMIT_EXCEEDED",
            "the number of fields exceeds the limit",
            {"limit": MAX_FIELDS, "param_name": "fields"},
        )
    if len(text) > MAX_FIELDS_TEXT:
        raise invalid_data(param_name="fields", maximum_length=MAX_FIELDS_TEXT)
    if asked == ["id"]:
        raise invalid_data("id alone cannot be asked for", param_name="fields")
    visible = module.visible()
    return tuple(name for name in asked if name in visible)


def _sorting(query: dict[str, str]) -> tuple[str, bool]:
    sort_by = query.get("sort_by", "id")
    if sort_by not in SORTS:
        raise invalid_data(param_name="sort_by", supported_values=list(SORTS))
    if "sort_by" in query and "cvid" in query:
        raise ApiError(
            400,
            "AMBIGUITY_DURING_PROCESSING",
            "ambiguity while processing the request",
            {"ambiguity_due_to": [{"param_name": "sort_by"}, {"param_name": "cvid"}]},
        )
    return sort_by, one_of(query, "sort_order", "desc", ("asc", "desc")) == "desc"


def _list_page(store: Store, sql: sqlite3.Connection, call: ListCall) -> Page:
    where, params, hint = list_filter(sql, call.module, call.ids, call.converted, call.since)
    where += approved_rule(store, call.module, call.approved)
    if call.view is not None:
        view, user = view_condition(store, store.modules[call.module], {"cvid": call.view})
        where, params = where + view, params + user
    offset = call.offset
    sort = "d.id" if call.sort_by == "id" else f"d.{quoted(call.sort_by)}"
    way = "desc" if call.descending else "asc"
    order = f"d.id {way}" if call.sort_by == "id" else f"{sort} {way}, d.id {way}"
    if call.sort_by != "id":
        hint = along(call.module, call.sort_by)
    if call.after is not None:
        value, last_id = call.after
        beyond = "<" if call.descending else ">"
        offset = 0
        if call.sort_by == "id":
            where, params = f"{where} and d.id {beyond} ?", [*params, last_id]
        else:
            where = f"{where} and {sort} {beyond}= ? and ({sort} {beyond} ? or d.id {beyond} ?)"
            params = [*params, value, value, last_id]
    return store.select(
        sql,
        record_sql(store, call.module, call.names),
        where=where,
        params=params,
        order=order,
        limit=call.per_page,
        offset=offset,
        hint=hint,
    )


def list_filter(
    sql: sqlite3.Connection,
    module: str,
    ids: tuple[int, ...],
    converted: str,
    since: str | None,
) -> tuple[str, list[Any], str]:
    """Where, its parameters, and which index to use."""
    clauses, hint = ["1"], ""
    params: list[Any] = []
    if ids:
        clauses.append(f"d.id in ({','.join('?' * len(ids))})")
        params += ids
    if since is not None:
        clauses.append("d.Modified_Time > ?")
        params.append(since)
        hint = window_hint(sql, module, since)
    return " and ".join(clauses) + converted_rule(module, converted), params, hint


def converted_rule(module: str, converted: str) -> str:
    """A further condition: converted leads are hidden unless `true` or `both` asks for them."""
    if module != "Leads" or converted == "both":
        return ""
    return f" and d.Converted__s is {'' if converted == 'true' else 'not '}'true'"


def window_hint(sql: sqlite3.Connection, module: str, since: str) -> str:
    """Read by Modified_Time if few records changed since, else in order of id."""
    few = sql.execute(
        f"select count(*) from (select 1 from {table_of(module)} "
        f"where Modified_Time >= ? limit {SMALL_WINDOW + 1})",
        (since,),
    ).fetchone()[0]
    if few > SMALL_WINDOW:
        return "not indexed"
    return along(module, "Modified_Time")


def along(module: str, name: str) -> str:
    """Read along the index of that field."""
    return f"indexed by {index_name(module, name)}"


def _info(
    store: Store, call: ListCall, page_number: int, page: Page, version: int
) -> dict[str, Any]:
    token = expiry = None
    if page.more:
        expires = int(store.clock.time()) + TOKEN_LIFE_S
        token = make_token(store, call, page, version, expires)
        expiry = text_of(expires)
    return {
        "call": False,
        "per_page": call.per_page,
        "next_page_token": token,
        "count": page.count,
        "sort_by": call.sort_by,
        "page": page_number,
        "previous_page_token": previous_token(store, call),
        "page_token_expiry": expiry,
        "sort_order": "desc" if call.descending else "asc",
        "email": False,
        "more_records": page.more,
    }


# -- one record -----------------------------------------------------------------------------


def get_record(store: Store, request: Request, module_name: str, record_id: str) -> Response:
    """GET /crm/v8/{module}/{id}: all fields, or those asked for."""
    module = module_named(store, module_name)
    names = None
    if request.query.get("fields"):
        visible = module.visible()
        names = tuple(n for n in request.query["fields"].split(",") if n in visible)
    with store.reader() as sql:
        page = store.select(
            sql,
            record_sql(store, module.api_name, names),
            where="d.id = ?",
            params=[int(record_id) if len(record_id) < 20 else -1],
            order="d.id",
            limit=1,
        )
    if page.count == 0:
        return Response(204)
    held = shown_state(store, module.api_name, int(record_id))
    if held and names is None:
        return Response.of({"data": [{**json.loads(page.body), **held}]})
    return Response(200, b'{"data":[' + page.body + b"]}")


# -- deleted --------------------------------------------------------------------------------

DELETED_KINDS = {
    "all": ("recycle", "permanent"),
    "recycle": ("recycle",),
    "permanent": ("permanent",),
}
KEPT_DAYS = {"recycle": 60, "permanent": 120}


def list_deleted(store: Store, request: Request, module_name: str) -> Response:
    """GET /crm/v8/{module}/deleted: what left within 60 (bin) or 120 (permanent) days."""
    module = module_named(store, module_name)
    kind = request.query.get("type", "all")
    if kind not in DELETED_KINDS:
        raise ApiError(
            400,
            "PATTERN_NOT_MATCHED",
            "Please check whether the input values are correct",
            {"param_name": "type", "supported_values": sorted(DELETED_KINDS)},
        )
    page, per_page = paging(request.query)
    since = modified_since(request)
    rows = _deleted_rows(
        store, module, DELETED_KINDS[kind], since, per_page + 1, (page - 1) * per_page
    )
    if not rows:
        return Response(204, credits=2)
    shown = rows[:per_page]
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": page,
        "more_records": len(rows) > per_page,
    }
    return Response.of({"data": shown, "info": info}, credits=2)


def _deleted_rows(
    store: Store, module: Module, kinds: tuple[str, ...], since: str | None, limit: int, skip: int
) -> list[dict[str, Any]]:
    now = store.clock.time()
    reach = " or ".join("(g.kind=? and g.deleted_time>=?)" for _ in kinds)
    params: list[Any] = [module.api_name]
    for kind in kinds:
        params += [kind, text_of(now - KEPT_DAYS[kind] * 86_400)]
    after = ""
    if since is not None:
        after = "and g.deleted_time > ?"
        params.append(json.loads(since))
    query = (
        "select g.id, g.kind, g.deleted_time, g.display_name, u.fragment, c.fragment from gone g "
        "left join users u on u.id=g.deleted_by left join users c on c.id=g.created_by "
        f"where g.module=? and ({reach}) {after} "
        "order by g.deleted_time desc, g.id desc limit ? offset ?"
    )
    with store.reader() as sql:
        found = sql.execute(query, (*params, limit, skip)).fetchall()
    return [
        {
            "deleted_by": _person(by),
            "id": str(record_id),
            "display_name": json.loads(name) if name else None,
            "type": kind.decode(),
            "created_by": _person(creator),
            "deleted_time": when.decode(),
        }
        for record_id, kind, when, name, by, creator in found
    ]


def _person(fragment: bytes | None) -> dict[str, str] | None:
    if fragment is None:
        return None
    person = json.loads(fragment)
    return {"name": person["name"], "id": person["id"]}
