"""The mirror in the admin: history and mirrored rows to look at, configuration to change.

Decides what may be edited by hand (stages, mapping, manual rates) and which acts ops have here.
What an act does is decided in `crm/sync`; who may, by the permission functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, cached_property
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from crm import models, stages
from crm.api.paging import EXACT_TO
from crm.currency import NANO
from crm.errors import CrmError
from crm.mapping.convert import decimals_of
from crm.mapping.profiles import MODULES, PROFILES, builtin_mapping
from crm.permissions import may_configure, may_start_sync
from crm.sync import failures, holds, reconcile, replay
from crm.sync.metadata import queue_derive
from crm.sync.runs import DELTA, FULL, RECONCILE, request_run

MOST_AT_ONCE = 50  # each asks the CRM while a person waits
MODULE_CHOICES = [(name, name) for name in MODULES]


class QuickPaginator(Paginator):
    """Counts no further than a person would page."""

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[:EXACT_TO].count()


MINOR = "_minor"


@cache
def money_column(name: str) -> Callable[[Any], str]:
    """For a column of whole minor units: the amount as people write it, with its currency.

    `amount_minor` is in the row's own currency, every other one in SGD.
    """

    @admin.display(
        description=name.removesuffix(MINOR).replace("_", " ").replace("sgd", "SGD"),
        ordering=name,
    )
    def written(row: Any) -> str:
        minor = getattr(row, name)
        if minor is None:
            return "–"
        return money(minor, row.currency if name == "amount_minor" else "SGD")

    return written


def money(minor: int, code: str) -> str:
    """Whole minor units as people write the amount, with its currency."""
    decimals = decimals_of(code)
    return f"{Decimal(minor).scaleb(-decimals):,.{decimals}f} {code}"


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that only the sync writes: to search and to look at."""

    paginator = QuickPaginator
    show_full_result_count = False
    list_per_page = 50

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """All of them, money as people write it."""
        names = super().get_fields(request, obj)
        return [money_column(name) if name.endswith(MINOR) else name for name in names]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class RepairAdmin(ReadOnlyAdmin):
    """The same, with acts of ops upon the rows."""

    def has_repair_permission(self, request: HttpRequest) -> bool:
        return bool(may_configure(request.user))


# -- records ------------------------------------------------------------------------------------


class OurStageFilter(admin.SimpleListFilter):
    """Our stages as they are known, instead of asking a million deals which they have."""

    title = "stage"
    parameter_name = "stage"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return list(stages.LABELS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(stage=self.value()) if self.value() else queryset


class RecordAdmin(ReadOnlyAdmin):
    list_filter = [("deleted_at", admin.EmptyFieldListFilter), "is_stub"]
    search_fields = ["zoho_id__exact", "name"]
    list_select_related = ["owner"]
    ordering = ["-pk"]


@admin.register(models.Deal)
class DealAdmin(RecordAdmin):
    list_display = ["name", "account", "owner", "stage", money_column("amount_minor")]
    list_display += ["closing_date", "crm_modified_at"]
    list_select_related = ["owner", "account"]
    list_filter = [OurStageFilter, "stage_type", *RecordAdmin.list_filter]


@admin.register(models.Account)
class AccountAdmin(RecordAdmin):
    list_display = ["name", "owner", "industry", "country", "crm_modified_at"]


@admin.register(models.Contact)
class ContactAdmin(RecordAdmin):
    list_display = ["__str__", "account", "email", "owner", "crm_modified_at"]
    list_select_related = ["owner", "account"]
    search_fields = ["zoho_id__exact", "first_name", "last_name", "email"]


@admin.register(models.Lead)
class LeadAdmin(RecordAdmin):
    list_display = ["__str__", "company", "status", "is_converted", "owner", "crm_modified_at"]
    list_filter = ["is_converted", *RecordAdmin.list_filter]
    search_fields = ["zoho_id__exact", "first_name", "last_name", "company", "email"]


@admin.register(models.CrmUser)
class CrmUserAdmin(ReadOnlyAdmin):
    list_display = ["name", "email", "status", "role", "profile"]
    list_filter = ["status"]
    search_fields = ["zoho_id__exact", "name", "email"]


@admin.register(models.ReceivedRecord)
class ReceivedRecordAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "received_at"]
    list_filter = [("module", admin.AllValuesFieldListFilter)]
    search_fields = ["record_id__exact"]
    ordering = ["-pk"]


@admin.register(models.ChangeEvent)
class ChangeEventAdmin(ReadOnlyAdmin):
    list_display = ["learnt_at", "module", "record_id", "kind", "field", "changed_at", "source"]
    list_filter = ["kind"]
    search_fields = ["record_id__exact", "run_id__exact"]
    ordering = ["-pk"]


# -- runs ---------------------------------------------------------------------------------------


class RunPartInline(admin.TabularInline):
    model = models.SyncRunModule
    fields = ["module", "state", "expected", "pages", "seen", "created", "updated", "unchanged"]
    fields += ["failed", "deleted", "watermark_after", "message"]
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(models.SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    list_display = ["id", "kind", "trigger", "status", "requested_by", "started_at", "ended_at"]
    list_display += ["seen", "created", "updated", "deleted", "failed"]
    list_select_related = ["requested_by"]
    list_filter = ["kind", "status", "trigger"]
    search_fields = ["id__exact", "error_code", "message"]
    ordering = ["-pk"]
    inlines = [RunPartInline]

    def get_urls(self) -> list[Any]:
        start = self.admin_site.admin_view(require_POST(self.start))
        return [path("start/<str:kind>/", start, name="crm_syncrun_start"), *super().get_urls()]

    def start(self, request: HttpRequest, kind: str) -> HttpResponse:
        """Ask for a sync; what came of it is said above the list of runs."""
        if kind not in (DELTA, FULL):
            raise Http404
        decision = may_start_sync(request.user, kind)
        if not decision:
            raise PermissionDenied(decision.why)
        try:
            run = request_run(kind=kind, trigger="user", user=request.user)
        except CrmError as error:
            self.message_user(request, error.message, messages.ERROR)
        else:
            self.message_user(request, f"Sync started: run {run.pk}, {run.kind}.")
        return redirect("admin:crm_syncrun_changelist")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With a button for each kind that this person may start: it concerns no row."""
        kinds = {DELTA: "Sync now", FULL: "Full sync"}
        offered = [kind for kind in kinds.items() if may_start_sync(request.user, kind[0])]
        return super().changelist_view(request, {**(extra_context or {}), "kinds": offered})


@admin.register(models.SyncRunModule)
class SyncRunModuleAdmin(ReadOnlyAdmin):
    list_display = ["run", "module", "state", "expected", "seen", "failed", "watermark_after"]
    list_select_related = ["run"]
    list_filter = ["state", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["run__id__exact", "message"]
    ordering = ["-pk"]


@admin.register(models.SweepCandidate)
class SweepCandidateAdmin(ReadOnlyAdmin):
    list_display = ["zoho_id", "part"]
    list_select_related = ["part"]
    search_fields = ["zoho_id__exact"]
    ordering = ["-pk"]


@admin.register(models.SyncLease)
class SyncLeaseAdmin(ReadOnlyAdmin):
    list_display = ["name", "holder", "fence"]
    search_fields = ["name", "holder"]


@admin.register(models.MirrorState)
class MirrorStateAdmin(ReadOnlyAdmin):
    list_display = ["module", "watermark", "complete_s0", "full_at", "derive_needed"]
    list_filter = ["derive_needed"]
    search_fields = ["module"]


# -- what did not fit ---------------------------------------------------------------------------


@admin.register(models.FailedRecord)
class FailedRecordAdmin(RepairAdmin):
    list_display = ["module", "zoho_id", "code", "message", "attempts", "last_seen_at"]
    list_display += ["resolved_at"]
    list_filter = [("resolved_at", admin.EmptyFieldListFilter), "module", "code"]
    search_fields = ["zoho_id__exact", "code", "message", "payload"]
    ordering = ["-last_seen_at"]
    actions = ["try_again", "dismiss"]

    @admin.action(description="Try again", permissions=["repair"])
    def try_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        for failed in queryset.filter(resolved_at=None)[:MOST_AT_ONCE]:
            try:
                outcome = failures.retry(failed, user=request.user)
            except CrmError as error:
                self.message_user(request, error.message, messages.ERROR)
                return
            self.log_change(request, failed, f"Tried again: {outcome.result}.")
            level = messages.WARNING if outcome.result == failures.FAILED else messages.INFO
            self.message_user(request, f"{failed}: {outcome.message}", level)

    @admin.action(description="Dismiss", permissions=["repair"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet) -> None:
        count = 0
        for failed in queryset.filter(resolved_at=None):
            if failures.dismiss(failed, user=request.user):
                self.log_change(request, failed, "Dismissed.")
                count += 1
        self.message_user(request, f"{count} dismissed; one that fails again comes back.")


@admin.register(models.Reconciliation)
class ReconciliationAdmin(ReadOnlyAdmin):
    list_display = ["ended_at", "run", "is_exact", "differing", "repaired", "sentence", "records"]
    list_select_related = ["run"]
    list_filter = ["is_exact"]
    search_fields = ["run__id__exact", "sentence"]
    ordering = ["-pk"]
    methods = {"auto": "Prove the mirror now", reconcile.REPAIR: "Repair what is left"}

    @admin.display(description="records")
    def records(self, row: models.Reconciliation) -> str:
        if not row.differing:
            return "–"
        path = reverse("admin:crm_mirrordifference_changelist")
        return format_html('<a href="{}?reconciliation__id__exact={}">Show</a>', path, row.pk)

    def get_urls(self) -> list[Any]:
        start = self.admin_site.admin_view(require_POST(self.start))
        start_path = path("start/<str:method>/", start, name="crm_reconciliation_start")
        return [start_path, *super().get_urls()]

    def start(self, request: HttpRequest, method: str) -> HttpResponse:
        """Ask for a proof, or for the repair of what the last one left."""
        if method not in self.methods:
            raise Http404
        decision = may_configure(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        try:
            run = request_run(kind=RECONCILE, trigger="user", user=request.user, method=method)
        except CrmError as error:
            self.message_user(request, error.message, messages.ERROR)
        else:
            self.message_user(request, f"Started: run {run.pk}.")
        return redirect("admin:crm_reconciliation_changelist")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With its buttons: before the first proof there is no row to tick."""
        offered = list(self.methods.items()) if may_configure(request.user) else []
        return super().changelist_view(request, {**(extra_context or {}), "methods": offered})


@admin.register(models.MirrorDifference)
class MirrorDifferenceAdmin(ReadOnlyAdmin):
    list_display = ["module", "zoho_id", "kind", "state", "note", "reconciliation"]
    list_select_related = ["reconciliation"]
    list_filter = ["state", "kind", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["zoho_id__exact", "reconciliation__run__id__exact"]
    ordering = ["-pk"]


@admin.register(models.RecordProblem)
class RecordProblemAdmin(ReadOnlyAdmin):
    list_display = ["module", "record_id", "field", "code", "message", "seen_at"]
    list_filter = [("module", admin.AllValuesFieldListFilter), "code"]
    search_fields = ["record_id__exact", "field", "message"]
    ordering = ["-pk"]


@admin.register(models.DeletionHold)
class DeletionHoldAdmin(RepairAdmin):
    list_display = ["__str__", "status", "held_at", "decided_at"]
    list_filter = ["status", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["module"]
    ordering = ["-pk"]
    actions = ["confirm_deletion", "keep"]

    @admin.action(description="Confirm deletion", permissions=["repair"])
    def confirm_deletion(self, request: HttpRequest, queryset: QuerySet) -> None:
        for hold in queryset.filter(status=models.DeletionHold.HELD):
            deleted = holds.confirm(hold)
            self.log_change(request, hold, f"Confirmed: {deleted} marked as deleted.")
            spared = len(hold.zoho_ids) - deleted
            self.message_user(
                request,
                f"{hold.module}: {deleted} marked as deleted; {spared} left as they are, because "
                "they were read again meanwhile or were marked before.",
            )

    @admin.action(description="Keep", permissions=["repair"])
    def keep(self, request: HttpRequest, queryset: QuerySet) -> None:
        for hold in queryset.filter(status=models.DeletionHold.HELD):
            holds.dismiss(hold)
            self.log_change(request, hold, "Kept.")
            self.message_user(request, f"{hold.module}: {len(hold.zoho_ids)} records stay.")


# -- configuration ------------------------------------------------------------------------------


class DerivingAdmin(admin.ModelAdmin):
    """Rows from which every deal's stage, probability or SGD value follows."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        self._derive(request)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        self._derive(request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        super().delete_queryset(request, queryset)
        self._derive(request)

    def _derive(self, request: HttpRequest) -> None:
        from crm.tasks import nudge, rederive_deals

        queue_derive()
        transaction.on_commit(lambda: nudge(rederive_deals))
        self.message_user(request, "Every deal is being computed anew.", messages.INFO)


class StageForm(forms.ModelForm):
    class Meta:
        model = models.CrmStage
        fields = ["our_stage", "probability"]

    def clean_our_stage(self) -> str:
        """Won and lost are told by the CRM's forecast type alone."""
        ours = self.cleaned_data["our_stage"]
        closed = {stages.WON: "closed_won", stages.LOST: "closed_lost"}
        must_be = closed.get(self.instance.forecast_type)
        if must_be is not None and ours != must_be:
            raise forms.ValidationError(
                f"The CRM forecasts this stage as {self.instance.get_forecast_type_display()}: "
                f"here it can only be {stages.LABELS[must_be]}."
            )
        if must_be is None and ours in closed.values():
            raise forms.ValidationError(
                "The CRM forecasts this stage as open. Change its forecast type there to close it."
            )
        return ours

    def clean_probability(self) -> int | None:
        percent = self.cleaned_data["probability"]
        if percent is not None and not 0 <= percent <= 100:
            raise forms.ValidationError("Between 0 and 100.")
        return percent


@admin.register(models.CrmStage)
class CrmStageAdmin(DerivingAdmin):
    form = StageForm
    list_display = ["display_name", "our_stage", "probability", "forecast_type", "is_edited"]
    list_display += ["in_use"]
    list_filter = ["our_stage", "forecast_type", "in_use", "is_edited"]
    search_fields = ["actual_name", "display_name"]
    readonly_fields = ["actual_name", "display_name", "forecast_type", "is_edited", "in_use"]
    fields = ["display_name", "actual_name", "forecast_type", "our_stage", "probability"]
    fields += ["is_edited", "in_use"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.is_edited = True
        super().save_model(request, obj, form, change)


class RateForm(forms.ModelForm):
    iso_code = forms.RegexField(r"^[A-Za-z]{3}$", label="Currency", help_text="As USD.")
    rate = forms.DecimalField(
        max_digits=18,
        decimal_places=9,
        min_value=Decimal("0.000000001"),
        help_text="Units of this currency for one unit of the home currency.",
    )

    class Meta:
        model = models.ExchangeRate
        fields = ["iso_code", "day"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["rate"] = Decimal(self.instance.rate_nano).scaleb(-9)

    def clean_iso_code(self) -> str:
        return self.cleaned_data["iso_code"].upper()

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        if values.get("rate") is not None:
            self.instance.rate_nano = int(values["rate"] * NANO)
        self.instance.source = models.ExchangeRate.MANUAL
        same = models.ExchangeRate.objects.filter(
            iso_code=values.get("iso_code"), day=values.get("day"), source=self.instance.source
        ).exclude(pk=self.instance.pk)
        if same.exists():
            raise forms.ValidationError("There is a manual rate of this day already: change that.")
        return values


@admin.register(models.ExchangeRate)
class ExchangeRateAdmin(DerivingAdmin):
    """Rates set by hand; those from the CRM are to look at. Of one day the manual one wins."""

    form = RateForm
    list_display = ["iso_code", "day", "rate", "source"]
    list_filter = ["source", ("iso_code", admin.AllValuesFieldListFilter)]
    search_fields = ["iso_code"]
    ordering = ["-day", "iso_code"]

    @admin.display(description="rate")
    def rate(self, row: models.ExchangeRate) -> Decimal:
        return Decimal(row.rate_nano).scaleb(-9).normalize()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        can_change = obj is None or self.has_change_permission(request, obj)
        return ["iso_code", "day", "rate"] if can_change else ["iso_code", "day", "rate", "source"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_manual(obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_manual(obj) and super().has_delete_permission(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        super().delete_queryset(request, queryset.filter(source=models.ExchangeRate.MANUAL))


def _is_manual(rate: models.ExchangeRate | None) -> bool:
    return rate is None or rate.source == models.ExchangeRate.MANUAL


class MappingForm(forms.ModelForm):
    module = forms.ChoiceField(choices=MODULE_CHOICES)
    api_name = forms.RegexField(
        r"^[A-Za-z][A-Za-z0-9_]*$",
        max_length=100,
        required=False,
        label="CRM field",
        help_text="Its API name. Empty switches the field off.",
    )

    class Meta:
        model = models.FieldMapping
        fields = ["module", "our_field", "api_name"]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        module, ours = values.get("module"), values.get("our_field")
        if module and ours:
            known = our_fields(module)
            if ours not in known:
                self.add_error("our_field", f"{module} has: {', '.join(sorted(known))}.")
        return values


def our_fields(module: str) -> set[str]:
    """Every field of ours that a profile maps in this module."""
    return {spec.ours for profile in PROFILES for spec in builtin_mapping(module, profile)}


@admin.register(models.FieldMapping)
class FieldMappingAdmin(admin.ModelAdmin):
    """Rows here lie over the built-in profile, field by field."""

    form = MappingForm
    list_display = ["module", "our_field", "api_name"]
    list_filter = [("module", admin.AllValuesFieldListFilter)]
    search_fields = ["our_field", "api_name"]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        fields = models.CrmField.objects.filter(module=obj.module)
        if obj.api_name and fields.exists() and not fields.filter(api_name=obj.api_name).exists():
            self.message_user(
                request,
                f"The CRM has no field {obj.api_name} in {obj.module}, as far as is known: until "
                "it does, the field keeps its last values here.",
                messages.WARNING,
            )
        self._replay(request, obj.module)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        self._replay(request, obj.module)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        changed = set(queryset.values_list("module", flat=True))
        super().delete_queryset(request, queryset)
        self._replay(request, *changed)

    def _replay(self, request: HttpRequest, *changed: str) -> None:
        from crm.tasks import nudge, sweep

        if not changed:
            return
        replay.queue(*changed)
        transaction.on_commit(lambda: nudge(sweep))
        self.message_user(
            request,
            "The records that are here are being mapped again, without another download. A field "
            "that was not read so far comes with the next full sync.",
            messages.INFO,
        )


# -- what the CRM says about itself -------------------------------------------------------------


@admin.register(models.CrmConnection)
class CrmConnectionAdmin(ReadOnlyAdmin):
    list_display = ["org_name", "org_id", "edition", "profile", "last_success_at", "error_code"]
    search_fields = ["org_name", "org_id"]


@admin.register(models.CrmField)
class CrmFieldAdmin(ReadOnlyAdmin):
    list_display = ["module", "api_name", "label", "data_type", "length", "is_read_only"]
    list_filter = [("module", admin.AllValuesFieldListFilter), "data_type"]
    search_fields = ["api_name", "label"]


@admin.register(models.Currency)
class CurrencyAdmin(ReadOnlyAdmin):
    list_display = ["iso_code", "name", "is_home", "is_active", "decimals"]
    list_filter = ["is_active"]
    search_fields = ["iso_code", "name"]


class PipelineStageInline(admin.TabularInline):
    model = models.PipelineStage
    fields = ["stage", "sequence"]
    extra = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).select_related("stage")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(models.Pipeline)
class PipelineAdmin(ReadOnlyAdmin):
    list_display = ["name", "zoho_id", "is_default"]
    search_fields = ["name", "zoho_id__exact"]
    inlines = [PipelineStageInline]


@admin.register(models.PipelineStage)
class PipelineStageAdmin(ReadOnlyAdmin):
    list_display = ["pipeline", "stage", "sequence"]
    list_select_related = ["pipeline", "stage"]
    list_filter = ["pipeline"]
    search_fields = ["pipeline__name", "stage__display_name"]


@admin.register(models.SharedValue)
class SharedValueAdmin(ReadOnlyAdmin):
    """Names and lives only: among the values is the token, if encrypted."""

    list_display = ["name", "was_set", "expires"]
    fields = ["name", "was_set", "expires"]
    search_fields = ["name"]

    @admin.display(description="set at", ordering="set_at")
    def was_set(self, row: models.SharedValue) -> str:
        return moment_of(row.set_at)

    @admin.display(description="expires at", ordering="expires_at")
    def expires(self, row: models.SharedValue) -> str:
        return "never" if row.expires_at is None else moment_of(row.expires_at)


def moment_of(epoch: float) -> str:
    """Seconds since 1970 as the admin writes a time."""
    local = timezone.localtime(datetime.fromtimestamp(epoch, UTC))
    return date_format(local, "DATETIME_FORMAT")


from crm import (  # noqa: E402
    admin_inbox,  # noqa: F401  (registers the inbox and the channels)
    admin_outbox,  # noqa: F401  (registers the outbox and its switch)
)
