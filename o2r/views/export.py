"""The filtered table as a file: `?as=csv` or `?as=xlsx`, with the filters of the list."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponseBase, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_safe

from crm.errors import CrmError
from o2r import exports
from o2r.filters import Selection, today_of_business
from o2r.views.shell import PageRequest, for_sales

HOME = "/o2r"


@for_sales
@require_safe
def export(request: PageRequest) -> HttpResponseBase:
    """A file; or back to where it was asked for, with why there is none."""
    selection = Selection.from_query(request.GET, request.user)
    kind = exports.XLSX if request.GET.get("as") == exports.XLSX else exports.CSV
    try:
        return exports.export(selection, kind, user=request.user, today=today_of_business())
    except CrmError as refusal:
        messages.error(request, refusal.message)
        return HttpResponseRedirect(_back(request))


def _back(request: PageRequest) -> str:
    asked_from = request.headers.get("Referer", "")
    hosts = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(asked_from, hosts, request.is_secure())
    return asked_from if is_ours and "/export" not in asked_from else HOME
