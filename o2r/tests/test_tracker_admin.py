"""What ops decide about phases and signals in the admin: what is refused, told and recomputed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from crm.models import CrmStage
from crm.tests.rows import DealFactory
from o2r import recompute
from o2r.models import (
    ActionItem,
    Activity,
    Milestone,
    MilestoneChange,
    Opportunity,
    PhaseChange,
    RecomputeState,
    Review,
    SignalChange,
    SignalRule,
    Snooze,
    StagePhase,
    TrackerSettings,
)

pytestmark = pytest.mark.django_db


def address(row: Any, act: str = "change") -> str:
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{act}", args=[row.pk])


@pytest.fixture
def rule() -> SignalRule:
    return SignalRule.objects.get(key="proposal_no_po")


@pytest.fixture
def followed() -> None:
    """Everything was looked at."""
    DealFactory()
    recompute.catch_up()
    assert RecomputeState.objects.get().deal_seq > 0


def seq() -> int:
    return RecomputeState.objects.get().deal_seq


def post(client: Any, row: Any, **values: Any) -> Any:
    return client.post(address(row), {"is_on": "on", **values}, follow=True)


@pytest.mark.parametrize(
    ("yellow", "red", "why"),
    [
        ("30", "30", "Give yellow fewer days than red"),
        ("31", "30", "Give yellow fewer days than red"),
        ("", "", "Without a threshold it never turns"),
        ("-1", "30", "greater than or equal to 0"),
        ("x", "30", "Enter a whole number"),
    ],
)
def test_thresholds_that_contradict_each_other_are_refused_with_why(
    ops_client, rule, followed, yellow: str, red: str, why: str
) -> None:
    before = seq()
    page = post(ops_client, rule, yellow_days=yellow, red_days=red)
    assert page.status_code == 200 and why in page.content.decode()
    rule.refresh_from_db()
    assert (rule.yellow_days, rule.red_days) == (14, 30)
    assert seq() == before


def test_a_new_threshold_is_told_from_what_to_what_and_recomputed(
    ops_client, ops, rule, followed
) -> None:
    page = post(ops_client, rule, yellow_days="7", red_days="30")
    assert "being looked at anew" in page.content.decode()
    rule.refresh_from_db()
    assert (rule.yellow_days, rule.updated_at is not None) == (7, True)
    entry = LogEntry.objects.get()
    assert (entry.user, entry.change_message) == (ops, "Yellow days: 14 → 7")
    assert seq() == 0  # the nudge comes after commit


def test_what_is_saved_unchanged_recomputes_nothing(ops_client, rule, followed) -> None:
    before = seq()
    post(ops_client, rule, yellow_days="14", red_days="30")
    assert seq() == before


def test_a_block_has_no_thresholds(ops_client) -> None:
    block = SignalRule.objects.get(key="blocked_by_person")
    page = post(ops_client, block, yellow_days="3")
    assert "Blocked is blocked at once" in page.content.decode()
    block.refresh_from_db()
    assert block.yellow_days is None


def test_least_phase_and_sow_stage_are_edited_and_recomputed(ops_client, followed) -> None:
    stage = CrmStage.objects.create(
        actual_name="SOW", display_name="SOW", forecast_type="open", our_stage="proposal"
    )
    ops_client.post(reverse("admin:o2r_stagephase_add"), {"stage": stage.pk, "phase": "2"})
    least = StagePhase.objects.get()
    assert (least.stage, least.phase, seq()) == (stage, 2, 0)
    recompute.catch_up()
    settings = TrackerSettings.objects.get()
    ops_client.post(address(settings), {"sow_stage": stage.pk})
    settings.refresh_from_db()
    assert (settings.sow_stage, seq()) == (stage, 0)
    recompute.catch_up()
    ops_client.post(address(least, "delete"), {"post": "yes"})
    assert (StagePhase.objects.exists(), seq()) == (False, 0)


def test_rules_are_neither_added_nor_deleted(ops_client, admin_client, rule) -> None:
    for client in (ops_client, admin_client):
        assert client.get(reverse("admin:o2r_signalrule_add")).status_code == 403
        assert client.post(address(rule, "delete"), {"post": "yes"}).status_code == 403


def test_staff_without_the_role_change_nothing(client, django_user_model, rule) -> None:
    from django.contrib.auth.models import Permission

    looker = django_user_model.objects.create_user("looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(content_type__app_label="o2r"))
    client.force_login(looker, backend="django.contrib.auth.backends.ModelBackend")
    assert post(client, rule, yellow_days="7", red_days="30").status_code == 403
    rule.refresh_from_db()
    assert rule.yellow_days == 14


def rows_of(opportunity: Opportunity, at: int) -> list[Any]:
    """One row of every history."""
    now, day = timezone.now(), date(2026, 3, 1)
    of = {"opportunity": opportunity}
    stamps = {"created_at": now, "updated_at": now}
    return [
        Milestone.objects.create(**of, key=f"own-{at}", recorded_at=now),
        MilestoneChange.objects.create(**of, key="po", at=now),
        PhaseChange.objects.create(**of, to_phase=2, happened_on=day, learnt_at=now, why="x"),
        SignalChange.objects.create(**of, to_signal="red", happened_on=day, learnt_at=now),
        ActionItem.objects.create(**of, text="Call", **stamps),
        Activity.objects.create(**of, description="Call", **stamps),
        Review.objects.create(**of, reviewed_on=day, current_phase=1, decision="Go", **stamps),
        Snooze.objects.create(**of, until=day, reason="Later", created_at=now, ended_at=now),
    ]


def test_histories_are_read_only_and_cost_the_queries_of_one_row(ops_client, admin_client) -> None:
    DealFactory()
    recompute.catch_up()
    first = rows_of(Opportunity.objects.get(), 0)
    for row in first:
        for client in (ops_client, admin_client):
            assert client.get(address(row)).status_code == 200
            assert client.post(address(row), {"text": "x"}).status_code == 403
            assert client.post(address(row, "delete"), {"post": "yes"}).status_code == 403

    def queries(row: Any) -> int:
        meta = row._meta
        with CaptureQueriesContext(connection) as found:
            page = ops_client.get(reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"))
            assert page.status_code == 200
        return len(found)

    few = [queries(row) for row in first]
    DealFactory.create_batch(5)
    recompute.catch_up()
    for at, opportunity in enumerate(Opportunity.objects.all()):
        rows_of(opportunity, at + 1)
    assert [queries(row) for row in first] == few
