"""The outbox in the admin: what waits, is in conflict or was refused, and the acts for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from crm.admin import RepairAdmin
from crm.errors import CrmError
from crm.models import OutboxEntry, WriteBack
from crm.permissions import may_configure
from crm.writeback import decisions, switch


@admin.register(OutboxEntry)
class OutboxEntryAdmin(RepairAdmin):
    list_display = ["id", "module", "record_id", "kind", "field", "status", "author_name", "code"]
    list_display += ["attempts", "created_at", "next_attempt_at", "sent_at"]
    list_filter = ["status", "kind", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["record_id__exact", "field", "author_name", "code", "message"]
    ordering = ["-pk"]
    actions = ["try_again", "dismiss", "keep_ours", "take_theirs"]

    @admin.action(description="Try again", permissions=["repair"])
    def try_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, decisions.try_again, "back in line")

    @admin.action(description="Dismiss", permissions=["repair"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, decisions.dismiss, "dismissed")

    @admin.action(description="Resolve conflict: keep ours", permissions=["repair"])
    def keep_ours(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, _resolve(decisions.OURS), "on the way over the CRM's value")

    @admin.action(description="Resolve conflict: take theirs", permissions=["repair"])
    def take_theirs(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, _resolve(decisions.THEIRS), "as the CRM has it")

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet,
        act: Callable[..., Any],
        done: str,
    ) -> None:
        count = 0
        for pk in queryset.order_by("pk").values_list("pk", flat=True):
            try:
                act(pk, by=request.user, now=timezone.now())
                count += 1
            except CrmError as error:
                self.message_user(request, f"{pk}: {error.message}", messages.WARNING)
        self.message_user(request, f"{count} {done}.")


def _resolve(keep: str) -> Callable[..., Any]:
    def act(pk: int, **options: Any) -> Any:
        return decisions.resolve(pk, keep, **options)

    return act


@admin.register(WriteBack)
class WriteBackAdmin(admin.ModelAdmin):
    """The switch. Preview is set to look at what would be sent before it is."""

    list_display = ["__str__", "mode", "is_killed", "changed_by", "changed_at"]
    fields = ["mode", "is_killed"]
    search_fields = ["mode"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(may_configure(request.user)) and not WriteBack.objects.exists()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return bool(may_configure(request.user))

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        now = timezone.now()
        try:
            switch.set_mode(obj.mode or switch.OFF, by=request.user, now=now)
        except CrmError as error:
            self.message_user(request, error.message, messages.ERROR)
        if obj.is_killed:
            switch.kill(by=request.user, now=now)
