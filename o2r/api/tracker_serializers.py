"""O2R opportunities and the tracker's figures as JSON: shapes only.

What a phase, a signal or a figure means is decided in `o2r/phases.py`, `health_signals.py` and
`tracker_metrics.py`.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crm import stages
from crm.api.fields import StrictSerializer
from crm.mapping.convert import decimals_of
from crm.models import Deal
from o2r import health_signals, timeline, told
from o2r.api.serializers import OpportunitySerializer
from o2r.api.work_serializers import (
    PHASES,
    ActionItemSerializer,
    ActivitySerializer,
    ReviewSerializer,
)
from o2r.models import Opportunity, Snooze
from o2r.models.milestones import STATUSES
from o2r.models.opportunity import OUTCOMES, SIGNALS
from o2r.tracker import MilestoneState

REASON: dict[str, Any] = {
    "type": "object",
    "required": ["rule", "severity", "milestone", "date", "days", "since", "worse_on"],
    "properties": {
        "rule": {"type": "string"},
        "severity": {"type": "string", "enum": ["yellow", "red", "blocked"]},
        "milestone": {"type": "string", "nullable": True},
        "date": {"type": "string", "format": "date", "nullable": True},
        "days": {"type": "integer", "nullable": True},
        "since": {"type": "string", "format": "date", "nullable": True},
        "worse_on": {"type": "string", "format": "date", "nullable": True},
        "evidence": {"type": "string"},
        "advice": {"type": "string"},
    },
}
FINDING: dict[str, Any] = {"type": "object", "additionalProperties": True}


def tracked(deal: Deal) -> Opportunity:
    """The deal's opportunity; of one mirrored a moment ago, as it begins."""
    try:
        return deal.opportunity
    except Opportunity.DoesNotExist:
        return Opportunity(deal=deal)


class O2ROpportunitySerializer(OpportunitySerializer):
    """An opportunity with its place in O2R. `days_in_phase` counts to the context's `today`;
    `health_signal` is null once it has ended."""

    account_name = serializers.CharField(source="account.name", default=None, allow_null=True)
    proposal_date = serializers.DateField(allow_null=True)
    sow_date = serializers.SerializerMethodField()
    sow_date_estimated = serializers.SerializerMethodField()
    po_date = serializers.DateField(allow_null=True)
    kickoff_date = serializers.DateField(allow_null=True)
    signoff_date = serializers.DateField(allow_null=True)
    invoice_date = serializers.DateField(allow_null=True)
    payment_date = serializers.DateField(allow_null=True)
    revenue_date = serializers.DateField(allow_null=True)
    current_phase = serializers.SerializerMethodField()
    phase_entered_on = serializers.SerializerMethodField()
    days_in_phase = serializers.SerializerMethodField()
    health_signal = serializers.SerializerMethodField()
    reasons = serializers.SerializerMethodField()
    worse_on = serializers.SerializerMethodField()
    outcome = serializers.SerializerMethodField()
    findings = serializers.SerializerMethodField()
    as_of = serializers.SerializerMethodField()

    def get_sow_date(self, deal: Deal) -> serializers.DateField(allow_null=True):
        """The CRM's, else the estimated one."""
        return _iso(deal.sow_date or tracked(deal).sow_estimated_on)

    def get_sow_date_estimated(self, deal: Deal) -> bool:
        return deal.sow_date is None and tracked(deal).sow_estimated_on is not None

    def get_current_phase(self, deal: Deal) -> serializers.ChoiceField(choices=PHASES):
        return f"phase{tracked(deal).current_phase}"

    def get_phase_entered_on(self, deal: Deal) -> serializers.DateField(allow_null=True):
        return _iso(tracked(deal).phase_entered_on)

    def get_days_in_phase(self, deal: Deal) -> serializers.IntegerField(allow_null=True):
        entered_on = tracked(deal).phase_entered_on
        return None if entered_on is None else (self.context["today"] - entered_on).days

    def get_health_signal(self, deal: Deal) -> serializers.ChoiceField(
        choices=SIGNALS, allow_null=True
    ):
        return tracked(deal).health_signal or None

    @extend_schema_field({"type": "array", "items": REASON})
    def get_reasons(self, deal: Deal) -> list[dict[str, Any]]:
        """Every reason, the worst first, with its evidence and what to do."""
        return [
            {
                **reason.as_dict(),
                "milestone": reason.milestone or None,
                "evidence": health_signals.evidence(reason),
                "advice": health_signals.advice(reason),
            }
            for reason in health_signals.reasons_on(tracked(deal).reasons, self.context["today"])
        ]

    def get_worse_on(self, deal: Deal) -> serializers.DateField(allow_null=True):
        return _iso(tracked(deal).worse_on)

    def get_outcome(self, deal: Deal) -> serializers.ChoiceField(choices=OUTCOMES):
        return tracked(deal).outcome

    @extend_schema_field({"type": "array", "items": FINDING})
    def get_findings(self, deal: Deal) -> list[dict[str, Any]]:
        """Gaps and dates out of order: `{kind, milestone, other}`."""
        return tracked(deal).findings

    def get_as_of(self, deal: Deal) -> serializers.DateField(allow_null=True):
        """The business day for which phase and signal were computed."""
        return _iso(tracked(deal).as_of)


class MilestoneSerializer(serializers.Serializer):
    """`in_crm`: its day goes to the CRM; else `stays_here` says why not. `pending`: it is on its
    way. `is_plan`: the day is still to come, so it is no fact yet."""

    milestone = serializers.CharField(source="key")
    title = serializers.CharField()
    phase = serializers.ChoiceField(choices=PHASES)
    is_own = serializers.BooleanField()
    status = serializers.ChoiceField(choices=STATUSES)
    completed_on = serializers.DateField(allow_null=True)
    is_plan = serializers.BooleanField()
    is_estimated = serializers.BooleanField()
    target_on = serializers.DateField(allow_null=True)
    note = serializers.CharField()
    reason = serializers.CharField()
    amount = serializers.CharField(allow_null=True)
    currency = serializers.CharField()
    in_crm = serializers.BooleanField()
    stays_here = serializers.CharField()
    pending = serializers.BooleanField()
    conflict = serializers.BooleanField()
    recorded_by = serializers.CharField(allow_null=True)
    recorded_at = serializers.DateTimeField(allow_null=True)


class BlockSerializer(serializers.Serializer):
    reason = serializers.CharField()
    since = serializers.DateField()
    by = serializers.CharField()


class SnoozeSerializer(serializers.Serializer):
    until = serializers.DateField()
    reason = serializers.CharField()
    by = serializers.CharField()
    created_at = serializers.DateTimeField()


class TrackedSerializer(O2ROpportunitySerializer):
    """One opportunity with all that belongs to it; of activities, items and reviews the newest
    hundred. `gate` is what “update phase” records."""

    milestones = MilestoneSerializer(many=True, source="o2r_milestones")
    activities = ActivitySerializer(many=True, source="o2r_activities")
    action_items = ActionItemSerializer(many=True, source="o2r_items")
    reviews = ReviewSerializer(many=True, source="o2r_reviews")
    gate = serializers.CharField(source="o2r_gate")
    blocked = BlockSerializer(allow_null=True, source="o2r_block")
    snoozed = SnoozeSerializer(allow_null=True, source="o2r_snooze")


# -- what people say ------------------------------------------------------------------------------

VERSION_HELP = "As you saw it; another one now: 409, and `message` says what was recorded."


class MilestoneRequest(StrictSerializer):
    """What is not given stays; null clears. A day completes it; *completed* without one is today;
    *blocked* needs `reason`. `amount` in the deal's currency unless said."""

    milestone = serializers.CharField(max_length=64)
    completed_on = serializers.DateField(required=False, allow_null=True)
    target_on = serializers.DateField(required=False, allow_null=True)
    status = serializers.ChoiceField(choices=STATUSES, required=False)
    note = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    reason = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    amount = serializers.DecimalField(
        max_digits=18, decimal_places=3, required=False, allow_null=True
    )
    currency = serializers.CharField(max_length=3, min_length=3, required=False)
    confirm_early = serializers.BooleanField(
        required=False, help_text="The day before the deal's creation is right."
    )
    version = serializers.IntegerField(required=False, min_value=0, help_text=VERSION_HELP)


class OwnMilestoneRequest(StrictSerializer):
    """A milestone of one's own; its key is the slug of the title."""

    title = serializers.CharField(max_length=120)
    target_on = serializers.DateField(required=False, allow_null=True)
    note = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
    version = serializers.IntegerField(required=False, min_value=0, help_text=VERSION_HELP)


class PhaseRequest(StrictSerializer):
    completed_on = serializers.DateField(required=False)
    confirm_early = serializers.BooleanField(required=False)
    version = serializers.IntegerField(required=False, min_value=0, help_text=VERSION_HELP)


class MoveRequest(StrictSerializer):
    """What is not given stays. The probability follows the stage unless it was set by hand."""

    stage = serializers.ChoiceField(choices=stages.STAGES, required=False)
    probability = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=100
    )
    version = serializers.IntegerField(required=False, min_value=0, help_text=VERSION_HELP)


class BlockRequest(StrictSerializer):
    reason = serializers.CharField(max_length=2_000)
    version = serializers.IntegerField(required=False, min_value=0, help_text=VERSION_HELP)


class SnoozeRequest(StrictSerializer):
    until = serializers.DateField()
    reason = serializers.CharField(max_length=500)


def minor_of(amount: Decimal | None, currency: str) -> int | None:
    """Whole minor units. Raises ValidationError for more decimals than the currency has."""
    if amount is None:
        return None
    decimals = decimals_of(currency)
    scaled = amount.scaleb(decimals)
    if scaled != scaled.to_integral_value():
        raise serializers.ValidationError(
            {"amount": [f"{currency or 'This currency'} has {decimals} decimals."]}
        )
    return int(scaled)


# -- the story ------------------------------------------------------------------------------------


class EntrySerializer(serializers.Serializer):
    """`happened_at` is null where only the day is known; `learnt_at`: when it came to us."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=timeline.KINDS)
    text = serializers.CharField()
    happened_on = serializers.DateField()
    happened_at = serializers.DateTimeField(allow_null=True)
    learnt_at = serializers.DateTimeField()
    who = serializers.CharField()
    details = serializers.ListField(child=serializers.CharField())
    status = serializers.CharField()


class TimelineSerializer(serializers.Serializer):
    """The newest first; `next` is the address of what is older."""

    next = serializers.URLField(allow_null=True)
    results = EntrySerializer(many=True)


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


# -- rows → what is shown -------------------------------------------------------------------------


def milestone_body(state: MilestoneState) -> dict[str, Any]:
    body: dict[str, Any] = asdict(state)
    body["phase"] = f"phase{state.phase}"
    body["amount"] = told.plain_money(state.amount_minor, state.currency)
    return body


def block_body(opportunity: Opportunity) -> dict[str, Any] | None:
    if opportunity.blocked_on is None:
        return None
    by = opportunity.blocked_by
    return {
        "reason": opportunity.blocked_reason,
        "since": opportunity.blocked_on,
        "by": "" if by is None else by.get_full_name() or by.get_username(),
    }


def snooze_body(snooze: Snooze | None) -> dict[str, Any] | None:
    if snooze is None:
        return None
    by = snooze.author
    return {
        "until": snooze.until,
        "reason": snooze.reason,
        "by": "" if by is None else by.get_full_name() or by.get_username(),
        "created_at": snooze.created_at,
    }
