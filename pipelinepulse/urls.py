"""Every address: pages of the business, sign-in, admin, API.

`/healthz` and `/readyz` are answered by `probes.ProbeMiddleware`, before any of these.
"""

from django.contrib import admin
from django.contrib.auth import views as auth
from django.contrib.auth.decorators import login_not_required
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.utils.functional import lazy
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView, TemplateView

from crm import webhook
from pipelinepulse import api_docs, api_errors

offline = login_not_required(TemplateView.as_view(template_name="offline.html"))
# Asked for by pages without a link of their own to it: the admin, the API's documentation.
favicon = login_not_required(RedirectView.as_view(url=lazy(static, str)("img/pulse.svg")))
# At the root: a service worker rules over no more than the folder it comes from.
service_worker = login_not_required(
    TemplateView.as_view(template_name="sw.js", content_type="text/javascript")
)

urlpatterns = [
    path("", include("o2r.urls")),
    path("login", auth.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("logout", auth.LogoutView.as_view(), name="logout"),
    path("password", auth.PasswordChangeView.as_view(), name="password_change"),
    path("password/changed", auth.PasswordChangeDoneView.as_view(), name="password_change_done"),
    path("password/reset", auth.PasswordResetView.as_view(), name="password_reset"),
    path("password/reset/sent", auth.PasswordResetDoneView.as_view(), name="password_reset_done"),
    path(
        "password/reset/<uidb64>/<token>",
        auth.PasswordResetConfirmView.as_view(),
        name="password_reset_confirm",
    ),
    path(
        "password/reset/done",
        auth.PasswordResetCompleteView.as_view(),
        name="password_reset_complete",
    ),
    path("favicon.ico", favicon),
    path("offline", offline, name="offline"),
    path("sw.js", service_worker, name="service_worker"),
    path("admin/", admin.site.urls),
    # Answered by `webhook.DoorMiddleware`, before the layers that are there for people.
    path(webhook.ADDRESS[1:], webhook.receive, name="zoho-webhook"),
    path("", include("crm.api.urls")),
    path("", include("o2r.api.urls")),
    path("api/schema", api_docs.SchemaView.as_view(), name="api-schema"),
    path("docs", api_docs.swagger, name="docs"),
    # Last: what nobody above answers under /api/ is a 404 in JSON, whatever the method.
    re_path("^api/", login_not_required(csrf_exempt(api_errors.api_not_found))),
]

handler400 = "pipelinepulse.api_errors.bad_request"
handler403 = "pipelinepulse.api_errors.permission_denied"
handler404 = "pipelinepulse.api_errors.not_found"
handler500 = "pipelinepulse.api_errors.server_error"
