"""The figures of the tracker as JSON; what each means is decided in `o2r/tracker_metrics.py`."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from crm.api.base import refuse_unfit
from crm.api.fields import SgdField, sgd_text
from o2r.api.serializers import LeftOutSerializer
from o2r.api.tracker import TrackerViewSet
from o2r.api.work_serializers import PHASES
from o2r.filters import NONE, OpportunityFilter, Selection, today_of_business
from o2r.models.opportunity import SIGNALS
from o2r.tracker_metrics import Bucket, Days, TrackerFigures, tracker_figures


def _by_key(keys: Any, value: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that always has these keys."""
    return {
        "type": "object",
        "required": list(keys),
        "properties": dict.fromkeys(keys, value),
    }


COUNT, MONEY = {"type": "integer"}, {"type": "string", "example": "1234.50"}
SHARE = {"type": "number", "nullable": True, "minimum": 0, "maximum": 1}
DAYS = {
    "type": "object",
    "required": ["count", "average", "median"],
    "properties": {
        "count": COUNT,
        "average": {"type": "number", "nullable": True},
        "median": {"type": "number", "nullable": True},
    },
}


class MoneyCountSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    value_sgd = SgdField(source="value_sgd_cents")


class BucketSerializer(MoneyCountSerializer):
    """`key` is its value in the filters of the list; null where none is given (filter “-”)."""

    key = serializers.SerializerMethodField()
    label = serializers.CharField()

    def get_key(self, bucket: Bucket) -> serializers.CharField(allow_null=True):
        return None if bucket.key == NONE else bucket.key


class DashboardSerializer(serializers.Serializer):
    """Figures of active opportunities, but overdue payments, cycle times and conversion: those
    have populations of their own (`docs/METRICS.md`). Rates are shares of one, days in tenths."""

    total_opportunities = serializers.IntegerField()
    total_value_sgd = SgdField(source="total_value_sgd_cents")
    weighted_value_sgd = SgdField(source="weighted_sgd_cents")
    phase_distribution = serializers.SerializerMethodField()
    phase_value_sgd = serializers.SerializerMethodField()
    health_distribution = serializers.SerializerMethodField()
    health_value_sgd = serializers.SerializerMethodField()
    at_risk = MoneyCountSerializer()
    overdue_payments = MoneyCountSerializer()
    average_cycle_time = serializers.FloatField(source="cycle.average", allow_null=True)
    median_cycle_time = serializers.FloatField(source="cycle.median", allow_null=True)
    cycle_count = serializers.IntegerField(source="cycle.count")
    cycle_left_out = serializers.IntegerField(source="cycle.left_out")
    time_in_phase = serializers.SerializerMethodField()
    conversion_rates = serializers.SerializerMethodField()
    conversion_counts = serializers.SerializerMethodField()
    by_territory = BucketSerializer(many=True)
    by_service_line = BucketSerializer(many=True)
    by_owner = BucketSerializer(many=True)
    left_out = LeftOutSerializer()
    as_of = serializers.DateField(allow_null=True)
    computed_at = serializers.DateTimeField(allow_null=True)
    recompute_pending = serializers.BooleanField()

    @extend_schema_field(_by_key(PHASES, COUNT))
    def get_phase_distribution(self, figures: TrackerFigures) -> dict[str, int]:
        return {bucket.key: bucket.count for bucket in figures.by_phase}

    @extend_schema_field(_by_key(PHASES, MONEY))
    def get_phase_value_sgd(self, figures: TrackerFigures) -> dict[str, str | None]:
        return {bucket.key: sgd_text(bucket.value_sgd_cents) for bucket in figures.by_phase}

    @extend_schema_field(_by_key(SIGNALS, COUNT))
    def get_health_distribution(self, figures: TrackerFigures) -> dict[str, int]:
        return {bucket.key: bucket.count for bucket in figures.by_signal}

    @extend_schema_field(_by_key(SIGNALS, MONEY))
    def get_health_value_sgd(self, figures: TrackerFigures) -> dict[str, str | None]:
        return {bucket.key: sgd_text(bucket.value_sgd_cents) for bucket in figures.by_signal}

    @extend_schema_field(_by_key(PHASES, DAYS))
    def get_time_in_phase(self, figures: TrackerFigures) -> dict[str, Any]:
        return {phase: _days(days) for phase, days in figures.time_in_phase.items()}

    @extend_schema_field(_by_key(PHASES, SHARE))
    def get_conversion_rates(self, figures: TrackerFigures) -> dict[str, float | None]:
        return {
            phase: None if found.share is None else float(found.share)
            for phase, found in figures.conversion.items()
        }

    @extend_schema_field(_by_key(PHASES, _by_key(("reached", "went_on"), COUNT)))
    def get_conversion_counts(self, figures: TrackerFigures) -> dict[str, Any]:
        return {
            phase: {"reached": found.reached, "went_on": found.went_on}
            for phase, found in figures.conversion.items()
        }


def _days(days: Days) -> dict[str, Any]:
    average, median = days.average, days.median
    return {
        "count": days.count,
        "average": None if average is None else float(average),
        "median": None if median is None else float(median),
    }


class DashboardViewSet(TrackerViewSet):
    """The metrics of the tracker."""

    def known_parameters(self) -> set[str]:
        return set(OpportunityFilter.base_filters)

    @extend_schema(operation_id="o2r_dashboard", responses=DashboardSerializer, filters=True)
    def figures(self, request: Request) -> Response:
        """The figures of a selection; filters as the list has them."""
        refuse_unfit(request, OpportunityFilter(request.query_params))
        selection = Selection.from_query(request.query_params, request.user)
        figures = tracker_figures(selection, today=today_of_business())
        return Response(DashboardSerializer(figures).data)
