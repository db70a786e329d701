"""The outbox in the admin: what waits, is in conflict or was refused, and the acts for it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils import timezone

from crm.admin import MINOR, RepairAdmin, money
from crm.errors import CrmError
from crm.models import OutboxEntry, WriteBack, outbox
from crm.permissions import may_configure, may_preview_write_back
from crm.sync.modules import BY_NAME
from crm.writeback import decisions, switch
from crm.writeback.preview import PreviewRow, preview

MOST_SHOWN = 200


@admin.register(OutboxEntry)
class OutboxEntryAdmin(RepairAdmin):
    list_display = ["id", "module", "record_id", "kind", "field", "status", "author_name", "code"]
    list_display += ["attempts", "created_at", "next_attempt_at", "sent_at"]
    list_filter = ["status", "kind", ("module", admin.AllValuesFieldListFilter)]
    search_fields = ["record_id__exact", "field", "author_name", "code", "message"]
    ordering = ["-pk"]
    actions = ["try_again", "dismiss", "keep_ours", "take_theirs"]
    change_list_template = "admin/crm/outboxentry/change_list.html"

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.preview)
        return [path("preview/", view, name="crm_outboxentry_preview"), *super().get_urls()]

    def preview(self, request: HttpRequest) -> HttpResponse:
        """What would be sent now, from what to what, and its cost; nothing is asked of the CRM."""
        decision = may_preview_write_back(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        found = preview(timezone.now())
        said = {
            **self.admin_site.each_context(request),
            "title": "What would be sent",
            "opts": self.opts,
            "mode": switch.mode(),
            "found": found,
            "records": len({(row.module, row.record_id) for row in found.rows}),
            "shown": _lines(found.rows[:MOST_SHOWN]),
        }
        return render(request, "admin/crm/outboxentry/preview.html", said)

    @admin.action(description="Try again", permissions=["repair"])
    def try_again(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, decisions.try_again, "back in line", "Tried again.")

    @admin.action(description="Dismiss", permissions=["repair"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._each(request, queryset, decisions.dismiss, "dismissed", "Dismissed.")

    @admin.action(description="Resolve conflict: keep ours", permissions=["repair"])
    def keep_ours(self, request: HttpRequest, queryset: QuerySet) -> None:
        said = "on the way over the CRM's value"
        self._each(request, queryset, _resolve(decisions.OURS), said, "Conflict: kept ours.")

    @admin.action(description="Resolve conflict: take theirs", permissions=["repair"])
    def take_theirs(self, request: HttpRequest, queryset: QuerySet) -> None:
        act = _resolve(decisions.THEIRS)
        self._each(request, queryset, act, "as the CRM has it", "Conflict: took theirs.")

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet,
        act: Callable[..., Any],
        done: str,
        noted: str,
    ) -> None:
        """Each on its own, with a line in the log of who did it."""
        count = 0
        for pk in queryset.order_by("pk").values_list("pk", flat=True):
            try:
                entry = act(pk, by=request.user, now=timezone.now())
                self.log_change(request, entry, noted)
                count += 1
            except CrmError as error:
                self.message_user(request, f"{pk}: {error.message}", messages.WARNING)
        self.message_user(request, f"{count} {done}.")


def _lines(rows: list[PreviewRow]) -> list[dict[str, Any]]:
    """Rows as people read them; one query a module for the names."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        wanted[row.module].add(row.record_id)
    records = {name: BY_NAME[name].model.objects.in_bulk(pks) for name, pks in wanted.items()}
    return [_line(row, records[row.module].get(row.record_id)) for row in rows]


def _line(row: PreviewRow, record: Any) -> dict[str, Any]:
    edits = [entry for entry in row.entries if entry.kind == outbox.EDIT]
    return {
        **{name: getattr(row, name) for name in ("module", "zoho_id", "kind", "payload")},
        "why_not": row.why_not,
        "name": str(record or row.record_id),
        "by": ", ".join(dict.fromkeys(entry.author_name or "a rule" for entry in row.entries)),
        "changes": [
            (
                entry.field.removesuffix(MINOR).replace("_", " "),
                _written(entry.field, entry.base, record),
                _written(entry.field, entry.new, record),
            )
            for entry in edits
        ],
    }


def _written(field: str, told: str | None, record: Any) -> str:
    """A kept value as people write it."""
    value = json.loads(told or "null")
    if value in (None, ""):
        return "nothing"
    if field.endswith(MINOR) and isinstance(value, int):
        return money(value, record.currency if field == "amount_minor" and record else "SGD")
    return str(value)


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
