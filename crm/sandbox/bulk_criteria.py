"""Criteria of bulk read jobs: nested groups of {field, comparator, value} to SQL."""

from typing import Any

from crm.sandbox.conditions import BadCondition
from crm.sandbox.coql import Translator
from crm.sandbox.errors import ApiError

MAX_CRITERIA = 25
MAX_VALUES = 200
COMPARATORS = {
    "equal": "=",
    "not_equal": "!=",
    "in": "in",
    "not_in": "not in",
    "less_than": "<",
    "less_equal": "<=",
    "greater_than": ">",
    "greater_equal": ">=",
    "between": "between",
    "not_between": "not between",
    "contains": "like",
    "not_contains": "not like",
    "starts_with": "like",
    "ends_with": "like",
}
PATTERNS = {
    "contains": "%{}%",
    "not_contains": "%{}%",
    "starts_with": "{}%",
    "ends_with": "%{}",
}


def compile_bulk_criteria(translator: Translator, content: Any) -> tuple[str, list[Any]]:
    """SQL and parameters over `d`; ApiError as the CRM refuses."""
    if _count(content) > MAX_CRITERIA:
        raise ApiError(
            400, "CRITERIA_LIMIT_EXCEEDED", "criteria limit exceeded", {"limit": MAX_CRITERIA}
        )
    return _node(translator, content)


def _count(node: Any) -> int:
    if isinstance(node, dict) and isinstance(node.get("group"), list):
        return sum(_count(item) for item in node["group"])
    return 1


def _node(translator: Translator, node: Any) -> tuple[str, list[Any]]:
    if not isinstance(node, dict):
        raise _malformed()
    if "group" in node:
        return _group(translator, node)
    comparator = str(node.get("comparator"))
    name = node.get("field")
    path = name.get("api_name") if isinstance(name, dict) else node.get("api_name")
    if comparator not in COMPARATORS or not isinstance(path, str):
        raise _malformed()
    values = _values(comparator, node.get("value"))
    operator = COMPARATORS[comparator]
    if values == [None]:
        operator, values = ("is null" if operator == "=" else "is not null"), []
    try:
        return translator.condition_sql(operator, path, values)
    except BadCondition as error:
        raise ApiError(
            400,
            "FIELD_AND_COMPARATOR_IN_CRITERIA_NOT_COMPATIBLE",
            error.reason,
            {"field": error.column, "comparator": comparator},
        ) from error


def _group(translator: Translator, node: dict[str, Any]) -> tuple[str, list[Any]]:
    word, items = str(node.get("group_operator", "")).lower(), node["group"]
    if word not in ("and", "or") or not isinstance(items, list) or not items:
        raise _malformed()
    parts, params = [], []
    for item in items:
        sql, more = _node(translator, item)
        parts.append(sql)
        params += more
    return "(" + f" {word} ".join(parts) + ")", params


def _values(comparator: str, value: Any) -> list[Any]:
    if value in (None, "${EMPTY}"):
        return [None]
    if comparator in ("in", "not_in", "between", "not_between"):
        values = value if isinstance(value, list) else str(value).split(",")
        if not values or len(values) > MAX_VALUES:
            raise ApiError(
                400,
                "VALUE_LIMIT_EXCEEDED_IN_CRITERIA",
                "value limit exceeded",
                {"limit": MAX_VALUES},
            )
        if "between" in comparator and len(values) != 2:
            raise _malformed()
        return values
    if comparator in PATTERNS:
        return [PATTERNS[comparator].format(value)]
    return [value]


def _malformed() -> ApiError:
    return ApiError(400, "INVALID_DATA", "invalid data", {"api_name": "criteria"})
