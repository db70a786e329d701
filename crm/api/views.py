"""The sync and the mirror over HTTP: who asks, fetch, answer.

What an account is worth and how a deal stands is told by `o2r/api`.
"""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from crm.api import filters, serializers
from crm.api.base import MaySeeSales, ReadViewSet, StrictParameters
from crm.api.paging import BY_ID, Order
from crm.freshness import sync_state
from crm.models import Account, Contact, CrmUser, Lead, Pipeline, SyncRun
from crm.permissions import may_start_sync
from crm.sync.runs import request_run

# Numbers in commit order, with an index: the same order as the times, and it stays fast.
UPDATED = Order("change_seq")


class StatusView(StrictParameters, APIView):
    """How the connection stands and what the sync is doing."""

    permission_classes = [MaySeeSales]

    @extend_schema(responses=serializers.StatusSerializer, operation_id="zoho_status")
    def get(self, request: Request) -> Response:
        return Response(status_body())


def status_body() -> dict[str, Any]:
    """The body of the status; `sync_state` says what it costs."""
    now = timezone.now()
    return serializers.StatusSerializer(sync_state(now), context={"now": now}).data


class SyncView(StrictParameters, APIView):
    """Starts a full or a delta sync; a delta of an empty mirror is a full one."""

    permission_classes = [MaySeeSales]

    @extend_schema(
        operation_id="zoho_sync",
        request=serializers.SyncRequestSerializer,
        responses={
            202: serializers.SyncStartedSerializer,
            409: OpenApiResponse(description="A sync is under way; `run` is that one."),
        },
    )
    def post(self, request: Request) -> Response:
        asked = serializers.SyncRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        mode = asked.validated_data["mode"]
        decision = may_start_sync(request.user, mode)
        if not decision:
            raise PermissionDenied(decision.why)
        run = request_run(kind=mode, trigger="api", user=request.user)
        return Response(serializers.SyncStartedSerializer({"run": run}).data, status=202)


class RunViewSet(ReadViewSet):
    """The history of syncs."""

    filterset_class = filters.RunFilter
    orders = {"id": BY_ID, "requested_at": Order("requested_at")}
    default_ordering = "-id"

    def get_queryset(self) -> QuerySet:
        rows = SyncRun.objects.select_related("requested_by")
        return rows if self.action == "list" else rows.prefetch_related("parts")

    def get_serializer_class(self) -> Any:
        if self.action == "list":
            return serializers.RunSerializer
        return serializers.RunDetailSerializer


class AccountViewSet(ReadViewSet):
    """Accounts of the CRM."""

    serializer_class = serializers.AccountSerializer
    filterset_class = filters.AccountFilter
    orders = {"id": BY_ID, "name": Order("name"), "updated_at": UPDATED}

    def get_queryset(self) -> QuerySet:
        return Account.objects.live().select_related("owner")


class ContactViewSet(ReadViewSet):
    """Contacts of the CRM."""

    serializer_class = serializers.ContactSerializer
    filterset_class = filters.ContactFilter
    orders = {"id": BY_ID, "name": Order("last_name"), "updated_at": UPDATED}

    def get_queryset(self) -> QuerySet:
        return Contact.objects.live().select_related("owner", "account")


class LeadViewSet(ReadViewSet):
    """Leads of the CRM."""

    serializer_class = serializers.LeadSerializer
    filterset_class = filters.LeadFilter
    orders = {
        "id": BY_ID,
        "name": Order("last_name"),
        "company": Order("company", is_nullable=True),
        "updated_at": UPDATED,
    }

    def get_queryset(self) -> QuerySet:
        return Lead.objects.live().select_related("owner")


class UserViewSet(ReadViewSet):
    """Users of the CRM: the owners of records."""

    serializer_class = serializers.UserSerializer
    filterset_class = filters.UserFilter
    orders = {"id": BY_ID, "name": Order("name"), "updated_at": Order("updated_at")}
    queryset = CrmUser.objects.all()


class PipelineViewSet(ReadViewSet):
    """Sales pipelines of the CRM with their stages, and what those mean here."""

    serializer_class = serializers.PipelineSerializer
    filterset_class = filters.PipelineFilter
    orders = {"id": BY_ID, "name": Order("name")}
    queryset = Pipeline.objects.prefetch_related("stages__stage")
