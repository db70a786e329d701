"""Action items, activities and reviews as JSON, and what may be said of them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crm.api.fields import IdField, PersonSerializer, StrictSerializer
from crm.models import CrmUser
from crm.words import users_named
from o2r import told
from o2r.models import Activity
from o2r.models.opportunity import SIGNALS

PHASES = [f"phase{n}" for n in (1, 2, 3, 4)]


@extend_schema_field(OpenApiTypes.STR)
class AuthorField(serializers.Field):
    """The name of a person here; empty for a rule."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, user: Any) -> str:
        return user.get_full_name() or user.get_username()


@extend_schema_field({"type": "string", "nullable": True, "description": "Our id, the CRM's, or an "
                      "e-mail address of a CRM user."})  # fmt: skip
class OwnerField(serializers.Field):
    """A CRM user, however named."""

    def to_internal_value(self, word: Any) -> CrmUser:
        found = list(users_named([word])[:2]) if isinstance(word, str) else []
        if len(found) != 1:
            raise serializers.ValidationError("There is no such CRM user.")
        return found[0]

    def to_representation(self, value: Any) -> str:
        return str(value.pk)


class WorkSerializer(serializers.Serializer):
    """What all of them have. `opportunity` is the id under /api/o2r/opportunities."""

    id = IdField(source="pk")
    opportunity = IdField(source="opportunity.deal_id")
    opportunity_name = serializers.CharField(source="opportunity.deal.name")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ActionItemSerializer(WorkSerializer):
    """`rule` names the rule that proposed it; `closed_by_rule`: its reason ended by itself."""

    text = serializers.CharField()
    owner = PersonSerializer(allow_null=True)
    due_on = serializers.DateField(allow_null=True)
    done = serializers.SerializerMethodField()
    done_at = serializers.DateTimeField(allow_null=True)
    done_by = AuthorField(allow_null=True)
    rule = serializers.CharField()
    reason_since = serializers.DateField(allow_null=True)
    closed_by_rule = serializers.BooleanField()
    created_by = AuthorField(allow_null=True)

    def get_done(self, item: Any) -> bool:
        return item.done_at is not None


class ActionItemRequest(StrictSerializer):
    """`owner` is the deal's unless said; null: nobody's."""

    opportunity = serializers.CharField(max_length=40)
    text = serializers.CharField(max_length=500)
    owner = OwnerField(required=False, allow_null=True)
    due_on = serializers.DateField(required=False, allow_null=True)
    done = serializers.BooleanField(required=False)


class ActivitySerializer(WorkSerializer):
    type = serializers.ChoiceField(choices=Activity.TYPES)
    description = serializers.CharField()
    scheduled_at = serializers.DateTimeField(allow_null=True)
    completed_at = serializers.DateTimeField(allow_null=True)
    outcome = serializers.SerializerMethodField()
    created_by = AuthorField(allow_null=True)

    def get_outcome(self, activity: Any) -> serializers.ChoiceField(
        choices=Activity.OUTCOMES, allow_null=True
    ):
        return activity.outcome or None


class ActivityRequest(StrictSerializer):
    """An outcome without `completed_at`: it happened now."""

    opportunity = serializers.CharField(max_length=40)
    type = serializers.ChoiceField(choices=Activity.TYPES, required=False)
    description = serializers.CharField(max_length=10_000)
    scheduled_at = serializers.DateTimeField(required=False, allow_null=True)
    completed_at = serializers.DateTimeField(required=False, allow_null=True)
    outcome = serializers.ChoiceField(choices=Activity.OUTCOMES, required=False, allow_null=True)


class ReviewSerializer(WorkSerializer):
    """`health_signal`, `current_phase` and `facts` are the server's, as they were then."""

    reviewed_on = serializers.DateField()
    reviewer = serializers.CharField(source="reviewer_name")
    decision = serializers.CharField()
    note = serializers.CharField()
    health_signal = serializers.SerializerMethodField()
    current_phase = serializers.SerializerMethodField()
    facts = serializers.SerializerMethodField()

    def get_health_signal(self, review: Any) -> serializers.ChoiceField(
        choices=SIGNALS, allow_null=True
    ):
        return review.health_signal or None

    def get_current_phase(self, review: Any) -> serializers.ChoiceField(choices=PHASES):
        return f"phase{review.current_phase}"

    @extend_schema_field({"type": "object", "additionalProperties": True})
    def get_facts(self, review: Any) -> dict[str, Any]:
        """As kept, money as text."""
        facts = dict(review.facts)
        currency = facts.get("currency") or ""
        for name, code in (("amount_minor", currency), ("amount_sgd_minor", "SGD")):
            minor = facts.pop(name, None)
            facts[name.removesuffix("_minor")] = told.plain_money(minor, code)
        return facts


class ReviewRequest(StrictSerializer):
    """Say what was decided, or leave a note. The signal in it is set here, not by you."""

    opportunity = serializers.CharField(max_length=40)
    decision = serializers.CharField(max_length=500, required=False, allow_blank=True)
    note = serializers.CharField(max_length=10_000, required=False, allow_blank=True)
