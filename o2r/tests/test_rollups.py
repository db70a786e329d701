"""The roll-up equals a count of the deals themselves, whatever happened and whoever died."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from crm.models import Deal
from crm.tests.processes import run_in_child
from o2r import recompute
from o2r.models import (
    ClosedDay,
    DayCount,
    Opportunity,
    PipelineCell,
    RecomputeState,
    TrackerCell,
    TrackerMargin,
)
from o2r.tests.histories import live
from o2r.tests.tracked_histories import DatedHistory as History
from o2r.tests.tracked_histories import assert_tracker_true

Table = dict[tuple, tuple]


def counted_cells() -> Table:
    """By hand, from the deals."""
    cells: dict[tuple, list[int]] = defaultdict(lambda: [0] * 5)
    for d in live():
        cell = cells[(d.stage, d.territory or "", d.service_line or "", d.owner_id or 0)]
        cell[0] += 1
        cell[1] += d.amount_sgd_minor or 0
        cell[2] += d.weighted_sgd_minor or 0
        if d.amount_sgd_minor is None:
            cell[3 if d.amount_minor is None else 4] += 1
    return {key: tuple(values) for key, values in cells.items()}


def kept_cells() -> Table:
    return {
        (c.stage, c.territory, c.service_line, c.owner_id): (
            c.count, c.sgd_minor, c.weighted_minor, c.no_amount, c.no_rate)
        for c in PipelineCell.objects.all()
        if (c.count, c.sgd_minor, c.weighted_minor, c.no_amount, c.no_rate) != (0,) * 5
    }  # fmt: skip


def counted_days() -> Table:
    days: dict[tuple, list[int]] = defaultdict(lambda: [0] * 3)
    for d in live():
        if d.stage not in ("closed_won", "closed_lost") or d.closing_date is None:
            continue
        for dimension, value in (
            ("all", ""), ("territory", d.territory or ""),
            ("service_line", d.service_line or ""), ("owner", str(d.owner_id or 0)),
        ):  # fmt: skip
            day = days[(d.closing_date, d.stage, dimension, value)]
            day[0] += 1
            day[1] += d.amount_sgd_minor or 0
            day[2] += d.amount_sgd_minor is not None
    return {key: tuple(values) for key, values in days.items()}


def kept_days() -> Table:
    return {
        (c.day, c.stage, c.dimension, c.value): (c.count, c.sgd_minor, c.with_value)
        for c in ClosedDay.objects.all()
        if (c.count, c.sgd_minor, c.with_value) != (0, 0, 0)
    }


def assert_true() -> None:
    assert kept_cells() == counted_cells()
    assert kept_days() == counted_days()
    assert_tracker_true()
    assert Opportunity.objects.count() == Deal.objects.count()
    assert Opportunity.objects.filter(is_counted=True).count() == len(live())


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(4))
def test_after_any_history_the_rollup_is_a_count_of_the_deals(seed: int) -> None:
    for _ in History(seed).steps(12):
        recompute.catch_up()
        assert_true()
    assert len(counted_cells()) > 10 and len(counted_days()) > 5


@pytest.mark.django_db
def test_recompute_after_many_changes_at_once_is_the_same_as_after_each() -> None:
    list(History(7).steps(12))
    recompute.catch_up()
    assert_true()


@pytest.mark.django_db
def test_the_same_recompute_twice_changes_nothing() -> None:
    list(History(8).steps(6))
    recompute.catch_up()
    before = RecomputeState.objects.values("deal_seq", "revision").get()
    assert recompute.catch_up() == 0
    assert RecomputeState.objects.values("deal_seq", "revision").get() == before
    recompute.start_over()
    assert recompute.catch_up() == Deal.objects.count()
    assert RecomputeState.objects.values("deal_seq", "revision").get() == before
    assert_true()


@pytest.mark.django_db
def test_a_few_deals_out_of_turn_are_counted_at_once_and_no_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recompute, "FEW", 2)
    for _ in History(10).steps(6):
        newest = list(Deal.objects.order_by("-change_seq").values_list("pk", flat=True)[:3])
        assert recompute.take_along(newest) is False  # more waits before them
        counted = Opportunity.objects.filter(deal_id__in=newest)
        assert counted.count() == 3
        for row in counted.select_related("deal"):
            expected = row.deal.amount_sgd_minor if row.is_counted else None
            assert row.counted_sgd_minor == expected
    recompute.catch_up()
    assert_true()
    assert recompute.take_along(newest) is True
    assert_true()


@pytest.mark.django_db
def test_small_batches_follow_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "BATCH", 4)
    list(History(9).steps(8))
    assert recompute.catch_up() == Deal.objects.count()
    assert_true()


@pytest.mark.django_db
def test_stopped_between_batches_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "BATCH", 4)
    list(History(10).steps(8))
    asked = iter([False, False, True])
    assert recompute.catch_up(lambda: next(asked)) == 8
    assert recompute.catch_up() == Deal.objects.count() - 8
    assert_true()


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("place", ["recompute.after_rows:1", "recompute.after_rows:3",
                                   "recompute.after_commit:2"])  # fmt: skip
def test_killed_anywhere_nothing_is_lost_or_counted_twice(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "BATCH", 4)
    history = History(11)
    list(history.steps(6))
    RecomputeState.objects.all().delete()
    recompute_from_nothing()
    list(history.steps(6))
    recompute.start_over()
    assert run_in_child(recompute.catch_up, f"{place}=kill") == -signal.SIGKILL
    recompute.catch_up()
    assert_true()


def recompute_from_nothing() -> None:
    """The store nudged a recompute by itself: begin before it."""
    for model in (Opportunity, PipelineCell, ClosedDay, TrackerCell, TrackerMargin, DayCount):
        model.objects.all().delete()


@pytest.mark.django_db(transaction=True)
def test_two_recomputes_at_once_count_each_deal_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "BATCH", 5)
    history = History(12)
    list(history.steps(8))
    recompute_from_nothing()
    recompute.start_over()
    barrier = threading.Barrier(3)

    def work(_: int) -> int:
        try:
            barrier.wait(10)
            return recompute.catch_up()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as pool:
        looked_at = list(pool.map(work, range(3)))
    recompute.catch_up()
    assert sum(looked_at) == Deal.objects.count()
    assert_true()


@pytest.mark.django_db(transaction=True)
def test_after_each_stored_page_the_nudge_has_it_recomputed() -> None:
    for _ in History(13).steps(5):
        assert_true()
