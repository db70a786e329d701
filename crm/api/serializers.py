"""The mirror and its sync as JSON. Shapes only: what a value means is decided below."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crm import stages
from crm.api.fields import CrmUrlField, IdField, NamedSerializer, PersonSerializer, StrictSerializer
from crm.freshness import SyncState
from crm.models import runs as ledger


class RecordSerializer(serializers.Serializer):
    """What every mirrored record tells about itself.

    `updated_at` is when this state was stored here (what `updated_since` compares),
    `last_sync_at` when the CRM was asked for it.
    """

    id = IdField(source="pk")
    zoho_id = IdField(allow_null=True)
    created_at = serializers.SerializerMethodField()
    updated_at = serializers.DateTimeField()
    last_sync_at = serializers.DateTimeField(source="read_at", allow_null=True)

    @extend_schema_field(serializers.DateTimeField())
    def get_created_at(self, row: Any) -> str | None:
        return as_time(row.crm_created_at or row.first_seen_at)


def as_time(value: datetime | None) -> str | None:
    return serializers.DateTimeField().to_representation(value) if value else None


class AccountSerializer(RecordSerializer):
    name = serializers.CharField()
    industry = serializers.CharField(allow_null=True)
    type = serializers.CharField(source="account_type", allow_null=True)
    country = serializers.CharField(allow_null=True)
    website = serializers.CharField(allow_null=True)
    phone = serializers.CharField(allow_null=True)
    employees = serializers.IntegerField(allow_null=True)
    owner = PersonSerializer(allow_null=True)
    crm_url = CrmUrlField("Accounts")


class ContactSerializer(RecordSerializer):
    name = serializers.CharField(source="__str__")
    first_name = serializers.CharField(allow_null=True)
    last_name = serializers.CharField()
    email = serializers.CharField(allow_null=True)
    phone = serializers.CharField(allow_null=True)
    title = serializers.CharField(allow_null=True)
    account = NamedSerializer(allow_null=True)
    owner = PersonSerializer(allow_null=True)
    crm_url = CrmUrlField("Contacts")


class ConvertedSerializer(serializers.Serializer):
    """What a converted lead became, by the CRM's ids."""

    at = serializers.DateTimeField(source="converted_at", allow_null=True)
    account_zoho_id = IdField(source="converted_account_zoho_id", allow_null=True)
    contact_zoho_id = IdField(source="converted_contact_zoho_id", allow_null=True)
    opportunity_zoho_id = IdField(source="converted_deal_zoho_id", allow_null=True)


class LeadSerializer(RecordSerializer):
    name = serializers.CharField(source="__str__")
    first_name = serializers.CharField(allow_null=True)
    last_name = serializers.CharField()
    company = serializers.CharField(allow_null=True)
    email = serializers.CharField(allow_null=True)
    phone = serializers.CharField(allow_null=True)
    lead_source = serializers.CharField(allow_null=True)
    status = serializers.CharField(allow_null=True)
    is_converted = serializers.BooleanField()
    converted = serializers.SerializerMethodField()
    owner = PersonSerializer(allow_null=True)
    crm_url = CrmUrlField("Leads")

    @extend_schema_field(ConvertedSerializer(allow_null=True))
    def get_converted(self, lead: Any) -> dict[str, Any] | None:
        return ConvertedSerializer(lead).data if lead.is_converted else None


class UserSerializer(serializers.Serializer):
    """A user of the CRM: owner of records."""

    id = IdField(source="pk")
    zoho_id = IdField()
    name = serializers.CharField(source="__str__")
    email = serializers.CharField()
    status = serializers.CharField()
    role = serializers.CharField()
    profile = serializers.CharField()
    updated_at = serializers.DateTimeField()


class PipelineStageSerializer(serializers.Serializer):
    """A stage of a pipeline: the CRM's name, and ours."""

    crm_stage = serializers.CharField(source="stage.actual_name")
    name = serializers.CharField(source="stage.display_name")
    stage = serializers.ChoiceField(source="stage.our_stage", choices=stages.STAGES)
    type = serializers.ChoiceField(
        source="stage.forecast_type", choices=[stages.OPEN, stages.WON, stages.LOST]
    )
    probability = serializers.IntegerField(source="stage.probability", allow_null=True)


class PipelineSerializer(serializers.Serializer):
    id = IdField(source="pk")
    zoho_id = IdField()
    name = serializers.CharField()
    is_default = serializers.BooleanField()
    stages = PipelineStageSerializer(many=True, source="stages.all")


# -- the sync -----------------------------------------------------------------------------------


class SyncRequestSerializer(StrictSerializer):
    mode = serializers.ChoiceField(choices=["full", "delta"], default="delta")


class RunBriefSerializer(serializers.Serializer):
    id = IdField(source="pk")
    kind = serializers.ChoiceField(choices=ledger.KINDS)
    status = serializers.ChoiceField(choices=ledger.STATUSES)


class SyncStartedSerializer(serializers.Serializer):
    run = RunBriefSerializer()


class ProgressSerializer(serializers.Serializer):
    """A run under way: records done and expected, records a second, seconds left."""

    run_id = IdField(source="id")
    kind = serializers.ChoiceField(choices=ledger.KINDS)
    status = serializers.ChoiceField(choices=ledger.STATUSES)
    started_at = serializers.DateTimeField(allow_null=True)
    module = serializers.CharField()
    done = serializers.IntegerField()
    expected = serializers.IntegerField(allow_null=True)
    rate = serializers.FloatField(source="rate_per_s", allow_null=True)
    eta_seconds = serializers.IntegerField(allow_null=True)


class LastRunSerializer(serializers.Serializer):
    """The newest run that has ended."""

    id = IdField()
    kind = serializers.ChoiceField(choices=ledger.KINDS)
    status = serializers.ChoiceField(choices=ledger.STATUSES)
    ended_at = serializers.DateTimeField(allow_null=True)
    seen = serializers.IntegerField()
    created = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    deleted = serializers.IntegerField()
    failed = serializers.IntegerField()
    message = serializers.CharField()


class StaleFieldSerializer(serializers.Serializer):
    """A field that the CRM has lost: what is shown of it are its last values."""

    module = serializers.CharField()
    field = serializers.CharField()
    crm_field = serializers.CharField()
    since = serializers.DateTimeField()


class ProofSerializer(serializers.Serializer):
    """The last reconcile: the mirror held against the CRM."""

    sentence = serializers.CharField()
    is_exact = serializers.BooleanField()
    ended_at = serializers.DateTimeField()


class StatusSerializer(serializers.Serializer):
    """Connection, runs and freshness, from what is stored: the CRM is not asked."""

    is_connected = serializers.BooleanField()
    state = serializers.ChoiceField(
        choices=["connected", "delayed", "disconnected", "not_configured", "never_synced"]
    )
    message = serializers.CharField()
    advice = serializers.CharField()
    crm_name = serializers.CharField()
    last_sync = serializers.DateTimeField(source="last_success_at", allow_null=True)
    last_attempt = serializers.DateTimeField(source="last_attempt_at", allow_null=True)
    sync_in_progress = serializers.SerializerMethodField()
    progress = ProgressSerializer(source="run", allow_null=True)
    last_run = LastRunSerializer(allow_null=True)
    next_sync_in = serializers.SerializerMethodField()
    error_count = serializers.IntegerField()
    write_back = serializers.ChoiceField(choices=["off", "preview", "on"], source="is_write_back")
    freshness_seconds = serializers.IntegerField(allow_null=True)
    api_version = serializers.CharField()
    work_delayed_since = serializers.DateTimeField(
        allow_null=True, help_text="Since when no worker was heard of; null while they work."
    )

    stale_fields = StaleFieldSerializer(many=True)
    proof = ProofSerializer(allow_null=True)
    has_holds = serializers.BooleanField(help_text="Deletions wait for ops to confirm them.")

    def get_sync_in_progress(self, state) -> bool:
        return state.run is not None

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_next_sync_in(self, state: SyncState) -> int | None:
        """Whole seconds until the next scheduled delta is due; null without a schedule."""
        if state.next_sync_at is None:
            return None
        return max(0, int((state.next_sync_at - self.context["now"]).total_seconds()))


class CountsSerializer(serializers.Serializer):
    """seen = created + updated + unchanged + failed; deleted and restored count apart."""

    pages = serializers.IntegerField()
    seen = serializers.IntegerField()
    created = serializers.IntegerField()
    updated = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    failed = serializers.IntegerField()
    deleted = serializers.IntegerField()
    restored = serializers.IntegerField()


class RunPartSerializer(CountsSerializer):
    module = serializers.CharField()
    state = serializers.CharField()
    expected = serializers.IntegerField(allow_null=True)
    watermark_before = serializers.DateTimeField(allow_null=True)
    watermark_after = serializers.DateTimeField(allow_null=True)
    message = serializers.CharField()


class RunSerializer(CountsSerializer):
    id = IdField(source="pk")
    kind = serializers.ChoiceField(choices=ledger.KINDS)
    trigger = serializers.ChoiceField(choices=ledger.TRIGGERS)
    status = serializers.ChoiceField(choices=ledger.STATUSES)
    requested_by = serializers.SerializerMethodField()
    requested_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    error_code = serializers.CharField()
    message = serializers.CharField()
    api_calls = serializers.IntegerField()
    retries = serializers.IntegerField()
    received_bytes = serializers.IntegerField()

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_requested_by(self, run: Any) -> str | None:
        return run.requested_by.get_username() if run.requested_by else None


class RunDetailSerializer(RunSerializer):
    modules = RunPartSerializer(many=True, source="parts.all")
