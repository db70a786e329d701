"""A changed mapping over the kept records; records that failed, tried again or dismissed."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from crm import tasks
from crm.models import (
    ChangeEvent,
    Deal,
    FailedRecord,
    FieldMapping,
    MirrorState,
    ReceivedRecord,
    SyncRun,
)
from crm.sync import bulk_read, failures, replay, runs
from crm.sync.execute import execute
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm

KILLED = -signal.SIGKILL


@pytest.fixture
def mirror(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> Crm:
    monkeypatch.setattr(replay, "STORED_AT_ONCE", 20)
    assert crm.sync("full").status == "succeeded"
    return crm


def remap(ours: str, api: str) -> None:
    FieldMapping.objects.update_or_create(
        module="Deals", our_field=ours, defaults={"api_name": api}
    )
    replay.queue("Deals")


def swapped(crm: Crm) -> dict[int, str | None]:
    """What next_step is to be once Lead_Source feeds it."""
    records = crm.control("dump", module="Deals")["records"]
    return {int(record["id"]): record["Lead_Source"] for record in records}


def test_a_changed_mapping_is_replayed_without_a_download(mirror: Crm) -> None:
    before = mirror.requests()
    old = dict(Deal.objects.values_list("zoho_id", "next_step"))
    remap("next_step", "Lead_Source")
    tasks.sweep()
    run = SyncRun.objects.get(kind="replay")
    assert (run.status, run.seen, run.api_calls) == ("succeeded", 50, 0), run.message
    assert mirror.requests() == before
    new = dict(Deal.objects.values_list("zoho_id", "next_step"))
    assert new == swapped(mirror)
    changed = [zoho_id for zoho_id in new if new[zoho_id] != old[zoho_id]]
    assert run.updated == len(changed) > 0
    events = ChangeEvent.objects.filter(source="replay")
    assert events.count() == len(changed)
    assert set(events.values_list("kind", "field")) == {("changed", "next_step")}
    assert replay.needed() == []
    tasks.sweep()
    assert SyncRun.objects.filter(kind="replay").count() == 1


def test_a_replay_that_changes_nothing_writes_nothing(mirror: Crm) -> None:
    before, events = list(Deal.objects.values()), ChangeEvent.objects.count()
    run = mirror.sync("replay")
    assert (run.status, run.unchanged) == ("succeeded", run.seen)
    assert (list(Deal.objects.values()), ChangeEvent.objects.count()) == (before, events)
    mirror.assert_mirrored()


def test_a_bulk_row_replays_like_any_other(mirror: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_read, "FIRST_POLL_S", 0.01)
    mirror.control("config", bulk_job_s=0)
    mirror.forget_mirror()
    mirror.sync("full", method="bulk")
    run = mirror.sync("replay")
    assert (run.status, run.unchanged) == ("succeeded", run.seen)
    remap("next_step", "Lead_Source")
    tasks.sweep()
    assert dict(Deal.objects.values_list("zoho_id", "next_step")) == swapped(mirror)


def test_what_was_deleted_stays_deleted(mirror: Crm) -> None:
    gone = mirror.ids()[3]
    mirror.control("delete", module="Deals", ids=[gone])
    mirror.sync("delta")
    remap("next_step", "Lead_Source")
    tasks.sweep()
    assert Deal.objects.get(zoho_id=gone).deleted_at is not None
    assert Deal.objects.live().count() == 49


def test_a_field_that_was_not_read_is_named_and_kept(mirror: Crm) -> None:
    old = dict(Deal.objects.values_list("zoho_id", "next_step"))
    remap("next_step", "Campaign_Source")
    tasks.sweep()
    run = SyncRun.objects.get(kind="replay")
    said = "Deals: The kept records do not hold Campaign_Source: a full sync reads what is missing."
    assert (run.status, run.message) in (("succeeded", said), ("succeeded", ""))
    assert dict(Deal.objects.values_list("zoho_id", "next_step")) == old


@pytest.mark.parametrize("place", ["replay.after_page:2", "store.before_commit:2"])
def test_row_1_a_replay_killed_at(mirror: Crm, place: str) -> None:
    remap("next_step", "Lead_Source")
    run = runs.request_run(kind="replay", trigger="command", module_names=["Deals"], nudge=False)
    assert run_in_child(lambda: execute(run.pk), f"{place}=kill") == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.seen) == ("succeeded", 50)
    assert dict(Deal.objects.values_list("zoho_id", "next_step")) == swapped(mirror)


def test_a_mapping_that_changes_once_more_meanwhile_is_replayed_once_more(mirror: Crm) -> None:
    remap("next_step", "Lead_Source")
    run = runs.request_run(kind="replay", trigger="command", module_names=["Deals"], nudge=False)
    execute(run.pk, on_page=lambda run, part: replay.queue("Deals"))
    assert replay.needed() == ["Deals"]


def test_changing_a_mapping_in_the_admin_queues_the_replay(mirror: Crm, ops_client: Any) -> None:
    data = {"module": "Deals", "our_field": "next_step", "api_name": "Lead_Source"}
    ops_client.post("/admin/crm/fieldmapping/add/", data)
    row = FieldMapping.objects.get()
    tasks.sweep()
    assert dict(Deal.objects.values_list("zoho_id", "next_step")) == swapped(mirror)
    ops_client.post(f"/admin/crm/fieldmapping/{row.pk}/delete/", {"post": "yes"})
    tasks.sweep()
    assert not MirrorState.objects.filter(replay_needed=True).exists()
    mirror.assert_mirrored("Deals")


def test_another_profile_queues_the_replay_and_is_used(mirror: Crm) -> None:
    mirror.settings.ZOHO_FIELD_PROFILE = "och"
    mirror.sync("full")
    assert replay.needed() == ["Deals"]
    tasks.sweep()
    assert SyncRun.objects.get(kind="replay").status == "succeeded"
    assert replay.needed() == []


# -- failures -------------------------------------------------------------------------------------


@pytest.fixture
def broken(crm: Crm) -> FailedRecord:
    """A record that came without a readable form; the CRM has it in good form again by now."""
    rule = {"do": "rewrite", "path": "/crm/v8/coql", "body_contains": "id <=", "twice": "Deal_Name"}
    crm.sync("full", "Accounts", "Contacts", "Leads")
    crm.control("faults", rules=[rule])
    crm.sync("full", "Deals")
    crm.control("clear_faults")
    return FailedRecord.objects.get()


@pytest.mark.breaks_rules
def test_row_66_a_failed_record_is_stored_when_tried_again(
    crm: Crm, broken: FailedRecord, ops: Any
) -> None:
    assert broken.code == "not_an_object" and broken.zoho_id
    assert not Deal.objects.filter(zoho_id=broken.zoho_id).exists()
    outcome = failures.retry(broken, user=ops)
    assert outcome.result == "stored"
    assert Deal.objects.filter(zoho_id=broken.zoho_id, deleted_at=None).exists()
    broken.refresh_from_db()
    assert (broken.resolution, broken.resolved_by) == ("stored", ops)
    crm.assert_mirrored("Deals")


@pytest.mark.breaks_rules
def test_row_66_the_replay_button_of_api_and_admin(
    crm: Crm, broken: FailedRecord, ops_client: Any, rep_client: Any
) -> None:
    listed = ops_client.get("/api/zoho/failures?resolved=false").json()
    (row,) = listed["results"] if "results" in listed else listed["items"]
    assert (row["module"], row["zoho_id"]) == ("Deals", str(broken.zoho_id))
    path = f"/api/zoho/failures/{broken.pk}/retry"
    assert rep_client.post(path).status_code == 403
    told = ops_client.post(path)
    assert (told.status_code, told.json()["result"]) == (200, "stored")
    assert told.json()["failure"]["resolved_at"]
    assert ops_client.post("/api/zoho/failures/999999/retry").status_code == 404
    assert ops_client.get(f"/api/zoho/failures/{broken.pk}").json()["payload"]


@pytest.mark.breaks_rules
def test_a_failed_record_that_the_crm_has_no_more_is_settled(
    crm: Crm, broken: FailedRecord
) -> None:
    crm.control("delete", module="Deals", ids=[str(broken.zoho_id)], type="permanent")
    assert failures.retry(broken).result == "gone"
    broken.refresh_from_db()
    assert broken.resolution == "gone" and broken.resolved_at


def test_a_record_without_id_is_mapped_again_from_its_payload(mirror: Crm, now: Any) -> None:
    failed = FailedRecord.objects.create(
        module="Deals", dedupe_key="x", code="no_id", message="The record has no id.",
        payload='{"Deal_Name": "Nobody\'s"}', first_seen_at=now, last_seen_at=now,
    )  # fmt: skip
    outcome = failures.retry(failed)
    assert (outcome.result, outcome.message) == ("failed", failed.message)
    assert (failed.attempts, failed.resolved_at) == (2, None)
    kept = ReceivedRecord.objects.filter(module="Deals").first()
    assert kept is not None
    failed.payload = kept.body
    failed.save()
    assert failures.retry(failed).result == "stored"


@pytest.mark.breaks_rules
def test_the_admin_tries_again_and_dismisses_and_says_who(
    crm: Crm, broken: FailedRecord, ops_client: Any, ops: Any
) -> None:
    from django.contrib.admin.models import LogEntry

    chosen = {"_selected_action": [broken.pk]}
    ops_client.post("/admin/crm/failedrecord/", {"action": "dismiss", **chosen})
    broken.refresh_from_db()
    assert (broken.resolution, broken.resolved_by) == ("dismissed", ops)
    FailedRecord.objects.update(resolved_at=None, resolution="", resolved_by=None)
    ops_client.post("/admin/crm/failedrecord/", {"action": "try_again", **chosen})
    broken.refresh_from_db()
    assert (broken.resolution, broken.resolved_by) == ("stored", ops)
    said = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
    assert [json.loads(text)[0] if text.startswith("[") else text for text in said][-2:] == [
        "Dismissed.", "Tried again: stored."]  # fmt: skip


def test_the_crm_is_away_and_the_failure_stays(mirror: Crm, ops_client: Any, now: Any) -> None:
    failed = FailedRecord.objects.create(
        module="Deals", zoho_id=int(mirror.ids()[0]), dedupe_key="x", code="not_an_object",
        message="No.", payload="[]", first_seen_at=now, last_seen_at=now,
    )  # fmt: skip
    mirror.sandbox.stop()
    assert ops_client.post(f"/api/zoho/failures/{failed.pk}/retry").status_code == 503
    failed.refresh_from_db()
    assert failed.resolved_at is None


def test_the_api_starts_a_reconcile_and_tells_its_result(
    mirror: Crm, ops_client: Any, rep_client: Any
) -> None:
    refused = rep_client.post("/api/zoho/reconcile", "{}", content_type="application/json")
    assert refused.status_code == 403
    started = ops_client.post("/api/zoho/reconcile", "{}", content_type="application/json")
    assert started.status_code == 202, started.content
    listed = rep_client.get("/api/zoho/reconciliations").json()
    rows = listed.get("results") or listed.get("items")
    assert rows[0]["is_exact"] is True and "0 of" in rows[0]["sentence"]
    one = rep_client.get(f"/api/zoho/reconciliations/{rows[0]['id']}").json()
    assert one["differences"] == [] and one["modules"]["Deals"]["checked"] == 50
