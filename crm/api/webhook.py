"""The notification channels over HTTP: set up, remove, how they stand, test.

The address that the CRM itself calls is `crm.webhook`, no view of this API.
"""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from crm.api.base import MaySeeSales, StrictParameters
from crm.models import NotificationChannel
from crm.permissions import may_configure
from crm.sync import channel_state, channels

REFUSED = {
    409: OpenApiResponse(description="The CRM could not call us; `message` says what to set."),
    503: OpenApiResponse(description="The CRM does not answer, or refuses it."),
}


class ChannelSerializer(serializers.Serializer):
    module = serializers.CharField(source="row.module")
    channel_id = serializers.CharField(source="row.channel_id")
    status = serializers.ChoiceField(choices=channel_state.STATES, source="state")
    message = serializers.CharField(source="sentence")
    registered_at = serializers.DateTimeField(source="row.registered_at", allow_null=True)
    expires_at = serializers.DateTimeField(source="row.expires_at", allow_null=True)
    last_event_at = serializers.DateTimeField(source="row.last_event_at", allow_null=True)
    silent_since = serializers.DateTimeField(source="row.silent_since", allow_null=True)
    events = serializers.IntegerField(source="row.events")


class InboxSerializer(serializers.Serializer):
    """Records that wait, are being fetched, were given up; notices that were ignored or refused."""

    waiting = serializers.IntegerField()
    taken = serializers.IntegerField()
    dead = serializers.IntegerField()
    ignored = serializers.IntegerField()
    rejected = serializers.IntegerField()
    oldest_waiting_at = serializers.DateTimeField(allow_null=True)


class WebhookStateSerializer(serializers.Serializer):
    status = serializers.ChoiceField(choices=channel_state.STATES, source="state")
    message = serializers.CharField(source="sentence")
    address = serializers.CharField()
    last_event_at = serializers.DateTimeField(allow_null=True)
    channels = ChannelSerializer(many=True)
    inbox = InboxSerializer(source="*")


class StepSerializer(serializers.Serializer):
    name = serializers.ChoiceField(choices=["channels", "address"])
    ok = serializers.BooleanField(source="is_ok")
    message = serializers.CharField()
    duration_ms = serializers.IntegerField()


class RoundTripSerializer(serializers.Serializer):
    ok = serializers.BooleanField()
    steps = StepSerializer(many=True)


class MayConfigure(MaySeeSales):
    """Ops alone; else 403 with the reason."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not super().has_permission(request, view):
            return False
        decision = may_configure(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        return True


class SetupView(StrictParameters, APIView):
    """Registers a channel for each module, or removes them all. Answers how they stand then."""

    permission_classes = [MayConfigure]

    @extend_schema(
        operation_id="zoho_webhook_setup",
        request=None,
        responses={200: WebhookStateSerializer, **REFUSED},
    )
    def post(self, request: Request) -> Response:
        channels.set_up(now=timezone.now())
        return Response(state_body())

    @extend_schema(
        operation_id="zoho_webhook_remove",
        request=None,
        responses={200: WebhookStateSerializer, **REFUSED},
    )
    def delete(self, request: Request) -> Response:
        channels.remove(list(NotificationChannel.objects.all()))
        return Response(state_body())


class StateView(StrictParameters, APIView):
    """The channels and the inbox; asks the CRM nothing."""

    permission_classes = [MaySeeSales]

    @extend_schema(operation_id="zoho_webhook_status", responses=WebhookStateSerializer)
    def get(self, request: Request) -> Response:
        return Response(state_body())


class RoundTripView(StrictParameters, APIView):
    """Asks the CRM for its channels, and sends a notice to our own public address."""

    permission_classes = [MayConfigure]

    @extend_schema(
        operation_id="zoho_webhook_test",
        request=None,
        responses={200: RoundTripSerializer, **REFUSED},
    )
    def post(self, request: Request) -> Response:
        steps = channel_state.round_trip()
        is_ok = all(step.is_ok for step in steps)
        return Response(RoundTripSerializer({"ok": is_ok, "steps": steps}).data)


def state_body() -> dict[str, Any]:
    return WebhookStateSerializer(channel_state.status(timezone.now())).data
