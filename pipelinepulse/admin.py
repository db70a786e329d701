"""People in the admin: ops invite them, give them a role, and close their door.

Decides how far ops reach: name, e-mail, role and whether a person may sign in. Who is staff follows
from the role. Superusers, passwords and single permissions are left to superusers.
"""

from __future__ import annotations

import secrets
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import PasswordResetForm
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from o2r.permissions import ROLES
from pipelinepulse.roles import OPS

NAMES = ("first_name", "last_name", "email")


class PersonForm(forms.ModelForm):
    """What ops may say of a person. `asked_by` is who says it."""

    asked_by: Any = None

    class Meta:
        model = User
        fields = ["username", *NAMES, "is_active", "groups"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].required = True
        self.fields["email"].help_text = "Ties them to the CRM user with the same address."
        roles: Any = self.fields["groups"]
        roles.label, roles.help_text = "Role", ""
        roles.queryset = Group.objects.filter(name__in=ROLES)

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        if self.instance.pk is not None and self.instance.pk == self.asked_by.pk:
            roles = {group.name for group in values.get("groups", ())}
            if not values.get("is_active", True) or OPS not in roles:
                raise forms.ValidationError(
                    "This is you: somebody else has to close your door or take your role."
                )
        return values


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class PersonAdmin(UserAdmin):
    list_display = ["username", "first_name", "last_name", "email", "roles", "is_active"]
    list_display += ["last_login"]
    list_filter = ["is_active", "groups"]
    actions = ["send_link"]

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="role")
    def roles(self, person: User) -> str:
        return ", ".join(group.name for group in person.groups.all()) or "–"

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whoever could change a superuser's address could become one."""
        is_above = isinstance(obj, User) and obj.is_superuser and not _is_superuser(request)
        return not is_above and super().has_change_permission(request, obj)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if _is_superuser(request):
            return super().get_form(request, obj, change=change, **kwargs)
        kwargs["form"] = type("Form", (PersonForm,), {"asked_by": request.user})
        # Not its parent: that one asks for a password, which here nobody but the person sets.
        return admin.ModelAdmin.get_form(self, request, obj, change=change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if _is_superuser(request):
            return super().get_fieldsets(request, obj)
        names = ["username", *NAMES, "groups"]
        return [(None, {"fields": names if obj is None else [*names, "is_active"]})]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change and not _is_superuser(request):
            # Nobody knows it; the link in the mail leads to one of their own.
            obj.set_password(secrets.token_urlsafe(32))
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        person = form.instance
        if _is_superuser(request):
            return
        person.is_staff = person.groups.filter(name=OPS).exists()
        person.save(update_fields=["is_staff"])
        if not change:
            self._send(request, person)

    @admin.action(description="Send a link to choose a password", permissions=["change"])
    def send_link(self, request: HttpRequest, queryset: QuerySet) -> None:
        for person in queryset.filter(is_active=True):
            if self.has_change_permission(request, person):
                self._send(request, person)

    def _send(self, request: HttpRequest, person: User) -> None:
        form = PasswordResetForm({"email": person.email})
        if form.is_valid() and any(user.pk == person.pk for user in form.get_users(person.email)):
            form.save(request=request, use_https=request.is_secure())
            self.message_user(request, f"A link to choose a password goes to {person.email}.")
        else:
            text = f"There is no address to send a link to for {person.username}."
            self.message_user(request, text, messages.WARNING)

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        if not _is_superuser(request):
            raise PermissionDenied("Send them a link to choose a password of their own.")
        return super().user_change_password(request, id, form_url)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))
