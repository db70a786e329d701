"""Addresses of what the business sees."""

from django.urls import path

from o2r.views import dashboard, export, opportunities, opportunity, reviews, shell, tracker

app_name = "o2r"
urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("o2r", tracker.tracker, name="tracker"),
    path("o2r/export", export.export, name="export"),
    path("o2r/<str:id>", opportunity.opportunity, name="opportunity"),
    path("opportunities", opportunities.opportunity_list, name="opportunity-list"),
    path("reviews", reviews.reviews, name="reviews"),
    path("sync/indicator", shell.sync_indicator, name="sync-indicator"),
    path("sync/start", shell.sync_start, name="sync-start"),
]
