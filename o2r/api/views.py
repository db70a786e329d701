"""Opportunities, their statistics and the live pipeline over HTTP: permit, fetch, answer."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from crm.api.base import ReadViewSet, StrictFilters, refuse_unfit
from crm.api.paging import BY_ID, Order, Pages
from crm.api.views import UPDATED, status_body
from o2r import querysets
from o2r.api import serializers
from o2r.filters import OpportunityFilter, Selection, today_of_business
from o2r.metrics import pipeline_figures

ORDERS = {
    "id": BY_ID,
    "name": Order("name"),
    "account": Order("account__name", is_nullable=True),
    "owner": Order("owner__name", is_nullable=True),
    "stage": Order("stage"),
    "amount_sgd": Order("amount_sgd_minor", is_nullable=True),
    "probability": Order("probability", is_nullable=True),
    "closing_date": Order("closing_date", is_nullable=True),
    "created_at": Order("crm_created_at", is_nullable=True),
    "updated_at": UPDATED,
}


class SelectionBackend(StrictFilters):
    """The filters of pages, checked strictly; what they select is decided by `Selection`."""

    def filter_queryset(self, request: Request, queryset: QuerySet, view: Any) -> QuerySet:
        refuse_unfit(request, OpportunityFilter(request.query_params, queryset=queryset))
        selection = Selection.from_query(request.query_params, request.user)
        return selection.deals().select_related("contact")


class OpportunityViewSet(ReadViewSet):
    """Opportunities; active ones unless `outcome`, `stage`, `changed` or `missing` says else."""

    serializer_class = serializers.OpportunitySerializer
    filterset_class = OpportunityFilter
    filter_backends = [SelectionBackend]
    noun = "opportunity"
    orders = ORDERS
    default_ordering = "-id"

    def get_queryset(self) -> QuerySet:
        return querysets.live_deals().select_related("account", "owner", "contact")

    def known_parameters(self) -> set[str]:
        if self.action == "stats":
            return set(OpportunityFilter.base_filters)
        if self.action == "live":
            return {*OpportunityFilter.base_filters, *Pages.PARAMETERS}
        return super().known_parameters()

    @extend_schema(
        operation_id="opportunities_stats", responses=serializers.StatsSerializer, filters=True
    )
    def stats(self, request: Request) -> Response:
        """Pipeline statistics of a selection of deals."""
        return Response(stats_body(request))


class LiveBackend(SelectionBackend):
    """The same, for an answer that holds a page among other things."""

    def get_schema_operation_parameters(self, view: Any) -> list[dict]:
        return [
            *super().get_schema_operation_parameters(view),
            *Pages().get_schema_operation_parameters(view),
        ]


class LivePipelineViewSet(OpportunityViewSet):
    """The dashboard in one call."""

    filter_backends = [LiveBackend]

    @extend_schema(
        operation_id="zoho_live_pipeline",
        responses=serializers.LivePipelineSerializer,
        filters=True,
    )
    def live(self, request: Request) -> Response:
        """A page of deals with the figures of the same selection, and how fresh they are."""
        rows = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        status = status_body()
        return Response(
            {
                "deals": self.paginator.envelope(self.get_serializer(rows, many=True).data),
                "summary": stats_body(request),
                "sync_status": status,
                "data_freshness": status["freshness_seconds"],
            }
        )


def stats_body(request: Request) -> dict[str, Any]:
    """The figures of what the request selects. Raises ValidationError."""
    refuse_unfit(request, OpportunityFilter(request.query_params))
    selection = Selection.from_query(request.query_params, request.user)
    figures = pipeline_figures(selection, today=today_of_business())
    body = {name: getattr(figures, name) for name in figures.__dataclass_fields__}
    body["period"] = {
        "name": selection.period,
        "start": figures.period_from,
        "to": figures.period_to,
    }
    return serializers.StatsSerializer(body).data
