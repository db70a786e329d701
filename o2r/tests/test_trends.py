"""The past of each figure: against what was written down by hand at the end of each day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
import time_machine
from django.http import QueryDict

from crm.models import CrmUser, Deal, MirrorState
from crm.tests.factories import NOON
from o2r import recompute
from o2r.filters import Selection, period_bounds
from o2r.metrics import PipelineFigures, pipeline_figures
from o2r.models import PipelineMove, RecomputeState
from o2r.tests.histories import History, live
from o2r.trends import Trend

pytestmark = pytest.mark.django_db
CLOSED = ("closed_won", "closed_lost")
DAYS = 9  # with syncs; the mirror is whole from the third on
TODAY = date(2026, 3, 10) + timedelta(days=DAYS + 1)
SELECTIONS: dict[str, Any] = {
    "": lambda d: True,
    "territory=APAC": lambda d: d.territory == "APAC",
    "territory=APAC,-": lambda d: d.territory in ("APAC", None),
    "service_line=Security": lambda d: d.service_line == "Security",
    "owner=9002": lambda d: d.owner_id == CrmUser.objects.get(zoho_id=9002).pk,
    "owner=-": lambda d: d.owner_id is None,
    "stage=proposal,other": lambda d: d.stage in ("proposal", "other", *CLOSED),
    "stage=discovery&territory=EMEA": lambda d: (
        d.stage in ("discovery", *CLOSED) and d.territory == "EMEA"
    ),
}


def sums(query: str) -> tuple[int, int]:
    """Value and weighted value of the open deals, as they are now, by hand."""
    chosen = [d for d in live() if SELECTIONS[query](d) and d.stage not in CLOSED]
    return (
        sum(d.amount_sgd_minor or 0 for d in chosen),
        sum(d.weighted_sgd_minor or 0 for d in chosen),
    )


def figures(query: str, today: date = TODAY) -> PipelineFigures:
    return pipeline_figures(Selection.from_query(QueryDict(query), None), today=today)


def whole() -> None:
    """The mirror of the deals has been complete once."""
    MirrorState.objects.update_or_create(module="Deals", defaults={"complete_s0": NOON})


@pytest.fixture
def written_down() -> Iterator[dict[str, dict[date, tuple[int, int]]]]:
    """By selection and day, the sums at its end; some days pass without any change."""
    history = History(21, size=90)
    kept: dict[str, dict[date, tuple[int, int]]] = {query: {} for query in SELECTIONS}
    at = NOON
    with time_machine.travel(at, tick=False) as clock:
        for number in range(DAYS + 1):
            clock.move_to(at + timedelta(days=number))
            if number == 2:
                whole()
            if number not in (4, 7):
                list(history.steps(3))
            recompute.catch_up()
            for query in SELECTIONS:
                kept[query][date(2026, 3, 10) + timedelta(days=number)] = sums(query)
        clock.move_to(at + timedelta(days=DAYS + 1))
        yield kept


def test_the_pipeline_of_each_day_is_what_was_counted_then(written_down: Any) -> None:
    first = date(2026, 3, 12)
    days = [first + timedelta(days=n) for n in range((TODAY - first).days)]
    for query in SELECTIONS:
        wanted = [*(written_down[query][day] for day in days), sums(query)]
        found = figures(query).trends
        total, weighted = found.total_pipeline, found.weighted
        assert total is not None and weighted is not None
        assert (total.start, weighted.start) == (first, first)
        assert list(zip(total.values, weighted.values, strict=True)) == wanted, query
        assert len(set(wanted)) > 1, query


def test_only_the_last_thirty_days_are_told(written_down: Any) -> None:
    with time_machine.travel(NOON + timedelta(days=35), tick=False):
        found = figures("", date(2026, 4, 14)).trends.total_pipeline
    assert found is not None
    assert found.start == date(2026, 3, 15)
    assert found.values[:2] == tuple(
        written_down[""][day][0] for day in (date(2026, 3, 15), date(2026, 3, 16))
    )
    assert found.values[-1] == sums("")[0]


def test_nothing_is_told_of_a_mirror_that_is_being_filled() -> None:
    with time_machine.travel(NOON, tick=False):
        list(History(22).steps(4))
        recompute.catch_up()
        assert figures("", date(2026, 3, 10)).trends.total_pipeline is None
        assert not PipelineMove.objects.exists()
        whole()
        recompute.catch_up()
        told = figures("", date(2026, 3, 10)).trends.total_pipeline
    assert RecomputeState.objects.get().moves_from == date(2026, 3, 10)
    assert told is not None
    assert told.values == (sums("")[0],)


def test_a_day_ends_at_midnight_of_the_business() -> None:
    list(History(23).steps(4))
    whole()
    late = datetime.fromisoformat("2026-03-10T23:59:30+08:00")
    with time_machine.travel(late, tick=False):
        recompute.catch_up()
        before = sums("")[0]
    with time_machine.travel(late + timedelta(minutes=1), tick=False):
        first = Deal.objects.live().filter(stage_type="open").first()
        Deal.objects.filter(pk=first.pk).update(
            amount_sgd_minor=(first.amount_sgd_minor or 0) + 77, change_seq=10**9
        )
        recompute.catch_up()
        told = figures("", date(2026, 3, 11)).trends.total_pipeline
    assert told is not None
    assert told.values == (before, before + 77)


def test_filters_that_are_not_kept_together_have_no_past_pipeline(written_down: Any) -> None:
    for query in ("territory=APAC&owner=-", "search=deal", "amount_min=1"):
        found = figures(query).trends
        assert found.total_pipeline is None
        assert found.weighted is None
        assert found.win_rate is not None


CLOSED_SELECTIONS: dict[str, Any] = {
    **{query: SELECTIONS[query] for query in ("", "territory=APAC", "owner=-")},
    "territory=APAC&owner=-": lambda d: d.territory == "APAC" and d.owner_id is None,
    "search=deal 1": lambda d: "deal 1" in d.name.lower(),
    "stage=proposal": lambda d: True,
}


def test_won_and_lost_of_each_day_are_those_closed_by_then(written_down: Any) -> None:
    # Some right at the edges of the sliding year.
    rows = [d for d in live() if d.stage in CLOSED]
    for number, row in enumerate(rows[:24]):
        edge = period_bounds("12m", TODAY)[0] - timedelta(days=30)
        closed_on = (edge if number % 2 else TODAY - timedelta(days=31)) + timedelta(days=number)
        Deal.objects.filter(pk=row.pk).update(closing_date=closed_on, change_seq=10**9 + number)
    recompute.catch_up()
    for query, is_chosen in CLOSED_SELECTIONS.items():
        closed = [d for d in live() if d.stage in CLOSED and is_chosen(d)]
        for period in ("12m", "all"):
            trends = figures(f"{query}&period={period}".strip("&")).trends
            assert trends.win_rate is not None
            for day in (TODAY - timedelta(days=n) for n in range(31)):
                won, lost = closed_by(day, closed, period)
                if not won and not lost:
                    assert value_on(day, trends.win_rate) is None
                else:
                    share = Fraction(len(won), len(won) + len(lost))
                    told = Fraction(value_on(day, trends.win_rate))
                    assert abs(told - share) <= Fraction(1, 20_000), (query, period, day)
                valued = [d.amount_sgd_minor for d in won if d.amount_sgd_minor is not None]
                told = value_on(day, trends.average_deal_size)
                if valued:
                    assert abs(told - Fraction(sum(valued), len(valued))) <= Fraction(1, 2)
                else:
                    assert told is None


def closed_by(day: date, closed: list[Deal], period: str) -> tuple[list[Deal], list[Deal]]:
    """Won and lost in the period that ended on that day, by closing date."""
    start = period_bounds(period, day)[0]
    chosen = [
        d
        for d in closed
        if (start is None and not (d.closing_date and day < d.closing_date <= TODAY))
        or (start is not None and d.closing_date and start <= d.closing_date <= day)
    ]
    return [d for d in chosen if d.stage == CLOSED[0]], [d for d in chosen if d.stage == CLOSED[1]]


def value_on(day: date, trend: Trend | None) -> Any:
    place = (day - trend.start).days if trend else -1
    return trend.values[place] if trend and place >= 0 else None


@pytest.mark.parametrize("query", ["", "territory=APAC", "owner=9002", "search=deal&owner=9002"])
def test_figures_with_their_past_cost_two_queries(
    query: str, person: Any, django_assert_num_queries: Any
) -> None:
    list(History(24).steps(3))
    ann = person("rep", "ann")
    selection = Selection.from_query(QueryDict(query), ann)
    with django_assert_num_queries(2):
        pipeline_figures(selection, today=TODAY)
