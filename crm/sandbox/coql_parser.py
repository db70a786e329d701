"""The grammar of COQL: from text to a tree, with the refusals that need no schema."""

import re
from dataclasses import dataclass, field
from typing import Any

from crm.sandbox.errors import ApiError, invalid_data

DEFAULT_LIMIT = 200
MAX_LIMIT = 2_000
MAX_REACH = 100_000
MAX_SELECT = 50
MAX_CRITERIA = 25
MAX_IN = 50
MAX_ORDER = 10
MAX_GROUP = 4
MAX_AGGREGATES = 5
ALIAS = re.compile(r"[A-Za-z]\w*$", re.ASCII)
AGGREGATES = ("count", "sum", "avg", "min", "max")

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
    aliased: bool = False


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
        for item in self.query.select:
            if keys.count(item.key) > 1:
                if item.aliased:
                    raise ApiError(
                        400, "DUPLICATE_ALIAS", "duplicate alias name", {"alias": item.key}
                    )
                raise ApiError(400, "DUPLICATE_DATA", "duplicate column", {"column_name": item.key})

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
            item.key, item.aliased = self._name(), True
            if not ALIAS.match(item.key):
                raise ApiError(400, "INVALID_ALIAS", "invalid alias name", {"alias": item.key})
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
            if value in ("select", "from"):
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
