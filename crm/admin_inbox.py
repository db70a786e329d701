"""The inbox and the notification channels in the admin; imported by `crm.admin`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from crm import models
from crm.admin import RepairAdmin
from crm.errors import CrmError
from crm.sync import channels, inbox
from crm.webhook import wake_worker
from crm.zoho.errors import ZohoError


@admin.register(models.Notice)
class NoticeAdmin(RepairAdmin):
    list_display = ["module", "zoho_id", "operation", "status", "times", "attempts"]
    list_display += ["received_at", "error_code", "message"]
    list_filter = ["status", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["zoho_id__exact", "channel_id__exact", "run_id__exact", "error_code"]
    ordering = ["-pk"]
    actions = ["try_again", "dismiss"]

    @admin.action(description="Try again", permissions=["repair"])
    def try_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        number = self._each_dead(request, queryset, inbox.retry, "Tried again.")
        if number:
            wake_worker()
        self.message_user(request, f"{number} given-up notices wait again.")

    @admin.action(description="Dismiss", permissions=["repair"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet) -> None:
        number = self._each_dead(request, queryset, inbox.dismiss, "Dismissed.")
        self.message_user(request, f"{number} given-up notices dismissed; the delta covers them.")

    def _each_dead(
        self,
        request: HttpRequest,
        queryset: QuerySet,
        act: Callable[[QuerySet, datetime], int],
        noted: str,
    ) -> int:
        """One by one, so that the log names those upon which it was done."""
        number = 0
        for notice in queryset.filter(status=models.Notice.DEAD).order_by("pk"):
            if act(models.Notice.objects.filter(pk=notice.pk), timezone.now()):
                self.log_change(request, notice, noted)
                number += 1
        return number


@admin.register(models.NotificationChannel)
class NotificationChannelAdmin(RepairAdmin):
    list_display = ["module", "state", "registered_at", "expires_at", "last_event_at", "events"]
    list_display += ["silent_since", "message"]
    list_filter = ["state"]
    search_fields = ["module", "channel_id__exact"]
    exclude = ["token_mark"]
    ordering = ["pk"]
    actions = ["set_up", "renew", "remove"]
    actions_on_bottom = True

    @admin.action(description="Set up all", permissions=["repair"])
    def set_up(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._act(request, lambda: len(channels.set_up(now=timezone.now())), "set up")

    @admin.action(description="Renew all", permissions=["repair"])
    def renew(self, request: HttpRequest, queryset: QuerySet) -> None:
        def act() -> int:
            return len(channels.look_after(now=timezone.now(), is_forced=True))

        self._act(request, act, "renewed")

    @admin.action(description="Remove", permissions=["repair"])
    def remove(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._act(request, lambda: channels.remove(list(queryset)), "removed")

    def _act(self, request: HttpRequest, act: Any, done: str) -> None:
        try:
            number = act()
        except (CrmError, ZohoError) as error:
            self.message_user(request, error.message, messages.ERROR)
        else:
            self.message_user(request, f"{number} channels {done}.")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Setting up needs no row to be ticked: there may be none."""
        is_general = request.POST.get("action") in ("set_up", "renew")
        if is_general and not request.POST.getlist(ACTION_CHECKBOX_NAME):
            post = request.POST.copy()
            post[ACTION_CHECKBOX_NAME] = "0"
            request.POST = post
        return super().changelist_view(request, extra_context)
