"""Addresses of opportunities and the live pipeline, without a trailing slash."""

from typing import Any

from django.urls import path

from crm.api.urls import LIST, ONE
from o2r.api import preview, tracker_urls, views, writeback

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
    path("api/o2r/sync-to-crm/<str:id>", writeback.SyncToCrmView.as_view(), name="api-sync-to-crm"),
    path(
        "api/o2r/sync-milestones-to-crm/<str:id>",
        writeback.SyncMilestonesView.as_view(),
        name="api-sync-milestones-to-crm",
    ),
    path(
        "api/o2r/sync-batch-to-crm",
        writeback.SyncBatchView.as_view(),
        name="api-sync-batch-to-crm",
    ),
    path("api/o2r/sync-status", writeback.OutboxStatusView.as_view(), name="api-sync-status"),
    path("api/o2r/sync-preview", preview.PreviewView.as_view(), name="api-sync-preview"),
    path("api/o2r/conflicts", writeback.ConflictsView.as_view(), name="api-conflicts"),
    path(
        "api/o2r/conflicts/<str:id>/resolve",
        writeback.ResolveConflictView.as_view(),
        name="api-conflict-resolve",
    ),
    *tracker_urls.urlpatterns,
]
