"""Addresses of the O2R tracker and of what people do about an opportunity."""

from django.urls import path

from o2r.api.dashboard import DashboardViewSet
from o2r.api.tracker import ExportViewSet, SyncView, TrackerViewSet
from o2r.api.work import ActionItemViewSet, ActivityViewSet, ReviewViewSet

ONE = "api/o2r/opportunities/<str:id>"
LIST_AND_MAKE = {"get": "list", "post": "create"}
ONE_AND_CHANGE = {
    "get": "retrieve",
    "put": "update",
    "patch": "partial_update",
    "delete": "destroy",
}


def tracker(**acts: str) -> object:
    return TrackerViewSet.as_view(acts)


urlpatterns = [
    path(
        "api/o2r/dashboard", DashboardViewSet.as_view({"get": "figures"}), name="api-o2r-dashboard"
    ),
    path("api/o2r/opportunities", tracker(get="list"), name="api-o2r-opportunities"),
    path(ONE, tracker(get="retrieve", patch="move"), name="api-o2r-opportunity"),
    path(f"{ONE}/milestone", tracker(put="milestone"), name="api-o2r-milestone"),
    path(f"{ONE}/milestones", tracker(post="own_milestone"), name="api-o2r-own-milestone"),
    path(f"{ONE}/update-phase", tracker(post="update_phase"), name="api-o2r-update-phase"),
    path(f"{ONE}/block", tracker(post="block", delete="unblock"), name="api-o2r-block"),
    path(f"{ONE}/snooze", tracker(post="snooze", delete="wake"), name="api-o2r-snooze"),
    path(f"{ONE}/timeline", tracker(get="story"), name="api-o2r-timeline"),
    path("api/o2r/export", ExportViewSet.as_view({"get": "export"}), name="api-o2r-export"),
    path("api/o2r/sync", SyncView.as_view(), name="api-o2r-sync"),
]
for name, view in (
    ("action-items", ActionItemViewSet),
    ("activities", ActivityViewSet),
    ("reviews", ReviewViewSet),
):
    urlpatterns += [
        path(f"api/o2r/{name}", view.as_view(LIST_AND_MAKE), name=f"api-o2r-{name}"),
        path(f"api/o2r/{name}/<str:id>", view.as_view(ONE_AND_CHANGE), name=f"api-o2r-{name}-one"),
    ]
