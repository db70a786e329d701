"""Opportunities and figures as JSON: shapes only; `o2r/metrics.py` says what a figure means."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crm import stages
from crm.api.fields import AmountField, CrmUrlField, NamedSerializer, PersonSerializer, SgdField
from crm.api.serializers import RecordSerializer, StatusSerializer
from crm.models import Deal, OutboxEntry, outbox

NAMES = {"type": "array", "items": {"type": "string"}}


@extend_schema_field(NAMES)
class FieldsOnTheWay(serializers.Field):
    """Names of a deal's fields (or *create*, *delete*) whose change here is not in the CRM yet.

    One query for all deals of an answer.
    """

    def __init__(self, *, in_conflict: bool) -> None:
        super().__init__(read_only=True, source="*")
        self.in_conflict = in_conflict

    def to_representation(self, deal: Deal) -> list[str]:
        context: dict[str, Any] = self.context
        if deal.pk not in context.setdefault("on_the_way", {}):
            many = self.parent.parent
            deals = many.instance if isinstance(many, serializers.ListSerializer) else [deal]
            pks = [each.pk for each in deals]
            context["on_the_way"] |= {pk: [] for pk in pks}
            for pk, *change in changes_on_the_way(pks):
                context["on_the_way"][pk].append(change)
        found = context["on_the_way"][deal.pk]
        return sorted({name for name, is_conflict in found if is_conflict == self.in_conflict})


def changes_on_the_way(pks: list[int]) -> list[tuple[int, str, bool]]:
    """(deal, field, is in conflict) of every change that the CRM has not taken."""
    rows = OutboxEntry.objects.filter(
        module="Deals", record_id__in=pks, status__in=outbox.OPEN
    ).exclude(status=outbox.SENT)
    return [
        (pk, field or kind, status == outbox.CONFLICT)
        for pk, kind, field, status in rows.values_list("record_id", "kind", "field", "status")
    ]


class OpportunitySerializer(RecordSerializer):
    """A deal. `stage` is ours, `crm_stage` the CRM's own name; probability in percent."""

    name = serializers.CharField()
    account = NamedSerializer(allow_null=True)
    contact = NamedSerializer(allow_null=True)
    owner = PersonSerializer(allow_null=True)
    pipeline = serializers.CharField(allow_null=True)
    stage = serializers.ChoiceField(choices=stages.STAGES)
    crm_stage = serializers.CharField(allow_null=True)
    amount = AmountField()
    currency = serializers.CharField()
    amount_sgd = SgdField(source="amount_sgd_minor", allow_null=True)
    probability = serializers.IntegerField(allow_null=True)
    weighted_sgd = SgdField(source="weighted_sgd_minor", allow_null=True)
    closing_date = serializers.DateField(allow_null=True)
    actual_close_date = serializers.SerializerMethodField()
    outcome_reason = serializers.SerializerMethodField()
    type = serializers.CharField(source="deal_type", allow_null=True)
    lead_source = serializers.CharField(allow_null=True)
    territory = serializers.CharField(allow_null=True)
    service_line = serializers.CharField(allow_null=True)
    aws_funded = serializers.BooleanField(allow_null=True)
    aws_funded_tag = serializers.CharField(allow_null=True)
    alliance_motion = serializers.CharField(allow_null=True)
    strategic_account = serializers.BooleanField(allow_null=True)
    next_step = serializers.CharField(allow_null=True)
    description = serializers.CharField(allow_null=True)
    external_id = serializers.CharField(allow_null=True)
    quality_score = serializers.SerializerMethodField()
    pending = FieldsOnTheWay(in_conflict=False)
    conflicts = FieldsOnTheWay(in_conflict=True)
    crm_url = CrmUrlField("Deals")
    version = serializers.IntegerField(source="change_seq")

    def get_actual_close_date(self, deal: Deal) -> serializers.DateField(allow_null=True):
        """The closing date of a deal that is won or lost."""
        if deal.stage_type == stages.OPEN or deal.closing_date is None:
            return None
        return deal.closing_date.isoformat()

    def get_outcome_reason(self, deal: Deal) -> serializers.CharField(allow_null=True):
        """Why a lost deal was lost."""
        return deal.loss_reason if deal.stage_type == stages.LOST else None

    def get_quality_score(self, deal: Deal) -> serializers.IntegerField(allow_null=True):
        """0 to 100; null until deals are scored."""
        return None


# -- figures ------------------------------------------------------------------------------------


class StageFigureSerializer(serializers.Serializer):
    """Deals of one of our stages; won and lost of all time."""

    stage = serializers.ChoiceField(source="key", choices=stages.STAGES)
    label = serializers.CharField()
    count = serializers.IntegerField()
    value_sgd = SgdField(source="value_sgd_cents")
    weighted_sgd = SgdField(source="weighted_sgd_cents")


class LeftOutSerializer(serializers.Serializer):
    """Open deals that the values leave out, by reason."""

    no_amount = serializers.IntegerField()
    no_rate = serializers.IntegerField()


class PeriodSerializer(serializers.Serializer):
    """The closing dates that count for won, lost, win rate and average; `from` null: all time."""

    name = serializers.ChoiceField(choices=["12m", "all"])
    to = serializers.DateField()

    def get_fields(self) -> dict[str, Any]:
        # `from` is a word of the language and cannot be written as an attribute.
        start = serializers.DateField(source="start", allow_null=True)
        fields = super().get_fields()
        return {"name": fields["name"], "from": start, "to": fields["to"]}


class StatsSerializer(serializers.Serializer):
    """The pipeline in figures. Rates are shares of one (won ÷ (won + lost)); null without any."""

    total_pipeline_value = SgdField(source="total_pipeline_cents")
    weighted_value = SgdField(source="weighted_cents")
    open_count = serializers.IntegerField()
    won_count = serializers.IntegerField()
    lost_count = serializers.IntegerField()
    win_rate = serializers.FloatField(allow_null=True)
    win_rate_value = serializers.FloatField(allow_null=True)
    average_deal_size = SgdField(source="average_deal_size_cents", allow_null=True)
    by_stage = StageFigureSerializer(many=True)
    period = PeriodSerializer()
    left_out = LeftOutSerializer()
    as_of = serializers.DateTimeField(allow_null=True)
    recompute_pending = serializers.BooleanField()


class DealPageSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    count_is_about = serializers.BooleanField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = OpportunitySerializer(many=True)


class LivePipelineSerializer(serializers.Serializer):
    """A page of deals, the figures of the same selection, and how old both are in seconds."""

    deals = DealPageSerializer()
    summary = StatsSerializer()
    sync_status = StatusSerializer()
    data_freshness = serializers.IntegerField(allow_null=True)
