"""Addresses of opportunities and the live pipeline, without a trailing slash."""

from typing import Any

from django.urls import path

from crm.api.urls import LIST, ONE
from o2r.api import views

STATS: dict[str, Any] = {"get": "stats"}
LIVE: dict[str, Any] = {"get": "live"}

urlpatterns = [
    path(
        "api/zoho/live-pipeline",
        views.LivePipelineViewSet.as_view(LIVE),
        name="api-live-pipeline",
    ),
    path("api/opportunities", views.OpportunityViewSet.as_view(LIST), name="api-opportunities"),
    path(
        "api/opportunities/stats",
        views.OpportunityViewSet.as_view(STATS),
        name="api-opportunity-stats",
    ),
    path(
        "api/opportunities/<str:id>",
        views.OpportunityViewSet.as_view(ONE),
        name="api-opportunity",
    ),
]
