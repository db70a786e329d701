"""One comparison of one field with a value, as SQL: shared by COQL, search and bulk criteria.

Decides which comparators a type allows and how a literal must look; the grammars around it
live in `coql.py`, `criteria.py` and `bulk.py`.
"""

import re
from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.fragments import quoted, to_fragment
from crm.sandbox.schema import Field, Module

ORDERING = {"=", "!=", "<", "<=", ">", ">="}
_DATE = re.compile(r"\d{4}-\d\d-\d\d$")
_NUMBER = re.compile(r"-?\d+(\.\d+)?$")
ID_FIELD = Field("id", "Record Id", "bigint")


class BadCondition(Exception):
    """A comparison that the CRM refuses: an operator or a value that does not fit the field."""

    def __init__(self, reason: str, column: str, operator: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.column = column
        self.operator = operator


def field_or_id(module: Module, name: str) -> Field | None:
    """The field of that name; `id` counts as one."""
    return ID_FIELD if name == "id" else module.get(name)


def compile_condition(
    f: Field, alias: str, operator: str, values: list[Any]
) -> tuple[str, list[Any]]:
    """SQL and parameters of `alias.f operator values`. Raises BadCondition."""
    column = f"{alias}.{'id' if f is ID_FIELD else quoted(f.api_name)}"
    if operator in ("is null", "is not null"):
        return f"{column} {operator}", []
    kind = _kind(f)
    if operator in ("like", "not like"):
        return _compile_like(f, kind, column, operator, values[0])
    if operator in ("between", "not between"):
        if kind in ("text", "boolean"):
            raise BadCondition("operator not supported for this field", f.api_name, operator)
        low, high = (_literal(f, kind, value, operator) for value in values)
        return f"{_comparable(kind, column)} {operator} ? and ?", [low, high]
    literals = [_literal(f, kind, value, operator) for value in values]
    if operator in ("in", "not in"):
        return f"{_comparable(kind, column)} {operator} ({','.join('?' * len(literals))})", literals
    if operator not in ORDERING or (
        operator not in ("=", "!=") and kind in ("text", "boolean", "lookup")
    ):
        raise BadCondition("operator not supported for this field", f.api_name, operator)
    return f"{_comparable(kind, column)} {operator} ?", literals


def _kind(f: Field) -> str:
    if f is ID_FIELD:
        return "id"
    if f.is_lookup:
        return "lookup"
    return {
        "integer": "number",
        "bigint": "number",
        "double": "number",
        "currency": "number",
        "percent": "number",
        "boolean": "boolean",
        "date": "date",
        "datetime": "datetime",
        "textarea": "area",
    }.get(f.data_type, "text")


def _comparable(kind: str, column: str) -> str:
    return f"cast({column} as real)" if kind == "number" else column


def _compile_like(
    f: Field, kind: str, column: str, operator: str, value: Any
) -> tuple[str, list[Any]]:
    if kind != "text" or not isinstance(value, str):
        raise BadCondition("operator not supported for this field", f.api_name, operator)
    return f"{column} {operator} ?", [to_fragment(value)]


def _literal(f: Field, kind: str, value: Any, operator: str) -> Any:
    if kind == "area":
        raise BadCondition("multi-line fields cannot be used in criteria", f.api_name, operator)
    made = _MAKERS[kind](f, value)
    if made is None:
        raise BadCondition("invalid value for this field", f.api_name, operator)
    return made


def _make_id(_f: Field, value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _make_number(_f: Field, value: Any) -> float | None:
    if isinstance(value, bool) or not _NUMBER.match(str(value)):
        return None
    return float(value)


def _make_boolean(_f: Field, value: Any) -> str | None:
    text = str(value).lower()
    return text if text in ("true", "false") else None


def _make_date(_f: Field, value: Any) -> str | None:
    ok = isinstance(value, str) and _DATE.match(value)
    return to_fragment(value) if ok else None


def _make_moment(_f: Field, value: Any) -> str | None:
    instant = parse_instant(value) if isinstance(value, str) else None
    return None if instant is None else to_fragment(text_of(instant))


def _make_text(f: Field, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    choice = f.choice(str(value)) if f.choices else None
    return to_fragment(choice.display if choice else str(value))


_MAKERS = {
    "id": _make_id,
    "lookup": _make_id,
    "number": _make_number,
    "boolean": _make_boolean,
    "date": _make_date,
    "datetime": _make_moment,
    "text": _make_text,
}
