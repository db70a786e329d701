"""Amounts in SGD at a day's rate, or none: never 1:1 for a missing rate. Pure.

A rate x(c) is the units of currency c for one unit of the home currency, as the CRM gives it;
c → SGD is x(SGD) / x(c). All arithmetic is on whole numbers, rounded half up once, at the end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import date

from crm.mapping.convert import MONEY_LIMIT, decimals_of

REPORTING = "SGD"
NANO = 10**9


class RateBook:
    """Rates by currency and day. `rows`: (iso code, day, billionths, is_manual); manual wins."""

    def __init__(self, home: str, rows: Iterable[tuple[str, date, int, bool]]) -> None:
        self.home = home
        by_day: dict[str, dict[date, tuple[bool, int]]] = {}
        for code, day, nano, is_manual in rows:
            known = by_day.setdefault(code, {})
            if is_manual or not known.get(day, (False, 0))[0]:
                known[day] = (is_manual, nano)
        self._days = {code: sorted(days) for code, days in by_day.items()}
        self._rates = {
            code: [days[day][1] for day in sorted(days)] for code, days in by_day.items()
        }

    def rate_nano(self, code: str, day: date, *, or_oldest: bool) -> int | None:
        """Newest rate not after `day`; before the first one none, or the oldest. Home is one."""
        days = self._days.get(code)
        if not days:
            return NANO if code == self.home and code else None
        at = bisect_right(days, day)
        if at == 0 and not or_oldest:
            return None
        return self._rates[code][max(at - 1, 0)]

    def to_sgd(
        self, amount_minor: int, code: str, day: date, *, or_oldest: bool = False
    ) -> int | None:
        """SGD cents of an amount in minor units of `code`; None without a rate or out of range.

        `or_oldest`: closed deals from before the first known rate take the oldest one.
        """
        if code == REPORTING:
            return amount_minor
        x_from = self.rate_nano(code, day, or_oldest=or_oldest)
        x_sgd = self.rate_nano(REPORTING, day, or_oldest=or_oldest)
        if x_from is None or x_sgd is None:
            return None
        cents = divide_half_up(amount_minor * x_sgd * 100, x_from * 10 ** decimals_of(code))
        return cents if abs(cents) <= MONEY_LIMIT * 100 else None


def divide_half_up(numerator: int, denominator: int) -> int:
    """Whole quotient, ties away from zero (0.005 → 0.01, −0.005 → −0.01)."""
    sign = -1 if (numerator < 0) != (denominator < 0) else 1
    quotient, rest = divmod(abs(numerator), abs(denominator))
    return sign * (quotient + (1 if 2 * rest >= abs(denominator) else 0))


def weighted(sgd_minor: int | None, probability: int | None) -> int | None:
    """Amount times probability in percent, half up to cents."""
    if sgd_minor is None or probability is None:
        return None
    return divide_half_up(sgd_minor * probability, 100)
