"""Addresses of opportunities and the live pipeline, without a trailing slash."""

from django.urls import path

from o2r.api import views

LIST, ONE = {"get": "list"}, {"get": "retrieve"}
STATS, LIVE = {"get": "stats"}, {"get": "live"}

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
