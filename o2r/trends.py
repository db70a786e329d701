"""What the dashboard's figures were at the end of each of the last days.

The pipeline's past is what it is now less what moved since, as the mirror learnt it
(`PipelineMove`). The past of won and lost needs no history: closing dates tell which deals had
been closed by a day. Reads the last days only, in one query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from django.db.models import Case, Count, DateField, F, Q, QuerySet, Sum, Value, When

from o2r.filters import period_bounds
from o2r.models import ClosedDay, PipelineMove
from o2r.rollups import CLOSED

DAYS = 30
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Trend:
    """A figure at the end of each day from `start` to today; never fewer than one value."""

    start: date
    values: tuple[Any, ...]  # cents, or shares of one; None where there was nothing to tell


class Closed(NamedTuple):
    """Deals closed in a time: how many, their SGD cents, how many of them have a value."""

    deals: int = 0
    sgd: int = 0
    with_value: int = 0

    def plus(self, other: Closed, sign: int = 1) -> Closed:
        return Closed(*(a + sign * b for a, b in zip(self, other, strict=True)))


class Move(NamedTuple):
    """By how much the open deals changed on a day."""

    deals: int = 0
    sgd: int = 0
    weighted: int = 0


class CellLike(Protocol):
    """What is asked of a cell of the roll-up."""

    @property
    def stage(self) -> str: ...

    @property
    def deals(self) -> int: ...

    @property
    def sgd(self) -> int: ...

    @property
    def no_amount(self) -> int: ...

    @property
    def no_rate(self) -> int: ...


@dataclass(frozen=True)
class Window:
    """The period that slides over the last days: which closing dates it holds on each of them."""

    period: str
    today: date

    @property
    def first(self) -> date:
        """The first day that is told of."""
        return self.today - timedelta(days=DAYS)

    def start(self, day: date) -> date:
        """The first closing date that counts on that day."""
        return period_bounds(self.period, day)[0] or date.min

    @property
    def is_all_time(self) -> bool:
        return period_bounds(self.period, self.today)[0] is None

    def edge(self, name: str) -> Case:
        """The closing date where it counts on some days only; null where on every one."""
        always = {f"{name}__gte": self.start(self.today), f"{name}__lte": self.first}
        return Case(When(**always, then=Value(None)), default=F(name), output_field=DateField())

    def within(self, name: str) -> Q:
        """Closing dates whose days have to be known."""
        if self.is_all_time:
            return Q(**{f"{name}__gt": self.first, f"{name}__lte": self.today})
        return Q(**{f"{name}__gte": self.start(self.first), f"{name}__lte": self.today})


@dataclass
class Past:
    """Closed deals by day, around those that count on every day; moves of open ones by day."""

    window: Window
    moves: dict[date, Move] | None  # None: not kept for these filters together
    by_day: dict[str, dict[date, Closed]] = field(
        default_factory=lambda: {stage: defaultdict(Closed) for stage in CLOSED}
    )
    always: dict[str, Closed] = field(default_factory=lambda: dict.fromkeys(CLOSED, Closed()))

    @cached_property
    def backwards(self) -> list[tuple[Closed, Closed]]:
        """Won and lost in the period that ended today, yesterday, …"""
        won, lost = (self._backwards(stage) for stage in CLOSED)
        return list(zip(won, lost, strict=True))

    def closed(self, figure: Callable[[Closed, Closed], Decimal | int | None]) -> Trend | None:
        """A figure of won and lost in the period that ended on each day; None if it never was."""
        return _trend(self.window.today, [figure(won, lost) for won, lost in self.backwards])

    def pipeline(self, name: str, now: int, moves_from: date | None) -> Trend | None:
        """A sum of the open deals, as the mirror had it at the end of each day."""
        if self.moves is None or moves_from is None:
            return None
        backwards, day = [now], self.window.today
        while day > max(self.window.first, moves_from):
            backwards.append(backwards[-1] - getattr(self.moves.get(day, Move()), name))
            day -= DAY
        return _trend(self.window.today, backwards)

    def _backwards(self, stage: str) -> Iterator[Closed]:
        rows, window, day = self.by_day[stage], self.window, self.window.today
        start = window.start(day)
        total = self.always[stage]
        for closed_on, closed in rows.items():
            if start <= closed_on <= day:
                total = total.plus(closed)
        while day >= window.first:
            yield total
            if day in rows:
                total = total.plus(rows[day], -1)
            day -= DAY
            earlier = window.start(day)
            while earlier < start:
                start -= DAY
                if start in rows:
                    total = total.plus(rows[start])


def _trend(today: date, backwards: list[Any]) -> Trend | None:
    """From the first day on which there was something to tell."""
    while backwards and backwards[-1] is None:
        backwards.pop()
    if not backwards:
        return None
    return Trend(today - DAY * (len(backwards) - 1), tuple(reversed(backwards)))


def past_of_roll_up(
    is_chosen: Q, chosen_stages: list[str], cells: Iterable[CellLike], window: Window
) -> Past:
    """Of what the roll-up keeps along one dimension; `is_chosen` picks its values. One query."""
    closed = (
        ClosedDay.objects.filter(is_chosen, window.within("day"))
        .order_by()
        .annotate(part=Value("closed"), edge=window.edge("day"))
        .values_list("part", "edge", "stage")
        .annotate(n=Sum("count"), sgd=Sum("sgd_minor"), third=Sum("with_value"))
    )
    moves = PipelineMove.objects.filter(is_chosen, day__gt=window.first).order_by()
    if chosen_stages:
        moves = moves.filter(stage__in=chosen_stages)
    moved = (
        moves.annotate(part=Value("moved"), edge=F("day"), no_stage=Value(""))
        .values_list("part", "edge", "no_stage")
        .annotate(n=Sum("count"), sgd=Sum("sgd_minor"), third=Sum("weighted_minor"))
    )
    return _gather(Past(window, {}), closed.union(moved, all=True), cells)


def past_of_deals(deals: QuerySet, cells: Iterable[CellLike], window: Window) -> Past:
    """Of any selection of deals; what moved is not kept for those. One query."""
    closed = (
        deals.filter(window.within("closing_date"), stage__in=CLOSED)
        .order_by()
        .annotate(part=Value("closed"), edge=window.edge("closing_date"))
        .values_list("part", "edge", "stage")
        .annotate(n=Count("pk"), sgd=Sum("amount_sgd_minor"), third=Count("amount_sgd_minor"))
    )
    return _gather(Past(window, None), closed, cells)


def _gather(past: Past, rows: Iterable[tuple], cells: Iterable[CellLike]) -> Past:
    for part, day, stage, *numbers in rows:
        values = [int(number or 0) for number in numbers]
        if part == "moved" and past.moves is not None:
            past.moves[day] = Move(*values)
        elif day is None:
            past.always[stage] = Closed(*values)
        else:
            past.by_day[stage][day] = Closed(*values)
    if past.window.is_all_time:
        # Every closed deal counts, with or without a date; those of the last days by day.
        for cell in cells:
            if cell.stage in CLOSED:
                valued = cell.deals - cell.no_amount - cell.no_rate
                whole = Closed(cell.deals, cell.sgd, valued)
                past.always[cell.stage] = past.always[cell.stage].plus(whole)
        for stage, days in past.by_day.items():
            for closed in days.values():
                past.always[stage] = past.always[stage].plus(closed, -1)
    return past
