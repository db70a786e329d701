"""RELIABILITY 26: what reads everything leaves 10 % of the day's credits, a delta 2 %."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as configured
from django.utils import timezone

from crm.freshness import sync_state
from crm.models import CrmConnection, CrmUser, MirrorState, SyncRun
from crm.sync import credits, reading
from crm.tests.synced import Crm
from crm.zoho.errors import CreditsExhausted
from crm.zoho.limits import daily_credits

PLENTY = 10**6


def of_the_day() -> int:
    """What the mirror takes for the day's credits of this CRM."""
    users = CrmUser.objects.filter(status="active").count()
    return daily_credits(CrmConnection.objects.get().edition, users)


def leave(crm: Crm, left: int) -> None:
    """So many credits are left; the CRM says so once half of them are used."""
    crm.control("config", credits=PLENTY)
    while crm.control("stats")["credits_used"] < 2 * left:
        crm.sync("delta", "Accounts")
    crm.control("config", credits=crm.control("stats")["credits_used"] + left)


def floors(settings: Any, **credits_left: int) -> None:
    """As numbers of credits: the sandbox's day is hardly begun."""
    total = of_the_day()
    settings.SYNC_CREDIT_FLOORS = {
        kind: 100 * number / total for kind, number in credits_left.items()
    }


def marks() -> dict[str, Any]:
    return dict(MirrorState.objects.values_list("module", "watermark"))


def paused(run: SyncRun, kind: str) -> None:
    assert (run.status, run.error_code, run.can_resume) == ("failed", "credits_low", True)
    assert f"The {kind} sync is paused until about " in run.message
    state = sync_state(timezone.now())
    assert state.sentence.startswith("The sync is paused until about ")
    assert not state.is_connected


@pytest.mark.django_db
def test_a_full_sync_leaves_a_tenth_and_a_delta_a_fiftieth() -> None:
    CrmConnection.objects.create(edition="Free")  # 5,000 a day
    now = timezone.now()
    for kind, floor in (("full", 500), ("reconcile", 500), ("delta", 100)):
        credits.raise_if_low(kind, floor + 1, now)
        credits.raise_if_low(kind, None, now)
        with pytest.raises(CreditsExhausted, match=f"only {floor} are left"):
            credits.raise_if_low(kind, floor, now)
    CrmConnection.objects.update(edition="of another kind")
    credits.raise_if_low("full", 0, now)


def test_with_few_credits_a_full_sync_stops_and_a_delta_still_runs(crm: Crm, settings: Any) -> None:
    crm.sync("full")
    leave(crm, 25)
    before = marks()
    floors(settings, full=30, delta=3)
    run = crm.sync("full")
    paused(run, "full")
    assert marks() == before
    calls = run.api_calls
    assert calls == 1  # it stops before the rest of the metadata
    crm.control("edit", module="Deals", id=crm.ids()[0], values={"Next_Step": "soon"})
    assert crm.sync("delta").updated == 1
    assert sync_state(timezone.now()).is_connected


def test_a_delta_stops_at_its_floor_and_goes_on_when_credits_are_back(
    crm: Crm, settings: Any
) -> None:
    crm.sync("full")
    leave(crm, 18)
    floors(settings, full=30, delta=20)
    before = marks()
    crm.control("edit", module="Deals", id=crm.ids()[0], values={"Next_Step": "soon"})
    run = crm.sync("delta")
    paused(run, "delta")
    assert marks()["Deals"] == before["Deals"]  # behind what was not read
    crm.control("config", credits=PLENTY)
    assert crm.sync("delta").updated == 1
    assert sync_state(timezone.now()).is_connected
    crm.assert_mirrored()


def test_a_full_sync_that_reaches_the_floor_on_its_way_goes_on_behind_its_last_page(
    big_crm: Crm, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE_ROWS", 20)
    big_crm.sync("full", "Accounts")
    leave(big_crm, 40)
    floors(settings, full=10, delta=3)
    run = big_crm.sync("full", "Deals", method="pages")
    paused(run, "full")
    assert 0 < run.seen < 450
    assert "Deals" not in marks() or marks()["Deals"] is None
    big_crm.control("config", credits=PLENTY)
    again = big_crm.sync("full", "Deals", method="pages")
    assert again.pk == run.pk
    assert (again.status, again.created, again.seen) == ("succeeded", 450, 450)
    big_crm.assert_mirrored("Deals")


def test_a_reconcile_stops_at_the_floor_of_a_full_sync_and_leaves_the_rest_to_deltas(
    crm: Crm, settings: Any
) -> None:
    crm.sync("full")
    leave(crm, 40)
    floors(settings, full=45, reconcile=45, delta=1)
    run = crm.sync("reconcile")
    assert (run.status, run.error_code) == ("failed", "credits_low")
    assert "made again the next night" in run.message
    crm.control("edit", module="Deals", id=crm.ids()[0], values={"Next_Step": "soon"})
    assert crm.sync("delta").updated == 1
    assert sync_state(timezone.now()).is_connected


def test_the_floors_are_those_of_the_rules() -> None:
    assert configured.SYNC_CREDIT_FLOORS == {"full": 10, "reconcile": 10, "delta": 2}
