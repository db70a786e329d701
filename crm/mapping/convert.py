"""One value of the CRM → one canonical value of ours, or a note why not. Never raises. Pure.

Canonical values are what columns, hashes and events share: text trimmed and NFC, empty as None;
dates as ISO text after checking that they exist; moments as aware UTC datetimes; money as whole
minor units; references as the CRM's id. A converter returns the canonical value, or `Noted` with
the value to keep (often None) and the problem to list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

# Beyond this many units an amount is taken for a mistake: sums must stay within 64 bits.
MONEY_LIMIT = 10**12
FIRST_YEAR, LAST_YEAR = 1900, 2200
MAX_ID = 2**63 - 1
# The same few thousand days come again and again: found good once is enough.
REMEMBERED_DAYS = 10_000
_DAYS_SEEN: set[str] = set()

_DECIMALS = dict.fromkeys(
    [
        "BIF",
        "CLP",
        "DJF",
        "GNF",
        "ISK",
        "JPY",
        "KMF",
        "KRW",
        "PYG",
        "RWF",
        "UGX",
        "VND",
        "VUV",
        "XAF",
        "XOF",
        "XPF",
    ],
    0,
) | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)


class Noted(NamedTuple):
    """A value that did not fit as it came: what is kept of it, and why (code, sentence)."""

    value: Any
    code: str
    message: str


class Ref(NamedTuple):
    """A reference to another CRM record; name and email as far as the answer tells them."""

    id: int
    name: str
    email: str


Converter = Callable[[Any], Any]
_STEPS = {decimals: Decimal(1).scaleb(-decimals) for decimals in (0, 2, 3)}


def decimals_of(currency: str) -> int:
    """Decimal places of a currency (ISO 4217); two for a code that is not known."""
    return _DECIMALS.get(currency, 2)


def shown(value: Any) -> str:
    """A short, safe excerpt of a value for a message."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "�" for c in text[:60])
    return f"“{text}”" + ("…" if len(str(value)) > 60 else "")


def clean_text(value: str) -> str:
    """Trimmed, NFC, NUL and lone surrogates replaced: storable alike on both databases."""
    if "\x00" in value:
        value = value.replace("\x00", "�")
    if not value.isascii():
        value = unicodedata.normalize("NFC", value.encode("utf-8", "replace").decode("utf-8"))
    return value.strip()


def text(length: int) -> Converter:
    """Text of at most `length` characters; numbers are accepted as text."""

    def convert(value: Any) -> Any:
        if value.__class__ is not str:
            if value.__class__ not in (int, Decimal):
                return Noted(None, "wrong_type", f"{shown(value)} is not text.")
            value = str(value)
        plain = value.isascii() and "\x00" not in value  # nearly all are: a call less for each
        value = value.strip() if plain else clean_text(value)
        if len(value) > length:
            return Noted(
                value[:length].rstrip(), "too_long", f"Cut to {length} of {len(value)} characters."
            )
        return value or None

    return convert


def pick(length: int, labels: dict[str, str] | None) -> Converter:
    """A picklist value; `labels`: actual and display values → the one shown; None: any goes."""
    plain = text(length)
    known = {name: label for name, label in (labels or {}).items() if name.strip() != "-None-"}

    def convert(value: Any) -> Any:
        if value.__class__ is str:
            if value in known:
                return known[value]
            if value.strip() == "-None-":
                return None
        value = plain(value)
        if labels is None or value.__class__ is not str:
            return value
        if value in labels:
            return labels[value]
        return Noted(value, "not_in_picklist", f"{shown(value)} is not in the field's picklist.")

    return convert


def day(value: Any) -> Any:
    """`YYYY-MM-DD` that exists, as the same text."""
    if value.__class__ is str:
        if value in _DAYS_SEEN:
            return value
        if len(value) == 10 and value[4] == "-" and value[7] == "-":
            try:
                found = date.fromisoformat(value)
            except ValueError:
                return Noted(None, "bad_date", f"{shown(value)} is no date.")
            if FIRST_YEAR <= found.year <= LAST_YEAR:
                if len(_DAYS_SEEN) < REMEMBERED_DAYS:
                    _DAYS_SEEN.add(value)
                return value
        elif not value.strip():
            return None
    return Noted(None, "bad_date", f"{shown(value)} is no date of this era (YYYY-MM-DD).")


def moment(value: Any) -> Any:
    """ISO date and time with its offset → aware UTC datetime."""
    if value.__class__ is str:
        try:
            found = datetime.fromisoformat(value)
            if found.tzinfo is not None and FIRST_YEAR <= found.year <= LAST_YEAR:
                return found.astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    return Noted(None, "bad_datetime", f"{shown(value)} is no date and time with an offset.")


def minor_units(value: Any, decimals: int) -> Any:
    """A JSON number → whole minor units, half up."""
    if value.__class__ is int:
        if -MONEY_LIMIT <= value <= MONEY_LIMIT:
            return value * 10**decimals
    elif value.__class__ is Decimal:
        if value.is_finite() and -MONEY_LIMIT <= value <= MONEY_LIMIT:
            # quantize looks at every digit; scaleb first would round to 28 of them, and twice.
            return int(value.quantize(_STEPS[decimals], ROUND_HALF_UP).scaleb(decimals))
    else:
        return Noted(None, "not_a_number", f"{shown(value)} is not a number.")
    return Noted(None, "out_of_range", f"{shown(value)} is beyond {MONEY_LIMIT:,} units.")


def rescaled(minor: int | None, was: str, now: str) -> int | None:
    """The same number of units in the decimals of another currency, half up."""
    if minor is None or decimals_of(was) == decimals_of(now):
        return minor
    return minor_units(Decimal(minor).scaleb(-decimals_of(was)), decimals_of(now))


def whole_number(value: Any) -> Any:
    """An integer as int; digits as text are accepted (bigint fields come as either)."""
    if value.__class__ is Decimal and value.is_finite() and value == value.to_integral_value():
        # 1e999999 is a short text and a number of a million digits.
        value = int(value) if -MAX_ID <= value <= MAX_ID else MAX_ID + 1
    if value.__class__ is str and value.isascii() and value.strip().isdigit() and len(value) < 19:
        value = int(value)
    if value.__class__ is not int:
        return Noted(None, "not_a_number", f"{shown(value)} is not a whole number.")
    if not -MAX_ID <= value <= MAX_ID:
        return Noted(None, "out_of_range", f"It is beyond {MAX_ID:,}.")
    return value


def percent(value: Any) -> Any:
    """A whole number from 0 to 100; beyond is clamped and noted."""
    if value.__class__ not in (int, Decimal) or (value.__class__ is Decimal and value.is_nan()):
        return Noted(None, "not_a_number", f"{shown(value)} is not a number.")
    if not 0 <= value <= 100:
        kept = 0 if value < 0 else 100
        return Noted(kept, "out_of_range", f"{shown(value)} % is not within 0 to 100.")
    return whole_number(value)


_YES, _NO = {"true", "yes", "1"}, {"false", "no", "0", "none", "-none-"}


def flag(value: Any) -> Any:
    """A boolean; the texts true/yes/1 and false/no/0 count."""
    if value is True or value is False:
        return value
    word = str(value).strip().lower() if value.__class__ in (str, int) else None
    if word == "":
        return None
    if word in _YES:
        return True
    if word in _NO:
        return False
    return Noted(None, "wrong_type", f"{shown(value)} is neither yes nor no.")


def currency_code(value: Any) -> Any:
    """A currency code as the CRM names it, upper case, at most ten characters."""
    if value.__class__ is str:
        code = clean_text(value.upper())
        if len(code) <= 10:
            return code or None
    return Noted(None, "wrong_type", f"{shown(value)} is no currency code.")


def record_id(value: Any) -> int | None:
    """A CRM id (digits, as text or number) as int; None if it is none."""
    if value.__class__ is str and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    return value if value.__class__ is int and 0 < value <= MAX_ID else None


def reference(value: Any) -> Any:
    """`{"id", "name", "email"}` or a bare id → Ref."""
    if value.__class__ is dict:
        found = record_id(value.get("id"))
        if found:
            name, email = value.get("name"), value.get("email")
            return Ref(
                found,
                clean_text(name)[:255] if name.__class__ is str else "",
                clean_text(email)[:320] if email.__class__ is str else "",
            )
    else:
        found = record_id(value)
        if found:
            return Ref(found, "", "")
    return Noted(None, "bad_reference", f"{shown(value)} names no record.")


def reference_reader(remembered: int = 20_000) -> Converter:
    """`reference`, remembering: owners and accounts come again and again."""
    known: dict[Any, Ref] = {}

    def convert(value: Any) -> Any:
        if value.__class__ is not dict:
            return reference(value)
        get = value.get
        key = get("id"), get("name"), get("email")
        try:
            found = known.get(key)
        except TypeError:  # a list or an object in the place of a text
            return reference(value)
        if found is None:
            found = reference(value)
            if found.__class__ is Ref and key[0].__class__ is str:
                if len(known) >= remembered:
                    known.clear()
                known[key] = found
        return found

    return convert
