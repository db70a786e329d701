"""The O2R tracker over HTTP: opportunities, their milestones and story, the figures, a sync.

Permit, fetch, call, answer. What people do is decided in `o2r/services`, what a figure means in
`o2r/tracker_metrics.py`.
"""

from __future__ import annotations

from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from crm.api import views as crm_views
from crm.api.base import ID, refuse_unfit, refuse_unknown
from crm.api.paging import Order
from crm.api.serializers import SyncRequestSerializer, SyncStartedSerializer
from crm.models import Deal
from o2r import exports, timeline, tracker
from o2r.api import tracker_serializers as shapes
from o2r.api import views
from o2r.filters import OpportunityFilter, Selection, today_of_business
from o2r.models import ActionItem, Activity, Opportunity, Review
from o2r.receivers import wake_worker
from o2r.services import blocking, milestones, stages, work
from o2r.services.entry import opportunity_of

NEWEST = 100
STALE = OpenApiResponse(
    description="The version is stale (`stale_version`), the day lies before the deal's creation "
    "(`confirm_early`), or the deal is lost or deleted (`ended`)."
)


class TrackerViewSet(views.OpportunityViewSet):
    """Opportunities with their phase and signal; active ones unless `outcome` or the like says."""

    serializer_class = shapes.O2ROpportunitySerializer
    orders = {
        **views.ORDERS,
        "territory": Order("territory", is_nullable=True),
        "service_line": Order("service_line", is_nullable=True),
        "current_phase": Order("opportunity__current_phase", is_nullable=True),
        "phase_entered_on": Order("opportunity__phase_entered_on", is_nullable=True),
        "worse_on": Order("opportunity__worse_on", is_nullable=True),
    }

    def get_queryset(self) -> QuerySet:
        return super().get_queryset().select_related("opportunity")

    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        return super().filter_queryset(queryset).select_related("opportunity")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "today": today_of_business()}

    @extend_schema(operation_id="o2r_opportunities", responses=shapes.O2ROpportunitySerializer)
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().list(request, *args, **kwargs)

    @extend_schema(
        operation_id="o2r_opportunity", parameters=[ID], responses=shapes.TrackedSerializer
    )
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(self.body_of(cast(Deal, self.get_object())))

    # -- what is recorded -------------------------------------------------------------------------

    @extend_schema(
        operation_id="o2r_milestone",
        parameters=[ID],
        request=shapes.MilestoneRequest,
        responses={200: shapes.TrackedSerializer, 409: STALE},
    )
    def milestone(self, request: Request, id: str) -> Response:
        """Record a milestone: phase and signal follow at once, a mapped day goes to the CRM."""
        said = self.said(shapes.MilestoneRequest)
        opportunity = self.opportunity()
        if "amount" in said:
            currency = said.get("currency") or opportunity.deal.currency
            said["amount_minor"] = shapes.minor_of(said.pop("amount"), currency)
        key = said.pop("milestone")
        milestones.record(opportunity, key=key, **self.when(), **said)
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_move",
        parameters=[ID],
        request=shapes.MoveRequest,
        responses={200: shapes.TrackedSerializer, 409: STALE},
    )
    def move(self, request: Request, id: str) -> Response:
        """Move an open deal to another stage, or set its probability; both go to the CRM."""
        said = self.said(shapes.MoveRequest)
        opportunity = self.opportunity()
        stages.move(opportunity, **self.when(), **said)
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_own_milestone",
        parameters=[ID],
        request=shapes.OwnMilestoneRequest,
        responses={201: shapes.TrackedSerializer, 409: STALE},
    )
    def own_milestone(self, request: Request, id: str) -> Response:
        """Add a milestone of your own, to be recorded by its slug."""
        said = self.said(shapes.OwnMilestoneRequest)
        opportunity = self.opportunity()
        milestones.add_own(opportunity, **self.when(), **said)
        return self.answer(opportunity, status=201)

    @extend_schema(
        operation_id="o2r_update_phase",
        parameters=[ID],
        request=shapes.PhaseRequest,
        responses={200: shapes.TrackedSerializer, 409: STALE},
    )
    def update_phase(self, request: Request, id: str) -> Response:
        """Record the gate of the current phase, today unless a day is given."""
        said = self.said(shapes.PhaseRequest)
        opportunity = self.opportunity()
        milestones.update_phase(opportunity, **self.when(), **said)
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_block",
        parameters=[ID],
        request=shapes.BlockRequest,
        responses={200: shapes.TrackedSerializer, 409: STALE},
    )
    def block(self, request: Request, id: str) -> Response:
        """Say that it is blocked, and by what."""
        said = self.said(shapes.BlockRequest)
        opportunity = self.opportunity()
        blocking.block(opportunity, **self.when(), **said)
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_unblock", parameters=[ID], responses={200: shapes.TrackedSerializer}
    )
    def unblock(self, request: Request, id: str) -> Response:
        """Say that it is not blocked any more."""
        opportunity = self.opportunity()
        blocking.unblock(opportunity, **self.when())
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_snooze",
        parameters=[ID],
        request=shapes.SnoozeRequest,
        responses={200: shapes.TrackedSerializer},
    )
    def snooze(self, request: Request, id: str) -> Response:
        """Let its alerts wait until a day; the signal stays."""
        said = self.said(shapes.SnoozeRequest)
        opportunity = self.opportunity()
        work.snooze(opportunity, **self.when(), **said)
        return self.answer(opportunity)

    @extend_schema(
        operation_id="o2r_wake", parameters=[ID], responses={200: shapes.TrackedSerializer}
    )
    def wake(self, request: Request, id: str) -> Response:
        """Have its alerts again at once."""
        opportunity = self.opportunity()
        work.wake(opportunity, user=request.user, now=timezone.now())
        return self.answer(opportunity)

    # -- what is told -----------------------------------------------------------------------------

    @extend_schema(
        operation_id="o2r_timeline",
        parameters=[
            ID,
            OpenApiParameter("cursor", str, description="From `next`."),
            OpenApiParameter("limit", OpenApiTypes.INT, description="At most 200."),
            OpenApiParameter("kind", str, many=True, enum=timeline.KINDS),
        ],
        responses=shapes.TimelineSerializer,
        filters=False,
    )
    def story(self, request: Request, id: str) -> Response:
        """What happened to it, the newest first."""
        refuse_unknown(request, {"cursor", "limit", "kind"})
        query = request.query_params
        limit = query.get("limit", str(timeline.PAGE))
        if not (limit.isascii() and limit.isdigit() and 0 < len(limit) < 10 and int(limit)):
            raise ValidationError({"limit": ["A whole number of at least 1."]})
        kinds = [word for text in query.getlist("kind") for word in text.split(",")]
        if unknown := set(kinds) - set(timeline.KINDS):
            known = ", ".join(timeline.KINDS)
            raise ValidationError({"kind": [f"{min(unknown)[:40]!r} is not one of {known}."]})
        try:
            page = timeline.timeline_of(
                shapes.tracked(cast(Deal, self.get_object())),
                cursor=query.get("cursor", ""),
                limit=int(limit),
                kinds=kinds or timeline.KINDS,
            )
        except timeline.NoCursor as error:
            raise ValidationError({"cursor": [str(error)]}) from error
        url = request.build_absolute_uri()
        following = replace_query_param(url, "cursor", page.next) if page.next else None
        body = {"next": following, "results": page.entries}
        return Response(shapes.TimelineSerializer(body).data)

    # -- inside -----------------------------------------------------------------------------------

    def known_parameters(self) -> set[str]:
        if self.action == "story":
            return {"cursor", "limit", "kind"}
        return super().known_parameters()

    def opportunity(self) -> Opportunity:
        """Raises NotFound."""
        return opportunity_of(cast(Deal, self.get_object()))

    def said(self, request_class: Any) -> dict[str, Any]:
        asked = request_class(data=self.request.data)
        asked.is_valid(raise_exception=True)
        return dict(asked.validated_data)

    def when(self) -> dict[str, Any]:
        now = timezone.now()
        return {"user": self.request.user, "now": now, "today": today_of_business()}

    def answer(self, opportunity: Opportunity, status: int = 200) -> Response:
        deal = self.get_queryset().get(pk=opportunity.deal_id)
        return Response(self.body_of(deal), status=status)

    def body_of(self, deal: Deal) -> Any:
        """One opportunity with what belongs to it; a constant number of queries, and none that
        writes: one mirrored a moment ago is shown as it begins."""
        opportunity = shapes.tracked(deal)
        of: dict[str, Any] = {"opportunity": opportunity.pk}
        shown: Any = deal
        today = today_of_business()
        shown.o2r_milestones = [
            shapes.milestone_body(state) for state in tracker.milestone_states(opportunity, today)
        ]
        items = ActionItem.objects.filter(**of).select_related("owner", "done_by", "created_by")
        shown.o2r_items = list(items.order_by("-id")[:NEWEST])
        shown.o2r_activities = list(
            Activity.objects.filter(**of).select_related("created_by").order_by("-id")[:NEWEST]
        )
        shown.o2r_reviews = list(Review.objects.filter(**of).order_by("-id")[:NEWEST])
        for row in (*shown.o2r_items, *shown.o2r_activities, *shown.o2r_reviews):
            row.opportunity = opportunity
        shown.o2r_gate = milestones.gate_now(opportunity, today)
        shown.o2r_block = shapes.block_body(opportunity)
        shown.o2r_snooze = shapes.snooze_body(work.snooze_of(opportunity, today))
        return shapes.TrackedSerializer(shown, context=self.get_serializer_context()).data


class SyncView(crm_views.SyncView):
    """Starts a sync of the deals and what belongs to them; what follows from them is recomputed."""

    @extend_schema(
        operation_id="o2r_sync",
        request=SyncRequestSerializer,
        responses={
            202: SyncStartedSerializer,
            409: OpenApiResponse(description="A sync is under way; `run` is that one."),
        },
    )
    def post(self, request: Request) -> Response:
        answer = super().post(request)
        # Also what waits by now: a run that finds nothing new announces nothing.
        transaction.on_commit(wake_worker)
        return answer


class ExportBackend(views.SelectionBackend):
    def get_schema_operation_parameters(self, view: Any) -> list[dict]:
        kinds = {"type": "string", "enum": list(exports.CONTENT), "default": exports.CSV}
        return [
            *super().get_schema_operation_parameters(view),
            {"name": "as", "in": "query", "schema": kinds},
        ]


class ExportViewSet(TrackerViewSet):
    """The filtered table as a file."""

    filter_backends = [ExportBackend]
    pagination_class = None

    def known_parameters(self) -> set[str]:
        return {*OpportunityFilter.base_filters, "as"}

    @extend_schema(
        operation_id="o2r_export",
        responses={(200, kind): OpenApiTypes.BINARY for kind in exports.CONTENT.values()},
        filters=True,
    )
    def export(self, request: Request) -> StreamingHttpResponse:
        """All rows of the selection, streamed; an XLSX holds at most 100,000 of them."""
        kind = request.query_params.get("as", exports.CSV)
        if kind not in exports.CONTENT:
            raise ValidationError({"as": ["csv or xlsx."]})
        refuse_unfit(request, OpportunityFilter(request.query_params))
        selection = Selection.from_query(request.query_params, request.user)
        return exports.export(selection, kind, user=request.user, today=today_of_business())
