"""The tracker's figures equal a count by hand and a GROUP BY, whatever filters and happens."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.http import QueryDict
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from crm.models import Deal
from crm.tests.factories import connect, make_store, raws
from crm.tests.factories import deal as crm_deal
from o2r import recompute
from o2r.filters import Selection
from o2r.metrics import changes_since
from o2r.models import RecomputeState
from o2r.tests import mirror_rows as rows
from o2r.tests.histories import live
from o2r.tests.tracked_histories import (
    TrackedHistory,
    assert_tracker_true,
    counted_by_hand,
    today,
)
from o2r.tracker_metrics import TrackerFigures, days_of, tracker_figures

pytestmark = pytest.mark.django_db


def figures(query: str = "") -> TrackerFigures:
    selection = Selection.from_query(QueryDict(query), User(username="nobody"))
    assert not selection.ignored
    return tracker_figures(selection, today=today())


def told(f: TrackerFigures) -> dict[str, Any]:
    def buckets(found: list) -> dict[str, tuple]:
        return {b.key: (b.count, b.value_sgd_cents) for b in found}

    def words(value: Decimal | None) -> str | None:
        return None if value is None else str(value)

    return {
        "total": (f.total_opportunities, f.total_value_sgd_cents),
        "weighted": f.weighted_sgd_cents,
        "no_amount": f.left_out.no_amount,
        "no_rate": f.left_out.no_rate,
        "phases": buckets(f.by_phase),
        "signals": buckets(f.by_signal),
        "territory": buckets(f.by_territory),
        "service_line": buckets(f.by_service_line),
        "owner": buckets(f.by_owner),
        "risk": (f.at_risk.count, f.at_risk.value_sgd_cents),
        "overdue": (f.overdue_payments.count, f.overdue_payments.value_sgd_cents),
        "cycle": (f.cycle.count, f.cycle.left_out, words(f.cycle.average), words(f.cycle.median)),
        "stays": {
            key: (d.count, words(d.average), words(d.median)) for key, d in f.time_in_phase.items()
        },
        "conversion": {key: (c.reached, c.went_on) for key, c in f.conversion.items()},
    }


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_a_count_of_the_deals_whatever_happened(seed: int) -> None:
    history = TrackedHistory(seed, size=100)
    for _ in history.steps(12):
        assert_tracker_true()
        assert told(figures()) == counted_by_hand(live(), history.furthest)
    assert figures().at_risk.count and figures().overdue_payments.count and figures().cycle.count


FILTERS = [
    "territory=APAC",
    "territory=EMEA,-",
    "service_line=-",
    "territory=APAC&service_line=Gen AI",
    "owner=-",
    "owner=Owner 1",
    "search=Deal 1",
    "stage=proposal,negotiation",
    "phase=phase3",
    "health_signal=red,blocked",
    "phase=phase2&territory=APAC",
    "amount_min=1000",
    "outcome=lost",
]


@pytest.mark.parametrize("query", FILTERS)
def test_filters_count_in_every_figure(query: str) -> None:
    history = TrackedHistory(21)
    list(history.steps(8))
    if query == "owner=Owner 1":
        query = f"owner={live()[0].owner_id or '-'}"
    selection = Selection.from_query(QueryDict(query), User(username="nobody"))
    chosen = {deal.pk for deal in selection.without("outcome").deals(default_outcome="all")}
    expected = counted_by_hand([d for d in live() if d.pk in chosen], history.furthest)
    assert told(figures(query)) == expected
    assert chosen


@pytest.mark.parametrize("query", ["", "territory=APAC", "search=Deal"])
def test_figures_cost_two_queries(query: str) -> None:
    list(TrackedHistory(22).steps(3))
    with CaptureQueriesContext(connection) as queries:
        figures(query)
    assert len(queries) == 2


def test_every_number_opens_the_list_behind_it() -> None:
    list(TrackedHistory(23).steps(8))
    f = figures()

    def listed(query: str) -> int:
        return Selection.from_query(QueryDict(query), User()).deals().count()

    assert listed("") == f.total_opportunities
    for name, buckets in (("phase", f.by_phase), ("health_signal", f.by_signal),
                          ("territory", f.by_territory), ("service_line", f.by_service_line),
                          ("owner", f.by_owner)):  # fmt: skip
        for bucket in buckets:
            assert listed(f"{name}={bucket.key}") == bucket.count
    for (phase, signal), total in f.by_phase_and_signal.items():
        assert listed(f"phase={phase}&health_signal={signal}") == total.count
    assert listed("health_signal=red,blocked") == f.at_risk.count
    assert listed("overdue=1") == f.overdue_payments.count
    assert listed("counted=cycle&outcome=all") == f.cycle.count
    assert listed("missing=amount&outcome=active") == f.left_out.no_amount


def test_two_deals_of_a_quarter_are_rounded_each() -> None:
    connect()
    make_store().store(
        raws(*(crm_deal(n, Amount=1234.50, Probability=25) for n in (1, 2))),
        read_at=timezone.now(),
    )
    recompute.catch_up()
    assert figures().weighted_sgd_cents == 617_26


def test_nothing_to_count_is_none_not_nought() -> None:
    f = figures()
    assert (f.cycle.average, f.cycle.median, f.conversion["phase1"].share) == (None, None, None)
    assert [b.count for b in f.by_phase] == [0] * 4 and [b.count for b in f.by_signal] == [0] * 4


@pytest.mark.parametrize(
    ("counts", "average", "median"),
    [
        ({5: 1}, "5.0", "5.0"),
        ({0: 3}, "0.0", "0.0"),
        ({1: 1, 2: 1}, "1.5", "1.5"),
        ({1: 1, 2: 1, 9: 1}, "4.0", "2.0"),
        ({1: 2, 2: 1}, "1.3", "1.0"),
        ({1: 1, 2: 2}, "1.7", "2.0"),
        ({0: 19, 1: 1}, "0.1", "0.0"),  # 0.05, half up
        ({10: 5, 20: 5}, "15.0", "15.0"),
    ],
)
def test_average_and_median(counts: dict, average: str, median: str) -> None:
    found = days_of(counts)
    assert (str(found.average), str(found.median)) == (average, median)


def test_until_the_turn_has_run_figures_say_of_which_day_they_are() -> None:
    rows.deal()
    rows.count()
    recompute.turn(timezone.now())
    assert figures().as_of == today() and not figures().recompute_pending
    RecomputeState.objects.update(turned_on=today().replace(year=2000))
    assert figures().as_of.year == 2000 and figures().recompute_pending


def test_a_turned_signal_is_a_change_and_the_first_look_is_none() -> None:
    rows.synced()
    turned = rows.deal(proposal_date=today())
    rows.deal(proposal_date=today().replace(year=2020))
    rows.count()
    Deal.objects.filter(pk=turned.pk).update(
        proposal_date=today().replace(year=2020), change_seq=turned.change_seq + 1_000_000
    )
    rows.count()
    since = timezone.now().replace(hour=0)
    selection = Selection.from_query(QueryDict(""), User())
    kinds = {c.kind: c.count for c in changes_since(selection, since)}
    assert kinds["signal"] == 1
    listed = Selection.from_query(QueryDict("changed=signal"), User()).deals()
    assert [d.pk for d in listed] == [turned.pk]
