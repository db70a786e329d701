"""Amounts in SGD: exact, at the right day's rate, or none; and what else follows from a deal."""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm.currency import NANO, RateBook, divide_half_up, weighted
from crm.mapping.convert import MONEY_LIMIT, decimals_of
from crm.stages import default_table
from crm.sync.derive import Deriver

DAY = date(2026, 3, 10)


def half_up(exact: Fraction) -> int:
    whole, rest = divmod(abs(exact.numerator), exact.denominator)
    whole += 2 * rest >= exact.denominator
    return whole if exact >= 0 else -whole


def book(home: str, *rows: tuple) -> RateBook:
    """Rows: (code, day, rate as text, is manual)."""
    return RateBook(
        home, [(code, day, int(Fraction(rate) * NANO), manual) for code, day, rate, manual in rows]
    )


@pytest.mark.parametrize(
    ("numerator", "denominator", "expected"),
    [(1, 2, 1), (-1, 2, -1), (1, -2, -1), (-1, -2, 1), (49, 100, 0), (50, 100, 1), (149, 100, 1),
     (150, 100, 2), (0, 7, 0)],
)  # fmt: skip
def test_division_rounds_half_away_from_zero(
    numerator: int, denominator: int, expected: int
) -> None:
    assert divide_half_up(numerator, denominator) == expected


@pytest.mark.parametrize(
    ("minor", "code", "cents"),
    [
        (100_00, "SGD", 100_00),
        (100_00, "USD", 135_00),  # home
        (100_00, "EUR", 150_00),
        (1000, "JPY", 900),  # no decimals: 1000 yen
        (1_000, "KWD", 450),  # three: 1 dinar
        (-100_00, "EUR", -150_00),
        (1, "EUR", 2),  # 1.5 cents
        (100_00, "XYZ", None),
        (100_00, "", None),
    ],
)
def test_rows_59_60_amounts_become_sgd_cents(minor: int, code: str, cents: int | None) -> None:
    rates = book(
        "USD",
        ("SGD", DAY, "1.35", False),
        ("EUR", DAY, "0.9", False),
        ("JPY", DAY, "150", False),
        ("KWD", DAY, "0.3", False),
    )
    assert rates.to_sgd(minor, code, DAY) == cents


def test_row_59_without_a_rate_to_sgd_nothing_is_converted_but_sgd() -> None:
    rates = book("USD", ("EUR", DAY, "0.9", False))
    assert rates.to_sgd(100, "USD", DAY) is None
    assert rates.to_sgd(100, "EUR", DAY) is None
    assert rates.to_sgd(100, "SGD", DAY) == 100


def test_the_newest_rate_not_after_the_day_holds() -> None:
    rates = book(
        "SGD",
        ("USD", DAY - timedelta(30), "0.5", False),
        ("USD", DAY, "0.8", False),
        ("USD", DAY + timedelta(1), "0.1", False),
    )
    assert rates.to_sgd(800, "USD", DAY - timedelta(1)) == 1600
    assert rates.to_sgd(800, "USD", DAY) == 1000
    assert rates.to_sgd(800, "USD", DAY + timedelta(1)) == 8000


def test_before_the_first_rate_only_closed_deals_have_one() -> None:
    rates = book("SGD", ("USD", DAY, "0.8", False))
    before = DAY - timedelta(1)
    assert rates.to_sgd(800, "USD", before) is None
    assert rates.to_sgd(800, "USD", before, or_oldest=True) == 1000


@pytest.mark.parametrize("manual_first", [True, False])
def test_a_manual_rate_of_a_day_wins_on_that_day(manual_first: bool) -> None:
    rows = [("USD", DAY, "0.5", True), ("USD", DAY, "0.8", False)]
    rows += [("USD", DAY + timedelta(1), "0.8", False)]
    rates = book("SGD", *(rows if manual_first else reversed(rows)))
    assert rates.to_sgd(800, "USD", DAY) == 1600
    assert rates.to_sgd(800, "USD", DAY + timedelta(1)) == 1000


def test_what_would_overflow_sums_is_left_out() -> None:
    rates = book("SGD", ("VND", DAY, "0.0001", False))
    limit = MONEY_LIMIT // 10_000
    assert rates.to_sgd(limit, "VND", DAY) == MONEY_LIMIT * 100
    assert rates.to_sgd(limit + 1, "VND", DAY) is None


@given(
    st.integers(-(10**14), 10**14),
    st.sampled_from(["EUR", "JPY", "KWD", "SGD", "USD"]),
    st.integers(1, 10**13),
    st.integers(1, 10**13),
)
def test_conversion_equals_exact_arithmetic(minor: int, code: str, from_: int, sgd: int) -> None:
    rows = [("SGD", DAY, sgd, False), (code, DAY, from_, False)]
    rates = RateBook("EUR", rows if code != "SGD" else rows[:1])
    expected: int | None = minor
    if code != "SGD":
        units = Fraction(minor, 10 ** decimals_of(code))
        expected = half_up(units * sgd / from_ * 100)
        if abs(expected) > MONEY_LIMIT * 100:
            expected = None
    assert rates.to_sgd(minor, code, DAY) == expected


@given(st.integers(-(10**14), 10**14), st.integers(0, 100))
def test_weighted_equals_exact_arithmetic(cents: int, percent: int) -> None:
    assert weighted(cents, percent) == half_up(Fraction(cents * percent, 100))
    assert weighted(None, percent) is None and weighted(cents, None) is None


# -- what follows from a deal ---------------------------------------------------------------------

RATES = book(
    "SGD",
    ("USD", DAY - timedelta(100), "0.5", False),
    ("USD", DAY, "0.8", False),
    ("USD", DAY + timedelta(1), "0.1", False),
)
DERIVER = Deriver(default_table(), RATES, DAY)


@pytest.mark.parametrize(
    ("stage", "closing", "cents"),
    [
        ("Qualification", None, 1000_00),  # today's
        ("Qualification", "2025-12-01", 1000_00),  # open: the closing date does not matter
        ("Verbal", date(2020, 1, 1), 1000_00),
        ("Closed Won", DAY, 1000_00),
        ("Closed Won", DAY - timedelta(1), 1600_00),
        ("Closed Lost", "2026-03-09", 1600_00),
        ("Closed Won", "2020-01-01", 1600_00),  # the oldest
        ("Closed Won", None, 1000_00),
    ],
)
def test_open_deals_use_todays_rate_and_closed_ones_that_of_their_day(
    stage: str, closing: str | date | None, cents: int
) -> None:
    found = DERIVER.derive(stage, 50, 800_00, "USD", None, closing)
    assert found.amount_sgd_minor == cents
    assert found.weighted_sgd_minor == cents // 2


@pytest.mark.parametrize(
    ("given_sgd", "amount", "currency", "expected"),
    [(0, 800, "USD", 0), (7, 800, "USD", 7), (None, 800, "USD", 1000), (7, None, "", 7),
     (None, None, "USD", None), (None, 800, "XYZ", None), (None, 800, "", None),
     (None, -800, "USD", -1000)],
)  # fmt: skip
def test_the_mapped_sgd_amount_goes_before_conversion(
    given_sgd: int | None, amount: int | None, currency: str, expected: int | None
) -> None:
    found = DERIVER.derive("Qualification", 10, amount, currency, given_sgd, None)
    assert found.amount_sgd_minor == expected


@pytest.mark.parametrize(
    ("stage", "percent", "expected"),
    [("Qualification", None, 10), ("Qualification", 0, 0), ("Qualification", 55, 55),
     ("Closed Won", None, 100), ("Unheard of", None, None), ("Unheard of", 30, 30)],
)  # fmt: skip
def test_a_missing_probability_is_the_stages(
    stage: str, percent: int | None, expected: int | None
) -> None:
    found = DERIVER.derive(stage, percent, 800, "USD", None, None)
    assert found.probability == expected
    assert (found.weighted_sgd_minor is None) == (expected is None)
