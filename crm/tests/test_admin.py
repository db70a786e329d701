"""The admin of the mirror: what ops see, what they may change, and what their acts do."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from crm.admin import ReadOnlyAdmin
from crm.models import (
    ChangeEvent,
    CrmConnection,
    CrmField,
    CrmStage,
    Deal,
    DeletionHold,
    ExchangeRate,
    FailedRecord,
    FieldMapping,
    MirrorState,
    SharedValue,
    SyncRun,
)
from crm.models import runs as ledger
from crm.sync import rederive
from crm.tests.rows import (
    SEEN,
    AccountFactory,
    ContactFactory,
    CrmUserFactory,
    DealFactory,
    LeadFactory,
    PipelineFactory,
    SyncRunFactory,
    mirrored,
)

pytestmark = pytest.mark.django_db
MODELS = [model for label in ("crm", "o2r") for model in apps.get_app_config(label).get_models()]
EDITABLE = {"WriteBack", "CrmStage", "FieldMapping", "ExchangeRate"}
EDITABLE |= {"SignalRule", "StagePhase", "TrackerSettings"}


@pytest.fixture(autouse=True)
def crm(settings) -> None:
    """A CRM is configured."""
    settings.ZOHO = SimpleNamespace(
        base_url="http://127.0.0.1:9",
        accounts_url="http://127.0.0.1:9",
        api_version="v8",
        client_id="id",
        client_secret="secret",
        refresh_token="refresh",
        rate_limit_per_minute=100,
        concurrency=2,
        patience={},
    )


def address(model: Any, act: str, *args: Any) -> str:
    meta = model._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_{act}", args=args)


def act(client: Any, model: Any, name: str, *rows: Any) -> Any:
    chosen = [row.pk for row in rows]
    data = {"action": name, ACTION_CHECKBOX_NAME: chosen, "index": 0}
    return client.post(address(model, "changelist"), data, follow=True)


def said(response: Any) -> str:
    return " ".join(str(message) for message in response.context["messages"])


# -- what is there ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_is_there_searchable_and_open_to_ops(ops_client, model: Any) -> None:
    registered = admin.site._registry[model]
    assert registered.search_fields
    for query in ("", "?q=12", "?q=a word", "?q=" + "9" * 30, "?q=%00"):
        assert ops_client.get(address(model, "changelist") + query).status_code == 200, query


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_only_configuration_can_be_changed(ops_client, admin_client, model: Any) -> None:
    is_editable = model.__name__ in EDITABLE
    assert isinstance(admin.site._registry[model], ReadOnlyAdmin) is not is_editable
    if not is_editable:
        for client in (ops_client, admin_client):
            assert client.get(address(model, "add")).status_code == 403


@pytest.mark.parametrize("who", ["rep_client", "manager_client", "integrator_client"])
def test_others_have_no_admin(request, who: str) -> None:
    """Who is signed in is refused with why; a token is no sign-in here."""
    for path in ("/admin/", "/admin/login/", address(Deal, "changelist"), "/admin/nothing/"):
        response = request.getfixturevalue(who).get(path, follow=True)
        if who == "integrator_client":
            assert response.redirect_chain[-1][0].startswith("/login?next=/admin/")
        else:
            assert response.status_code == 403
            assert "The admin is for ops." in response.content.decode()


@pytest.mark.parametrize(
    "factory",
    [
        AccountFactory,
        ContactFactory,
        LeadFactory,
        DealFactory,
        CrmUserFactory,
        SyncRunFactory,
        PipelineFactory,
    ],
)
def test_fifty_rows_cost_the_queries_of_one(ops_client, factory: Any) -> None:
    model = factory._meta.model
    factory()
    ops_client.get(address(model, "changelist"))  # the session notes that it is in use
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as captured:
            assert ops_client.get(address(model, "changelist")).status_code == 200
        counts.append(len(captured))
        factory.create_batch(49)
    assert counts[0] == counts[1]


def test_record_and_history_are_looked_at_and_not_changed(ops_client) -> None:
    deal = DealFactory(name="Untouched")
    event = ChangeEvent.objects.create(
        module="Deals", record_id=deal.pk, kind="created", learnt_at=SEEN, source="full"
    )
    for row in (deal, event, SyncRunFactory(), deal.owner):
        url = address(type(row), "change", row.pk)
        assert ops_client.get(url).status_code == 200
        assert ops_client.post(url, {"name": "Changed"}).status_code == 403
        assert ops_client.post(address(type(row), "delete", row.pk)).status_code == 403
    deal.refresh_from_db()
    assert deal.name == "Untouched"


def test_deal_is_found_by_the_id_of_the_crm_and_by_name(ops_client) -> None:
    deal = DealFactory(name="Blue Whale")
    DealFactory(name="Red Fox")
    for word in (str(deal.zoho_id), "blue"):
        response = ops_client.get(address(Deal, "changelist"), {"q": word})
        assert list(response.context["cl"].result_list) == [deal]


def test_shared_values_are_not_shown(ops_client) -> None:
    row = SharedValue.objects.create(name="zoho:token:x", value="canary-of-a-token", set_at=1.0)
    for url in (address(SharedValue, "changelist"), address(SharedValue, "change", row.pk)):
        assert b"canary" not in ops_client.get(url).content


# -- syncs --------------------------------------------------------------------------------------


def start(client: Any, kind: str) -> Any:
    return client.post(f"/admin/crm/syncrun/start/{kind}/", follow=True)


@pytest.mark.parametrize("kind", ["delta", "full"])
def test_ops_start_a_sync_by_a_button_that_needs_no_run(ops_client, ops, kind: str) -> None:
    mirrored()
    SyncRun.objects.all().delete()
    page = ops_client.get(address(SyncRun, "changelist")).content.decode()
    assert f'action="/admin/crm/syncrun/start/{kind}/"' in page
    response = start(ops_client, kind)
    run = SyncRun.objects.get()
    assert (run.status, run.kind, run.trigger) == (ledger.QUEUED, kind, "user")
    assert run.requested_by == ops
    assert f"run {run.pk}" in said(response)


def test_sync_is_started_by_the_button_alone(ops_client) -> None:
    assert ops_client.get("/admin/crm/syncrun/start/delta/").status_code == 405
    assert ops_client.post("/admin/crm/syncrun/start/everything/").status_code == 404
    assert not SyncRun.objects.exists()


def test_second_sync_names_the_run_under_way(ops_client) -> None:
    under_way = SyncRunFactory(status=ledger.RUNNING, ended_at=None)
    response = start(ops_client, "delta")
    assert f"run {under_way.pk}" in said(response)
    assert SyncRun.objects.count() == 1


def test_staff_without_the_role_start_no_sync(client, django_user_model) -> None:
    visitor = django_user_model.objects.create_user("visitor", is_staff=True)
    client.force_login(visitor, backend="django.contrib.auth.backends.ModelBackend")
    assert start(client, "full").status_code == 403
    assert not SyncRun.objects.exists()


# -- as people write it ---------------------------------------------------------------------------


def test_money_has_its_decimals_and_currency(ops_client) -> None:
    deal = DealFactory(
        amount_minor=5287508, currency="USD", amount_sgd_minor=7100000, weighted_sgd_minor=None
    )
    for page in (address(Deal, "changelist"), address(Deal, "change", deal.pk)):
        assert "52,875.08 USD" in ops_client.get(page).content.decode()
    page = ops_client.get(address(Deal, "change", deal.pk)).content.decode()
    assert "71,000.00 SGD" in page
    assert "5287508" not in page and "minor" not in page.lower()


def test_times_are_those_of_the_business(ops_client) -> None:
    run = SyncRunFactory(started_at=datetime(2026, 11, 20, 17, 40, tzinfo=UTC))
    for page in (address(SyncRun, "changelist"), address(SyncRun, "change", run.pk)):
        shown = ops_client.get(page).content.decode()
        assert "21 Nov 2026, 01:40" in shown
        assert "Times: Asia/Singapore" in shown


def test_a_shared_value_has_its_times_and_not_their_seconds(ops_client) -> None:
    row = SharedValue.objects.create(
        name="a:value", value="x", set_at=1795475068.18, expires_at=1795478668.18
    )
    for page in (address(SharedValue, "changelist"), address(SharedValue, "change", row.pk)):
        shown = ops_client.get(page).content.decode()
        assert "24 Nov 2026, 07:04" in shown and "24 Nov 2026, 08:04" in shown
        assert "1795475068" not in shown


# -- what did not fit ---------------------------------------------------------------------------


def hold_of(*deals: Deal) -> DeletionHold:
    return DeletionHold.objects.create(
        module="Deals",
        run_id=1,
        zoho_ids=[deal.zoho_id for deal in deals],
        live_before=10,
        held_at=SEEN + timedelta(minutes=1),
    )


def test_confirmed_deletions_are_marked_and_told_once(ops_client) -> None:
    gone, other = DealFactory(), DealFactory()
    hold = hold_of(gone)
    for _ in range(2):
        act(ops_client, DeletionHold, "confirm_deletion", hold)
    for row in (gone, other, hold):
        row.refresh_from_db()
    assert gone.deleted_at is not None and gone.deleted_source == "held"
    assert other.deleted_at is None
    assert (hold.status, hold.decided_at is not None) == (DeletionHold.APPLIED, True)
    assert ChangeEvent.objects.filter(record_id=gone.pk, kind="deleted").count() == 1


def test_record_that_came_back_since_is_spared(ops_client) -> None:
    back = DealFactory(read_at=SEEN + timedelta(hours=1))
    response = act(ops_client, DeletionHold, "confirm_deletion", hold_of(back))
    back.refresh_from_db()
    assert back.deleted_at is None
    assert "0 marked as deleted; 1 left" in said(response)


def test_kept_records_stay(ops_client) -> None:
    deal = DealFactory()
    hold = hold_of(deal)
    act(ops_client, DeletionHold, "keep", hold)
    act(ops_client, DeletionHold, "confirm_deletion", hold)
    for row in (deal, hold):
        row.refresh_from_db()
    assert deal.deleted_at is None
    assert hold.status == DeletionHold.DISMISSED


def test_failure_is_dismissed(ops_client) -> None:
    failed = FailedRecord.objects.create(
        module="Deals",
        dedupe_key="k",
        code="no_id",
        message="",
        first_seen_at=SEEN,
        last_seen_at=SEEN,
    )
    act(ops_client, FailedRecord, "dismiss", failed)
    failed.refresh_from_db()
    assert failed.resolved_at is not None


def test_staff_without_the_role_have_none_of_the_acts(client, django_user_model: Any) -> None:
    from django.contrib.auth.models import Permission

    looker = django_user_model.objects.create_user("looker", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(looker, backend="django.contrib.auth.backends.ModelBackend")
    deal = DealFactory()
    hold = hold_of(deal)
    act(client, DeletionHold, "confirm_deletion", hold)
    act(client, SyncRun, "sync_fully")
    act(client, SyncRun, "sync_now")
    deal.refresh_from_db()
    assert deal.deleted_at is None
    assert not SyncRun.objects.exists()


# -- configuration ------------------------------------------------------------------------------


def compute_anew() -> None:
    """What the worker does when it is nudged."""
    assert rederive.run_if_needed() == 1


def needs_derive() -> bool:
    return MirrorState.objects.filter(module="Deals", derive_needed=True).exists()


@pytest.fixture
def stage() -> CrmStage:
    return CrmStage.objects.create(
        actual_name="Prospecting", display_name="Prospecting", forecast_type="open", probability=5
    )


def test_stage_that_ops_change_stays_theirs_and_deals_follow(ops_client, stage) -> None:
    deal = DealFactory(crm_stage="Prospecting", amount_minor=100_000, probability=5)
    url = address(CrmStage, "change", stage.pk)
    response = ops_client.post(url, {"our_stage": "discovery", "probability": "30"})
    assert response.status_code == 302
    stage.refresh_from_db()
    assert (stage.our_stage, stage.probability, stage.is_edited) == ("discovery", 30, True)
    compute_anew()
    deal.refresh_from_db()
    assert (deal.stage, deal.probability, deal.weighted_sgd_minor) == ("discovery", 30, 30_000)


@pytest.mark.parametrize(
    ("forecast", "ours", "percent", "field"),
    [
        ("open", "closed_won", "50", "our_stage"),
        ("won", "proposal", "50", "our_stage"),
        ("lost", "closed_won", "0", "our_stage"),
        ("open", "proposal", "101", "probability"),
        ("open", "proposal", "-1", "probability"),
        ("open", "nonsense", "10", "our_stage"),
    ],
)
def test_stage_that_cannot_be_is_refused(ops_client, stage, forecast, ours, percent, field) -> None:
    DealFactory()
    CrmStage.objects.update(forecast_type=forecast)
    url = address(CrmStage, "change", stage.pk)
    response = ops_client.post(url, {"our_stage": ours, "probability": percent})
    assert list(response.context["adminform"].form.errors) == [field]
    assert not needs_derive()


def test_stages_are_neither_added_nor_removed_by_hand(ops_client, stage) -> None:
    assert ops_client.get(address(CrmStage, "add")).status_code == 403
    assert ops_client.post(address(CrmStage, "delete", stage.pk)).status_code == 403


def test_rate_set_by_hand_is_kept_exactly_and_deals_follow(ops_client) -> None:
    CrmConnection.objects.create(home_currency="SGD")
    deal = DealFactory(currency="USD", amount_minor=741_234)
    data = {"iso_code": "usd", "day": "2026-03-01", "rate": "0.741234567"}
    assert ops_client.post(address(ExchangeRate, "add"), data).status_code == 302
    rate = ExchangeRate.objects.get()
    assert (rate.iso_code, rate.rate_nano, rate.source) == ("USD", 741_234_567, "manual")
    compute_anew()
    deal.refresh_from_db()
    assert deal.amount_sgd_minor == 999_999
    url = address(ExchangeRate, "change", rate.pk)
    assert b"0.741234567" in ops_client.get(url).content
    assert ops_client.post(url, data | {"rate": "2"}).status_code == 302
    rate.refresh_from_db()
    assert rate.rate_nano == 2 * 10**9


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": "0"},
        {"rate": "-1"},
        {"rate": "NaN"},
        {"rate": "1e30"},
        {"rate": "0.0000000001"},
        {"iso_code": "dollar"},
        {"day": "2026-02-30"},
    ],
)
def test_rate_that_cannot_be_is_refused(ops_client, wrong: dict[str, str]) -> None:
    data = {"iso_code": "USD", "day": "2026-03-01", "rate": "1.5", **wrong}
    response = ops_client.post(address(ExchangeRate, "add"), data)
    assert list(response.context["adminform"].form.errors) == list(wrong)
    assert not ExchangeRate.objects.exists()


def test_second_manual_rate_of_a_day_is_refused(ops_client) -> None:
    data = {"iso_code": "USD", "day": "2026-03-01", "rate": "1.5"}
    for _ in range(2):
        ops_client.post(address(ExchangeRate, "add"), data)
    assert ExchangeRate.objects.count() == 1


def test_rate_of_the_crm_is_looked_at_only(ops_client) -> None:
    rate = ExchangeRate.objects.create(iso_code="USD", day=date(2026, 3, 1), rate_nano=10**9)
    url = address(ExchangeRate, "change", rate.pk)
    assert ops_client.get(url).status_code == 200
    data = {"iso_code": "USD", "day": "2026-03-01", "rate": "9"}
    assert ops_client.post(url, data).status_code == 403
    chosen = {"action": "delete_selected", ACTION_CHECKBOX_NAME: [rate.pk], "post": "yes"}
    ops_client.post(address(ExchangeRate, "changelist"), chosen)
    rate.refresh_from_db()
    assert rate.rate_nano == 10**9


def test_mapping_is_checked_and_says_what_follows(ops_client) -> None:
    CrmField.objects.create(module="Deals", api_name="Region", read_at=timezone.now())
    url = address(FieldMapping, "add")
    data = {"module": "Deals", "our_field": "territory", "api_name": "Region"}
    response = ops_client.post(url, data, follow=True)
    assert FieldMapping.objects.get().api_name == "Region"
    assert "full sync" in said(response)
    assert "no field" not in said(response)
    data = {"module": "Deals", "our_field": "service_line", "api_name": "Absent"}
    told = said(ops_client.post(url, data, follow=True))
    assert "no field Absent in Deals" in told and "keeps its last values" in told


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("our_field", "change_seq"),
        ("our_field", "industry"),
        ("module", "Invoices"),
        ("api_name", "Bad Name"),
        ("api_name", "a,b"),
    ],
)
def test_mapping_that_cannot_be_is_refused(ops_client, field: str, value: str) -> None:
    data = {"module": "Deals", "our_field": "territory", "api_name": "Region", field: value}
    response = ops_client.post(address(FieldMapping, "add"), data)
    assert list(response.context["adminform"].form.errors) == [field]
    assert not FieldMapping.objects.exists()


def test_schedules_are_seen_and_changed_by_ops(ops_client) -> None:
    from django_celery_beat.models import PeriodicTask

    task = PeriodicTask.objects.get(task="crm.tasks.scheduled_delta")
    for url in (address(PeriodicTask, "changelist"), address(PeriodicTask, "change", task.pk)):
        assert ops_client.get(url).status_code == 200
    assert ops_client.get(address(PeriodicTask, "add")).status_code == 403
