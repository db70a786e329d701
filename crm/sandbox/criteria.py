"""Search criteria: `((Stage:equals:Closed Won)and(Amount:greater_than:1000))` to SQL."""

from typing import Any

from crm.sandbox.conditions import BadCondition, compile_condition, field_or_id
from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.schema import Module
from crm.sandbox.store import Store

MAX_CONDITIONS = 10
OPERATORS = {
    "equals": "=",
    "equal": "=",
    "not_equal": "!=",
    "less_than": "<",
    "less_equal": "<=",
    "greater_than": ">",
    "greater_equal": ">=",
    "in": "in",
    "between": "between",
    "starts_with": "like",
}


def compile_criteria(store: Store, module: Module, text: str) -> tuple[str, list[Any]]:
    """SQL and parameters over `d`; 400 INVALID_DATA or LIMIT_EXCEEDED if it cannot be read."""
    parser = _Criteria(module, text)
    sql, params = parser.group()
    if parser.rest():
        raise invalid_data("the criteria is malformed", param_name="criteria")
    if parser.conditions > MAX_CONDITIONS:
        raise ApiError(
            400,
            "LIMIT_EXCEEDED",
            "the number of criteria exceeds the limit",
            {"limit": MAX_CONDITIONS, "param_name": "criteria"},
        )
    return sql, params


class _Criteria:
    """A reader of nested brackets; `\\` escapes a bracket or comma within a value."""

    def __init__(self, module: Module, text: str) -> None:
        self.module = module
        self.text = text.strip()
        self.at = 0
        self.conditions = 0

    def rest(self) -> str:
        return self.text[self.at :].strip()

    def group(self) -> tuple[str, list[Any]]:
        """One bracket: a condition, or brackets joined by and/or."""
        if not self._take("("):
            return self._condition(stop_at_end=True)
        inside = self._joined() if self._peek() == "(" else self._condition(stop_at_end=False)
        if not self._take(")"):
            raise invalid_data("the criteria is malformed", param_name="criteria")
        return inside

    def _joined(self) -> tuple[str, list[Any]]:
        sql, params = self.group()
        while True:
            for word in ("and", "or"):
                if self.text[self.at : self.at + len(word)].lower() == word:
                    self.at += len(word)
                    other, more = self.group()
                    sql, params = f"({sql} {word} {other})", params + more
                    break
            else:
                return sql, params

    def _condition(self, stop_at_end: bool) -> tuple[str, list[Any]]:
        pieces = self._until_bracket(stop_at_end).split(":", 2)
        if len(pieces) != 3:
            raise invalid_data("the criteria is malformed", param_name="criteria")
        self.conditions += 1
        name, operator, value = pieces
        f = field_or_id(self.module, name.strip())
        sql_operator = OPERATORS.get(operator.strip())
        if f is None or sql_operator is None:
            raise invalid_data(param_name="criteria", api_name=name.strip(), operator=operator)
        return self._compile(f, sql_operator, value)

    def _compile(self, f: Any, operator: str, value: str) -> tuple[str, list[Any]]:
        if value == "${EMPTY}" or value == "null":
            return compile_condition(f, "d", "is null" if operator == "=" else "is not null", [])
        values: list[Any] = value.split(",") if operator in ("in", "between") else [value]
        if operator == "like":
            values = [value + "%"]
        try:
            return compile_condition(f, "d", operator, values)
        except BadCondition as error:
            raise invalid_data(param_name="criteria", api_name=error.column) from error

    def _until_bracket(self, stop_at_end: bool) -> str:
        out = []
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "\\" and self.at + 1 < len(self.text):
                out.append(self.text[self.at + 1])
                self.at += 2
                continue
            if character in "()":
                return "".join(out)
            out.append(character)
            self.at += 1
        if not stop_at_end:
            raise invalid_data("the criteria is malformed", param_name="criteria")
        return "".join(out)

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self.at += 1
        return True
