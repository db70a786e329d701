"""Recording milestones: what is refused and why, what follows, and who was first."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from crm.errors import EditConflict, FieldsRefused
from crm.models import ChangeEvent, CrmField, Deal, MirrorState, OutboxEntry
from crm.tests.rows import CrmUserFactory, DealFactory
from o2r import recompute
from o2r.errors import ConfirmEarly, Ended, PermissionRefused
from o2r.models import ActionItem, Milestone, MilestoneChange, Opportunity, PhaseChange
from o2r.services import blocking, milestones
from o2r.services.entry import opportunity_of

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
TODAY = date(2026, 3, 10)
CREATED = datetime(2026, 1, 5, 4, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _gate(db: None) -> None:
    """Where a sync would have left it: behind the numbers that the deals have."""
    MirrorState.objects.update_or_create(module="Deals", defaults={"change_seq": 1_000_000})


@pytest.fixture
def opportunity() -> Opportunity:
    return opportunity_of(DealFactory(name="Blue", crm_created_at=CREATED))


@pytest.fixture
def say(opportunity: Opportunity, manager: Any) -> Any:
    """`say("po", completed_on=…)`: a manager records; {"user": …} may say who else."""

    def record(key: str, **said: Any) -> milestones.Recorded:
        values = {"user": manager, "now": NOW, "today": TODAY, **said}
        return milestones.record(opportunity, key=key, **values)

    return record


def refused(field: str, words: str) -> Any:
    """The refusal names this field and says so."""

    class _Refused:
        def __enter__(self) -> None:
            self._raises = pytest.raises(FieldsRefused)
            self._info = self._raises.__enter__()

        def __exit__(self, *error: Any) -> bool:
            found = self._raises.__exit__(*error)
            assert list(self._info.value.fields) == [field]
            assert words in self._info.value.fields[field]
            return found

    return _Refused()


def row(key: str) -> Milestone:
    return Milestone.objects.get(key=key)


# -- what follows from a date ---------------------------------------------------------------------


def test_recording_updates_phase_and_signal_and_waits_for_the_crm(opportunity, say) -> None:
    say("proposal", completed_on=date(2026, 2, 1))
    assert (opportunity.current_phase, opportunity.health_signal) == (2, "red")
    said = say("po", completed_on=date(2026, 3, 9))
    deal = Deal.objects.get()
    assert deal.po_date == date(2026, 3, 9)
    assert (opportunity.current_phase, opportunity.phase_entered_on) == (3, date(2026, 3, 9))
    assert opportunity.health_signal == "green"
    assert (said.version, said.stays_here) == (deal.change_seq, "")
    waiting = OutboxEntry.objects.order_by("id").values_list("field", "status", "author_name")
    assert list(waiting) == [
        ("proposal_date", "pending", "manager"),
        ("po_date", "pending", "manager"),
    ]
    change = MilestoneChange.objects.order_by("id").last()
    assert (change.key, change.new["completed_on"]) == ("po", "2026-03-09")
    assert (change.author_name, change.version) == ("manager", deal.change_seq)
    phases = PhaseChange.objects.order_by("id").values_list(
        "from_phase", "to_phase", "author__username"
    )
    assert list(phases)[-1] == (2, 3, "manager")
    assert row("po").status == "completed"


def test_the_fact_closes_the_item_that_its_lack_proposed(opportunity, say) -> None:
    say("proposal", completed_on=date(2026, 2, 1))
    item = ActionItem.objects.get(rule="proposal_no_po")
    say("po", completed_on=TODAY)
    item.refresh_from_db()
    assert item.closed_by_rule and item.done_at is not None


def test_completed_without_a_date_is_today(opportunity, say) -> None:
    say("kickoff", status="completed")
    assert Deal.objects.get().kickoff_date == TODAY


def test_a_target_may_lie_ahead_and_is_no_fact(opportunity, say) -> None:
    say("po", target_on=date(2026, 12, 24), note="Budget in January")
    assert (row("po").target_on, row("po").status) == (date(2026, 12, 24), "pending")
    assert (opportunity.current_phase, OutboxEntry.objects.count()) == (1, 0)


def test_delayed_by_hand(opportunity, say) -> None:
    say("po", status="delayed")
    assert row("po").status == "delayed"


def test_completing_unblocks(opportunity, say) -> None:
    say("kickoff", status="blocked", reason="No team")
    assert (opportunity.health_signal, row("kickoff").blocked_on) == ("blocked", TODAY)
    say("kickoff", completed_on=TODAY)
    assert (row("kickoff").status, row("kickoff").blocked_reason) == ("completed", "")
    assert opportunity.health_signal == "green"


def test_a_later_reason_keeps_the_day_of_the_block(opportunity, say) -> None:
    say("kickoff", status="blocked", reason="No team")
    later = {"now": NOW + timedelta(days=3), "today": TODAY + timedelta(days=3)}
    say("kickoff", reason="No budget", status="blocked", **later)
    assert (row("kickoff").blocked_on, row("kickoff").blocked_reason) == (TODAY, "No budget")
    say("kickoff", status="pending", **later)
    assert (row("kickoff").status, row("kickoff").blocked_on) == ("pending", None)
    assert opportunity.health_signal == "green"


def test_clearing_a_date_goes_back_and_history_keeps_both(opportunity, say) -> None:
    say("po", completed_on=TODAY)
    say("po", completed_on=None)
    assert (Deal.objects.get().po_date, opportunity.current_phase) == (None, 1)
    assert (opportunity.highest_phase, row("po").status) == (3, "pending")
    told = PhaseChange.objects.order_by("id").values_list("from_phase", "to_phase")
    assert list(told)[-2:] == [(1, 3), (3, 1)]


@pytest.mark.parametrize(
    ("minor", "currency", "kept"),
    [(50_000, "milestones.KEEP", (50_000, "SGD")), (7, "JPY", (7, "JPY")), (None, "", (None, ""))],
)
def test_a_part_amount_has_its_currency(opportunity, say, minor, currency, kept) -> None:
    more = {} if currency == "milestones.KEEP" else {"currency": currency or milestones.KEEP}
    say("invoice", completed_on=TODAY, amount_minor=minor, **more)
    found = Milestone.objects.filter(key="invoice").values_list("amount_minor", "currency").first()
    assert found == kept


# -- where it goes --------------------------------------------------------------------------------


def test_a_milestone_without_a_field_stays_here_and_says_so(opportunity, say) -> None:
    said = say("proposal_accepted", completed_on=TODAY)
    assert said.stays_here == "The CRM has no field for it, so it stays here."
    assert row("proposal_accepted").completed_on == TODAY
    assert not OutboxEntry.objects.exists()


def test_one_whose_field_the_crm_lacks_stays_here_and_counts(opportunity, say) -> None:
    CrmField.objects.create(module="Deals", api_name="Deal_Name", data_type="text", read_at=NOW)
    said = say("signoff", completed_on=TODAY)
    assert "stays here" in said.stays_here
    assert (row("signoff").completed_on, Deal.objects.get().signoff_date) == (TODAY, None)
    assert opportunity.current_phase == 4
    say("signoff", completed_on=None)
    assert (row("signoff").completed_on, opportunity.current_phase) == (None, 1)


def test_a_change_that_only_we_keep_changes_the_version_too(opportunity, say) -> None:
    before = opportunity.deal.change_seq
    first = say("proposal_accepted", note="By phone")
    assert first.version == Deal.objects.get().change_seq > before
    with pytest.raises(EditConflict) as stale:
        say("po", completed_on=TODAY, version=before)
    assert "manager noted on Proposal accepted: By phone" in stale.value.message


# -- what is refused ------------------------------------------------------------------------------


def test_a_fact_in_the_future_is_refused_with_why(opportunity, say) -> None:
    with refused("completed_on", "11 Mar 2026 is in the future (today is 10 Mar 2026)"):
        say("po", completed_on=TODAY + timedelta(days=1))
    assert not Milestone.objects.exists() and Deal.objects.get().po_date is None


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_day_ends_at_the_midnight_of_the_business(
    manager_client, opportunity, settings, zone: str, monkeypatch
) -> None:
    from zoneinfo import ZoneInfo

    from django.utils import timezone

    settings.BUSINESS_TIME_ZONE = zone
    last = datetime(2026, 3, 10, 23, 59, 59, tzinfo=ZoneInfo(zone))
    for moment, day, status in (
        (last, "2026-03-11", 422),
        (last + timedelta(seconds=1), "2026-03-11", 200),
    ):
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment.astimezone(UTC))
        answer = manager_client.put(
            f"/api/o2r/opportunities/{opportunity.deal_id}/milestone",
            {"milestone": "po", "completed_on": day},
            content_type="application/json",
        )
        assert answer.status_code == status, answer.content
    assert answer.json()["phase_entered_on"] == "2026-03-11"


def test_a_day_before_the_creation_is_asked_about_once(opportunity, say) -> None:
    early = date(2026, 1, 4)
    with pytest.raises(ConfirmEarly) as asked:
        say("proposal", completed_on=early)
    assert "before the deal was created (5 Jan 2026)" in asked.value.message
    assert not MilestoneChange.objects.exists()
    say("proposal", completed_on=early, confirm_early=True)
    assert Deal.objects.get().proposal_date == early
    assert {"kind": "before_creation", "milestone": "proposal", "other": ""} in opportunity.findings
    say("proposal", completed_on=date(2026, 1, 3))  # asked once
    assert Deal.objects.get().proposal_date == date(2026, 1, 3)


def test_days_out_of_order_are_accepted_and_found(opportunity, say) -> None:
    say("invoice", completed_on=date(2026, 2, 1))
    say("po", completed_on=date(2026, 2, 5))
    kinds = {(f["kind"], f["milestone"], f["other"]) for f in opportunity.findings}
    assert ("order", "invoice", "po") in kinds


@pytest.mark.parametrize(
    ("said", "field", "words"),
    [
        ({"completed_on": TODAY, "status": "delayed"}, "status", "with a date is completed"),
        ({"completed_on": None, "status": "completed"}, "completed_on", "has a date"),
        ({"status": "done"}, "status", "One of pending"),
        ({"status": "blocked"}, "reason", "Say what blocks it"),
        ({"status": "blocked", "reason": "  "}, "reason", "Say what blocks it"),
        ({"reason": "No budget"}, "status", "blocked"),
        ({"completed_on": date(1, 1, 1)}, "completed_on", "Years"),
        ({"target_on": date(9999, 1, 1)}, "target_on", "Years"),
        ({"amount_minor": 10**15, "currency": "SGD"}, "amount", "too large"),
        ({"amount_minor": 5, "currency": "sgd"}, "currency", "capital letters"),
    ],
)
def test_what_contradicts_itself_is_refused(opportunity, say, said, field, words) -> None:
    with refused(field, words):
        say("po", **said)
    assert not Milestone.objects.exists() and not OutboxEntry.objects.exists()


@pytest.mark.parametrize("status", ["pending", "delayed", "blocked"])
def test_what_was_reached_is_not_pending_again_without_clearing_its_date(
    opportunity, say, status: str
) -> None:
    say("po", completed_on=TODAY)
    with refused("status", "Clear that date"):
        say("po", status=status, reason="x" if status == "blocked" else "")


def test_unknown_milestone_is_refused_with_those_that_are_known(opportunity, say) -> None:
    with refused("milestone", "qualified, proposal, proposal_accepted"):
        say("party", completed_on=TODAY)


@pytest.mark.parametrize("how", ["lost", "deleted"])
def test_nothing_is_recorded_on_a_lost_or_deleted_deal(opportunity, say, manager, how) -> None:
    changed = {"stage_type": "lost"} if how == "lost" else {"deleted_at": NOW}
    Deal.objects.update(**changed)
    with pytest.raises(Ended) as ended:
        say("po", completed_on=TODAY)
    assert how in ended.value.message
    who = {"user": manager, "now": NOW, "today": TODAY}
    for act in (
        lambda: milestones.add_own(opportunity, title="Gate", **who),
        lambda: milestones.update_phase(opportunity, **who),
        lambda: blocking.block(opportunity, reason="x", **who),
        lambda: blocking.unblock(opportunity, **who),
    ):
        with pytest.raises(Ended):
            act()
    assert not MilestoneChange.objects.exists()


# -- one's own, and the gate ----------------------------------------------------------------------


def test_milestones_of_ones_own_are_known_by_slug(opportunity, say, manager) -> None:
    who = {"user": manager, "now": NOW, "today": TODAY}
    added = milestones.add_own(opportunity, title=" Data centre ready ", **who)
    assert (added.key, row(added.key).title) == ("data-centre-ready", "Data centre ready")
    say("data-centre-ready", completed_on=TODAY)
    assert row("data-centre-ready").completed_on == TODAY
    for title in ("Data centre  ready", "PO", ""):
        with pytest.raises(FieldsRefused):
            milestones.add_own(opportunity, title=title, **who)


def test_update_phase_records_the_gate_of_each_phase(opportunity, manager) -> None:
    who = {"user": manager, "now": NOW, "today": TODAY}
    recorded = [milestones.update_phase(opportunity, **who).key for _ in range(4)]
    assert recorded == ["proposal", "po", "signoff", "revenue"]
    assert (opportunity.current_phase, opportunity.outcome) == (4, "realized")


# -- twice, and two at once -----------------------------------------------------------------------


def test_recorded_twice_is_recorded_once(opportunity, say) -> None:
    first = say("po", completed_on=TODAY)
    second = say("po", completed_on=TODAY)
    assert (second.changed, second.version) == ((), first.version)
    assert MilestoneChange.objects.count() == OutboxEntry.objects.count() == 1


def test_the_second_of_two_is_told_what_the_first_recorded(
    opportunity, say, manager, person
) -> None:
    seen = opportunity.deal.change_seq
    ann = person("manager", "ann")
    say("po", completed_on=date(2026, 3, 9), user=ann, version=seen)
    with pytest.raises(EditConflict) as stale:
        say("po", completed_on=TODAY, version=seen)
    assert stale.value.message.startswith("ann recorded PO received on 9 Mar 2026 (at 10 Mar 2026")
    assert Deal.objects.get().po_date == date(2026, 3, 9)
    say("po", completed_on=TODAY, version=stale.value.more["version"])  # decides
    assert Deal.objects.get().po_date == TODAY
    (entry,) = OutboxEntry.objects.all()
    assert (entry.base, entry.new) == ("null", '"2026-03-10"')


def test_a_change_of_the_deal_makes_the_page_stale_too(opportunity, say) -> None:
    seen = opportunity.deal.change_seq
    Deal.objects.update(change_seq=seen + 1)
    ChangeEvent.objects.create(
        module="Deals",
        record_id=opportunity.deal_id,
        kind="changed",
        field="amount_minor",
        learnt_at=NOW,
        source="delta",
    )
    with pytest.raises(EditConflict) as stale:
        say("po", completed_on=TODAY, version=seen)
    assert stale.value.message.startswith("Amount changed after you opened this")


@pytest.mark.django_db(transaction=True)
def test_two_at_once_follow_each_other(manager, person) -> None:
    opportunity = opportunity_of(DealFactory(crm_created_at=CREATED))
    seen, people = opportunity.deal.change_seq, [manager, person("manager", "ann")]
    start, told = threading.Barrier(2), []

    def record(user: Any, day: date) -> None:
        try:
            own = Opportunity.objects.select_related("deal").get(pk=opportunity.pk)
            start.wait(20)
            who = {"user": user, "now": NOW, "today": TODAY}
            milestones.record(own, key="po", completed_on=day, version=seen, **who)
            told.append(day)
        except EditConflict as stale:
            told.append(stale.message)
        finally:
            connection.close()

    threads = [
        threading.Thread(target=record, args=(user, TODAY - timedelta(days=at)))
        for at, user in enumerate(people)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    days = [each for each in told if isinstance(each, date)]
    (message,) = [each for each in told if isinstance(each, str)]
    assert [Deal.objects.get().po_date] == days
    assert "recorded PO received" in message
    assert MilestoneChange.objects.count() == OutboxEntry.objects.count() == 1


# -- blocked by a person --------------------------------------------------------------------------


def test_blocked_by_a_person_with_a_reason_until_unblocked(opportunity, manager) -> None:
    who = {"user": manager, "now": NOW, "today": TODAY}
    with refused("reason", "Say what blocks it"):
        blocking.block(opportunity, reason=" ", **who)
    version = Deal.objects.get().change_seq
    blocking.block(opportunity, reason="Legal has doubts", version=version, **who)
    assert (opportunity.health_signal, opportunity.blocked_on) == ("blocked", TODAY)
    (reason,) = opportunity.reasons
    assert (reason["rule"], reason["text"]) == ("blocked_by_person", "Legal has doubts")
    with pytest.raises(EditConflict) as stale:
        blocking.unblock(opportunity, version=version, **who)
    assert "manager marked it as blocked: Legal has doubts" in stale.value.message
    blocking.unblock(opportunity, **who)
    assert (opportunity.health_signal, opportunity.blocked_reason) == ("green", "")
    blocking.unblock(opportunity, **who)
    assert MilestoneChange.objects.count() == 2


# -- who may --------------------------------------------------------------------------------------


def test_reps_record_their_own_and_are_told_why_not_others(opportunity, say, rep) -> None:
    with pytest.raises(PermissionRefused) as no_user:
        say("po", completed_on=TODAY, user=rep)
    assert "belongs to no user of the CRM" in no_user.value.message
    own = CrmUserFactory(email=rep.email)
    rep = type(rep).objects.get(pk=rep.pk)
    with pytest.raises(PermissionRefused) as foreign:
        say("po", completed_on=TODAY, user=rep)
    assert "somebody else" in foreign.value.message
    Deal.objects.update(owner=own)
    say("po", completed_on=TODAY, user=rep)
    assert Deal.objects.get().po_date == TODAY


def test_the_same_recomputed_again_changes_nothing(opportunity, say) -> None:
    say("proposal", completed_on=date(2026, 2, 1))
    before = list(Opportunity.objects.values())
    assert recompute.refresh([opportunity.pk], now=NOW) == 0
    assert list(Opportunity.objects.values()) == before
