"""Addresses of the sync and of the mirror, without a trailing slash."""

from typing import Any

from django.urls import path

from crm.api import repairs, views, webhook

LIST: dict[str, Any] = {"get": "list"}
ONE: dict[str, Any] = {"get": "retrieve"}

urlpatterns = [
    path("api/zoho/status", views.StatusView.as_view(), name="api-zoho-status"),
    path("api/zoho/sync", views.SyncView.as_view(), name="api-zoho-sync"),
    path("api/zoho/webhook/setup", webhook.SetupView.as_view(), name="api-webhook-setup"),
    path("api/zoho/webhook/status", webhook.StateView.as_view(), name="api-webhook-status"),
    path("api/zoho/webhook/test", webhook.RoundTripView.as_view(), name="api-webhook-test"),
    path("api/zoho/sync-runs", views.RunViewSet.as_view(LIST), name="api-sync-runs"),
    path("api/zoho/sync-runs/<str:id>", views.RunViewSet.as_view(ONE), name="api-sync-run"),
    path("api/zoho/failures", repairs.FailureViewSet.as_view(LIST), name="api-failures"),
    path("api/zoho/failures/<str:id>", repairs.FailureViewSet.as_view(ONE), name="api-failure"),
    path(
        "api/zoho/failures/<str:id>/retry",
        repairs.FailureRetryView.as_view(),
        name="api-failure-retry",
    ),
    path("api/zoho/reconcile", repairs.ReconcileView.as_view(), name="api-reconcile"),
    path(
        "api/zoho/reconciliations",
        repairs.ReconciliationViewSet.as_view(LIST),
        name="api-reconciliations",
    ),
    path(
        "api/zoho/reconciliations/<str:id>",
        repairs.ReconciliationViewSet.as_view(ONE),
        name="api-reconciliation",
    ),
    path("api/accounts", views.AccountViewSet.as_view(LIST), name="api-accounts"),
    path("api/accounts/<str:id>", views.AccountViewSet.as_view(ONE), name="api-account"),
    path("api/contacts", views.ContactViewSet.as_view(LIST), name="api-contacts"),
    path("api/contacts/<str:id>", views.ContactViewSet.as_view(ONE), name="api-contact"),
    path("api/leads", views.LeadViewSet.as_view(LIST), name="api-leads"),
    path("api/leads/<str:id>", views.LeadViewSet.as_view(ONE), name="api-lead"),
    path("api/users", views.UserViewSet.as_view(LIST), name="api-users"),
    path("api/pipelines", views.PipelineViewSet.as_view(LIST), name="api-pipelines"),
]
