"""A full sync by the CRM's bulk read: the same rows and events as by id ranges and by pages."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crm import tasks
from crm.models import (
    Account,
    ChangeEvent,
    Contact,
    CrmUser,
    Deal,
    DeletionHold,
    FailedRecord,
    ReceivedRecord,
    RecordProblem,
    SweepCandidate,
    SyncRun,
)
from crm.sandbox import bulk as sandbox_bulk
from crm.sync import bulk_read, modules, reading, runs, ways
from crm.sync.execute import execute
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm

KILLED = -signal.SIGKILL
PEOPLE = ("owner_id", "modified_by_id")
OURS = {"id", "change_seq", "updated_at", "first_seen_at", "read_at", "content_hash"}


@pytest.fixture
def bulk_crm(
    make_crm: Callable[..., Crm],
    many_seed: Path,
    transactional_db: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Crm:
    """450 deals; a job holds 130 of them, a page of ours 40."""
    monkeypatch.setattr(sandbox_bulk, "ROWS_PER_JOB", 130)  # before the sandbox is forked
    crm = make_crm(many_seed)
    monkeypatch.setattr(reading, "RANGE_ROWS", 40)
    monkeypatch.setattr(bulk_read, "STORED_AT_ONCE", 40)
    monkeypatch.setattr(bulk_read, "FIRST_POLL_S", 0.01)
    crm.control("config", bulk_job_s=0)
    return crm


def state() -> dict[str, Any]:
    """All that a sync stores of records, with the CRM's ids in the place of ours."""
    people = dict(CrmUser.objects.values_list("pk", "zoho_id"))
    keys = {
        "owner_id": people,
        "modified_by_id": people,
        "account_id": dict(Account.objects.values_list("pk", "zoho_id")),
        "contact_id": dict(Contact.objects.values_list("pk", "zoho_id")),
    }
    found: dict[str, Any] = {}
    for module in modules.ORDER:
        names = dict(module.model.objects.values_list("pk", "zoho_id"))
        rows = {}
        for row in module.model.objects.values():
            rows[row["zoho_id"]] = {
                name: keys[name].get(value) if name in keys else value
                for name, value in row.items()
                if name not in OURS
            }
        events = []
        for event in ChangeEvent.objects.filter(module=module.name):
            new = json.loads(event.new or "null")
            if isinstance(new, dict):
                new = {k: keys[k].get(v) if k in keys else v for k, v in new.items()}
            said = (event.kind, event.field, event.changed_at, event.source)
            events.append((names[event.record_id], *map(str, said), json.dumps(new)))
        kept = {
            names[pk] for pk in ReceivedRecord.objects.filter(module=module.name).values_list(
                "record_id", flat=True
            )
        }  # fmt: skip
        problems = sorted(
            (names[pk], field, code, message)
            for pk, field, code, message in RecordProblem.objects.filter(
                module=module.name
            ).values_list("record_id", "field", "code", "message")
        )
        found[module.name] = (rows, sorted(events), kept, problems)
    return found


def awkward(crm: Crm) -> None:
    """Values on which a CSV and JSON could differ."""
    ids = crm.ids()
    for zoho_id, values in zip(
        ids,
        [
            {"Deal_Name": 'He said "now",\r\nthen left', "Description": "a\nb\r\n\n;c,\t"},
            {"Amount": 0.005, "Probability": 0, "Next_Step": "007"},
            {"Amount": None, "Description": "", "AWS_Funded": True},
            {"Amount": 1234567890.12, "Deal_Name": "数据 – naïve 🚀"},
            {"Amount": -5, "Strategic_Account": False, "Closing_Date": None},
        ],
        strict=False,
    ):
        crm.control("edit", module="Deals", id=zoho_id, values=values)


def test_pages_ranges_and_bulk_give_equal_rows_and_events(bulk_crm: Crm) -> None:
    awkward(bulk_crm)

    def synced(method: str) -> dict[str, Any]:
        bulk_crm.forget_mirror()
        run = bulk_crm.sync("full", method=method)
        assert (run.status, run.message) == ("succeeded", ""), run.message
        assert run.seen == run.created == sum(len(bulk_crm.ids(m)) for m in run.modules)
        by = {part.module: part.method for part in run.parts.all()}
        assert by == {**dict.fromkeys(run.modules, method), "Leads": "pages"}
        bulk_crm.assert_mirrored()
        return state()

    by_bulk = synced("bulk")
    assert by_bulk == synced("ranges")
    assert by_bulk == synced("pages")


def test_what_is_kept_of_a_bulk_row_maps_to_the_same_again(bulk_crm: Crm) -> None:
    awkward(bulk_crm)
    bulk_crm.sync("full", method="bulk")
    bodies = dict(ReceivedRecord.objects.filter(module="Deals").values_list("record_id", "body"))
    for deal in Deal.objects.all():
        kept = json.loads(bodies[deal.pk])
        assert kept["id"] == str(deal.zoho_id)  # above 2^53: never a number
        assert kept["Owner"] == {"id": str(deal.owner.zoho_id)}


def test_a_second_bulk_sync_finds_everything_unchanged(bulk_crm: Crm) -> None:
    bulk_crm.sync("full", method="ranges")
    before, events = state(), ChangeEvent.objects.count()
    run = bulk_crm.sync("full", method="bulk")
    assert (run.status, run.unchanged) == ("succeeded", run.seen)
    assert (state(), ChangeEvent.objects.count()) == (before, events)


def test_what_happened_meanwhile_is_found_by_a_bulk_sync(bulk_crm: Crm) -> None:
    bulk_crm.sync("full")
    ids = bulk_crm.ids()
    bulk_crm.control("edit", module="Deals", id=ids[7], values={"Amount": 4321.5})
    bulk_crm.control(
        "insert", module="Deals", values={"Deal_Name": "Fresh", "Stage": "Qualification"}
    )
    bulk_crm.control("delete", module="Deals", ids=[ids[0], ids[200], ids[-1]])
    run = bulk_crm.sync("full", "Deals", method="bulk")
    assert (run.status, run.created, run.updated, run.deleted) == ("succeeded", 1, 1, 3)
    bulk_crm.assert_mirrored("Deals")
    gone = Deal.objects.filter(deleted_at__isnull=False)
    assert sorted(str(deal.zoho_id) for deal in gone) == sorted([ids[0], ids[200], ids[-1]])
    assert {deal.deleted_source for deal in gone} == {"full"}
    assert not SweepCandidate.objects.exists()


def test_row_52_a_module_that_vanishes_from_the_file_is_held_for_ops(bulk_crm: Crm) -> None:
    bulk_crm.sync("full")
    bulk_crm.control("delete", module="Deals", ids=bulk_crm.ids()[:60])
    run = bulk_crm.sync("full", "Deals", method="bulk")
    assert run.deleted == 0
    assert Deal.objects.live().count() == 450
    assert DeletionHold.objects.get().module == "Deals"


def test_a_record_deleted_between_two_jobs_hides_no_other(
    bulk_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By page numbers, the first record of the next job would slip into neither file."""
    ids, number = bulk_crm.ids(), iter(range(100))
    start = bulk_read._Reader._start

    def started(self: Any, *, page: int, token: str | None = None) -> None:
        if next(number) == 1:
            bulk_crm.control("delete", module="Deals", ids=[ids[3]], type="permanent")
        start(self, page=page, token=None)

    monkeypatch.setattr(bulk_read._Reader, "_start", started)
    run = bulk_crm.sync("full", "Deals", method="bulk")
    assert run.status == "succeeded", run.message
    live = set(map(str, Deal.objects.live().values_list("zoho_id", flat=True)))
    assert live >= set(ids) - {ids[3]}
    assert ids[130] in live  # it moved up into the place that the first file had covered


def test_an_edit_while_the_job_runs_is_left_to_the_next_delta(bulk_crm: Crm) -> None:
    def edit(run: SyncRun, part: Any) -> None:
        if part.module == "Deals" and part.pages == 0 and not edited:
            edited.append(bulk_crm.ids()[-1])
            bulk_crm.control("edit", module="Deals", id=edited[0], values={"Next_Step": "Call"})

    edited: list[str] = []
    run = bulk_crm.sync("full", "Deals", method="bulk", on_page=edit)
    assert run.status == "succeeded" and edited
    bulk_crm.sync("delta", "Deals")
    assert Deal.objects.get(zoho_id=edited[0]).next_step == "Call"
    bulk_crm.assert_mirrored("Deals")


# -- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "bulk.after_start=kill",
        "bulk.before_file:2=kill",
        "bulk.after_piece:2=kill",
        "bulk.after_piece:7=kill",
        "store.before_commit:3=kill",
        "store.after_commit:9=kill",
        "full.before_sweep=kill",
        "full.after_watermark=kill",
    ],
)
def test_row_1_a_bulk_sync_killed_at(bulk_crm: Crm, place: str) -> None:
    bulk_crm.sync("full", "Deals", method="ranges")
    ids = bulk_crm.ids()
    bulk_crm.control("delete", module="Deals", ids=[ids[5], ids[300]])
    bulk_crm.control("edit", module="Deals", id=ids[400], values={"Amount": 77})
    run = runs.request_run(
        kind="full", trigger="command", module_names=["Deals"], method="bulk", nudge=False
    )
    assert run_in_child(lambda: execute(run.pk), place) == KILLED
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.message) == ("succeeded", ""), run.message
    assert (run.seen, run.updated, run.deleted) == (448, 1, 2)
    assert run.parts.get().method == "bulk"
    bulk_crm.assert_mirrored("Deals")


def test_a_run_that_resumes_asks_for_no_further_job(bulk_crm: Crm) -> None:
    run = runs.request_run(
        kind="full", trigger="command", module_names=["Deals"], method="bulk", nudge=False
    )
    pages = iter(range(100))
    execute(run.pk, should_stop=lambda: next(pages) == 4)
    run.refresh_from_db()
    assert run.status == "queued" and run.pages
    before = bulk_crm.control("stats")["credits_used"]
    jobs = len(run.parts.get().cursor["jobs"])
    execute(run.pk)
    run.refresh_from_db()
    assert (run.status, run.seen) == ("succeeded", 450)
    spent = bulk_crm.control("stats")["credits_used"] - before
    assert spent < 50 * (4 - jobs) + 40  # four jobs make the module


def test_a_file_that_has_expired_is_asked_for_anew_and_counted_once(bulk_crm: Crm) -> None:
    run = runs.request_run(
        kind="full", trigger="command", module_names=["Deals"], method="bulk", nudge=False
    )
    execute(run.pk, should_stop=lambda: Deal.objects.count() > 100)
    run.refresh_from_db()
    assert run.status == "queued" and run.seen
    first = run.parts.get().cursor["jobs"][0][0]
    bulk_crm.control("config", clock_offset_s=86_500)
    execute(run.pk)
    run.refresh_from_db()
    assert run.status == "succeeded", run.message
    assert (run.seen, run.created) == (450, 450)
    assert run.parts.get().cursor["jobs"][0][0] != first
    assert Deal.objects.live().count() == 450


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_job_that_fails_leaves_the_module_to_id_ranges(bulk_crm: Crm) -> None:
    bulk_crm.control("config", bulk_failures=1)
    run = bulk_crm.sync("full", "Deals", method="bulk")
    part = run.parts.get()
    assert (run.status, part.method, run.seen) == ("succeeded", "ranges", 450)
    assert part.message == "Read by ranges: The CRM's bulk job failed (the job failed)."
    bulk_crm.assert_mirrored("Deals")


def test_a_connection_without_the_bulk_scope_reads_by_ranges(bulk_crm: Crm) -> None:
    bulk_crm.control("config", scopes=["ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL",
        "ZohoCRM.users.READ", "ZohoCRM.org.READ", "ZohoCRM.coql.READ"])  # fmt: skip
    run = bulk_crm.sync("full", "Deals", method="bulk")
    part = run.parts.get()
    assert (run.status, part.method) == ("succeeded", "ranges"), run.message
    assert "ZohoCRM.bulk.READ" in part.message
    bulk_crm.assert_mirrored("Deals")


def test_row_66_a_record_that_cannot_be_stored_is_set_aside_by_a_bulk_sync_too(
    bulk_crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = bulk_read.read_rows

    def with_a_short_row(file: Any, columns: Any) -> Any:
        for at, record in enumerate(broken(file, columns)):
            yield record if at != 3 else bulk_read.RawRecord([record.value["id"]], "[]")

    monkeypatch.setattr(bulk_read, "read_rows", with_a_short_row)
    run = bulk_crm.sync("full", "Deals", method="bulk")
    assert (run.status, run.seen, run.failed) == ("partial", 450, 4)
    assert FailedRecord.objects.filter(code="not_an_object").exists()


def test_the_cheaper_way_is_taken_by_itself(bulk_crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bulk_crm.sync("full", "Deals").parts.get().method == "ranges"
    # As if each query brought one row: 450 of them cost more than four jobs.
    monkeypatch.setattr(ways, "ROWS_A_QUERY", 1)
    run = bulk_crm.sync("full", "Deals")
    assert (run.status, run.parts.get().method, run.unchanged) == ("succeeded", "bulk", 450)
    rows, seconds = bulk_read.last_job("Deals") or (0, -1.0)
    assert 0 < rows <= 130 and seconds >= 0
