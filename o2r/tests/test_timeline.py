"""One story of an opportunity: everything in one order, in words, paged at a constant cost."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from crm.models import ChangeEvent, MirrorState, OutboxEntry
from crm.tests.rows import AccountFactory, CrmUserFactory, DealFactory
from o2r import recompute
from o2r.models import Opportunity, PhaseChange, SignalChange
from o2r.services import blocking, milestones, reviews, work
from o2r.services.entry import opportunity_of
from o2r.timeline import KINDS, NoCursor, timeline_of

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
TODAY = date(2026, 3, 10)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _gate(db: None) -> None:
    """Where a sync would have left it: behind the numbers that the deals have."""
    MirrorState.objects.update_or_create(module="Deals", defaults={"change_seq": 1_000_000})


@pytest.fixture
def opportunity() -> Opportunity:
    """Without a history of its own."""
    found = opportunity_of(DealFactory(crm_created_at=NOW - 90 * DAY))
    found.phase_changes.all().delete()
    found.signal_changes.all().delete()
    return found


def event(opportunity: Opportunity, field: str, old: Any, new: Any, at: datetime, **more: Any):
    values = {"kind": "changed", "learnt_at": at + MINUTE, "source": "delta", **more}
    return ChangeEvent.objects.create(
        module="Deals",
        record_id=opportunity.deal_id,
        field=field,
        old=json.dumps(old),
        new=json.dumps(new),
        changed_at=at,
        **values,
    )


def texts(opportunity: Opportunity, **options: Any) -> list[str]:
    return [entry.text for entry in timeline_of(opportunity, limit=200, **options).entries]


def test_changes_of_the_crm_are_told_in_words(opportunity) -> None:
    ann, ben = CrmUserFactory(name="Ann"), CrmUserFactory(name="Ben")
    blue = AccountFactory(name="Blue")
    for at, (field, old, new) in enumerate(
        [
            ("crm_stage", "Qualification", "Proposal/Price Quote"),
            ("amount_minor", 9_200_000, None),
            ("closing_date", "2026-04-01", "2026-05-01"),
            ("po_date", None, "2026-03-09"),
            ("owner_id", ann.pk, ben.pk),
            ("account_id", None, blue.pk),
            ("crm_probability", 10, 75),
            ("aws_funded", None, True),
            ("next_step", "Call <b>", "x" * 500),
            ("contact_id", None, 10**9),
        ]
    ):
        event(opportunity, field, old, new, NOW + at * MINUTE)
    assert texts(opportunity)[::-1] == [
        "Stage: Qualification → Proposal/Price Quote",
        "Amount: SGD 92,000.00 → nothing",
        "Closing date: 1 Apr 2026 → 1 May 2026",
        "PO received: nothing → 9 Mar 2026",
        "Owner: Ann → Ben",
        "Account: nothing → Blue",
        "Probability: 10% → 75%",
        "AWS funded: nothing → yes",
        f"Next step: Call <b> → “{'x' * 120}…”",
        "Contact: nothing → no. 1000000000",
    ]
    newest = timeline_of(opportunity).entries[0]
    assert (newest.happened_at, newest.learnt_at) == (NOW + 9 * MINUTE, NOW + 10 * MINUTE)
    assert (newest.kind, newest.who) == ("crm", "the CRM")


def test_everything_stands_in_one_order(opportunity, manager) -> None:
    at = iter(NOW + n * MINUTE for n in range(1, 20))
    who = {"user": manager}
    event(opportunity, "crm_stage", "Qualification", "Proposal/Price Quote", next(at))
    milestones.record(
        opportunity, key="proposal", completed_on=date(2026, 2, 1), today=TODAY, now=next(at), **who
    )
    blocking.block(opportunity, reason="Legal", today=TODAY, now=next(at), **who)
    item = work.add_item(opportunity, text="Call", due_on=TODAY, now=next(at), **who)
    work.tick(item, now=next(at), **who)
    work.add_activity(opportunity, description="Budget", outcome="failed", now=next(at), **who)
    reviews.review(opportunity, decision="Wait", today=TODAY, now=next(at), **who)
    work.snooze(opportunity, until=TODAY + DAY, reason="Leave", today=TODAY, now=next(at), **who)
    told = timeline_of(opportunity, limit=200).entries
    assert {entry.kind for entry in told} == set(KINDS)
    assert [entry.position for entry in told] == sorted((e.position for e in told), reverse=True)
    words = [entry.text for entry in told][::-1]
    for earlier, later in [
        ("Phase I → II", "Stage: Qualification → Proposal/Price Quote"),  # its day is in February
        ("Stage: Qualification → Proposal/Price Quote", "Proposal submitted waits to be sent"),
        ("Proposal submitted waits", "Recorded Proposal submitted on 1 Feb 2026"),
        ("Recorded Proposal submitted", "Marked it as blocked: Legal"),
        ("Marked it as blocked", "To do: Call"),
        ("To do: Call", "Done: Call"),
        ("Done: Call", "Call: Budget"),
        ("Call: Budget", "Reviewed: Wait"),
        ("Reviewed: Wait", "Alerts wait until 11 Mar 2026: Leave"),
    ]:
        first, second = (
            next(at for at, text in enumerate(words) if text.startswith(start))
            for start in (earlier, later)
        )
        assert first < second, (earlier, later, words)
    # The day of the milestone is told once, not as a change of the deal too.
    assert not any(text.startswith("Proposal submitted:") for text in words)


def test_signal_and_phase_tell_the_day_and_why(opportunity) -> None:
    reason = {
        "rule": "proposal_no_po", "severity": "red", "milestone": "proposal",
        "date": "2026-02-01", "since": "2026-03-04", "worse_on": None,
    }  # fmt: skip
    SignalChange.objects.create(
        opportunity=opportunity, from_signal="yellow", to_signal="red",
        happened_on=date(2026, 3, 4), learnt_at=NOW, reasons=[reason],
    )  # fmt: skip
    PhaseChange.objects.create(
        opportunity=opportunity, from_phase=1, to_phase=2, happened_on=date(2026, 2, 1),
        learnt_at=NOW, why="from CRM dates",
    )  # fmt: skip
    signal, phase = timeline_of(opportunity).entries
    assert (signal.text, signal.details) == (
        "Signal yellow → red",
        ("Proposal sent 1 Feb, 31 days, no PO",),
    )
    assert (phase.text, phase.details) == ("Phase I → II", ("from CRM dates",))
    assert (phase.happened_on, phase.happened_at, phase.learnt_at) == (date(2026, 2, 1), None, NOW)


@pytest.mark.parametrize(
    ("status", "words"),
    [("pending", "waits to be sent"), ("done", "is in the CRM"), ("refused", "was refused")],
)
def test_write_backs_say_how_they_stand(opportunity, status: str, words: str) -> None:
    OutboxEntry.objects.create(
        module="Deals", record_id=opportunity.deal_id, field="po_date", status=status,
        author_name="Ann", message="Locked." if status == "refused" else "",
        created_at=NOW, next_attempt_at=NOW,
    )  # fmt: skip
    (entry,) = timeline_of(opportunity).entries
    assert entry.text.startswith("PO received") and words in entry.text
    assert (entry.who, entry.status) == ("Ann", status)
    assert entry.details == (("Locked.",) if status == "refused" else ())


def a_long_story(opportunity: Opportunity, manager: Any, times: int) -> None:
    """Also many entries of one moment, and of days alone."""
    for n in range(times):
        at = NOW + n * MINUTE
        for field in ("crm_stage", "next_step", "owner_id"):
            event(opportunity, field, None, 1 if field == "owner_id" else "x", at)
        work.add_item(opportunity, text=f"{n}", user=manager, now=at)
        reviews.review(opportunity, note=f"{n}", user=manager, now=at, today=TODAY)
        SignalChange.objects.create(
            opportunity=opportunity, from_signal="green", to_signal="red",
            happened_on=TODAY - n % 3 * DAY, learnt_at=at,
        )  # fmt: skip


@pytest.mark.parametrize("limit", [1, 4, 7, 50])
def test_pages_leave_nothing_out_and_repeat_nothing(opportunity, manager, limit: int) -> None:
    a_long_story(opportunity, manager, 6)
    whole = timeline_of(opportunity, limit=200)
    assert (len(whole.entries), whole.next) == (36, "")
    found, cursor = [], ""
    while True:
        page = timeline_of(opportunity, cursor=cursor, limit=limit)
        found += page.entries
        cursor = page.next
        # What comes in meanwhile is newer and shifts nothing.
        event(opportunity, "next_step", None, "new", NOW + len(found) * DAY)
        if not cursor:
            break
    assert found == whole.entries
    assert len({entry.id for entry in found}) == 36


def test_a_page_costs_the_same_however_long_the_story(opportunity, manager) -> None:
    def queries() -> int:
        again = Opportunity.objects.select_related("deal").get(pk=opportunity.pk)
        with CaptureQueriesContext(connection) as found:
            timeline_of(again)
        return len(found)

    a_long_story(opportunity, manager, 1)
    few = queries()
    a_long_story(opportunity, manager, 30)
    assert queries() == few <= 15


def test_kinds_are_chosen(opportunity, manager) -> None:
    a_long_story(opportunity, manager, 2)
    assert {e.kind for e in timeline_of(opportunity, kinds=["review"]).entries} == {"review"}


@pytest.mark.parametrize("cursor", ["x", "a:b", "WzFd:1:2", "\x00"])
def test_a_forged_cursor_is_none(opportunity, cursor: str) -> None:
    with pytest.raises(NoCursor):
        timeline_of(opportunity, cursor=cursor)


def test_the_address_pages_and_refuses_nonsense(rep_client, opportunity, manager) -> None:
    a_long_story(opportunity, manager, 3)
    url = f"/api/o2r/opportunities/{opportunity.deal_id}/timeline"
    first = rep_client.get(f"{url}?limit=5&kind=crm,review").json()
    second = rep_client.get(first["next"]).json()
    assert len(first["results"]) == len(second["results"]) == 5
    assert {row["id"] for row in first["results"]}.isdisjoint(
        row["id"] for row in second["results"]
    )
    for query in ("cursor=x", "limit=0", "limit=x", "kind=nonsense", "what=1"):
        answer = rep_client.get(f"{url}?{query}")
        assert (answer.status_code, list(answer.json()["errors"])) == (422, [query.split("=")[0]])


def test_history_of_the_recompute_is_told(rep_client) -> None:
    deal = DealFactory(crm_created_at=NOW - 90 * DAY, proposal_date=date(2026, 2, 1))
    recompute.catch_up()
    told = texts(Opportunity.objects.select_related("deal").get(deal=deal))
    assert any(text.startswith("Phase") and "II" in text for text in told)
    assert any(text.startswith("Signal") for text in told)
