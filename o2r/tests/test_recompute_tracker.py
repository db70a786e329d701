"""Deals and milestones → phase, signal, history, proposed items: what is stored, and when."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from crm.models import ChangeEvent, CrmStage, Deal
from crm.sync.metadata import business_day
from crm.tests.processes import run_in_child
from o2r import recompute, standing
from o2r.facts import facts_of
from o2r.gather import Rulebook
from o2r.models import (
    ActionItem,
    DayCount,
    Milestone,
    Opportunity,
    PhaseChange,
    RecomputeState,
    SignalChange,
    SignalRule,
    StagePhase,
    TrackerCell,
    TrackerMargin,
    TrackerSettings,
)
from o2r.services import blocking
from o2r.tests import mirror_rows as rows
from o2r.tests.tracked_histories import assert_tracker_true

pytestmark = pytest.mark.django_db


def today() -> date:
    return business_day(timezone.now())


def ago(days: int) -> date:
    return today() - timedelta(days=days)


def of(deal: Deal) -> Opportunity:
    return Opportunity.objects.get(deal=deal)


def touch(deal: Deal, **columns: Any) -> None:
    """As a sync would: the next number of change with the new values."""
    newest = Deal.objects.order_by("-change_seq").values_list("change_seq", flat=True)[0]
    Deal.objects.filter(pk=deal.pk).update(change_seq=newest + 1, **columns)


def story(deal: Deal) -> list[tuple]:
    return list(
        PhaseChange.objects.filter(opportunity__deal=deal)
        .order_by("id")
        .values_list("from_phase", "to_phase", "happened_on", "milestone", "why")
    )


def turned(deal: Deal) -> list[tuple]:
    return list(
        SignalChange.objects.filter(opportunity__deal=deal)
        .order_by("id")
        .values_list("from_signal", "to_signal", "happened_on")
    )


def items(deal: Deal) -> list[tuple]:
    return list(
        ActionItem.objects.filter(opportunity__deal=deal)
        .order_by("id")
        .values_list("rule", "due_on", "reason_since", "closed_by_rule")
    )


def at(day: date, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo("Asia/Singapore"))


def test_the_first_look_tells_one_row_a_fact_and_the_signal_since_its_day() -> None:
    deal = rows.deal(
        proposal_date=ago(50), po_date=ago(40), kickoff_date=ago(35), invoice_date=ago(50)
    )
    plain = rows.deal()
    rows.count()
    found = of(deal)
    assert (found.current_phase, found.highest_phase, found.outcome) == (4, 4, "active")
    assert (found.phase_entered_on, found.as_of) == (ago(50), today())
    assert story(deal) == [
        (1, 2, ago(50), "proposal", "from CRM dates"),
        (2, 4, ago(50), "invoice", "from CRM dates"),
    ]
    assert found.health_signal == "red" and found.is_overdue
    assert turned(deal) == [("", "red", ago(4))]
    assert [(f["kind"], f["milestone"], f["other"]) for f in found.findings] == [
        ("order", "invoice", "po"),
        ("order", "invoice", "kickoff"),
    ]
    assert story(plain) == [] and turned(plain) == []
    assert of(plain).health_signal == "green"


def test_the_first_look_at_one_that_was_won_names_the_stage() -> None:
    deal = rows.deal(stage="closed_won", closing_date=ago(9), proposal_date=ago(20))
    rows.count()
    assert of(deal).phase_entered_on == ago(9)
    assert story(deal) == [
        (1, 2, ago(20), "proposal", "from CRM dates"),
        (2, 3, ago(9), "", "from CRM dates"),
    ]


def test_a_date_that_comes_and_goes_keeps_both_in_the_history() -> None:
    deal = rows.deal(proposal_date=ago(31))
    rows.count()
    touch(deal, po_date=ago(3))
    rows.count()
    assert (of(deal).current_phase, of(deal).health_signal) == (3, "green")
    touch(deal, po_date=None)
    rows.count()
    assert (of(deal).current_phase, of(deal).highest_phase) == (2, 3)
    assert story(deal)[1:] == [
        (2, 3, ago(3), "po", "PO received"),
        (3, 2, today(), "", "A date was cleared or moved"),
    ]
    assert turned(deal) == [
        ("", "red", ago(0)), ("red", "green", today()), ("green", "red", today()),
    ]  # fmt: skip


def test_the_end_and_a_new_beginning_are_told() -> None:
    deal = rows.deal(proposal_date=ago(3))
    rows.count()
    touch(deal, stage="closed_lost", stage_type="lost")
    rows.count()
    assert (of(deal).outcome, of(deal).health_signal, of(deal).current_phase) == ("lost", "", 2)
    touch(deal, stage="proposal", stage_type="open")
    rows.count()
    assert story(deal)[1:] == [
        (2, 0, today(), "", "Lost"), (0, 2, today(), "", "Active again"),
    ]  # fmt: skip
    touch(deal, deleted_at=timezone.now())
    rows.count()
    assert of(deal).outcome == "lost" and story(deal)[-1][4] == "Deleted in the CRM"


def test_a_record_only_named_by_another_has_no_history_until_it_is_read() -> None:
    deal = rows.deal(is_stub=True)
    rows.count()
    rows.count()
    assert of(deal).as_of is None and of(deal).outcome == "lost"
    touch(deal, is_stub=False, proposal_date=ago(20))
    rows.count()
    assert of(deal).outcome == "active"
    assert story(deal) == [(1, 2, ago(20), "proposal", "from CRM dates")]


def everything() -> list:
    models = (
        Opportunity, PhaseChange, SignalChange, ActionItem, TrackerCell, TrackerMargin, DayCount,
        RecomputeState,
    )  # fmt: skip
    return [list(model.objects.order_by("pk").values()) for model in models]


def test_the_same_twice_changes_nothing_at_all() -> None:
    for days in (3, 14, 15, 31, 99):
        rows.deal(proposal_date=ago(days), po_date=ago(days - 60) if days > 60 else None)
    rows.deal(revenue_date=ago(2), proposal_date=ago(40))
    rows.count()
    recompute.turn(timezone.now())
    recompute.start_over()
    recompute.catch_up()
    before = everything()
    recompute.start_over()
    assert recompute.catch_up() == 6
    recompute.turn(timezone.now())
    assert (
        recompute.refresh(Opportunity.objects.values_list("pk", flat=True), now=timezone.now()) == 0
    )
    caught_up = [{**row, "caught_up_at": None} for row in everything()[-1]]
    assert everything()[:-1] == before[:-1]
    assert caught_up == [{**row, "caught_up_at": None} for row in before[-1]]


def test_items_are_proposed_closed_by_themselves_and_left_alone_once_ticked() -> None:
    ann = rows.owner("Ann Lee")
    deal = rows.deal(proposal_date=ago(20), owner=ann)
    rows.count()
    assert items(deal) == [("proposal_no_po", ago(-11), ago(20), False)]
    assert ActionItem.objects.get().owner == ann
    touch(deal, po_date=ago(1))
    rows.count()
    item = ActionItem.objects.get()
    assert item.done_at is not None and item.closed_by_rule and item.done_by is None
    touch(deal, po_date=None)
    rows.count()
    assert len(items(deal)) == 2, "closed by its rule, not by a person: it is there again"
    ActionItem.objects.filter(done_at=None).update(done_at=timezone.now(), closed_by_rule=False)
    touch(deal, next_step="call")
    rows.count()
    assert len(items(deal)) == 2
    touch(deal, proposal_date=ago(18))
    rows.count()
    assert len(items(deal)) == 3, "another spell"


def test_milestones_of_ones_own_targets_and_blocks_count() -> None:
    deal = rows.deal(proposal_date=ago(3))
    rows.count()
    SignalRule.objects.filter(key="milestone_delayed").update(is_on=True)
    now = timezone.now()
    opportunity = of(deal)
    Milestone.objects.create(
        opportunity=opportunity, key="training", target_on=ago(2), recorded_at=now
    )
    assert recompute.refresh([opportunity.pk], now=now) == 1
    found = of(deal)
    assert [(r["rule"], r["milestone"]) for r in found.reasons] == [
        ("milestone_delayed", "training")
    ]
    Milestone.objects.create(
        opportunity=opportunity, key="po", status="blocked", blocked_reason="Legal",
        blocked_on=ago(1), recorded_at=now,
    )  # fmt: skip
    recompute.refresh([opportunity.pk], now=now)
    found = of(deal)
    assert found.health_signal == "blocked" and found.reasons[0]["text"] == "Legal"
    touch(deal, kickoff_date=ago(0))
    rows.count()
    assert of(deal).health_signal == "yellow", "a later milestone ends the block"


def test_a_refresh_names_who_did_it() -> None:
    deal = rows.deal()
    rows.count()
    user = User.objects.create_user("ann")
    touch(deal, proposal_date=today())
    recompute.refresh([of(deal).pk], now=timezone.now(), author=user)
    assert PhaseChange.objects.get(opportunity__deal=deal).author == user


def test_a_day_without_field_in_the_crm_is_taken_from_the_milestone() -> None:
    deal = rows.deal()
    rows.count()
    opportunity = of(deal)
    for key in ("proposal", "sow_initiated"):
        Milestone.objects.create(
            opportunity=opportunity, key=key, completed_on=ago(20), recorded_at=timezone.now()
        )
    recompute.refresh([opportunity.pk], now=timezone.now())
    assert (of(deal).current_phase, of(deal).health_signal) == (2, "yellow")
    touch(deal, proposal_date=ago(2))
    rows.count()
    assert of(deal).health_signal == "green", "the deal's own day wins"


# -- the daily turn -------------------------------------------------------------------------------


def test_time_alone_turns_signals_and_plans_on_their_day() -> None:
    slow = rows.deal(proposal_date=ago(14))
    planned = rows.deal(proposal_date=ago(14), po_date=ago(-1))
    quiet = rows.deal()
    rows.count()
    recompute.turn(timezone.now())
    assert RecomputeState.objects.get().turned_on == today()
    assert recompute.turn(timezone.now()) == 0
    tomorrow = at(ago(-1))
    assert recompute.turn(tomorrow - timedelta(seconds=1)) == 0
    assert recompute.turn(tomorrow) == 2
    assert (of(slow).health_signal, of(slow).as_of) == ("yellow", ago(-1))
    assert (of(planned).current_phase, of(planned).health_signal) == (3, "green")
    assert of(quiet).as_of == today(), "nothing turned: it was not looked at"
    assert turned(slow) == [("green", "yellow", ago(-1))]
    assert RecomputeState.objects.get().turned_on == ago(-1)


def test_a_machine_that_was_off_tells_every_day_on_which_it_turned() -> None:
    deal = rows.deal(proposal_date=ago(0))
    rows.count()
    recompute.turn(at(ago(-50), hour=9))
    assert turned(deal) == [("green", "yellow", ago(-15)), ("yellow", "red", ago(-31))]
    assert len(items(deal)) == 1


def test_a_clock_set_back_takes_back_what_it_said() -> None:
    deal = rows.deal(proposal_date=ago(10))
    rows.count()
    recompute.turn(at(ago(-60)))
    assert of(deal).health_signal == "red"
    recompute.turn(timezone.now())
    assert (of(deal).health_signal, of(deal).as_of) == ("green", today())
    assert recompute.turn(timezone.now()) == 0


def test_a_turn_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "BATCH", 3)
    deals = [rows.deal(proposal_date=ago(14)) for _ in range(8)]
    rows.count()
    recompute.turn(timezone.now())
    asked = iter([False, True])
    assert recompute.turn(at(ago(-1)), lambda: next(asked)) == 3
    assert RecomputeState.objects.get().turned_on == today(), "as of yesterday until it has ended"
    assert recompute.turn(at(ago(-1))) == 5
    assert {of(deal).health_signal for deal in deals} == {"yellow"}
    assert RecomputeState.objects.get().turned_on == ago(-1)


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("place", ["turn.after_rows:2", "turn.after_commit:1"])
def test_killed_in_its_turn_it_goes_on_to_the_same_end(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recompute, "BATCH", 3)
    deals = [rows.deal(proposal_date=ago(14)) for _ in range(8)]
    rows.count()
    tomorrow = at(ago(-1))
    assert run_in_child(lambda: recompute.turn(tomorrow), f"{place}=kill") == -signal.SIGKILL
    assert recompute.turn(tomorrow) == 5
    assert [turned(deal) for deal in deals] == [[("green", "yellow", ago(-1))]] * 8
    assert [len(items(deal)) for deal in deals] == [1] * 8
    assert_tracker_true()


@pytest.mark.parametrize(
    ("zone", "moment", "day"),
    [
        # the same minute before and after midnight, at both ends of the world
        ("Pacific/Kiritimati", "2026-11-23T09:59:59+00:00", date(2026, 11, 23)),
        ("Pacific/Kiritimati", "2026-11-23T10:00:00+00:00", date(2026, 11, 24)),
        ("Pacific/Pago_Pago", "2026-11-24T10:59:59+00:00", date(2026, 11, 23)),
        ("Pacific/Pago_Pago", "2026-11-24T11:00:00+00:00", date(2026, 11, 24)),
    ],
)
def test_midnight_is_that_of_the_business(zone: str, moment: str, day: date, settings: Any) -> None:
    """UTC+14 and UTC−11: a proposal of 9 November is 15 days old on the 24th, not before."""
    settings.BUSINESS_TIME_ZONE = zone
    deal = rows.deal(proposal_date=date(2026, 11, 9), crm_created_at=datetime.fromisoformat(moment))
    Opportunity.objects.create(deal=deal)
    now = datetime.fromisoformat(moment)
    recompute.refresh([of(deal).pk], now=now)
    found = of(deal)
    assert found.as_of == day
    assert found.health_signal == ("yellow" if day.day == 24 else "green")
    assert found.worse_on == (date(2026, 12, 10) if day.day == 24 else date(2026, 11, 24))
    assert facts_of([found.pk])[found.pk].created_on == day
    # one second on, the turn does the rest
    recompute.turn(now + timedelta(seconds=1))
    assert of(deal).health_signal == (
        "yellow" if (now + timedelta(seconds=1)).astimezone(ZoneInfo(zone)).day == 24 else "green"
    )


# -- what ops set ------------------------------------------------------------------------------


def stage(name: str, forecast_type: str = "open", **columns: Any) -> CrmStage:
    return CrmStage.objects.create(
        actual_name=name, display_name=name, forecast_type=forecast_type, **columns
    )


def test_a_changed_threshold_queues_a_recompute_of_all() -> None:
    deal = rows.deal(proposal_date=ago(10))
    rows.count()
    rule = SignalRule.objects.get(key="proposal_no_po")
    rule.yellow_days = 5
    rule.save()
    assert RecomputeState.objects.get().deal_seq == 0
    rows.count()
    assert of(deal).health_signal == "yellow"
    rule.is_on = False
    rule.save()
    rows.count()
    assert of(deal).health_signal == "green"


def test_the_stage_table_gives_the_least_phase() -> None:
    verbal = stage("Verbal Yes", former_names=["Said yes"])
    won = stage("Closed Won", "won")
    deal = rows.deal(crm_stage="Verbal Yes")
    before = rows.deal(crm_stage="Said yes")
    sold = rows.deal(stage="closed_won", crm_stage="Closed Won")
    rows.count()
    assert [of(d).current_phase for d in (deal, before, sold)] == [1, 1, 3]
    StagePhase.objects.create(stage=verbal, phase=2)
    StagePhase.objects.create(stage=won, phase=0)
    rows.count()
    assert [of(d).current_phase for d in (deal, before, sold)] == [2, 2, 1]


def moved(deal: Deal, new: str, at: datetime) -> None:
    event = rows.changed(deal, "crm_stage", at)
    ChangeEvent.objects.filter(pk=event.pk).update(new=f'"{new}"')


def test_the_sow_is_estimated_from_the_day_it_entered_its_stage() -> None:
    chosen = stage("Negotiation/Review")
    deal, dated = rows.deal(), rows.deal(sow_date=ago(3))
    for each in (deal, dated):
        moved(each, "Negotiation/Review", at(ago(9), hour=1))
        moved(each, "Proposal/Price Quote", at(ago(5), hour=1))
    rows.count()
    assert of(deal).sow_estimated_on is None
    TrackerSettings.objects.update_or_create(pk=1, defaults={"sow_stage": chosen})
    rows.count()
    assert (of(deal).sow_estimated_on, of(dated).sow_estimated_on) == (ago(9), None)


def test_the_day_of_the_stage_change_is_seen_in_the_events() -> None:
    deal = rows.deal(stage="closed_won", closing_date=ago(20))
    moved(deal, "Closed Won", at(ago(6), hour=1))
    rows.count()
    assert of(deal).phase_entered_on == ago(6)


def test_stored_columns_are_what_the_pure_rules_say() -> None:
    made = [rows.deal(proposal_date=ago(n), po_date=ago(n - 20)) for n in (15, 31, 36)]
    rows.count()
    thresholds = Rulebook.load().thresholds
    pks = [of(deal).pk for deal in made]
    for pk, facts in facts_of(pks).items():
        expected, _ = standing.standing_of(facts, today(), thresholds)
        row = Opportunity.objects.get(pk=pk)
        for name, value in expected._asdict().items():
            kept = getattr(row, name)
            assert (kept.isoformat() if isinstance(kept, date) else kept) == value, name


@pytest.mark.django_db(transaction=True)
def test_people_and_a_recompute_of_all_wait_for_each_other_and_never_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both write the same rows; whoever comes second waits, and both get their way."""
    monkeypatch.setattr(recompute, "BATCH", 8)
    deals = [rows.deal(proposal_date=ago(20)) for _ in range(6)]
    rows.count()
    opportunities = [of(deal) for deal in deals]
    user = User.objects.create_superuser("ann")
    barrier = threading.Barrier(2)

    def record() -> None:
        barrier.wait(10)
        for n in range(10):
            for opportunity in opportunities:
                blocking.block(
                    opportunity, user=user, now=timezone.now(), today=today(), reason=f"Legal {n}"
                )

    def follow() -> None:
        barrier.wait(10)
        for n in range(20):
            # Another threshold rewrites every row.
            rule, _ = SignalRule.objects.get_or_create(key="proposal_no_po")
            rule.yellow_days, rule.red_days = 14, 25 + n
            rule.save()
            recompute.catch_up()

    def closing(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(closing, (record, follow)))
    rows.count()
    assert {(of(deal).health_signal, of(deal).reasons[0]["text"]) for deal in deals} == {
        ("blocked", "Legal 9")
    }
    assert {of(deal).reasons[1]["worse_on"] for deal in deals} == {ago(20 - 45).isoformat()}
    assert_tracker_true()
