"""The O2R tracker in the admin: history to look at, and what ops decide about phases and signals.

Decides what may be edited by hand (thresholds, least phases, the SOW stage), what is refused and
why, and that every opportunity is looked at anew afterwards. What a rule means is decided in
`o2r/health_signals.py`.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from crm.admin import ReadOnlyAdmin, money_column
from o2r import health_signals, models
from o2r.permissions import may_configure

# -- what people and rules said -------------------------------------------------------------------


class StoryAdmin(ReadOnlyAdmin):
    """Rows about an opportunity, found by its deal."""

    list_select_related: Any = ["opportunity__deal"]
    search_fields = ["opportunity__deal__zoho_id__exact", "opportunity__deal__name"]
    ordering = ["-pk"]

    @admin.display(description="opportunity")
    def deal(self, row: Any) -> str:
        return str(row.opportunity.deal)


@admin.register(models.Milestone)
class MilestoneAdmin(StoryAdmin):
    list_display = ["deal", "key", "status", "target_on", "completed_on", "recorded_by"]
    list_display += ["recorded_at"]
    list_select_related = ["opportunity__deal", "recorded_by"]
    list_filter = ["status", ("key", admin.AllValuesFieldListFilter)]
    search_fields = [*StoryAdmin.search_fields, "key", "title", "note"]


@admin.register(models.MilestoneChange)
class MilestoneChangeAdmin(StoryAdmin):
    list_display = ["at", "deal", "key", "author_name", "old", "new"]
    list_filter = ["at"]
    search_fields = [*StoryAdmin.search_fields, "key", "author_name"]


@admin.register(models.PhaseChange)
class PhaseChangeAdmin(StoryAdmin):
    list_display = ["happened_on", "deal", "from_phase", "to_phase", "why", "author", "learnt_at"]
    list_select_related = ["opportunity__deal", "author"]
    list_filter = ["to_phase", "happened_on"]
    search_fields = [*StoryAdmin.search_fields, "why"]


@admin.register(models.SignalChange)
class SignalChangeAdmin(StoryAdmin):
    list_display = ["happened_on", "deal", "from_signal", "to_signal", "learnt_at"]
    list_filter = ["to_signal", "happened_on"]


@admin.register(models.ActionItem)
class ActionItemAdmin(StoryAdmin):
    list_display = ["text", "deal", "owner", "due_on", "rule", "done_at", "closed_by_rule"]
    list_select_related = ["opportunity__deal", "owner"]
    list_filter = [("done_at", admin.EmptyFieldListFilter), "closed_by_rule", "rule"]
    search_fields = [*StoryAdmin.search_fields, "text", "owner__name", "owner__email"]


@admin.register(models.Activity)
class ActivityAdmin(StoryAdmin):
    list_display = ["type", "deal", "scheduled_at", "completed_at", "outcome", "created_by"]
    list_select_related = ["opportunity__deal", "created_by"]
    list_filter = ["type", "outcome"]
    search_fields = [*StoryAdmin.search_fields, "description"]


@admin.register(models.Review)
class ReviewAdmin(StoryAdmin):
    list_display = ["reviewed_on", "deal", "health_signal", "decision", "reviewer_name"]
    list_filter = ["health_signal", "reviewed_on"]
    search_fields = [*StoryAdmin.search_fields, "decision", "note", "reviewer_name"]


@admin.register(models.Snooze)
class SnoozeAdmin(StoryAdmin):
    list_display = ["deal", "until", "reason", "author", "created_at", "ended_at"]
    list_select_related = ["opportunity__deal", "author"]
    list_filter = [("ended_at", admin.EmptyFieldListFilter), "until"]
    search_fields = [*StoryAdmin.search_fields, "reason"]


# -- figures --------------------------------------------------------------------------------------


class SumsAdmin(ReadOnlyAdmin):
    list_filter = ["outcome", "phase", "signal", "is_overdue"]


@admin.register(models.TrackerCell)
class TrackerCellAdmin(SumsAdmin):
    list_display = ["territory", "service_line", "owner_id", "outcome", "phase", "signal", "count"]
    list_display += [money_column("sgd_minor")]
    search_fields = ["territory", "service_line", "owner_id__exact"]


@admin.register(models.TrackerMargin)
class TrackerMarginAdmin(SumsAdmin):
    list_display = ["dimension", "value", "outcome", "phase", "signal", "count"]
    list_display += [money_column("sgd_minor")]
    list_filter = [("dimension", admin.AllValuesFieldListFilter), *SumsAdmin.list_filter]
    search_fields = ["value"]


@admin.register(models.DayCount)
class DayCountAdmin(ReadOnlyAdmin):
    list_display = ["kind", "dimension", "value"]
    list_filter = ["kind", ("dimension", admin.AllValuesFieldListFilter)]
    search_fields = ["value", "kind"]


# -- what ops decide ------------------------------------------------------------------------------


class DecidingAdmin(admin.ModelAdmin):
    """Rows from which every phase and signal follows. The log says from what to what."""

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super().has_change_permission(request, obj) and bool(may_configure(request.user))

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        if add:
            return super().construct_change_message(request, form, formsets, add)
        told = [
            f"{form.fields[name].label or name}: {_said(form.initial.get(name))} → "
            f"{_said(form.cleaned_data.get(name))}"
            for name in form.changed_data
        ]
        return "; ".join(told) or "Nothing changed."

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """What is saved as it was is not saved: it would have everything looked at for nothing."""
        if form.changed_data or not change:
            super().save_model(request, obj, form, change)
            self._say_so(request)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        self._say_so(request)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        with transaction.atomic():
            super().delete_queryset(request, queryset)
        self._say_so(request)

    def _say_so(self, request: HttpRequest) -> None:
        """That it happens is decided in `o2r/receivers.py`, whoever saves."""
        self.message_user(request, "Every opportunity is being looked at anew.", messages.INFO)


def _said(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


class SignalRuleForm(forms.ModelForm):
    class Meta:
        model = models.SignalRule
        fields = ["is_on", "yellow_days", "red_days"]

    def clean(self) -> dict[str, Any]:
        """Refuses thresholds that contradict each other, and says why."""
        values = super().clean() or self.cleaned_data
        if self.errors:
            return values
        yellow, red = values.get("yellow_days"), values.get("red_days")
        rule = health_signals.RULES.get(self.instance.key)
        if rule is not None and rule.is_block:
            if yellow is not None or red is not None:
                raise forms.ValidationError("Blocked is blocked at once: it has no thresholds.")
            return values
        if yellow is not None and red is not None and yellow >= red:
            self.add_error(
                "yellow_days",
                f"Yellow after more than {yellow} days would not come before red, which comes "
                f"after more than {red}. Give yellow fewer days than red, or leave it empty.",
            )
        if values.get("is_on") and yellow is None and red is None:
            self.add_error(
                "is_on", "Without a threshold it never turns. Give it one, or switch it off."
            )
        return values


@admin.register(models.SignalRule)
class SignalRuleAdmin(DecidingAdmin):
    form = SignalRuleForm
    list_display = ["rule", "is_on", "yellow_days", "red_days", "updated_at"]
    list_filter = ["is_on"]
    search_fields = ["key"]
    readonly_fields = ["rule", "updated_at"]
    fields = ["rule", "is_on", "yellow_days", "red_days", "updated_at"]

    @admin.display(description="rule", ordering="key")
    def rule(self, row: models.SignalRule) -> str:
        known = health_signals.RULES.get(row.key)
        return known.label if known else row.key

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.updated_at = timezone.now()
        super().save_model(request, obj, form, change)


@admin.register(models.StagePhase)
class StagePhaseAdmin(DecidingAdmin):
    list_display = ["stage", "phase"]
    list_select_related = ["stage"]
    list_filter = ["phase"]
    search_fields = ["stage__actual_name", "stage__display_name"]


@admin.register(models.TrackerSettings)
class TrackerSettingsAdmin(DecidingAdmin):
    list_display = ["__str__", "sow_stage"]
    list_select_related = ["sow_stage"]
    search_fields = ["sow_stage__display_name"]
    fields = ["sow_stage"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
