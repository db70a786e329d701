"""Whole runs against a second stand-in CRM: what the documentation leaves open loses no record.

Each bend is one that the first stand-in does not have; after it the mirror is the CRM, or says
what it could not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from crm.freshness import freshness_seconds
from crm.models import Deal, DeletionHold, Lead, MirrorState, SyncRun
from crm.sync import dry_run, reading, runs
from crm.sync.execute import execute
from crm.sync.modules import BY_NAME
from crm.tests.foreign_crm import ForeignCrm, foreign_crm, stamp
from crm.tests.synced import zoho_settings


@pytest.fixture
def crm(settings: Any, transactional_db: None) -> Iterator[ForeignCrm]:
    """Thirty deals and five of each other module."""
    with foreign_crm(Accounts=5, Contacts=5, Leads=5, Deals=30) as crm:
        settings.ZOHO = zoho_settings(crm.url)
        yield crm


def sync(kind: str = "full", *names: str, **options: Any) -> SyncRun:
    run = runs.request_run(kind=kind, trigger="command", module_names=names, nudge=False, **options)
    execute(run.pk)
    run.refresh_from_db()
    return run


def live(module: str = "Deals") -> list[int]:
    rows = BY_NAME[module].model.objects.live().order_by("zoho_id")
    return list(rows.values_list("zoho_id", flat=True))


def insert(crm: ForeignCrm, count: int, module: str = "Deals") -> None:
    for _ in range(count):
        crm.insert(module)


# -- lists ----------------------------------------------------------------------------------------


def test_a_query_that_hands_out_only_what_was_selected_is_read(crm: ForeignCrm) -> None:
    crm.flags = {"no_row_id"}
    run = sync()
    assert (run.status, run.failed) == ("succeeded", 0), run.message
    assert live() == crm.ids()
    assert run.parts.get(module="Deals").method == "ranges"


@pytest.mark.parametrize("method", ["auto", "pages"])
@pytest.mark.parametrize("count", [399, 400, 401])
def test_pages_that_do_not_say_whether_there_are_more_end_where_they_are_not_full(
    crm: ForeignCrm, method: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RANGE_ROWS", 100)
    insert(crm, count - 30)
    crm.flags = {"noinfo"}
    run = sync("full", "Deals", method=method)
    assert (run.status, run.seen) == ("succeeded", count), run.message
    assert live() == crm.ids()
    for zoho_id in crm.ids():
        crm.edit(zoho_id, Deal_Name="again")
    crm.delete(*crm.ids()[:3])
    assert sync("delta", "Deals").status == "succeeded"
    assert live() == crm.ids()
    assert not Deal.objects.live().exclude(name="again").exists()


def test_without_page_tokens_the_numbers_of_pages_serve(crm: ForeignCrm) -> None:
    insert(crm, 420)
    crm.flags = {"notoken"}
    run = sync("full", "Deals", method="pages")
    assert (run.status, run.seen) == ("succeeded", 450), run.message
    assert live() == crm.ids()
    assert [int(call[-1]) for call in crm.calls("GET Deals fields") if "&page=" in call] == [2, 3]


def test_beyond_what_numbers_reach_the_rest_is_read_by_ranges(crm: ForeignCrm) -> None:
    insert(crm, 2100)
    crm.flags = {"notoken"}
    run = sync("full", "Deals", method="pages")
    assert (run.status, run.seen) == ("succeeded", 2130), run.message
    assert live() == crm.ids()


def test_beyond_what_numbers_reach_and_without_queries_the_module_is_named_as_unread(
    crm: ForeignCrm,
) -> None:
    insert(crm, 2100)
    crm.flags = {"notoken", "nocoql"}
    run = sync()
    assert run.status == "partial"
    assert {p.module: p.state for p in run.parts.all()} == {
        "Accounts": "done", "Contacts": "done", "Leads": "done", "Deals": "refused"}  # fmt: skip
    assert "page numbers reach 2000" in run.message
    assert MirrorState.objects.get(module="Deals").watermark is None


def test_a_delta_of_a_crm_that_ignores_the_time_ends_at_the_first_old_page(
    crm: ForeignCrm,
) -> None:
    insert(crm, 800, "Leads")
    sync("full", "Leads")
    crm.flags, crm.ahead = {"since_ignored"}, timedelta(hours=1)
    changed = crm.ids("Leads")[3]
    crm.edit(changed, "Leads", Company="Changed Ltd")
    crm.asked.clear()
    run = sync("delta", "Leads")
    assert (run.status, run.updated) == ("succeeded", 1)
    assert Lead.objects.get(zoho_id=changed).company == "Changed Ltd"
    assert len(crm.calls("GET Leads fields")) == 2
    assert run.seen == 200  # the page with the change, and nothing behind it


# -- deletions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bend", ["ids_ignored", "ids_400"])
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_what_lives_is_not_taken_for_deleted_whatever_asking_by_ids_answers(
    crm: ForeignCrm, bend: str, kind: str
) -> None:
    insert(crm, 300)
    sync()
    crm.flags = {bend}
    gone, alive = crm.ids()[:3], crm.ids()[3]
    crm.delete(*gone)
    crm.tell_deleted(alive)  # and at once restored
    run = sync(kind)
    assert (run.status, run.deleted) == ("succeeded", 3), run.message
    assert live() == crm.ids()


def test_what_cannot_be_asked_at_all_is_kept_and_named(crm: ForeignCrm) -> None:
    sync()
    crm.flags = {"ids_ignored", "no_single"}
    crm.delete(*crm.ids()[:2])
    run = sync("delta")
    assert (run.status, run.deleted) == ("succeeded", 0)
    assert "Whether 2 of our deals still exist" in run.message
    assert len(live()) == 30


def test_once_there_are_too_many_to_believe_no_more_are_asked_for(crm: ForeignCrm) -> None:
    insert(crm, 470)
    sync("full", "Deals")
    ids = crm.ids()
    crm.delete(*ids, told=False)
    crm.asked.clear()
    run = sync("full", "Deals")
    assert (run.deleted, len(live())) == (0, 500)
    hold = DeletionHold.objects.get()
    assert sorted(hold.zoho_ids) == ids
    assert len(hold.unasked_ids) == 400 and set(hold.unasked_ids) < set(ids)
    assert "500 of 500" in run.message and "100 of them were asked for" in run.message
    assert "400 not asked for" in str(hold)
    assert len(crm.calls("ids=")) == 2


def test_a_hold_remembers_which_ids_were_asked_for(crm: ForeignCrm) -> None:
    insert(crm, 120)
    sync("full", "Deals")
    crm.delete(*crm.ids(), told=False)
    sync("full", "Deals")
    asked = set(DeletionHold.objects.get().zoho_ids) - set(DeletionHold.objects.get().unasked_ids)
    sync("full", "Deals")
    hold = DeletionHold.objects.get()
    assert asked == set(hold.zoho_ids) - set(hold.unasked_ids)
    assert len(asked) == 100 and len(hold.zoho_ids) == 150


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_row_45_a_window_that_is_read_again_counts_each_record_once(
    crm: ForeignCrm, kind: str
) -> None:
    crm.flags = {"nocoql"}
    if kind == "delta":
        sync("full", "Deals")
        crm.edit(crm.ids()[7], Deal_Name="changed")
    ids = crm.ids()
    crm.between = {"Deals": lambda: crm.delete(ids[0])}
    crm.asked.clear()
    run = sync(kind, "Deals")
    readings = [call for call in crm.calls("GET Deals fields") if "ids=" not in call]
    assert len(readings) == 2
    assert run.status == "succeeded", run.message
    assert live() == crm.ids()
    if kind == "full":
        assert (run.seen, run.created, run.unchanged) == (30, 30, 0)
    else:
        assert (run.seen, run.updated, run.unchanged) == (1, 1, 0)


def test_row_45_a_deletion_of_the_minute_before_the_run_has_its_window_read_again(
    crm: ForeignCrm,
) -> None:
    sync("full", "Deals")
    crm.flags = {"nocoql"}
    crm.ahead = timedelta(seconds=-30)  # the machine that keeps the list
    crm.delete(crm.ids()[0])
    crm.ahead = timedelta()
    crm.asked.clear()
    sync("delta", "Deals")
    assert len([c for c in crm.calls("GET Deals fields") if "ids=" not in c]) == 2
    assert live() == crm.ids()


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_delta_by_pages_that_was_stopped_counts_nothing_twice(
    crm: ForeignCrm, pages: int
) -> None:
    insert(crm, 420)
    sync("full", "Deals")
    crm.flags = {"nocoql"}
    for zoho_id in crm.ids()[:200]:
        crm.edit(zoho_id, Deal_Name="changed")
    for zoho_id in crm.ids()[200:]:
        crm.edit(zoho_id)
    run = stopped("delta", after_pages=pages)
    execute(run.pk)
    run.refresh_from_db()
    assert (run.status, run.seen, run.updated, run.unchanged) == ("succeeded", 450, 200, 250)
    assert run.parts.get().seen == 450


def stopped(kind: str, *, after_pages: int) -> SyncRun:
    """A run of the deals that a deploy stops after so many pages."""
    run = runs.request_run(kind=kind, trigger="command", module_names=["Deals"], nudge=False)
    pages = iter(range(after_pages))
    execute(run.pk, should_stop=lambda: next(pages) == after_pages - 1)
    run.refresh_from_db()
    assert (run.status, run.pages) == ("queued", after_pages)
    return run


def test_row_45_a_window_opened_again_stays_open_until_it_was_read(crm: ForeignCrm) -> None:
    insert(crm, 420)
    sync("full", "Deals")
    crm.flags, crm.ahead = {"nocoql"}, timedelta(minutes=1)
    ids = crm.ids()
    for zoho_id in ids[:230]:
        crm.edit(zoho_id, Deal_Name="changed")
    crm.ahead = timedelta(minutes=31)
    crm.between = {"Deals": lambda: crm.delete(ids[5], told=False)}
    assert sync("delta", "Deals").status == "succeeded"
    assert Deal.objects.filter(zoho_id__in=ids[:230]).exclude(name="changed").count() == 1
    crm.tell_deleted(ids[5])  # the list had lagged
    crm.ahead = timedelta(minutes=46)
    one = crm.insert(Deal_Name="new", Modified_Time=stamp(crm.now))
    run = stopped("delta", after_pages=2)  # the page of this window, and one of the last
    execute(run.pk)
    assert live() == crm.ids() and one in live()
    assert not Deal.objects.live().filter(zoho_id__in=ids[:230]).exclude(name="changed").exists()


# -- what concerns one module ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize(
    ("bend", "words"),
    [("refuse_Leads", "INVALID_REQUEST"), ("lost_Leads", "INVALID_URL_PATTERN"),
     ("loop_Leads", "already")],
)  # fmt: skip
def test_a_module_that_cannot_be_read_keeps_no_other_waiting(
    crm: ForeignCrm, kind: str, bend: str, words: str
) -> None:
    sync()
    marks = dict(MirrorState.objects.values_list("module", "watermark"))
    crm.flags, crm.ahead = {bend}, timedelta(minutes=30)
    one = crm.insert("Deals")
    run = sync(kind)
    assert run.status == "partial"
    assert {p.module: p.state for p in run.parts.all()} == {
        "Accounts": "done", "Contacts": "done", "Leads": "refused", "Deals": "done"}  # fmt: skip
    assert "Leads" in run.message and words in run.message
    assert one in live() or kind == "delta"
    assert live("Leads") == crm.ids("Leads")
    now = dict(MirrorState.objects.values_list("module", "watermark"))
    assert now["Leads"] == marks["Leads"] and now["Deals"] > marks["Deals"]
    crm.flags = set()
    assert sync(kind).status == "succeeded"


def test_a_refused_query_of_one_module_leaves_the_others_their_queries(crm: ForeignCrm) -> None:
    crm.flags = {"no_coql_of_Accounts"}
    run = sync()
    assert run.status == "succeeded", run.message
    methods = {part.module: part.method for part in run.parts.all()}
    assert methods == {"Accounts": "pages", "Contacts": "ranges", "Leads": "pages",
                       "Deals": "ranges"}  # fmt: skip
    crm.asked.clear()
    sync("delta")
    assert crm.calls("COQL select id, Deal_Name")
    assert not crm.calls("GET Deals fields")


def test_a_dry_run_goes_on_past_a_module_that_cannot_be_read(crm: ForeignCrm) -> None:
    sync()
    crm.flags = {"loop_Leads", "nocoql"}
    crm.edit(crm.ids()[0], Deal_Name="changed")
    told = "\n".join(dry_run.preview("delta", (), since=None).lines())
    assert "Leads: would not be read" in told
    assert "Deals: 1 read; would make 0 new, change 1" in told


def test_without_a_clock_of_the_crm_freshness_counts_from_the_start_of_the_run(
    crm: ForeignCrm,
) -> None:
    crm.flags.add("nodate")
    for kind in ("full", "delta"):
        run = sync(kind)
        assert (run.status, run.s0) == ("succeeded", None), run.message
        states = MirrorState.objects.values_list("complete_s0", flat=True)
        assert set(states) == {run.started_at}
        assert freshness_seconds(run.started_at + timedelta(seconds=90)) == 90
