"""What changes while a run is on, and what a run does about one that stopped or failed before."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.utils import timezone

from crm import shared_state, tasks
from crm.errors import CrmUnreachable
from crm.models import (
    CrmConnection,
    Deal,
    ExchangeRate,
    FailedRecord,
    MirrorState,
    SyncLease,
    SyncRun,
)
from crm.sync import lease, metadata, reachability, runs, stage_metadata, watermark
from crm.tests.synced import Crm
from crm.zoho.errors import BreakerOpen

NANO = 10**9


def in_euros() -> Any:
    return Deal.objects.live().filter(currency="EUR", stage_type="open", amount_minor__gt=0)


def test_a_rate_that_ops_give_during_a_run_holds_after_it(crm: Crm) -> None:
    crm.sync("full")
    today = metadata.business_day(timezone.now())

    def give_a_rate(run: SyncRun, part: Any) -> None:
        if not ExchangeRate.objects.filter(source="manual").exists():
            ExchangeRate.objects.create(
                iso_code="EUR", day=today, rate_nano=NANO // 2, source="manual"
            )
            metadata.queue_derive()

    crm.sync("full", on_page=give_a_rate)
    assert in_euros().exists()
    for deal in in_euros():
        assert deal.amount_sgd_minor == 2 * deal.amount_minor  # home is SGD: half a euro a dollar
    assert not MirrorState.objects.get(module="Deals").derive_needed


@pytest.mark.parametrize("path", ["/crm/v8/settings/layouts", "/crm/v8/settings/pipeline"])
def test_won_stays_won_where_layouts_or_pipelines_are_refused(crm: Crm, path: str) -> None:
    crm.sync("full")
    before = dict(Deal.objects.live().values_list("zoho_id", "stage"))
    crm.forget_mirror()
    crm.control("faults", rules=[{"do": "status", "path": path, "times": 0, "status": 404}])
    run = crm.sync("full")
    assert "Could not be read" in run.message
    assert dict(Deal.objects.live().values_list("zoho_id", "stage")) == before
    assert "closed_won" in before.values()


def test_where_the_metadata_says_nothing_of_stages_the_layouts_do(crm: Crm) -> None:
    field = {"api_name": "Stage", "data_type": "picklist", "json_type": "string"}
    silent = [{"display_value": "Won by us", "actual_value": "Won by us"}]
    told = [{**silent[0], "forecast_type": "Closed Won", "probability": 100}]
    metadata._read_fields(_Saying(fields=[{**field, "pick_list_values": silent}]), "Deals", _NOW)
    layouts = [{"id": "1", "sections": [{"fields": [{**field, "pick_list_values": told}]}]}]
    stage_metadata.keep(layouts, None)
    from crm.models import CrmStage

    stage = CrmStage.objects.get(actual_name="Won by us")
    assert (stage.forecast_type, stage.our_stage, stage.probability) == ("won", "closed_won", 100)


_NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)


class _Saying:
    """A client that answers metadata calls with what it was made with."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def fields(self, module: str) -> list[dict]:
        return self.answers["fields"]

    def org(self) -> dict:
        return self.answers["org"]


@pytest.mark.parametrize(
    ("org", "home"),
    [
        ({"iso_code": "USD"}, "USD"),
        ({"currency": "US Dollar - USD"}, "USD"),
        ({"currency": "Dollar"}, ""),
        ({}, ""),
    ],
)
def test_an_unknown_home_currency_is_unknown_and_not_sgd(
    crm: Crm, org: dict[str, Any], home: str
) -> None:
    connection = metadata._read_organisation(_Saying(org={"id": "1", **org}))
    assert connection.home_currency == home


def test_several_currencies_say_that_multi_currency_is_on(crm: Crm) -> None:
    connection = metadata._read_organisation(_Saying(org={"id": "1", "iso_code": "USD"}))
    assert not connection.multi_currency
    both = [
        {"iso_code": "USD", "exchange_rate": "1.000000000", "is_base": True},
        {"iso_code": "EUR", "exchange_rate": "0.900000000"},
    ]
    metadata._keep_currencies(both, connection, _NOW.date())
    assert CrmConnection.objects.get().multi_currency


def test_active_users_keep_their_names_where_deleted_ones_are_refused(crm: Crm) -> None:
    refusal = {"do": "status", "path": "/crm/v8/users", "nth": 2, "times": 0, "status": 400}
    crm.control("faults", rules=[refusal])
    crm.sync("full")
    owners = {deal.owner.email for deal in Deal.objects.live().select_related("owner")}
    assert "rep@example.com" in owners


# -- runs that stopped or failed before ----------------------------------------------------------


def test_a_full_run_that_lost_the_crm_goes_on_where_it_was(big_crm: Crm) -> None:
    down = {"do": "status", "path": "/crm/v8/Deals", "times": 0, "status": 503, "nth": 3}
    big_crm.control("faults", rules=[down])
    stopped = big_crm.sync("full", method="pages")
    assert (stopped.status, stopped.can_resume) == ("failed", True)
    big_crm.control("clear_faults")
    resumed = big_crm.sync("full", method="pages")
    assert resumed.pk == stopped.pk and resumed.status == "succeeded"
    big_crm.assert_mirrored()
    assert resumed.created == resumed.seen


def test_wrong_credentials_are_not_gone_on_with(crm: Crm) -> None:
    crm.control("revoke_refresh_token")
    stopped = crm.sync("full")
    assert (stopped.status, stopped.can_resume) == ("failed", False)
    assert crm.sync("full").pk != stopped.pk


@pytest.fixture
def failed_fulls(db: None) -> Iterator[list[SyncRun]]:
    yield [
        SyncRun.objects.create(
            kind="full",
            trigger="schedule",
            status="failed",
            requested_at=_NOW - timedelta(hours=3 - at),
            ended_at=_NOW - timedelta(hours=3 - at),
        )
        for at in range(3)
    ]


@pytest.mark.parametrize(
    ("minutes_later", "is_due"), [(0, False), (14, False), (60, False), (61, True)]
)
def test_a_failed_full_run_is_repeated_after_pauses_that_double(
    failed_fulls: list[SyncRun], minutes_later: int, is_due: bool
) -> None:
    ended = failed_fulls[-1].ended_at  # the third in a row: 15 minutes, doubled twice
    assert ended is not None
    assert tasks._is_full_to_repeat(ended + timedelta(minutes=minutes_later)) is is_due


def test_a_full_run_that_succeeded_is_not_repeated(failed_fulls: list[SyncRun]) -> None:
    SyncRun.objects.filter(pk=failed_fulls[-1].pk).update(status="succeeded")
    assert not tasks._is_full_to_repeat(_NOW + timedelta(days=1))


def test_a_full_run_that_failed_under_a_clock_ahead_of_today_is_repeated(
    failed_fulls: list[SyncRun],
) -> None:
    ahead = _NOW + timedelta(days=4000)
    SyncRun.objects.filter(pk=failed_fulls[-1].pk).update(requested_at=ahead, ended_at=ahead)
    assert tasks._is_full_to_repeat(_NOW)


def test_a_repeat_that_met_a_resting_crm_is_made_good_when_it_is_back(crm: Crm) -> None:
    crm.sync("full")
    long_ago = timezone.now() - timedelta(hours=3)
    SyncRun.objects.update(status="failed", requested_at=long_ago, ended_at=long_ago)
    weather = {"failures": 5, "failed_at": 1.0, "open_until": time.time() + 40, "probe_until": 0.0}
    name = f"zoho:breaker:{urlsplit(crm.sandbox.url).netloc}"
    shared_state.durable().put(name, json.dumps(weather), 300)
    for _ in range(3):
        tasks.sweep()
    assert SyncRun.objects.count() == 1  # it is left alone, in the ledger too
    with pytest.raises(CrmUnreachable):
        reachability.raise_if_known_down()
    # One that was just asked for when the CRM began to rest:
    SyncRun.objects.create(
        kind="full", trigger="schedule", status="skipped", requested_at=long_ago, ended_at=long_ago
    )
    shared_state.durable().put(name, json.dumps({**weather, "open_until": 0.0}), 300)
    tasks.sweep()
    repeated = SyncRun.objects.order_by("-pk")[0]
    assert (repeated.status, repeated.seen > 50) == ("succeeded", True)
    tasks.sweep()
    assert SyncRun.objects.order_by("-pk")[0].pk == repeated.pk


def test_a_run_gone_on_with_that_meets_a_resting_crm_can_still_be_gone_on_with(
    big_crm: Crm,
) -> None:
    fault = {"path": "/crm/v8/Deals", "do": "status", "status": 500, "body": "", "times": 0}
    big_crm.control("faults", rules=[{**fault, "nth": 3}])
    stopped = big_crm.sync("full", method="pages")
    assert (stopped.status, stopped.can_resume) == ("failed", True)
    again = runs.request_run(kind="full", trigger="schedule", method="pages", nudge=False)
    assert again.pk == stopped.pk

    def at_rest() -> Any:
        raise BreakerOpen("The CRM is left alone until 10:00 UTC.", code="breaker_open")

    from crm.sync.execute import execute

    execute(again.pk, make_client=at_rest)
    again.refresh_from_db()
    assert (again.status, again.can_resume) == ("failed", True)


def test_a_slot_within_the_breakers_pause_is_skipped_not_failed(crm: Crm) -> None:
    def at_rest() -> Any:
        raise BreakerOpen("The CRM is left alone until 10:00 UTC.", code="breaker_open")

    run = runs.request_run(kind="full", trigger="schedule", nudge=False)
    from crm.sync.execute import execute

    execute(run.pk, make_client=at_rest)
    run.refresh_from_db()
    assert (run.status, run.error_code) == ("skipped", "breaker_open")


def test_machines_with_a_long_common_name_do_not_free_each_others_lease(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(machine: str) -> None:
        name = f"pipelinepulse-worker-deployment-7d9c5b6f4-{machine}"
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        lease._machine.cache_clear()

    gone = subprocess.Popen(["true"])
    gone.wait()
    on("aaaaa")
    held = lease.acquire()
    assert held is not None
    machine = held.holder.partition(":")[0]
    SyncLease.objects.update(holder=f"{machine}:{gone.pid}:x")
    on("bbbbb")
    assert lease.acquire() is None  # a number of theirs means nothing here
    on("aaaaa")
    assert lease.acquire() is not None
    monkeypatch.undo()
    lease._machine.cache_clear()


def test_rates_of_a_day_on_which_nothing_ran_are_caught_up(db: None) -> None:
    MirrorState.objects.create(module="Deals", derived_on=date(2026, 1, 2))
    ExchangeRate.objects.create(
        iso_code="EUR", day=date(2026, 1, 3), rate_nano=NANO, source="manual"
    )
    tasks.turn_of_the_day()
    assert MirrorState.objects.get(module="Deals").derive_needed


def test_without_a_newer_rate_the_turn_of_the_day_derives_nothing(db: None) -> None:
    MirrorState.objects.create(module="Deals", derived_on=date(2026, 1, 2))
    ExchangeRate.objects.create(
        iso_code="EUR", day=date(2026, 1, 2), rate_nano=NANO, source="manual"
    )
    tasks.turn_of_the_day()
    state = MirrorState.objects.get(module="Deals")
    assert not state.derive_needed
    assert state.derived_on == metadata.business_day(timezone.now())


def test_a_failure_is_closed_once_its_record_could_be_stored(crm: Crm) -> None:
    zoho_id = crm.ids()[0]
    spoilt = f'{{"id": "{zoho_id}", "id": "{zoho_id}"}}'
    crm.sync("full")
    FailedRecord.objects.create(
        module="Deals",
        zoho_id=int(zoho_id),
        dedupe_key="x",
        code="duplicate_keys",
        message="It names a key twice.",
        payload=spoilt,
        first_seen_at=_NOW,
        last_seen_at=_NOW,
    )
    crm.sync("full")
    assert FailedRecord.objects.get().resolved_at is not None


def test_a_crm_without_a_clock_is_mirrored_freshly_all_the_same(crm: Crm) -> None:
    """Its mark is as old as its newest record; the mirror is as young as the run."""
    state = MirrorState.objects.create(module="Deals")
    long_ago = timezone.now() - timedelta(days=30)
    started = timezone.now()
    watermark.move("Deals", long_ago, is_full=True, covered_at=started)
    state.refresh_from_db()
    assert (state.watermark, state.complete_s0) == (long_ago, started)
