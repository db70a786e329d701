"""RELIABILITY 9: a record that kills every worker that stores it is found and set aside."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from django.utils import timezone

from crm import tasks
from crm.models import Deal, FailedRecord, SyncRun, SyncRunModule
from crm.sync import reading, runs
from crm.tests import oracle
from crm.tests.processes import run_in_child
from crm.tests.synced import Crm

# A process that is killed may leave half a request behind.
pytestmark = [pytest.mark.processes, pytest.mark.breaks_rules]

KILLED = -signal.SIGKILL
MOST_DEATHS = 20


@pytest.fixture
def paged(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> Crm:
    """Deals come in several pages, one after the other."""
    monkeypatch.setattr(reading, "RANGE_ROWS", 15)
    monkeypatch.setattr(reading, "PAGE_ROWS", 15)
    crm.settings.ZOHO = replace(crm.settings.ZOHO, concurrency=1)
    return crm


def deadly(poison: list[str]) -> str:
    """The failpoints of records that kill."""
    return ",".join(f"store.record.{zoho_id}=kill" for zoho_id in poison)


def requested(kind: str = "full", method: str = "auto") -> SyncRun:
    return runs.request_run(
        kind=kind, trigger="schedule", module_names=["Deals"], method=method, nudge=False
    )


def ended(poison: list[str], kind: str = "full", method: str = "auto") -> tuple[SyncRun, int]:
    """The run once a worker outlives it, and how many it took with it before."""
    return outlived(requested(kind, method), deadly(poison), MOST_DEATHS * len(poison))


def outlived(run: SyncRun, failing: str, most: int) -> tuple[SyncRun, int]:
    for deaths in range(most):
        status = run_in_child(tasks.sweep, failing)
        if status == 0:
            run.refresh_from_db()
            return run, deaths
        assert status == KILLED
    raise AssertionError("the run never ended")


def assert_mirrored_but(crm: Crm, poison: list[str]) -> None:
    wrong = {str(each.zoho_id) for each in oracle.differences(crm.sandbox, ["Deals"])}
    assert wrong == set(poison)


@pytest.mark.parametrize("method", ["auto", "pages"])
@pytest.mark.parametrize("at", [0, 22, 49])
def test_row_9_a_first_sync_goes_on_without_the_record_that_kills(
    paged: Crm, method: str, at: int
) -> None:
    one = sorted(paged.ids(), key=int)[at]
    run, deaths = ended([one], method=method)
    assert (run.status, run.created, run.failed, run.seen) == ("partial", 49, 1, 50), run.message
    assert 4 <= deaths <= 3 + 5  # three, then a page of fifteen in halves: 8, 4, 2, 1
    failed = FailedRecord.objects.get()
    assert (failed.code, failed.zoho_id, failed.resolved_at) == ("poison", int(one), None)
    assert one in failed.payload
    assert_mirrored_but(paged, [one])
    assert set(run.parts.get().isolation) <= {"in_doubt"}  # of the last one nothing came after
    assert "needs a look" in run.message


def test_row_9_two_records_of_one_page_are_found_one_after_the_other(paged: Crm) -> None:
    poison = sorted(paged.ids(), key=int)[20:22]
    run, _ = ended(poison)
    assert (run.status, run.created, run.failed, run.seen) == ("partial", 48, 2, 50), run.message
    assert_mirrored_but(paged, poison)


def test_row_9_the_next_sync_does_not_die_of_it_again_and_stores_it_once_it_changed(
    paged: Crm,
) -> None:
    one = sorted(paged.ids(), key=int)[22]
    ended([one])
    run, deaths = ended([one])
    assert (run.status, run.failed, run.seen, deaths) == ("partial", 1, 50, 0)
    assert FailedRecord.objects.get().attempts == 2
    paged.control("edit", module="Deals", id=one, values={"Next_Step": "harmless now"})
    assert paged.sync("full", "Deals").status == "succeeded"
    assert FailedRecord.objects.get().resolved_at is not None
    paged.assert_mirrored("Deals")


def test_row_9_a_record_that_is_here_already_stays_as_it_was(paged: Crm) -> None:
    paged.sync("full")
    one = sorted(paged.ids(), key=int)[22]
    before = Deal.objects.get(zoho_id=one)
    paged.control("edit", module="Deals", id=one, values={"Next_Step": "deadly"})
    run, _ = ended([one])
    assert (run.status, run.deleted, run.failed) == ("partial", 0, 1)
    after = Deal.objects.get(zoho_id=one)
    assert (after.next_step, after.deleted_at) == (before.next_step, None)


@pytest.mark.parametrize("queries", [True, False])
def test_row_9_a_delta_goes_on_too(paged: Crm, queries: bool) -> None:
    paged.sync("full")
    if not queries:
        rule = {
            "do": "status",
            "path": "/crm/v8/coql",
            "times": 0,
            "status": 401,
            "body": {
                "code": "OAUTH_SCOPE_MISMATCH",
                "details": {},
                "message": "x",
                "status": "error",
            },
        }
        paged.control("faults", rules=[rule])
    ids = sorted(paged.ids(), key=int)[:30]
    for zoho_id in ids:
        paged.control("edit", module="Deals", id=zoho_id, values={"Next_Step": "all of them"})
    run, _ = ended([ids[20]], kind="delta")
    assert (run.status, run.updated, run.failed) == ("partial", 29, 1), run.message
    assert_mirrored_but(paged, [ids[20]])


def test_row_9_three_records_side_by_side_are_found_too(paged: Crm) -> None:
    poison = sorted(paged.ids(), key=int)[15:18]  # where the search looks first
    run, _ = ended(poison)
    assert (run.status, run.created, run.failed, run.seen) == ("partial", 47, 3, 50), run.message
    assert_mirrored_but(paged, poison)


@pytest.mark.parametrize("rows", [1, 15])
@pytest.mark.parametrize("is_each", [True, False])
def test_row_9_where_whatever_is_stored_kills_no_record_is_blamed(
    paged: Crm, monkeypatch: pytest.MonkeyPatch, rows: int, is_each: bool
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", rows)
    failing = deadly(paged.ids()) if is_each else "store.after_rows=kill"
    run, _ = outlived(requested(), failing, MOST_DEATHS)
    assert (run.status, run.error_code, run.seen) == ("failed", "workers_died", run.failed)
    assert "start it again" in run.message
    assert not FailedRecord.objects.filter(resolved_at__isnull=True).exists()
    run = paged.sync("full", "Deals")
    assert (run.status, run.created, run.failed) == ("succeeded", 50, 0), run.message
    paged.assert_mirrored("Deals")


@pytest.mark.parametrize("nth", [1, 2])
def test_row_9_a_piece_that_was_rolled_back_is_not_taken_for_stored(paged: Crm, nth: int) -> None:
    one = sorted(paged.ids(), key=int)[0]
    run = requested()
    for _ in range(4):  # the fourth has halved the page
        assert run_in_child(tasks.sweep, deadly([one])) == KILLED
    assert run_in_child(tasks.sweep, f"store.before_commit:{nth}=error") == 0
    part = SyncRunModule.objects.get(run=run)
    stored = set(Deal.objects.filter(is_stub=False).values_list("zoho_id", flat=True))
    assert {int(key) for key in part.isolation["stored"]} == stored if nth == 2 else not stored
    # A person's Ctrl-C would leave it so: to be gone on with.
    SyncRun.objects.filter(pk=run.pk).update(status="aborted", ended_at=timezone.now())
    assert requested().pk == run.pk
    tasks.sweep()
    run.refresh_from_db()
    assert (run.status, run.created, run.failed, run.seen) == ("succeeded", 50, 0, 50), run.message
    paged.assert_mirrored("Deals")
