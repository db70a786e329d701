"""The nightly reconcile: the mirror is proved, what differs is found, asked for by id, repaired."""

from __future__ import annotations

import json
import signal
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from crm import tasks
from crm.models import (
    ChangeEvent,
    CrmField,
    Deal,
    DeletionHold,
    MirrorDifference,
    MirrorState,
    OutboxEntry,
    Reconciliation,
    SweepCandidate,
    SyncRun,
)
from crm.sync import modules, reading, reconcile, runs
from crm.sync.execute import execute
from crm.tests import oracle
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm

KILLED = -signal.SIGKILL


@pytest.fixture
def mirror(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> Crm:
    """Fifty deals, mirrored; ten to a page."""
    monkeypatch.setattr(reading, "RANGE_ROWS", 10)
    assert crm.sync("full").status == "succeeded"
    return crm


def result(run: SyncRun) -> Reconciliation:
    found = Reconciliation.objects.get(run=run)
    assert found.ended_at is not None
    return found


def differences(run: SyncRun) -> list[tuple[str, str, str]]:
    rows = MirrorDifference.objects.filter(reconciliation__run=run).order_by("zoho_id")
    return [(str(row.zoho_id), row.kind, row.state) for row in rows]


def assert_same(crm: Crm, module: str = "Deals") -> None:
    """The rows are the CRM's; what a test did to them behind the sync's back no event tells."""
    found = oracle.compare(crm.sandbox, (module,))
    assert not found, "\n".join(found[:20])


def lose(zoho_id: str, **values: Any) -> None:
    """As if a sync had gone wrong."""
    Deal.objects.filter(zoho_id=zoho_id).update(**values)


def test_a_mirror_that_is_the_crm_is_proved(mirror: Crm) -> None:
    before, events = list(Deal.objects.values()), ChangeEvent.objects.count()
    run = mirror.sync("reconcile")
    told = result(run)
    assert run.status == "succeeded"
    records = sum(len(mirror.ids(m.name)) for m in modules.ORDER)
    assert told.sentence == run.message == f"Mirror 100 %, 0 of {records} differ."
    assert told.is_exact and told.differing == 0
    deals = told.modules["Deals"]
    assert deals["checked"] == deals["ours"] == deals["theirs"] == deals["sampled"] == 50
    assert deals["months"] == [] and deals["found"] == {}
    assert run.seen == run.unchanged == records
    assert (list(Deal.objects.values()), ChangeEvent.objects.count()) == (before, events)


def test_a_proof_is_cheap_in_credits(mirror: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 2000)
    monkeypatch.setattr(reconcile, "SAMPLE", 50)
    before = mirror.control("stats")["credits_used"]
    mirror.sync("reconcile", "Deals")
    # One query for each end of the ids, two of up to 2,000 rows, one call for the sample.
    assert mirror.control("stats")["credits_used"] - before <= 1 + 1 + 3 + 3 + 1


def test_every_kind_of_difference_is_found_and_repaired(mirror: Crm) -> None:
    ids = mirror.ids()
    lose(ids[1], amount_minor=1)  # wrong here, without a new time there
    lose(ids[2], crm_modified_at=timezone.now() - timedelta(days=900), name="An old name")
    Deal.objects.filter(zoho_id=ids[3]).update(zoho_id=None, deleted_at=timezone.now())
    stranger = Deal.objects.get(zoho_id=ids[4])
    stranger.pk, stranger.zoho_id, stranger.external_id = None, int(ids[-1]) + 5, None
    stranger.save()
    run = mirror.sync("reconcile", "Deals")
    told = result(run)
    assert differences(run) == [
        (ids[1], "drift", "repaired"),
        (ids[2], "stale", "repaired"),
        (ids[3], "missing", "repaired"),
        (str(stranger.zoho_id), "gone", "repaired"),
    ]
    assert told.sentence == (
        "Mirror 100 %: 4 of 50 differed (1 changed there without a new time, 1 no longer in the "
        "CRM, 1 not here, 1 a change was missed); all repaired."
    )
    assert told.modules["Deals"]["found"] == {"drift": 1, "gone": 1, "missing": 1, "stale": 1}
    assert told.is_exact and (told.differing, told.repaired) == (4, 4)
    assert told.modules["Deals"]["months"], "counts and sums of some month differed"
    stranger.refresh_from_db()
    assert (stranger.deleted_source, run.deleted) == ("reconcile", 1)
    assert Deal.objects.live().count() == 50
    again = mirror.sync("reconcile", "Deals")
    assert result(again).sentence == "Mirror 100 %, 0 of 50 differ."


def test_row_50_deleted_for_good_and_forgotten_by_the_list_becomes_a_tombstone(
    mirror: Crm,
) -> None:
    gone = mirror.ids()[7]
    mirror.control("delete", module="Deals", ids=[gone], type="permanent")
    # Beyond the reach of the list: as after four months offline.
    mirror.control("config", clock_offset_s=130 * 86_400)
    run = mirror.sync("reconcile", "Deals")
    deal = Deal.objects.get(zoho_id=gone)
    assert deal.deleted_at is not None and deal.deleted_source == "reconcile"
    assert ChangeEvent.objects.get(kind="deleted", record_id=deal.pk).source == "reconcile"
    assert differences(run) == [(gone, "gone", "repaired")]
    assert not SweepCandidate.objects.exists()


def test_row_51_back_from_the_recycle_bin_with_its_old_time(mirror: Crm) -> None:
    zoho_id = mirror.ids()[7]
    mirror.control("delete", module="Deals", ids=[zoho_id])
    mirror.sync("delta")
    assert Deal.objects.get(zoho_id=zoho_id).deleted_at is not None
    MirrorState.objects.update(watermark=timezone.now() + timedelta(hours=1))  # no delta looks back
    mirror.control("restore", module="Deals", ids=[zoho_id])
    run = mirror.sync("reconcile", "Deals")
    assert differences(run) == [(zoho_id, "missing", "repaired")]
    assert Deal.objects.get(zoho_id=zoho_id).deleted_at is None
    assert run.restored == 1
    mirror.assert_mirrored("Deals")


def test_row_52_more_missing_than_is_plausible_are_held(big_crm: Crm) -> None:
    big_crm.sync("full")
    big_crm.control("delete", module="Deals", ids=big_crm.ids()[:60], type="permanent")
    run = big_crm.sync("reconcile", "Deals")
    told = result(run)
    assert run.deleted == 0 and Deal.objects.live().count() == 450
    assert len(DeletionHold.objects.get().zoho_ids) == 60
    assert not told.is_exact and told.modules["Deals"]["left"] == 60
    assert "60 of 390 differed (60 no longer in the CRM); 0 repaired, 60 left." in told.sentence
    assert not told.sentence.startswith("Mirror 100 %")


def test_row_52_a_module_that_shows_nothing_loses_nothing(big_crm: Crm) -> None:
    big_crm.sync("full")
    big_crm.control("vanish", module="Deals", ids=big_crm.ids())
    run = big_crm.sync("reconcile", "Deals")
    assert Deal.objects.live().count() == 450
    assert len(DeletionHold.objects.get().zoho_ids) == 450
    assert not result(run).is_exact


def test_row_53_a_record_that_was_merged_away_is_marked(mirror: Crm) -> None:
    winner, loser = mirror.ids("Accounts")[:2]
    mirror.control("merge", module="Accounts", id=winner, ids=[loser])
    mirror.sync("reconcile", "Accounts")
    model = modules.BY_NAME["Accounts"].model
    assert model.objects.get(zoho_id=loser).deleted_at is not None
    assert model.objects.get(zoho_id=winner).deleted_at is None


def test_a_formula_that_changes_without_a_new_time_is_found_in_every_record(
    mirror: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "SAMPLE", 1)
    CrmField.objects.filter(module="Deals", api_name="Next_Step").update(data_type="formula")
    zoho_id = mirror.ids()[33]
    mirror.control("edit", module="Deals", id=zoho_id, values={"Next_Step": "41"}, touch=False)
    run = mirror.sync("reconcile", "Deals")
    assert differences(run) == [(zoho_id, "drift", "repaired")]
    found = MirrorDifference.objects.get()
    assert found.fields["next_step"][1] == "41"
    assert Deal.objects.get(zoho_id=zoho_id).next_step == "41"
    event = ChangeEvent.objects.filter(field="next_step").latest("pk")
    assert (event.source, json.loads(event.new or "")) == ("reconcile", "41")


def test_the_sample_is_compared_in_every_field(mirror: Crm) -> None:
    ids = mirror.ids()
    lose(ids[9], territory="Nowhere", account_id=None)
    run = mirror.sync("reconcile", "Deals")
    assert differences(run) == [(ids[9], "drift", "repaired")]
    assert set(MirrorDifference.objects.get().fields) == {"territory", "account_id"}
    assert_same(mirror)


def test_the_sample_follows_from_its_seed(mirror: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "SAMPLE", 5)
    first = reconcile.sample_of(modules.DEALS, 1)
    assert first == reconcile.sample_of(modules.DEALS, 1) and len(set(first)) == 5
    drawn = Counter(z for seed in range(200) for z in reconcile.sample_of(modules.DEALS, seed))
    assert len(drawn) == 50 and max(drawn.values()) < 45  # twenty each, more or less


def test_what_changed_after_the_mark_waits_for_the_next_delta(mirror: Crm) -> None:
    zoho_id = mirror.ids()[3]
    mirror.control("config", clock_offset_s=3600)
    mirror.control("edit", module="Deals", id=zoho_id, values={"Amount": 9.5})
    mirror.control("insert", module="Deals", values={"Deal_Name": "New", "Stage": "Qualification"})
    run = mirror.sync("reconcile", "Deals")
    told = result(run)
    assert (told.differing, told.modules["Deals"]["waiting"]) == (0, 2)
    assert told.modules["Deals"]["months"] == []
    mirror.sync("delta")
    mirror.assert_mirrored("Deals")


def test_a_change_of_ours_on_its_way_is_no_difference(mirror: Crm, now: Any) -> None:
    zoho_id = mirror.ids()[4]
    deal = Deal.objects.get(zoho_id=zoho_id)
    OutboxEntry.objects.create(
        module="Deals",
        record_id=deal.pk,
        field="next_step",
        base=json.dumps(deal.next_step),
        new='"Ours"',
        created_at=now,
        next_attempt_at=now,
    )
    lose(zoho_id, next_step="Ours")
    run = mirror.sync("reconcile", "Deals")
    assert result(run).sentence == "Mirror 100 %, 0 of 50 differ."
    assert Deal.objects.get(zoho_id=zoho_id).next_step == "Ours"


@pytest.mark.parametrize(
    "place",
    ["reconcile.after_page:2", "reconcile.before_sample", "reconcile.before_repair",
     "store.before_commit", "tombstones.before_commit"],
)  # fmt: skip
def test_row_1_a_reconcile_killed_at(mirror: Crm, place: str) -> None:
    # One call at a time: a kill in the middle of another would send the CRM half a request.
    mirror.settings.ZOHO = replace(mirror.settings.ZOHO, concurrency=1)
    ids = mirror.ids()
    mirror.control("delete", module="Deals", ids=[ids[7]], type="permanent")
    lose(ids[1], amount_minor=1)
    lose(ids[45], amount_minor=1)
    run = runs.request_run(kind="reconcile", trigger="command", module_names=["Deals"], nudge=False)
    assert run_in_child(lambda: execute(run.pk), f"{place}=kill") == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert run.status == "succeeded", run.message
    assert sorted(differences(run)) == sorted(
        [(ids[1], "drift", "repaired"), (ids[45], "drift", "repaired"),
         (ids[7], "gone", "repaired")]
    )  # fmt: skip
    assert result(run).modules["Deals"]["checked"] == 49
    assert_same(mirror)


def test_what_is_left_can_be_repaired_later(mirror: Crm) -> None:
    ids = mirror.ids()
    lose(ids[1], amount_minor=1)
    run = runs.request_run(kind="reconcile", trigger="command", module_names=["Deals"], nudge=False)
    rule = {"do": "status", "status": 500, "path": "/crm/v8/Deals", "times": 1000}
    mirror.control("faults", rules=[{**rule, "param": "ids"}])
    execute(run.pk)
    run.refresh_from_db()
    assert run.status == "failed"
    assert differences(run) == [(ids[1], "drift", "found")]
    mirror.control("clear_faults")
    again = mirror.sync("reconcile", "Deals", method="repair")
    assert differences(again) == [(ids[1], "drift", "repaired")]
    assert_same(mirror)


def test_a_due_delta_goes_in_between_the_pages_of_a_reconcile(
    mirror: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crm.sync.session.BETWEEN_CHECKS_S", 0.0)
    mirror.control("edit", module="Deals", id=mirror.ids()[0], values={"Amount": 12})
    due: list[SyncRun] = []

    def fire(run: SyncRun, part: Any) -> None:
        if not due and run.kind == "reconcile":
            due.append(tasks.request_scheduled("delta", timezone.now()))  # type: ignore[arg-type]

    run = mirror.sync("reconcile", on_page=fire)
    due[0].refresh_from_db()
    assert (run.status, due[0].status) == ("succeeded", "succeeded")
    assert due[0].ended_at and run.ended_at and due[0].ended_at < run.ended_at
    mirror.assert_mirrored()


def test_the_night_starts_one_reconcile_of_a_mirror_that_was_read(mirror: Crm) -> None:
    tasks.scheduled_reconcile()
    tasks.scheduled_reconcile()
    run = SyncRun.objects.get(kind="reconcile")
    assert (run.trigger, run.status) == ("schedule", "succeeded")
    assert result(run).is_exact


def test_an_empty_mirror_is_not_reconciled(crm: Crm) -> None:
    tasks.scheduled_reconcile()
    assert not SyncRun.objects.exists()


# -- where people see it --------------------------------------------------------------------------

PROOFS = "/admin/crm/reconciliation/"


def panel(client: Any) -> str:
    page = client.get("/opportunities").content.decode()
    return page[page.index('id="sync-panel"') : page.index("</header>")]


def test_people_see_what_the_last_proof_said(mirror: Crm, rep_client: Any, ops_client: Any) -> None:
    assert "Mirror 100" not in panel(rep_client)
    assert rep_client.get("/api/zoho/status").json()["proof"] is None
    mirror.sync("reconcile")
    said = Reconciliation.objects.get().sentence
    assert said.startswith("Mirror 100 %, 0 of ")
    mirror.sync("delta")  # the last run is another one by now
    assert said in panel(rep_client) and said in panel(ops_client)
    assert PROOFS in panel(ops_client) and PROOFS not in panel(rep_client)
    proof = rep_client.get("/api/zoho/status").json()["proof"]
    assert (proof["sentence"], proof["is_exact"]) == (said, True)


def test_ops_prove_and_repair_from_the_admin_and_see_what_differed(
    mirror: Crm, ops: Any, ops_client: Any, rep_client: Any
) -> None:
    started = ops_client.post(f"{PROOFS}start/auto/", follow=True).content.decode()
    assert "Started: run" in started
    run = SyncRun.objects.latest("pk")
    assert (run.kind, run.status, run.requested_by) == ("reconcile", "succeeded", ops)
    ids = mirror.ids()
    lose(ids[1], amount_minor=1)
    held = SyncRun.objects.create(kind="full", trigger="user", requested_at=timezone.now())
    refused = ops_client.post(f"{PROOFS}start/auto/", follow=True).content.decode()
    assert f"run {held.pk}" in refused
    held.delete()
    page = ops_client.post(f"{PROOFS}start/auto/", follow=True).content.decode()
    page = ops_client.get(PROOFS).content.decode()
    assert "1 of " in page and "all repaired" in page and "Repair what is left" in page
    newest = Reconciliation.objects.latest("pk")
    address = f"/admin/crm/mirrordifference/?reconciliation__id__exact={newest.pk}"
    assert address in page
    shown = ops_client.get(address).content.decode()
    assert ids[1] in shown and "changed there without a new time" in shown
    assert rep_client.post(f"{PROOFS}start/auto/").status_code in (302, 403)
    assert ops_client.post(f"{PROOFS}start/nonsense/").status_code == 404
    assert ops_client.get(f"{PROOFS}start/auto/").status_code == 405
