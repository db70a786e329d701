"""Each figure against an independent count of the deals in plain Python, to the cent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
import time_machine
from django.http import QueryDict

from crm import stages
from crm.models import ChangeEvent, CrmUser, Deal
from crm.sync.metadata import business_day
from crm.tests.factories import NOON, minutes
from o2r import recompute
from o2r.filters import Selection, period_bounds
from o2r.metrics import changes_since, pipeline_figures
from o2r.models import SignalChange
from o2r.tests.histories import live
from o2r.tests.tracked_histories import DatedHistory as History

pytestmark = pytest.mark.django_db
TODAY = date(2026, 3, 10)
CLOSED = {"closed_won", "closed_lost"}


@pytest.fixture(autouse=True)
def _history(db: None) -> Any:
    with time_machine.travel(NOON, tick=False):
        for _ in History(5, size=120).steps(25):
            recompute.catch_up()
        assert SignalChange.objects.exclude(from_signal="").exclude(to_signal="").exists()
        yield


@pytest.fixture
def ann(person: Any) -> Any:
    """A rep who owns what Owner 1 owns in the CRM."""
    CrmUser.objects.filter(zoho_id=9001).update(email="Ann@Example.com")
    return person("rep", "ann")


def select(query: str, user: Any) -> Selection:
    return Selection.from_query(QueryDict(query), user)


def owner_pk(zoho_id: int) -> int:
    return CrmUser.objects.get(zoho_id=zoho_id).pk


Wanted = Callable[[Deal], bool]
SELECTIONS: dict[str, Wanted] = {
    "": lambda d: True,
    "territory=APAC": lambda d: d.territory == "APAC",
    "territory=APAC,EMEA": lambda d: d.territory in ("APAC", "EMEA"),
    "territory=-": lambda d: d.territory is None,
    "territory=India,-": lambda d: d.territory in ("India", None),
    "service_line=Security": lambda d: d.service_line == "Security",
    "territory=APAC&service_line=-": lambda d: d.territory == "APAC" and d.service_line is None,
    "owner=9002": lambda d: d.owner_id == owner_pk(9002),
    "owner=-": lambda d: d.owner_id is None,
    "owner=9002,-&territory=EMEA": lambda d: (
        d.owner_id in (owner_pk(9002), None) and d.territory == "EMEA"
    ),
    "mine=1": lambda d: d.owner_id == owner_pk(9001),
    "mine=1&owner=9002": lambda d: False,
    "search=deal 1": lambda d: "deal 1" in d.name.lower(),
    "search=deal 1&territory=APAC": lambda d: "deal 1" in d.name.lower() and d.territory == "APAC",
    "amount_min=1000": lambda d: (d.amount_sgd_minor or 0) >= 100_000,
    "territory=Nowhere": lambda d: False,
}


def total(deals: Iterable[Deal], name: str = "amount_sgd_minor") -> int:
    return sum(getattr(d, name) or 0 for d in deals)


def buckets(deals: Iterable[Deal], key: Callable[[Deal], Any]) -> dict[str, tuple]:
    found: dict[str, list[Deal]] = defaultdict(list)
    for d in deals:
        found[str(key(d) or "-")].append(d)
    return {k: (len(v), total(v), total(v, "weighted_sgd_minor")) for k, v in found.items()}


def told(rows: Iterable[Any]) -> dict[str, tuple]:
    return {b.key: (b.count, b.value_sgd_cents, b.weighted_sgd_cents) for b in rows}


def share(part: int, whole: int) -> Fraction | None:
    return None if whole <= 0 else Fraction(part, whole)


@pytest.mark.parametrize("period", ["", "all"])
@pytest.mark.parametrize("query", SELECTIONS)
def test_rows_57_59_62_65_figures_equal_a_count_by_hand(query: str, period: str, ann: Any) -> None:
    chosen = [d for d in live() if SELECTIONS[query](d)]
    is_open = [d for d in chosen if d.stage not in CLOSED]
    start = date(2025, 3, 11)
    closed = [
        d
        for d in chosen
        if d.stage in CLOSED
        and (period == "all" or (d.closing_date and start <= d.closing_date <= TODAY))
    ]
    won = [d for d in closed if d.stage == "closed_won"]
    lost = [d for d in closed if d.stage == "closed_lost"]
    words = query + (f"&period={period}" if period else "")

    found = pipeline_figures(select(words.strip("&"), ann), today=TODAY)

    assert found.open_count == len(is_open)
    assert found.total_pipeline_cents == total(is_open)
    assert found.weighted_cents == total(is_open, "weighted_sgd_minor")
    assert (found.won_count, found.lost_count) == (len(won), len(lost))
    with_value = [d for d in won if d.amount_sgd_minor is not None]
    if with_value:
        mean = Fraction(total(with_value), len(with_value))
        assert abs(found.average_deal_size_cents - mean) <= Fraction(1, 2)
    else:
        assert found.average_deal_size_cents is None
    for rate, expected in (
        (found.win_rate, share(len(won), len(closed))),
        (found.win_rate_value, share(total(won), total(closed))),
    ):
        assert (rate is None) == (expected is None)
        if rate is not None and expected is not None:
            assert abs(Fraction(rate) - expected) <= Fraction(1, 20_000)
    assert told(found.by_territory) == buckets(is_open, lambda d: d.territory)
    assert told(found.by_service_line) == buckets(is_open, lambda d: d.service_line)
    assert told(found.by_owner) == buckets(is_open, lambda d: d.owner_id)
    by_stage = buckets(chosen, lambda d: d.stage)
    assert [b.key for b in found.by_stage] == list(stages.STAGES)
    assert {k: v for k, v in told(found.by_stage).items() if v[0]} == by_stage
    left_out = [d for d in is_open if d.amount_sgd_minor is None]
    assert found.left_out.no_amount == sum(d.amount_minor is None for d in left_out)
    assert found.left_out.no_rate == sum(d.amount_minor is not None for d in left_out)
    assert not found.recompute_pending
    assert found.as_of is not None


def test_the_stage_filter_counts_everywhere_but_in_its_own_breakdown(ann: Any) -> None:
    everything = pipeline_figures(select("", ann), today=TODAY)
    found = pipeline_figures(select("stage=proposal,other", ann), today=TODAY)
    chosen = [d for d in live() if d.stage in ("proposal", "other")]
    assert found.open_count == len(chosen)
    assert found.total_pipeline_cents == total(chosen)
    assert told(found.by_territory) == buckets(chosen, lambda d: d.territory)
    assert found.by_stage == everything.by_stage


@pytest.mark.parametrize("query", SELECTIONS)
def test_every_figure_opens_a_list_of_exactly_as_many_deals(query: str, ann: Any) -> None:
    selection = select(query, ann)
    found = pipeline_figures(selection, today=TODAY)

    def listed(**more: str) -> int:
        return (
            select("&".join([query, *(f"{k}={v}" for k, v in more.items())]), ann).deals().count()
        )

    for bucket in found.by_stage:
        assert listed(stage=bucket.key) == bucket.count
    open_stages = ",".join(stages.OPEN_STAGES)
    assert listed(stage=open_stages) == found.open_count
    assert listed(stage="closed_won", period="12m") == found.won_count
    assert listed(stage="closed_lost", period="12m") == found.lost_count
    assert listed(stage=open_stages, missing="amount") == found.left_out.no_amount
    assert listed(stage=open_stages, missing="rate") == found.left_out.no_rate
    if "territory" not in query:
        for bucket in found.by_territory:
            assert listed(stage=open_stages, territory=bucket.key) == bucket.count
    if "owner" not in query and "mine" not in query:
        for bucket in found.by_owner:
            assert listed(stage=open_stages, owner=bucket.key) == bucket.count


# -- what changed ---------------------------------------------------------------------------------


def changes_by_hand(deals: list[Deal], since: Any) -> dict[str, tuple[int, int]]:
    fields: dict[int, set[str]] = defaultdict(set)
    for event in ChangeEvent.objects.filter(kind="changed", module="Deals"):
        if event.changed_at >= since:
            fields[event.record_id].add(event.field)
    kinds: dict[str, list[Deal]] = {
        k: [] for k in ("new", "stage", "amount", "closing_date", "won", "lost", "signal")
    }
    day = business_day(since)
    turned = {
        change.opportunity.deal_id
        for change in SignalChange.objects.select_related("opportunity")
        if change.happened_on >= day and change.from_signal and change.to_signal
    }
    for d in deals:
        if d.crm_created_at >= since:
            kinds["new"].append(d)
        if "crm_stage" in fields[d.pk]:
            kinds[{"open": "stage"}.get(d.stage_type, d.stage_type)].append(d)
        for field, kind in (("amount_minor", "amount"), ("closing_date", "closing_date")):
            if field in fields[d.pk]:
                kinds[kind].append(d)
        if d.pk in turned:
            kinds["signal"].append(d)
    return {kind: (len(found), total(found)) for kind, found in kinds.items()}


@pytest.mark.parametrize("query", ["", "territory=APAC", "owner=-", "mine=1", "search=deal 1"])
@pytest.mark.parametrize("since", [NOON - timedelta(days=30), minutes(10), minutes(24)])
def test_changes_since_equal_a_count_by_hand_and_open_as_many(
    query: str, since: Any, ann: Any
) -> None:
    deals = [d for d in live() if SELECTIONS[query](d)]
    found = changes_since(select(query, ann), since)
    assert {c.kind: (c.count, c.value_sgd_cents) for c in found} == changes_by_hand(deals, since)
    for change in found:
        words = f"{query}&changed={change.kind}&changed_since={since.isoformat()}"
        assert select(words.replace("+", "%2B"), ann).deals().count() == change.count


# -- periods --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "start"),
    [
        (date(2026, 3, 10), date(2025, 3, 11)),
        (date(2026, 1, 1), date(2025, 1, 2)),
        (date(2024, 2, 29), date(2023, 3, 1)),
        (date(2025, 2, 28), date(2024, 2, 29)),
    ],
)
def test_twelve_months_end_today(today: date, start: date) -> None:
    assert period_bounds("12m", today) == (start, today)
    assert period_bounds("all", today) == (None, today)
