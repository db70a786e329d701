"""The admin as a part of the product: its name, its door, its clock.

Decides who comes in (staff; anybody else who is signed in is refused, not asked to sign in again)
and in which zone it shows times. What stands in it is decided by each app's `admin.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator

Respond = Callable[[HttpRequest], HttpResponse]
REFUSAL = "The admin is for ops. Ask them for what you need there."


class PulseAdminSite(AdminSite):
    site_header = site_title = "Pipeline Pulse admin"
    index_title = "Configuration, people and data"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        guarded = super().admin_view(view, cacheable)

        def view_of_ops(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            refuse_others(self, request)
            return guarded(request, *args, **kwargs)

        return view_of_ops

    @method_decorator(login_not_required)
    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """There is one sign-in, that of the product."""
        from django.contrib.auth.views import redirect_to_login  # needs models, which come later

        refuse_others(self, request)
        return redirect_to_login(request.GET.get("next") or reverse("admin:index"))


def refuse_others(site: AdminSite, request: HttpRequest) -> None:
    """Raises PermissionDenied for somebody who is signed in and has no business here."""
    if request.user.is_authenticated and not site.has_permission(request):
        raise PermissionDenied(REFUSAL)


class PulseAdminConfig(AdminConfig):
    default_site = "pipelinepulse.admin_site.PulseAdminSite"


class BusinessZoneMiddleware:
    """The admin shows and takes times in the business zone, like the pages; the API speaks UTC."""

    def __init__(self, get_response: Respond) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith("/admin/"):
            return self.get_response(request)
        with timezone.override(settings.BUSINESS_TIME_ZONE):
            return self.get_response(request)
