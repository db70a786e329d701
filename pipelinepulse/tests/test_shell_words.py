"""How pages write money, days, times and shares."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from pipelinepulse.templatetags import pulse


@pytest.mark.parametrize(
    ("cents", "written"),
    [
        (0, "0"),
        (49, "0"),
        (50, "1"),
        (99_900, "999"),
        (99_950, "1.00K"),
        (125_340_50, "125K"),
        (1_234_500, "12.3K"),
        (1_235_000, "12.4K"),
        (120_000, "1.20K"),
        (99_995_000, "1.00M"),
        (1_199_500_000, "12.0M"),
        (999_500_000, "10.0M"),
        (9_995_000_000, "100M"),
        (319_999_900, "3.20M"),
        (12_100_283_980, "121M"),
        (123_456_789, "1.23M"),
        (10**14, "1.00T"),
        (-125_340_50, "-125K"),
    ],
)
def test_large_amounts_have_three_figures_rounded_half_up(cents: int, written: str) -> None:
    assert pulse.compact(cents) == written


@pytest.mark.parametrize(
    ("minor", "currency", "written"),
    [
        (9_200_000, "USD", "USD&nbsp;92,000.00"),
        (5, "USD", "USD&nbsp;0.05"),
        (-5, "EUR", "EUR&nbsp;-0.05"),
        (34_950_323, "JPY", "JPY&nbsp;34,950,323"),
        (1_234_567, "KWD", "KWD&nbsp;1,234.567"),
    ],
)
def test_an_amount_has_the_decimals_of_its_currency(
    minor: int, currency: str, written: str
) -> None:
    assert pulse.money(minor, currency) == written


def test_the_exact_amount_stands_behind_the_short_one() -> None:
    written = pulse.sgd(12_534_050)
    assert 'value="125340.50"' in written
    assert 'title="SGD 125,340.50"' in written
    assert "SGD&nbsp;125K" in written


def test_what_is_missing_is_a_dash_and_not_nought() -> None:
    for written in (pulse.sgd(None), pulse.money(None), pulse.percent(None), pulse.day(None)):
        assert "–" in written
        assert "0" not in written


def test_a_currency_code_from_the_crm_cannot_write_markup() -> None:
    assert "<b>" not in pulse.money(100, "<b>")


def test_days_are_written_out() -> None:
    assert pulse.day(date(2026, 10, 2)) == "2 Oct 2026"


def test_times_are_those_of_the_business() -> None:
    assert pulse.moment(datetime(2026, 11, 20, 17, 40, tzinfo=UTC)) == "21 Nov 2026, 01:40"


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (Decimal("0.6325"), "63.3%"),
        (Decimal("0.63"), "63%"),
        (Decimal("1"), "100%"),
        (Decimal("0"), "0%"),
    ],
)
def test_shares_drop_an_empty_decimal(share: Decimal, written: str) -> None:
    assert pulse.percent(share) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (7200, "2 h"), (90_000, "1 day")],
)
def test_a_length_of_time_has_one_unit(seconds: int, written: str) -> None:
    assert pulse.lasting(seconds) == written


def test_an_age_carries_its_moment_for_the_browser_to_count_on() -> None:
    then = datetime.now(UTC) - timedelta(minutes=4)
    written = pulse.ago(then)
    assert "4 min ago" in written
    assert f'datetime="{then.isoformat()}"' in written
