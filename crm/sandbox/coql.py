"""COQL: a parser of the documented grammar, and its translation to SQL over the store.

Decides what the CRM would refuse and with which code. Rows come out of SQLite as finished text;
ranges of ids and windows of Modified_Time are the quick paths.
"""

# Names in SQL come from the schema, never from a request; values are bound.
# ruff: noqa: S608

import json
import re
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.conditions import BadCondition, compile_condition, field_or_id
from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.records import window_hint
from crm.sandbox.schema import NUMBER_TYPES, Field, Module
from crm.sandbox.server import Request, Response
from crm.sandbox.store import (
    Column,
    RecordSql,
    Store,
    bare_lookup_sql,
    id_sql,
    object_expression,
    plain_sql,
    quoted,
    table_of,
    to_fragment,
)

DEFAULT_LIMIT = 200
MAX_LIMIT = 2_000
MAX_REACH = 100_000
MAX_SELECT = 50
MAX_CRITERIA = 25
MAX_IN = 50
MAX_ORDER = 10
MAX_GROUP = 4
MAX_AGGREGATES = 5
MAX_JOINS = 5
AGGREGATES = ("count", "sum", "avg", "min", "max")
USER_KEYS = {
    "id": "id",
    "email": "email",
    "first_name": "first_name",
    "last_name": "last_name",
    "full_name": "full_name",
}

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^'\\]|\\.)*')
    | (?P<number>-?\d+(?:\.\d+)?(?![\w.]))
    | (?P<name>[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*)
    | (?P<op><=|>=|!=|<>|=|<|>|\(|\)|,|\*)
    )""",
    re.VERBOSE | re.DOTALL,
)
WORDS = {
    "select", "from", "where", "and", "or", "order", "by", "group", "limit", "offset", "asc",
    "desc", "is", "not", "null", "in", "like", "between", "as",
}  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A word of the query: its kind, its value and where it stood."""

    kind: str  # word, name, string, number, op, end
    value: Any
    at: int


@dataclass
class Selected:
    """One item of the select list."""

    key: str
    path: str
    aggregate: str | None = None


@dataclass
class Query:
    """A parsed query, names not yet looked up. `where` is a tree of tuples."""

    select: list[Selected] = field(default_factory=list)
    module: str = ""
    where: Any = None
    group: list[str] = field(default_factory=list)
    order: list[tuple[str, str]] = field(default_factory=list)
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    criteria: int = 0


def syntax_error(
    message: str = "error occured while parsing the query", **details: Any
) -> ApiError:
    return ApiError(400, "SYNTAX_ERROR", message, details)


def invalid_query(reason: str, column: str, **details: Any) -> ApiError:
    return ApiError(
        400, "INVALID_QUERY", reason, {"reason": reason, "column_name": column, **details}
    )


def limit_exceeded(clause: str, limit: int) -> ApiError:
    return ApiError(
        400, "LIMIT_EXCEEDED", "the limit is exceeded", {"clause": clause, "limit": limit}
    )


# -- parsing --------------------------------------------------------------------------------


def tokens_of(text: str) -> list[Token]:
    """The words of a query; SYNTAX_ERROR at what is none."""
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise syntax_error(near=text[at : at + 30].strip(), line=1, column=at + 1)
        at = match.end()
        kind, value = match.lastgroup or "op", match.group(match.lastgroup or 0)
        if kind == "string":
            value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
        elif kind == "name" and value.lower() in WORDS:
            kind, value = "word", value.lower()
        found.append(Token(kind, value, match.start()))
    found.append(Token("end", "", end))
    return found


class Parser:
    """Reads `select … from … where … [group by …] [order by …] [limit …]`."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens_of(text)
        self.at = 0
        self.query = Query()

    def parse(self) -> Query:
        """The whole query; ApiError as the CRM words it."""
        self._expect("select")
        self._select_list()
        self._expect("from")
        self.query.module = self._name()
        if not self._accept("where"):
            raise syntax_error("missing clause", clause="where")
        self.query.where = self._expression()
        if self.query.criteria > MAX_CRITERIA:
            raise limit_exceeded("where", MAX_CRITERIA)
        if self._accept("group"):
            self._expect("by")
            self.query.group = self._names("group by", MAX_GROUP)
        if self._accept("order"):
            self._expect("by")
            self._order_list()
        self._limit_clause()
        if self._peek().kind != "end":
            raise self._unexpected()
        return self.query

    def _select_list(self) -> None:
        while True:
            self.query.select.append(self._selected())
            if not self._accept(","):
                break
        aggregates = [s for s in self.query.select if s.aggregate]
        if len(aggregates) > MAX_AGGREGATES:
            raise limit_exceeded("select", MAX_AGGREGATES)
        if len(self.query.select) > MAX_SELECT:
            raise limit_exceeded("select", MAX_SELECT)
        keys = [s.key for s in self.query.select]
        if len(set(keys)) != len(keys):
            twice = next(k for k in keys if keys.count(k) > 1)
            raise ApiError(400, "DUPLICATE_DATA", "duplicate column", {"column_name": twice})

    def _selected(self) -> Selected:
        name = self._name()
        if self._accept("("):
            aggregate = name.lower()
            if aggregate not in AGGREGATES:
                raise syntax_error(near=name)
            path = self._name()
            self._expect(")")
            item = Selected(f"{aggregate.upper()}({path})", path, aggregate)
        else:
            item = Selected(name, name)
        if self._accept("as"):
            item.key = self._name()
        return item

    def _expression(self) -> Any:
        """`operand [and|or operand]`: more than two must be bracketed in pairs."""
        left = self._operand()
        token = self._peek()
        if token.kind == "word" and token.value in ("and", "or"):
            self.at += 1
            left = (token.value, left, self._operand())
            after = self._peek()
            if after.kind == "word" and after.value in ("and", "or"):
                raise syntax_error(near=str(after.value), line=1, column=after.at + 1)
        return left

    def _operand(self) -> Any:
        if self._accept("("):
            inner = self._expression()
            self._expect(")")
            return inner
        return self._condition()

    def _condition(self) -> Any:
        path = self._name()
        self.query.criteria += 1
        token = self._next()
        if token.value == "is":
            negated = self._accept("not")
            self._expect("null")
            return ("is not null" if negated else "is null", path, [])
        negated = token.value == "not"
        if negated:
            token = self._next()
        if token.value == "in" and token.kind == "word":
            return (f"{'not ' if negated else ''}in", path, self._value_list())
        if token.value == "like" and token.kind == "word":
            return (f"{'not ' if negated else ''}like", path, [self._value()])
        if token.value == "between" and token.kind == "word":
            low = self._value()
            self._expect("and")
            return (f"{'not ' if negated else ''}between", path, [low, self._value()])
        if negated or token.kind != "op" or token.value in ("(", ")", ",", "*"):
            raise syntax_error(operator=str(token.value))
        return ("!=" if token.value == "<>" else token.value, path, [self._value()])

    def _value_list(self) -> list[Any]:
        self._expect("(")
        values = [self._value()]
        while self._accept(","):
            values.append(self._value())
        self._expect(")")
        if len(values) > MAX_IN:
            raise limit_exceeded("in", MAX_IN)
        return values

    def _value(self) -> Any:
        token = self._next()
        if token.kind in ("string", "number"):
            return token.value
        if token.kind == "name" and token.value.lower() in ("true", "false"):
            return token.value.lower()
        raise syntax_error(near=str(token.value), line=1, column=token.at + 1)

    def _names(self, clause: str, most: int) -> list[str]:
        names = [self._name()]
        while self._accept(","):
            names.append(self._name())
        if len(names) > most:
            raise limit_exceeded(clause, most)
        return names

    def _order_list(self) -> None:
        while True:
            name = self._name()
            if self._accept("("):
                name = f"{name.upper()}({self._name()})"
                self._expect(")")
            way = "desc" if self._accept("desc") else "asc"
            if way == "asc":
                self._accept("asc")
            self.query.order.append((name, way))
            if not self._accept(","):
                break
        if len(self.query.order) > MAX_ORDER:
            raise limit_exceeded("order by", MAX_ORDER)

    def _limit_clause(self) -> None:
        if self._accept("limit"):
            first = self._count()
            if self._accept(","):
                self.query.offset, self.query.limit = first, self._count()
            else:
                self.query.limit = first
        if self._accept("offset"):
            self.query.offset = self._count()
        if self.query.limit <= 0:
            raise invalid_data("invalid limit", clause="limit")
        if self.query.limit > MAX_LIMIT:
            raise limit_exceeded("limit", MAX_LIMIT)
        if self.query.offset + self.query.limit > MAX_REACH:
            raise limit_exceeded("limit", MAX_REACH)

    def _count(self) -> int:
        token = self._next()
        if token.kind != "number":
            raise syntax_error(near=str(token.value), line=1, column=token.at + 1)
        if not token.value.isdigit():
            raise invalid_data("invalid limit", clause="limit")
        return int(token.value)

    def _peek(self) -> Token:
        return self.tokens[self.at]

    def _next(self) -> Token:
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def _accept(self, value: str) -> bool:
        token = self._peek()
        if token.kind in ("word", "op") and token.value == value:
            self.at += 1
            return True
        return False

    def _expect(self, value: str) -> None:
        if not self._accept(value):
            if value in ("select", "from") and self._peek().kind in ("end", "word"):
                raise syntax_error("missing clause", clause=value)
            raise self._unexpected()

    def _name(self) -> str:
        token = self._next()
        if token.kind != "name":
            raise syntax_error(near=str(token.value), line=1, column=token.at + 1)
        return token.value

    def _unexpected(self) -> ApiError:
        token = self._peek()
        return syntax_error(near=str(token.value), line=1, column=token.at + 1)


# -- translation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a path leads: the SQL alias, the field there, and whether it is of a user."""

    alias: str
    field: Field
    user_key: str | None = None


class Translator:
    """Looks names up in the schema and builds SQL."""

    def __init__(self, store: Store, query: Query) -> None:
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
            if len(self.joins) >= MAX_JOINS:
                raise limit_exceeded("join", MAX_JOINS)
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
        place = self.place(path)
        try:
            if place.user_key not in (None, "id"):
                return user_condition(place, operator, values)
            f = field_or_id(self.module, "id") if place.user_key == "id" else place.field
            assert f is not None  # noqa: S101 (the id field always exists)
            return compile_condition(f, place.alias, operator, values)
        except BadCondition as error:
            raise invalid_query(error.reason, path, operator=error.operator) from error

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
    return Response(200, b'{"data":[' + body + b'],"info":' + info + b"}", credits=cost)


def _select_text(request: Request) -> str:
    try:
        content = request.json
    except ValueError as error:
        raise invalid_data("the request body is not valid JSON") from error
    if not isinstance(content, dict) or "select_query" not in content:
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
    where += _converted_rule(query)
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
    if query.module != "Leads" or "Converted__s" in repr(query.where):
        return ""
    return " and d.Converted__s is not 'true'"


def _hint(sql: sqlite3.Connection, query: Query) -> str:
    """Which way to walk: by id, or by Modified_Time when the window is small."""
    bounds = [
        values[0]
        for operator, path, values in _conjuncts(query.where)
        if path == "Modified_Time" and operator in (">", ">=")
    ]
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
    where += _converted_rule(query)
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


def _aggregate_sql(translator: Translator, item: Selected) -> str:
    place = translator.place(item.path)
    if place.field.api_name == "id":
        column = f"{place.alias}.id"
        if item.aggregate == "count":
            return f"count({column})"
        if item.aggregate in ("min", "max"):
            return f"'\"'||{item.aggregate}({column})||'\"'"
        raise invalid_query("aggregate not supported for this field", item.path)
    column = f"{place.alias}.{quoted(place.field.api_name)}"
    if item.aggregate == "count":
        return f"count({column})"
    if place.field.data_type in NUMBER_TYPES:
        return f"ifnull({item.aggregate}(cast({column} as real)),'null')"
    if item.aggregate in ("min", "max") and place.field.data_type in ("date", "datetime"):
        return f"ifnull({item.aggregate}({column}),'null')"
    raise invalid_query("aggregate not supported for this field", item.path)
