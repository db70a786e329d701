"""What would be sent to the CRM, over HTTP: to look at before write-back is switched on.

What would go, and its cost, is decided in `crm/writeback/preview`.
"""

from __future__ import annotations

import json
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from crm.api.base import MaySeeSales, StrictParameters
from crm.models import outbox
from crm.sync.modules import BY_NAME
from crm.writeback import switch
from crm.writeback.preview import PreviewRow, preview
from o2r.api.writeback import shown
from o2r.permissions import may_preview_write_back

MOST_PREVIEWED = 200


class PreviewedChangeSerializer(serializers.Serializer):
    """One field, from what (the CRM's value that it was made on) to what."""

    field = serializers.CharField()
    author = serializers.CharField()

    def get_fields(self) -> dict[str, Any]:
        words = {name: serializers.JSONField(allow_null=True) for name in ("from", "to")}
        return {**super().get_fields(), **words}


class PreviewedSerializer(serializers.Serializer):
    """One record: `payload` as the CRM would be sent it; `why_not`: it would be refused, or waits.
    `zoho_id` is null for one that the CRM does not have yet."""

    module = serializers.CharField()
    record_id = serializers.CharField()
    zoho_id = serializers.CharField(allow_null=True)
    record_name = serializers.CharField()
    kind = serializers.ChoiceField(choices=outbox.KINDS)
    changes = PreviewedChangeSerializer(many=True)
    payload = serializers.DictField()
    why_not = serializers.CharField()


class PreviewSerializer(serializers.Serializer):
    """What would be sent now, in its order: `count` rows, the first of them in `results`; a record
    is one row, and one more for each change of it that would not go. `is_whole` false: more wait
    than were looked at, and the cost is that of the first round."""

    write_back = serializers.ChoiceField(choices=["off", "preview", "on"])
    count = serializers.IntegerField()
    calls = serializers.IntegerField()
    credits = serializers.IntegerField()
    is_whole = serializers.BooleanField()
    results = PreviewedSerializer(many=True)


class PreviewView(StrictParameters, APIView):
    """What would be sent to the CRM, and what it would cost; nothing is asked of it."""

    permission_classes = [MaySeeSales]

    @extend_schema(operation_id="o2r_sync_preview", responses=PreviewSerializer)
    def get(self, request: Request) -> Response:
        decision = may_preview_write_back(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        return Response(PreviewSerializer(preview_body()).data)


def preview_body() -> dict[str, Any]:
    """One query a module for the names, beside what the preview itself asks."""
    found = preview(timezone.now())
    first = found.rows[:MOST_PREVIEWED]
    wanted: dict[str, set[int]] = {}
    for row in first:
        wanted.setdefault(row.module, set()).add(row.record_id)
    records = {name: BY_NAME[name].model.objects.in_bulk(pks) for name, pks in wanted.items()}
    return {
        "write_back": switch.mode(),
        "count": len(found.rows),
        "calls": found.calls,
        "credits": found.credits,
        "is_whole": found.is_whole,
        "results": [_previewed(row, records[row.module].get(row.record_id)) for row in first],
    }


def _previewed(row: PreviewRow, record: Any) -> dict[str, Any]:
    return {
        "module": row.module,
        "record_id": str(row.record_id),
        "zoho_id": None if row.zoho_id is None else str(row.zoho_id),
        "record_name": str(record or ""),
        "kind": row.kind,
        "changes": [
            {
                "field": entry.field,
                "author": entry.author_name,
                "from": shown(entry.field, json.loads(entry.base or "null"), record),
                "to": shown(entry.field, json.loads(entry.new or "null"), record),
            }
            for entry in row.entries
            if entry.kind == outbox.EDIT
        ],
        "payload": row.payload,
        "why_not": row.why_not,
    }
