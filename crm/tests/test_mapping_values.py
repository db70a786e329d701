"""One value of the CRM → one canonical value: both sides of each limit, and what holds for all."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.mapping import convert
from crm.mapping.convert import Noted, Ref
from crm.zoho.client import DUPLICATE_KEYS, NOT_A_NUMBER

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from([NOT_A_NUMBER, DUPLICATE_KEYS, Decimal("1E+999999"), Decimal("-1E-999999")])
    | st.text(st.characters(codec=None), max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)
converters = {
    "text": convert.text(20),
    "pick": convert.pick(255, {"a": "A", "A": "A"}),
    "any pick": convert.pick(255, None),
    "day": convert.day,
    "moment": convert.moment,
    "money": lambda value: convert.minor_units(value, 2),
    "integer": convert.whole_number,
    "percent": convert.percent,
    "flag": convert.flag,
    "currency": convert.currency_code,
    "reference": convert.reference,
}


def kept(result: Any) -> Any:
    return result.value if isinstance(result, Noted) else result


@pytest.mark.parametrize("kind", converters)
@given(value=anything)
def test_no_value_raises_and_every_note_has_words(kind: str, value: Any) -> None:
    result = converters[kind](value)
    if isinstance(result, Noted):
        assert result.code
        assert result.message.encode("utf-8") and "\x00" not in result.message


@pytest.mark.parametrize("kind", ["text", "pick", "any pick", "day", "flag", "currency", "percent"])
@given(value=anything)
def test_canonical_values_are_their_own_canonical_value(kind: str, value: Any) -> None:
    once = kept(converters[kind](value))
    if once is not None:
        assert kept(converters[kind](once)) == once


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("  Acme  ", "Acme"),
        ("", None),
        ("   ", None),
        ("a\x00b", "a�b"),
        ("a\ud800b", "a?b"),
        ("Cafe\u0301", "Café"),
        ("two\nlines", "two\nlines"),
        ("\u202eright to left", "\u202eright to left"),
        ("👩\u200d💻", "👩\u200d💻"),
        (12, "12"),
        (Decimal("1.50"), "1.50"),
    ],
)
def test_row_64_text_is_trimmed_composed_and_storable(given_: Any, expected: Any) -> None:
    assert convert.text(255)(given_) == expected


@pytest.mark.parametrize("value", [True, ["x"], {"a": 1}, NOT_A_NUMBER, DUPLICATE_KEYS])
def test_what_is_no_text_leaves_the_field_empty(value: Any) -> None:
    result = convert.text(255)(value)
    assert (result.value, result.code) == (None, "wrong_type")


def test_row_64_text_of_the_full_length_stays_and_one_more_is_cut_at_a_character() -> None:
    assert convert.text(5)("👍👍👍👍👍") == "👍👍👍👍👍"
    result = convert.text(5)("👍👍👍👍👍👍")
    assert (result.value, result.code) == ("👍👍👍👍👍", "too_long")
    assert "5 of 6" in result.message


@given(st.text(st.characters(codec=None), max_size=60), st.integers(1, 20))
def test_row_64_text_can_be_stored_alike_in_every_database(value: str, length: int) -> None:
    text = kept(convert.text(length)(value))
    if text is None:
        return
    text.encode("utf-8")  # no lone surrogate
    assert "\x00" not in text and len(text) <= length
    assert text == text.strip() and unicodedata.is_normalized("NFC", text)


# -- picklists ------------------------------------------------------------------------------------

LABELS = {"APAC": "APAC", "emea_actual": "EMEA", "EMEA": "EMEA", "-None-": "-None-"}


@pytest.mark.parametrize(
    ("value", "expected", "code"),
    [
        ("APAC", "APAC", None),
        ("emea_actual", "EMEA", None),
        (" APAC ", "APAC", None),
        ("-None-", None, None),
        ("", None, None),
        ("LATAM", "LATAM", "not_in_picklist"),
        ("apac", "apac", "not_in_picklist"),
        (["APAC"], None, "wrong_type"),
    ],
)
def test_picklist_values_are_shown_values_and_others_are_kept_and_noted(
    value: Any, expected: Any, code: str | None
) -> None:
    result = convert.pick(255, LABELS)(value)
    assert kept(result) == expected
    assert (result.code if isinstance(result, Noted) else None) == code


def test_without_a_picklist_any_text_goes() -> None:
    assert convert.pick(255, None)("LATAM") == "LATAM"


# -- dates and times ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["2026-02-28", "2024-02-29", "1900-01-01", "2200-12-31"])
def test_days_that_exist_are_kept(value: str) -> None:
    assert convert.day(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-30",
        "2023-02-29",
        "0000-00-00",
        "9999-12-31",
        "1899-12-31",
        "2201-01-01",
        "0001-01-01+14:00",
        "2026-11-01T10:00:00+05:30",
        "01/02/2026",
        "2026-W01-1",
        "20260101",
        20260101,
        True,
        ["2026-01-01"],
        NOT_A_NUMBER,
    ],
)
def test_row_63_what_is_no_day_leaves_the_field_empty_and_is_noted(value: Any) -> None:
    result = convert.day(value)
    assert (result.value, result.code) == (None, "bad_date")


def test_an_empty_text_is_no_day_and_no_problem() -> None:
    assert convert.day("") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-01T10:00:00+05:30", datetime(2026, 11, 1, 4, 30, tzinfo=UTC)),
        ("2026-11-01T00:00:00-08:00", datetime(2026, 11, 1, 8, 0, tzinfo=UTC)),
        ("2026-11-01T10:00:00Z", datetime(2026, 11, 1, 10, 0, tzinfo=UTC)),
    ],
)
def test_moments_become_utc(value: str, expected: datetime) -> None:
    found = convert.moment(value)
    assert found == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    ["2026-11-01T10:00:00", "2026-11-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
     "soon", 1700000000, None],
)  # fmt: skip
def test_what_is_no_moment_is_noted(value: Any) -> None:
    assert convert.moment(value).code == "bad_datetime"


# -- money ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "decimals", "expected"),
    [
        (0, 2, 0),
        (Decimal("0.005"), 2, 1),
        (Decimal("-0.005"), 2, -1),
        (Decimal("0.0049"), 2, 0),
        (Decimal("0.00499999999999999999999999999999999999"), 2, 0),
        (Decimal("0.00500000000000000000000000000000000001"), 2, 1),
        (Decimal("123456789012.345"), 2, 12345678901235),
        (Decimal("999999999999.99"), 2, 99999999999999),
        (10**12, 2, 10**14),
        (-(10**12), 2, -(10**14)),
        (Decimal("1E+3"), 2, 100000),
        (1000, 0, 1000),
        (Decimal("0.5"), 0, 1),
        (Decimal("1.2345"), 3, 1235),
        (Decimal("1.2344"), 3, 1234),
        (Decimal("1E-999999"), 2, 0),
    ],
)
def test_rows_58_60_money_is_rounded_half_up_once_to_its_decimals(
    value: Any, decimals: int, expected: int
) -> None:
    assert convert.minor_units(value, decimals) == expected


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (10**12 + 1, "out_of_range"),
        (-(10**12) - 1, "out_of_range"),
        (Decimal("1000000000000.01"), "out_of_range"),
        (10**18, "out_of_range"),
        (Decimal("1E+999999"), "out_of_range"),
        (Decimal("Infinity"), "out_of_range"),
        ("1,234.50", "not_a_number"),
        ("1234.50", "not_a_number"),
        ("", "not_a_number"),
        (True, "not_a_number"),
        ([1], "not_a_number"),
        ({"value": 1}, "not_a_number"),
        (NOT_A_NUMBER, "not_a_number"),
    ],
)
def test_row_58_what_is_no_plausible_amount_is_empty_and_noted(value: Any, code: str) -> None:
    result = convert.minor_units(value, 2)
    assert (result.value, result.code) == (None, code)


@pytest.mark.parametrize(
    ("code", "decimals"),
    [("USD", 2), ("SGD", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("BHD", 3), ("???", 2), ("", 2)],
)
def test_row_60_each_currency_has_its_own_decimals(code: str, decimals: int) -> None:
    assert convert.decimals_of(code) == decimals


def half_up(exact: Fraction) -> int:
    """Independent of the code under test: on fractions, away from zero at the half."""
    whole, rest = divmod(abs(exact.numerator), exact.denominator)
    whole += 2 * rest >= exact.denominator
    return whole if exact >= 0 else -whole


@given(
    st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, allow_infinity=False)
    | st.integers(-(10**12), 10**12),
    st.sampled_from([0, 2, 3]),
)
def test_rows_58_60_money_equals_exact_arithmetic(value: Any, decimals: int) -> None:
    assert convert.minor_units(value, decimals) == half_up(Fraction(value) * 10**decimals)


@pytest.mark.parametrize(
    ("minor", "was", "now", "expected"),
    [(1050, "USD", "USD", 1050), (1050, "USD", "JPY", 11), (11, "JPY", "USD", 1100),
     (1050, "USD", "KWD", 10500), (None, "USD", "JPY", None), (5, "USD", "KWD", 50)],
)  # fmt: skip
def test_an_amount_keeps_its_units_in_other_decimals(
    minor: int | None, was: str, now: str, expected: int | None
) -> None:
    assert convert.rescaled(minor, was, now) == expected


# -- whole numbers, percent, flags ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), ("12", 12), (Decimal("7.0"), 7), (Decimal("1E+3"), 1000), (2**63 - 1, 2**63 - 1)],
)
def test_whole_numbers(value: Any, expected: int) -> None:
    assert convert.whole_number(value) == expected


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63), Decimal("1E+999999"), "²", "1.5", Decimal("1.5"), True, [], NOT_A_NUMBER],
)
def test_what_is_no_whole_number_of_ours_is_noted(value: Any) -> None:
    result = convert.whole_number(value)
    assert isinstance(result, Noted) and result.value is None


@pytest.mark.parametrize(
    ("value", "expected", "code"),
    [
        (0, 0, None),
        (100, 100, None),
        (Decimal("75.0"), 75, None),
        (101, 100, "out_of_range"),
        (150, 100, "out_of_range"),
        (Decimal("100.5"), 100, "out_of_range"),
        (Decimal("1E+999999"), 100, "out_of_range"),
        (-1, 0, "out_of_range"),
        (-5, 0, "out_of_range"),
        (Decimal("66.6"), None, "not_a_number"),
        ("80%", None, "not_a_number"),
        ("80", None, "not_a_number"),
        (True, None, "not_a_number"),
        ([80], None, "not_a_number"),
    ],
)
def test_row_61_probability_is_clamped_or_left_empty_and_noted(
    value: Any, expected: Any, code: str | None
) -> None:
    result = convert.percent(value)
    assert kept(result) == expected
    assert (result.code if isinstance(result, Noted) else None) == code


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (False, False), ("true", True), ("YES", True), (" 1 ", True), (1, True),
     ("false", False), ("No", False), ("0", False), (0, False), ("None", False), ("", None)],
)  # fmt: skip
def test_flags_take_booleans_and_their_words(value: Any, expected: Any) -> None:
    assert convert.flag(value) is expected


@pytest.mark.parametrize("value", ["maybe", 2, Decimal(1), [], {}])
def test_what_is_neither_yes_nor_no_is_noted(value: Any) -> None:
    assert convert.flag(value).code == "wrong_type"


# -- currency codes and references ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("usd", "USD"), (" SGD ", "SGD"), ("", None), ("XBT", "XBT"), ("ABCDEFGHIJ", "ABCDEFGHIJ")],
)
def test_currency_codes_are_upper_case(value: Any, expected: Any) -> None:
    assert convert.currency_code(value) == expected


@pytest.mark.parametrize("value", ["ABCDEFGHIJK", 840, {"code": "USD"}])
def test_what_is_no_currency_code_is_noted(value: Any) -> None:
    result = convert.currency_code(value)
    assert (result.value, result.code) == (None, "wrong_type")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", 1), (1, 1), ("9223372036854775807", 2**63 - 1), ("7723000000123456", 7723000000123456)],
)  # fmt: skip
def test_record_ids_are_exact(value: Any, expected: int) -> None:
    assert convert.record_id(value) == expected


@pytest.mark.parametrize(
    "value", [None, "", "0", 0, -1, "-1", "1.0", Decimal("1"), 1.0, True, "9223372036854775808",
              "٣", " 1", [], {}],
)  # fmt: skip
def test_what_is_no_record_id(value: Any) -> None:
    assert convert.record_id(value) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"id": "5"}, Ref(5, "", "")),
        ({"id": "5", "name": " Acme "}, Ref(5, "Acme", "")),
        ({"id": 5, "name": "Ann", "email": "a@x.com"}, Ref(5, "Ann", "a@x.com")),
        ({"id": "5", "name": ["x"], "email": 3}, Ref(5, "", "")),
        ("5", Ref(5, "", "")),
    ],
)
def test_references_name_a_record(value: Any, expected: Ref) -> None:
    assert convert.reference(value) == expected


@pytest.mark.parametrize("value", [{}, {"name": "x"}, {"id": None}, "Acme", [], True, ["5"]])
def test_a_reference_without_an_id_is_noted(value: Any) -> None:
    assert convert.reference(value).code == "bad_reference"
