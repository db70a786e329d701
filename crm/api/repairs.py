"""What did not fit, and what the reconcile found, over HTTP: to read, to try again, to start."""

from __future__ import annotations

from typing import Any

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from crm.api.base import ID, MaySeeSales, ReadViewSet, StrictParameters, by_id
from crm.api.fields import IdField, StrictSerializer
from crm.api.paging import BY_ID, Order
from crm.api.serializers import SyncStartedSerializer
from crm.mapping.profiles import MODULES
from crm.models import FailedRecord, MirrorDifference, Reconciliation
from crm.permissions import may_configure
from crm.sync import failures, reconcile
from crm.sync.runs import RECONCILE, request_run


class FailureFilter(django_filters.FilterSet):
    """`resolved`: true, false (the default of the list is all)."""

    module = django_filters.ChoiceFilter(choices=[(name, name) for name in MODULES])
    resolved = django_filters.TypedChoiceFilter(
        choices=[("true", "true"), ("false", "false")],
        coerce=lambda word: word == "true",
        field_name="resolved_at",
        method="by_resolved",
    )
    code = django_filters.CharFilter(max_length=40)

    class Meta:
        model = FailedRecord
        fields: list[str] = []

    def by_resolved(self, rows: QuerySet, name: str, is_resolved: bool) -> QuerySet:
        return rows.filter(resolved_at__isnull=not is_resolved)


class FailureSerializer(serializers.Serializer):
    id = IdField(source="pk")
    module = serializers.CharField()
    zoho_id = IdField(allow_null=True)
    code = serializers.CharField()
    message = serializers.CharField()
    attempts = serializers.IntegerField()
    first_seen_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()
    run_id = IdField(allow_null=True)
    resolved_at = serializers.DateTimeField(allow_null=True)
    resolution = serializers.CharField()


class FailureDetailSerializer(FailureSerializer):
    payload = serializers.CharField()


class RetrySerializer(serializers.Serializer):
    """`result`: stored, gone (the CRM has it no more) or failed."""

    result = serializers.ChoiceField(choices=[failures.STORED, failures.GONE, failures.FAILED])
    message = serializers.CharField()
    failure = FailureSerializer()


class FailureViewSet(ReadViewSet):
    """Records that could not be stored, with the reason."""

    filterset_class = FailureFilter
    orders = {"id": BY_ID, "last_seen_at": Order("last_seen_at")}
    default_ordering = "-id"
    queryset = FailedRecord.objects.all()
    noun = "failure"

    def get_serializer_class(self) -> Any:
        return FailureSerializer if self.action == "list" else FailureDetailSerializer


class FailureRetryView(StrictParameters, APIView):
    """Asks the CRM for the record again, or maps the kept payload again, and stores it."""

    permission_classes = [MaySeeSales]

    @extend_schema(
        operation_id="zoho_failure_retry",
        parameters=[ID],
        request=None,
        responses={200: RetrySerializer, 503: OpenApiResponse(description="The CRM is away.")},
    )
    def post(self, request: Request, id: str) -> Response:
        decision = may_configure(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        failed: Any = by_id(FailedRecord.objects.all(), id, "failure")
        outcome = failures.retry(failed, user=request.user)
        told = {"result": outcome.result, "message": outcome.message, "failure": failed}
        return Response(RetrySerializer(told).data)


# -- the reconcile --------------------------------------------------------------------------------


class DifferenceSerializer(serializers.Serializer):
    module = serializers.CharField()
    zoho_id = IdField()
    kind = serializers.ChoiceField(choices=[kind for kind, _ in MirrorDifference.KINDS])
    state = serializers.ChoiceField(choices=[state for state, _ in MirrorDifference.STATES])
    differing = serializers.DictField(
        source="fields",
        help_text="Our field → [our value, the CRM's]; references by the CRM's ids.",
    )
    note = serializers.CharField()


class ReconciliationSerializer(serializers.Serializer):
    """One reconcile: the sentence, and what was compared in each module."""

    id = IdField(source="pk")
    run_id = IdField()
    ended_at = serializers.DateTimeField(allow_null=True)
    is_exact = serializers.BooleanField()
    differing = serializers.IntegerField()
    repaired = serializers.IntegerField()
    sentence = serializers.CharField()
    modules = serializers.DictField()


class ReconciliationDetailSerializer(ReconciliationSerializer):
    """With the first thousand records that differed."""

    differences = serializers.SerializerMethodField()

    @extend_schema_field(DifferenceSerializer(many=True))
    def get_differences(self, row: Reconciliation) -> Any:
        return DifferenceSerializer(row.differences.order_by("pk")[:1000], many=True).data


class ReconciliationFilter(django_filters.FilterSet):
    class Meta:
        model = Reconciliation
        fields: list[str] = []


class ReconciliationViewSet(ReadViewSet):
    """The history of reconciles, the newest first."""

    filterset_class = ReconciliationFilter
    orders = {"id": BY_ID}
    default_ordering = "-id"
    queryset = Reconciliation.objects.all()

    def get_serializer_class(self) -> Any:
        if self.action == "list":
            return ReconciliationSerializer
        return ReconciliationDetailSerializer


class ReconcileRequestSerializer(StrictSerializer):
    mode = serializers.ChoiceField(choices=["prove", "repair"], default="prove")


class ReconcileView(StrictParameters, APIView):
    """Starts a reconcile, or the repair of what the last one left."""

    permission_classes = [MaySeeSales]

    @extend_schema(
        operation_id="zoho_reconcile",
        request=ReconcileRequestSerializer,
        responses={
            202: SyncStartedSerializer,
            409: OpenApiResponse(description="A sync is under way; `run` is that one."),
        },
    )
    def post(self, request: Request) -> Response:
        asked = ReconcileRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        decision = may_configure(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        method = reconcile.REPAIR if asked.validated_data["mode"] == "repair" else "auto"
        run = request_run(kind=RECONCILE, trigger="api", user=request.user, method=method)
        return Response(SyncStartedSerializer({"run": run}).data, status=202)
