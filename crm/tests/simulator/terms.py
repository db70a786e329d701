"""One field in three tongues: our column, the oracle's name for it, the CRM's API name; and one
form in which a value of either side can be compared. Knows nothing of the product's own mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from fractions import Fraction
from typing import Any

from crm.tests import oracle

_MORE = {
    "Deals": {
        "crm_probability": "Probability",
        "currency": "Currency",
        "amount_minor": "Amount",
        "aws_funded": "AWS_Funded",
        "strategic_account": "Strategic_Account",
        **oracle.DATES,
    },
    "Accounts": {"employees": "Employees"},
}
# The fields that people here may change, by module: the oracle's name → the API's.
WRITABLE: dict[str, dict[str, str]] = {
    module: {
        name: api
        for name, api in {
            **oracle.TEXTS[module],
            **oracle.REFS[module],
            **_MORE.get(module, {}),
        }.items()
        if name not in ("modified_by", "external_id")
    }
    for module in oracle.MODELS
}
LOOKUPS = {"Owner", "Account_Name", "Contact_Name"}
AMOUNT, CURRENCY = "amount_minor", "currency"
# Of a deal these change without anybody's asking, when the CRM is told the stage.
FOLLOWS = {"Probability": "Stage"}
MANDATORY = {"name", "last_name", "company", "owner", "pipeline", "crm_stage", CURRENCY}


def is_lookup(module: str, name: str) -> bool:
    return name in oracle.REFS[module]


def column(module: str, name: str) -> str:
    """Our column of the field."""
    return f"{name}_id" if is_lookup(module, name) else name


def name_of(module: str, column_: str) -> str:
    """The oracle's name of our column."""
    bare = column_.removesuffix("_id")
    return bare if bare in oracle.REFS[module] else column_


def plain(value: Any) -> Any:
    """As a book keeps it."""
    return value.isoformat() if isinstance(value, date | datetime) else value


def of_ours(module: str, name: str, row: Mapping[str, Any]) -> Any:
    """A value of a row here (as the oracle gives rows), comparable with `of_theirs`."""
    return of_value(module, name, row[name], row.get(CURRENCY))


def of_value(module: str, name: str, value: Any, currency: Any) -> Any:
    """The same for one value; an amount is in this currency."""
    if name == AMOUNT and module == "Deals":
        if value is None:
            return None
        return Fraction(value, 10 ** oracle.DECIMALS.get(currency, 2))
    return plain(value) if value != "" else None


def of_theirs(module: str, api: str, raw: Any) -> Any:
    """A value in the CRM's own form: of an answer, a request, or its history."""
    if isinstance(raw, dict):
        raw = raw.get("id")
    if raw is None or raw == "":
        return None
    if api == "Account_Name" and module == "Accounts":
        return oracle.text(raw, None)
    if api in LOOKUPS:
        return int(raw)
    if api == "Amount":
        return Fraction(str(raw))
    if isinstance(raw, str):
        clean = oracle.text(raw, None)
        return oracle.SHOWN.get(clean or "", clean) if api == "Stage" else clean
    return raw


class Sparse(dict):
    """A record of which not all fields were asked for."""

    def __missing__(self, key: str) -> None:
        return None
