"""Addresses of what the business sees."""

from django.urls import path

from o2r.views import dashboard, opportunities, shell

app_name = "o2r"
urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("opportunities", opportunities.opportunity_list, name="opportunity-list"),
    path("sync/indicator", shell.sync_indicator, name="sync-indicator"),
    path("sync/start", shell.sync_start, name="sync-start"),
]
