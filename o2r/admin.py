"""Opportunities and their roll-up in the admin: to look at; recompute alone writes them."""

from __future__ import annotations

from django.contrib import admin

from crm.admin import ReadOnlyAdmin, money_column
from o2r import admin_tracker as admin_tracker  # registers what it holds
from o2r import models


@admin.register(models.Opportunity)
class OpportunityAdmin(ReadOnlyAdmin):
    list_display = ["deal", "current_phase", "health_signal", "outcome", "worse_on", "as_of"]
    list_display += ["is_counted", money_column("counted_sgd_minor")]
    list_select_related = ["deal"]
    list_filter = ["outcome", "health_signal", "current_phase", "is_overdue", "is_counted"]
    search_fields = ["deal__zoho_id__exact", "deal__name"]
    ordering = ["-pk"]


@admin.register(models.PipelineCell)
class PipelineCellAdmin(ReadOnlyAdmin):
    list_display = ["stage", "territory", "service_line", "owner_id", "count"]
    list_display += [money_column("sgd_minor")]
    list_filter = [("stage", admin.AllValuesFieldListFilter)]
    search_fields = ["territory", "service_line", "owner_id__exact"]


@admin.register(models.ClosedDay)
class ClosedDayAdmin(ReadOnlyAdmin):
    list_display = ["day", "stage", "dimension", "value", "count"]
    list_display += [money_column("sgd_minor")]
    list_filter = [
        ("stage", admin.AllValuesFieldListFilter),
        ("dimension", admin.AllValuesFieldListFilter),
    ]
    search_fields = ["value"]
    ordering = ["-day"]


@admin.register(models.RecomputeState)
class RecomputeStateAdmin(ReadOnlyAdmin):
    list_display = ["__str__", "deal_seq", "caught_up_at", "revision"]
    search_fields = ["id__exact"]


@admin.register(models.PipelineMove)
class PipelineMoveAdmin(ReadOnlyAdmin):
    list_display = ["day", "stage", "dimension", "value", "count", "sgd_minor"]
    list_filter = [
        ("stage", admin.AllValuesFieldListFilter),
        ("dimension", admin.AllValuesFieldListFilter),
    ]
    search_fields = ["value"]
    ordering = ["-day"]


@admin.register(models.Preference)
class PreferenceAdmin(ReadOnlyAdmin):
    list_display = ["user", "is_mine"]
    list_select_related = ["user"]
    search_fields = ["user__username", "user__email"]
