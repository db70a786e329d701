"""COQL: a parsed query translated to SQL over the store (`coql_parser.py` has the grammar).

Decides what the CRM would refuse and with which code. Rows come out of SQLite as finished text;
ranges of ids and windows of Modified_Time are the quick paths.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.conditions import ID_FIELD, BadCondition, compile_condition, field_or_id
from crm.sandbox.coql_parser import Parser, Query, Selected, invalid_query, limit_exceeded
from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.fragments import (
    Column,
    RecordSql,
    bare_lookup_sql,
    id_sql,
    object_expression,
    plain_sql,
    quoted,
    table_of,
    to_fragment,
)
from crm.sandbox.holds import approved_rule
from crm.sandbox.metadata import field_json
from crm.sandbox.params import json_object
from crm.sandbox.records import along, converted_rule, window_hint
from crm.sandbox.schema import NUMBER_TYPES, Field, Module
from crm.sandbox.server import Request, Response, json_bytes
from crm.sandbox.store import Store

MAX_JOINS = 5
ENDS = {"min": "asc", "max": "desc"}
USER_KEYS = {
    "id": "id",
    "email": "email",
    "first_name": "first_name",
    "last_name": "last_name",
    "full_name": "full_name",
}


@dataclass(frozen=True)
class Place:
    """Where a path leads: the SQL alias, the field there, and whether it is of a user."""

    alias: str
    field: Field
    user_key: str | None = None


class Translator:
    """Looks names up in the schema and builds SQL."""

    def __init__(self, store: Store, query: Query, most_joins: int = MAX_JOINS) -> None:
        self.store = store
        self.query = query
        module = store.modules.get(query.module)
        if module is None:
            raise ApiError(
                400,
                "INVALID_MODULE",
                "the module name given seems to be invalid",
                {"module": query.module},
            )
        self.module: Module = module
        self.most_joins = most_joins
        self.joins: dict[str, str] = {}

    def place(self, path: str) -> Place:
        """The column behind `Stage`, `Account_Name.Industry` or `Owner.email`."""
        first, _, rest = path.partition(".")
        f = field_or_id(self.module, first)
        if f is None:
            raise invalid_query("column given seems to be invalid", path)
        if not rest:
            return Place("d", f)
        if f.is_user and rest in USER_KEYS:
            return Place(self._join(f, "users"), f, rest)
        target = self.store.modules.get(f.lookup or "")
        inner = field_or_id(target, rest) if target else None
        if target is None or inner is None:
            raise invalid_query("column given seems to be invalid", path)
        return Place(self._join(f, table_of(target.api_name)), inner)

    def _join(self, f: Field, table: str) -> str:
        if f.api_name not in self.joins:
            if len(self.joins) >= self.most_joins:
                raise limit_exceeded("join", self.most_joins)
            alias = f"j{len(self.joins)}"
            self.joins[f.api_name] = (
                f"left join {table} {alias} on {alias}.id=d.{quoted(f.api_name)}"
            )
        return self.joins[f.api_name].split()[3]

    def json_sql(self, path: str) -> str:
        """SQL that yields the JSON text of a selected path."""
        place = self.place(path)
        if place.user_key is not None:
            if place.user_key == "id":
                return f"ifnull({id_sql(place.alias)},'null')"
            return f"ifnull({user_value_sql(place)},'null')"
        if place.field.api_name == "id":
            return f"ifnull({id_sql(place.alias)},'null')"
        if place.field.is_lookup:
            return bare_lookup_sql(place.alias, place.field.api_name)
        return plain_sql(place.alias, place.field.api_name)

    def where_sql(self, node: Any) -> tuple[str, list[Any]]:
        """SQL and parameters of a tree of conditions."""
        if node[0] in ("and", "or"):
            left, params = self.where_sql(node[1])
            right, more = self.where_sql(node[2])
            return f"({left} {node[0]} {right})", params + more
        operator, path, values = node
        try:
            return self.condition_sql(operator, path, values)
        except BadCondition as error:
            raise invalid_query(error.reason, path, operator=error.operator) from error

    def condition_sql(self, operator: str, path: str, values: list[Any]) -> tuple[str, list[Any]]:
        """SQL and parameters of one comparison. Raises BadCondition, or ApiError for the path."""
        place = self.place(path)
        if place.user_key == "id":
            return compile_condition(ID_FIELD, place.alias, operator, values)
        if place.user_key is not None:
            return user_condition(place, operator, values)
        return compile_condition(place.field, place.alias, operator, values)

    def order_sql(self) -> str:
        """The order by list; by id where the query asks for none."""
        parts = []
        for path, way in self.query.order:
            place = self.place(path)
            if place.user_key is not None:
                column = user_value_sql(place)
            elif place.field.api_name == "id":
                column = f"{place.alias}.id"
            else:
                column = f"{place.alias}.{quoted(place.field.api_name)}"
                if place.field.data_type in NUMBER_TYPES:
                    column = f"cast({column} as real)"
            parts.append(f"{column} {way}")
        return ", ".join(parts) or "d.id asc"


def user_value_sql(place: Place) -> str:
    return f"json_quote(json_extract({place.alias}.definition,'$.{place.user_key}'))"


def user_condition(place: Place, operator: str, values: list[Any]) -> tuple[str, list[Any]]:
    """A comparison with a property of a user, which is a text."""
    column = f"json_extract({place.alias}.definition,'$.{place.user_key}')"
    if operator in ("is null", "is not null"):
        return f"{column} {operator}", []
    if operator in ("in", "not in"):
        return f"{column} {operator} ({','.join('?' * len(values))})", values
    if operator not in ("=", "!=", "like", "not like"):
        raise BadCondition("operator not supported for this field", place.field.api_name, operator)
    return f"{column} {operator} ?", values


# -- the endpoint ---------------------------------------------------------------------------


def run_coql(store: Store, request: Request) -> Response:
    """POST /crm/v8/coql"""
    query = Parser(_select_text(request)).parse()
    with_fields = _wants_fields(request)
    translator = Translator(store, query)
    if query.group or any(s.aggregate for s in query.select):
        rows, more = _run_aggregate(store, translator)
        body = b",\n".join(rows)
        count = len(rows)
    else:
        body, count, more = _run_rows(store, translator)
    cost = 1 if query.limit <= 200 else 2 if query.limit <= 1000 else 3
    if count == 0:
        return Response(204, credits=cost)
    info = json.dumps({"count": count, "more_records": more}).encode()
    more_keys = b""
    if with_fields:
        fields = [store.modules[query.module].get(item.path) for item in query.select]
        shown = {f.api_name: field_json(store, f) for f in fields if f is not None}
        more_keys = b',"fields":' + json_bytes(shown)
    whole = b'{"data":[' + body + b'],"info":' + info + more_keys + b"}"
    return Response(200, whole, credits=cost)


def _wants_fields(request: Request) -> bool:
    """Whether `include_meta` asks for the selected fields' metadata; it takes nothing else."""
    wish = json_object(request).get("include_meta")
    if wish not in (None, ["fields"]):
        raise invalid_data(api_name="include_meta", supported_values=["fields"])
    return wish is not None


def _select_text(request: Request) -> str:
    content = json_object(request)
    if "select_query" not in content:
        raise ApiError(
            400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": "select_query"}
        )
    text = content["select_query"]
    if not isinstance(text, str):
        raise invalid_data(api_name="select_query", expected_data_type="string")
    return text


def _run_rows(store: Store, translator: Translator) -> tuple[bytes, int, bool]:
    query = translator.query
    columns = [Column(s.key, translator.json_sql(s.path)) for s in query.select]
    if all(s.key != "id" for s in query.select):
        columns.append(Column("id", id_sql("d")))
    where, params = translator.where_sql(query.where)
    where += _converted_rule(query) + approved_rule(store, query.module, "true")
    order = translator.order_sql()
    record = RecordSql(
        query.module, object_expression(columns), " ".join(translator.joins.values())
    )
    with store.reader() as sql:
        page = store.select(
            sql,
            record,
            where=where,
            params=params,
            order=order,
            limit=query.limit,
            offset=query.offset,
            hint=_hint(sql, query),
        )
    return page.body, page.count, page.more


def _converted_rule(query: Query) -> str:
    """Converted leads stay hidden unless the query asks about conversion."""
    asked = "Converted__s" in repr(query.where)
    return converted_rule(query.module, "both" if asked else "false")


def _hint(sql: sqlite3.Connection, query: Query) -> str:
    """Which way to walk: by id, or by Modified_Time when the window is small."""
    bounds = [
        values[0]
        for operator, path, values in _conjuncts(query.where)
        if path == "Modified_Time" and operator in (">", ">=")
    ]
    if query.order and query.order[0][0] in ("Created_Time", "Modified_Time"):
        return along(query.module, query.order[0][0])
    instant = parse_instant(str(bounds[0])) if bounds else None
    if instant is not None:
        return window_hint(sql, query.module, to_fragment(text_of(instant)) or "")
    paths = {path for _, path, _ in _conjuncts(query.where)}
    return "not indexed" if "id" in paths else ""


def _conjuncts(node: Any) -> list[tuple[str, str, list[Any]]]:
    if node[0] == "and":
        return _conjuncts(node[1]) + _conjuncts(node[2])
    return [] if node[0] == "or" else [node]


def _run_aggregate(store: Store, translator: Translator) -> tuple[list[bytes], bool]:
    query = translator.query
    columns = []
    for item in query.select:
        if item.aggregate is None:
            if item.path not in query.group:
                raise invalid_query("column must be in the group by clause", item.path)
            columns.append(Column(item.key, translator.json_sql(item.path)))
        else:
            columns.append(Column(item.key, _aggregate_sql(translator, item)))
    where, params = translator.where_sql(query.where)
    where += _converted_rule(query) + approved_rule(store, query.module, "true")
    if not query.group and all(s.path == "id" and s.aggregate in ENDS for s in query.select):
        return _ends_of_ids(store, translator, where, params), False
    groups = ",".join(translator.json_sql(path) for path in query.group)
    keys = [s.key for s in query.select]
    order = ",".join(f"{keys.index(path) + 2} {way}" for path, way in query.order if path in keys)
    statement = (
        f"select {object_expression(columns)}, {','.join(c.sql for c in columns)} "
        f"from {table_of(query.module)} d {' '.join(translator.joins.values())} where {where}"
        + (f" group by {groups}" if groups else "")
        + (f" order by {order}" if order else "")
        + f" limit {query.limit + 1} offset {query.offset}"
    )
    with store.reader() as sql:
        rows = [row[0] for row in sql.execute(statement, params)]
    return rows[: query.limit], len(rows) > query.limit


def _ends_of_ids(
    store: Store, translator: Translator, where: str, params: list[Any]
) -> list[bytes]:
    """Smallest and largest id, each by one step into the table instead of a walk through it."""
    query = translator.query
    columns = [
        Column(
            item.key,
            f"ifnull('\"'||(select d.id from {table_of(query.module)} d not indexed "
            f"{' '.join(translator.joins.values())} where {where} "
            f"order by d.id {ENDS[item.aggregate or '']} limit 1)||'\"','null')",
        )
        for item in query.select
    ]
    with store.reader() as sql:
        return [
            sql.execute(f"select {object_expression(columns)}", params * len(columns)).fetchone()[0]
        ]


def _aggregate_sql(translator: Translator, item: Selected) -> str:
    place = translator.place(item.path)
    if place.field.api_name == "id":
        column = f"{place.alias}.id"
        if item.aggregate == "count":
            return f"count({column})"
        if item.aggregate in ("min", "max"):
            return f"ifnull('\"'||{item.aggregate}({column})||'\"','null')"
        raise invalid_query("aggregate not supported for this field", item.path)
    column = f"{place.alias}.{quoted(place.field.api_name)}"
    if item.aggregate == "count":
        return f"count({column})"
    if place.field.data_type in NUMBER_TYPES:
        return f"ifnull({item.aggregate}(cast({column} as real)),'null')"
    if item.aggregate in ("min", "max") and place.field.data_type in ("date", "datetime"):
        return f"ifnull({item.aggregate}({column}),'null')"
    raise invalid_query("aggregate not supported for this field", item.path)
