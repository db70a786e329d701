"""One value sent to the CRM, checked against its field and brought to the CRM's own form.

Knows types, lengths and picklists; whether a record as a whole is acceptable is decided in
`writes.py`.
"""

import datetime as dt
import re
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.errors import ApiError
from crm.sandbox.fragments import to_fragment
from crm.sandbox.schema import Field
from crm.sandbox.store import Transaction

_DATE = re.compile(r"\d{4}-\d\d-\d\d$")
MAX_INTEGER = 10**9


def refuse(f: Field, index: int, **details: Any) -> ApiError:
    """INVALID_DATA at the place of one field of one record."""
    where = {"api_name": f.api_name, "json_path": f"$.data[{index}].{f.api_name}"}
    return ApiError(400, "INVALID_DATA", "invalid data", {**details, **where}, counts=False)


def clean(tx: Transaction, f: Field, value: Any, index: int) -> Any:
    """The column content for a value; None for empty. Raises ApiError."""
    if value is None or value == "":
        return None
    if f.is_user:
        return _clean_user(tx, f, value, index)
    if f.is_lookup:
        return _clean_lookup(tx, f, value, index)
    return _CLEANERS.get(f.data_type, _clean_text)(f, value, index)


def _reference(f: Field, value: Any, index: int) -> int:
    raw = value.get("id") if isinstance(value, dict) else value
    text = str(raw)
    if isinstance(raw, bool) or not (text.isascii() and text.isdigit() and len(text) < 20):
        raise refuse(f, index, expected_data_type="jsonobject")
    return int(text)


def _clean_lookup(tx: Transaction, f: Field, value: Any, index: int) -> int:
    target = _reference(f, value, index)
    if f.lookup in tx.store.modules and tx.row(f.lookup, target) is None:
        raise refuse(f, index, expected_data_type="lookup")
    return target


def _clean_user(tx: Transaction, f: Field, value: Any, index: int) -> int:
    target = _reference(f, value, index)
    found = tx.sql.execute("select status from users where id=?", (target,)).fetchone()
    if found is None or found[0] != "active":
        raise refuse(f, index, expected_data_type="ownerlookup")
    return target


def _clean_text(f: Field, value: Any, index: int) -> str | None:
    if not isinstance(value, str):
        raise refuse(f, index, expected_data_type="string")
    text = value.strip()
    if f.length and len(text) > f.length:
        raise refuse(f, index, maximum_length=f.length)
    return to_fragment(text) if text else None


def _clean_email(f: Field, value: Any, index: int) -> str | None:
    if not isinstance(value, str) or not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value.strip()):
        raise refuse(f, index, expected_data_type="email")
    return _clean_text(f, value, index)


def _clean_picklist(f: Field, value: Any, index: int) -> str | None:
    choice = f.choice(value) if isinstance(value, str) else None
    if choice is None:
        raise refuse(f, index, supported_values=[c.display for c in f.choices])
    return None if choice.display == "-None-" else to_fragment(choice.display)


def _clean_number(f: Field, value: Any, index: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(f, index, expected_data_type="double")
    try:
        number = Decimal(str(value)).quantize(
            Decimal(1).scaleb(-(f.decimal_place or 0)), ROUND_HALF_UP
        )
    except InvalidOperation as error:
        raise refuse(f, index, maximum_length=f.length) from error
    if not number.is_finite() or len(str(abs(int(number)))) > f.length:
        raise refuse(f, index, maximum_length=f.length)
    return number_fragment(number)


def number_fragment(number: Decimal) -> str:
    """A number without needless zeros, never in scientific notation."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _clean_integer(f: Field, value: Any, index: int) -> str:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or abs(value) >= MAX_INTEGER:
        raise refuse(f, index, expected_data_type="integer")
    return str(int(value))


def _clean_percent(f: Field, value: Any, index: int) -> str:
    text = _clean_integer(f, value, index)
    if not 0 <= int(text) <= 100:
        raise refuse(f, index, expected_data_type="integer", range={"from": 0, "to": 100})
    return text


def _clean_boolean(f: Field, value: Any, index: int) -> str:
    if not isinstance(value, bool):
        raise refuse(f, index, expected_data_type="boolean")
    return "true" if value else "false"


def _clean_date(f: Field, value: Any, index: int) -> str:
    if isinstance(value, str) and _DATE.match(value):
        try:
            dt.date.fromisoformat(value)
        except ValueError:
            pass
        else:
            return f'"{value}"'
    raise refuse(f, index, expected_data_type="date")


def _clean_moment(f: Field, value: Any, index: int) -> str:
    instant = parse_instant(value) if isinstance(value, str) else None
    if instant is None:
        raise refuse(f, index, expected_data_type="datetime")
    return f'"{text_of(instant)}"'


_CLEANERS = {
    "email": _clean_email,
    "picklist": _clean_picklist,
    "currency": _clean_number,
    "double": _clean_number,
    "integer": _clean_integer,
    "bigint": _clean_integer,
    "percent": _clean_percent,
    "boolean": _clean_boolean,
    "date": _clean_date,
    "datetime": _clean_moment,
}
