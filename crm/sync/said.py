"""What the CRM says of itself, made fit to be kept: it may say anything. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from crm.mapping import convert
from crm.zoho.paging import Marker

_LARGEST = 2**63


def cut(value: Any, length: int = 255) -> str:
    """A text that both databases keep, of at most `length` characters; "" for what is none."""
    if not value or isinstance(value, Marker | dict | list | bool):
        return ""
    return convert.clean_text(str(value))[:length].rstrip()


def small(value: Any) -> int | None:
    """A whole number that fits a column, or None."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and abs(value) < 2**31 else None


def percent(value: Any) -> int | None:
    """A whole number from 0 to 100, or None."""
    number = small(value)
    return number if number is not None and 0 <= number <= 100 else None


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def jsonable(value: Any) -> Any:
    """The same as a JSON column keeps it; None for what is no JSON value at all."""
    if isinstance(value, str):
        return convert.clean_text(value)
    if isinstance(value, dict):
        return {convert.clean_text(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    if isinstance(value, Decimal) or (isinstance(value, int) and abs(value) >= _LARGEST):
        return str(value)
    return value if isinstance(value, int | bool) else None
