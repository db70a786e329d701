"""Nights on which clocks change: each slot once, each day with its own edges, however long."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from django.http import QueryDict

from crm import tasks
from crm.models import Deal, MirrorState, SyncRun
from crm.sync.metadata import business_day
from crm.tests.factories import NOON
from crm.tests.synced import zoho_settings
from o2r import recompute
from o2r.filters import Selection, start_of_yesterday
from o2r.metrics import pipeline_figures
from o2r.tests.histories import History
from o2r.views.dashboard import start_of_day
from o2r.views.shell import business_today

pytestmark = pytest.mark.django_db

# Zone, day, when it begins and ends in UTC, by the published rules of 2026. In Santiago clocks
# change at midnight: one day has none, another one two.
NIGHTS = [
    ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00"),
    ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),
    ("America/New_York", "2026-03-08", "2026-03-08T05:00", "2026-03-09T04:00"),
    ("America/New_York", "2026-11-01", "2026-11-01T04:00", "2026-11-02T05:00"),
    ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", "2026-04-05T13:30"),
    ("Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30", "2026-10-04T13:00"),
    ("America/Santiago", "2026-04-04", "2026-04-04T03:00", "2026-04-05T04:00"),
    ("America/Santiago", "2026-09-06", "2026-09-06T04:00", "2026-09-07T03:00"),
]
A_SECOND = timedelta(seconds=1)


@pytest.fixture(params=NIGHTS, ids=lambda night: f"{night[0]} {night[1]}")
def night(request: pytest.FixtureRequest, settings: Any) -> tuple[date, datetime, datetime]:
    """The day, its first moment and that of the next one; the business is in that zone."""
    zone, day, begins, ends = request.param
    settings.BUSINESS_TIME_ZONE = zone
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begins, ends))
    return date.fromisoformat(day), first, last


def test_row_19_a_day_has_its_own_edges_however_long_it_is(
    night: tuple[date, datetime, datetime],
) -> None:
    day, begins, ends = night
    for day_of in (business_day, business_today):
        assert day_of(begins - A_SECOND) == day - timedelta(days=1)
        assert day_of(begins) == day_of(ends - A_SECOND) == day
        assert day_of(ends) == day + timedelta(days=1)
    assert start_of_day(day).astimezone(UTC) == begins
    for moment in (ends, ends + timedelta(hours=12)):
        with time_machine.travel(moment, tick=False):
            assert start_of_yesterday().astimezone(UTC) == begins


def test_row_19_each_quarter_of_an_hour_is_one_slot(
    night: tuple[date, datetime, datetime], settings: Any
) -> None:
    settings.ZOHO = zoho_settings("http://127.0.0.1:9")
    MirrorState.objects.bulk_create(
        MirrorState(module=m, watermark=night[1])
        for m in ("Accounts", "Contacts", "Leads", "Deals")
    )
    _, begins, ends = night
    fired = 0
    moment = begins
    while moment < ends:
        for late in (1, 4):  # two beats
            slot = tasks.slot_of("delta", moment + timedelta(seconds=late))
            if slot is not None:
                SyncRun.objects.create(
                    kind="delta", trigger="schedule", slot=slot, status="succeeded",
                    requested_at=slot, lane=None,
                )  # fmt: skip
        fired += 1
        moment += timedelta(minutes=15)
    slots = list(SyncRun.objects.order_by("slot").values_list("slot", flat=True))
    assert len(slots) == fired == (ends - begins) / timedelta(minutes=15)
    gaps = {after - before for before, after in pairwise(slots)}
    assert gaps == {timedelta(minutes=15)}


def test_row_19_the_chart_keeps_what_happened_on_each_day(
    night: tuple[date, datetime, datetime],
) -> None:
    day, begins, ends = night
    list(History(23).steps(4))
    MirrorState.objects.update_or_create(module="Deals", defaults={"complete_s0": NOON})
    seen = []
    with time_machine.travel(begins, tick=False) as clock:
        for number, moment in enumerate((begins, ends - A_SECOND, ends)):
            clock.move_to(moment)
            first = Deal.objects.live().filter(stage_type="open").order_by("pk").first()
            assert first is not None
            Deal.objects.filter(pk=first.pk).update(
                amount_sgd_minor=(first.amount_sgd_minor or 0) + 77 + number,
                change_seq=10**9 + number,
            )
            recompute.catch_up()
            selection = Selection.from_query(QueryDict(""), None)
            today = day + timedelta(days=moment >= ends)
            figures = pipeline_figures(selection, today=today)
            seen.append(figures.total_pipeline_cents)
            told = figures.trends.total_pipeline
    assert told is not None
    assert (told.start, told.values) == (day, (seen[1], seen[2]))
    assert seen[2] == seen[1] + 79
