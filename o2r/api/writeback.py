"""Changes on their way to the CRM over HTTP: send now, how it stands, conflicts and their decision.

Permit, fetch, call, answer. What goes and what becomes of it is decided in `crm/writeback`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from django.db.models import Count, Min, Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from crm.api.base import ID, MaySeeSales, StrictParameters, by_id
from crm.api.paging import BY_ID, Pages
from crm.errors import WriteBackOff
from crm.mapping.convert import decimals_of
from crm.models import Deal, OutboxEntry, outbox
from crm.sync.modules import BY_NAME, DEALS
from crm.words import is_number
from crm.writeback import decisions, send, switch
from crm.zoho.factory import client_from_settings
from o2r.permissions import may_resolve, may_write_back

MOST_IDS = 100
MILESTONES = (
    *("proposal_date", "sow_date", "po_date", "kickoff_date", "signoff_date"),
    *("invoice_date", "payment_date", "revenue_date"),
)
_WAITING = (outbox.PENDING, outbox.READING, outbox.SENDING, outbox.UNKNOWN)
CONFLICT = "Changed in the CRM meanwhile: choose whose value stays, under /api/o2r/conflicts."
# Of a record's entries the one that most needs a look decides.
_WORST_FIRST = (
    (outbox.CONFLICT, "conflict"),
    (outbox.REFUSED, "refused"),
    (outbox.DEAD, "failed"),
)


class ChangeSerializer(serializers.Serializer):
    """One change of one field, and what became of it; `message` says what to do."""

    id = serializers.CharField()
    kind = serializers.CharField()
    field = serializers.CharField()
    status = serializers.CharField()
    code = serializers.CharField()
    message = serializers.CharField()


class SentSerializer(serializers.Serializer):
    """`status`: sent, nothing_waiting, pending, conflict, refused or failed."""

    id = serializers.CharField()
    zoho_id = serializers.CharField(allow_null=True)
    status = serializers.CharField()
    sent = serializers.IntegerField()
    changes = ChangeSerializer(many=True)


class BatchRequestSerializer(serializers.Serializer):
    ids = serializers.ListField(
        child=serializers.CharField(max_length=40), min_length=1, max_length=MOST_IDS
    )


class BatchResultSerializer(SentSerializer):
    """`http_status` is what this one alone would have been answered with."""

    http_status = serializers.IntegerField()


class BatchSerializer(serializers.Serializer):
    sent = serializers.IntegerField()
    results = BatchResultSerializer(many=True)


class OutboxStatusSerializer(serializers.Serializer):
    """The outbox at a glance, in changes."""

    write_back = serializers.ChoiceField(choices=["off", "preview", "on"])
    killed = serializers.BooleanField()
    pending = serializers.IntegerField()
    in_flight = serializers.IntegerField()
    unknown = serializers.IntegerField()
    conflicts = serializers.IntegerField()
    refused = serializers.IntegerField()
    failed = serializers.IntegerField()
    oldest_pending_at = serializers.DateTimeField(allow_null=True)
    last_sent_at = serializers.DateTimeField(allow_null=True)


class ConflictSerializer(serializers.Serializer):
    """The three values as JSON: base, ours and theirs; amounts as strings with their decimals."""

    id = serializers.CharField()
    module = serializers.CharField()
    record_id = serializers.CharField()
    record_name = serializers.CharField()
    kind = serializers.CharField()
    field = serializers.CharField()
    base = serializers.JSONField()
    ours = serializers.JSONField()
    theirs = serializers.JSONField()
    author = serializers.CharField()
    changed_at = serializers.DateTimeField()
    theirs_by = serializers.CharField()
    theirs_at = serializers.DateTimeField(allow_null=True)
    status = serializers.CharField()


class ResolveSerializer(serializers.Serializer):
    keep = serializers.ChoiceField(choices=[decisions.OURS, decisions.THEIRS])


class SyncToCrmView(StrictParameters, APIView):
    """Sends one opportunity's waiting changes now."""

    permission_classes = [MaySeeSales]
    fields: Sequence[str] | None = None

    @extend_schema(
        operation_id="o2r_sync_to_crm",
        parameters=[ID],
        request=None,
        responses={
            200: SentSerializer,
            409: OpenApiResponse(description="A change is in conflict, or write-back is off."),
        },
    )
    def post(self, request: Request, id: str) -> Response:
        """409 with the changes where one of them is in conflict; nothing waiting: 200, sent 0."""
        body = send_deals(request.user, [one_deal(request.user, id)], self.fields)[0]
        status = body.pop("http_status")
        if status == 409:
            body = {"code": "conflict", "message": CONFLICT, "errors": {}, **body}
        return Response(body, status=status)


class SyncMilestonesView(SyncToCrmView):
    """Sends one opportunity's waiting milestone dates now, and nothing else of it."""

    fields = MILESTONES

    @extend_schema(
        operation_id="o2r_sync_milestones_to_crm",
        parameters=[ID],
        request=None,
        responses={200: SentSerializer},
    )
    def post(self, request: Request, id: str) -> Response:
        return super().post(request, id)


class SyncBatchView(StrictParameters, APIView):
    """Sends the waiting changes of up to a hundred opportunities now."""

    permission_classes = [MaySeeSales]

    @extend_schema(
        operation_id="o2r_sync_batch_to_crm",
        request=BatchRequestSerializer,
        responses={200: BatchSerializer, 207: BatchSerializer, 409: BatchSerializer},
    )
    def post(self, request: Request) -> Response:
        """200 if all went well, 207 if some did not, 409 if every one is in conflict."""
        asked = BatchRequestSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        results: dict[str, dict[str, Any]] = {}
        deals: dict[str, Deal] = {}
        for word in dict.fromkeys(asked.validated_data["ids"]):
            try:
                deals[word] = one_deal(request.user, word)
            except (NotFound, PermissionDenied) as refusal:
                results[word] = {
                    "id": word,
                    "zoho_id": None,
                    "status": "not_found" if refusal.status_code == 404 else "not_permitted",
                    "sent": 0,
                    "changes": [],
                    "message": str(refusal.detail),
                    "http_status": refusal.status_code,
                }
        if deals:
            sent = send_deals(request.user, list(deals.values()), None)
            results |= dict(zip(deals, sent, strict=True))
        found = [results[word] for word in dict.fromkeys(asked.validated_data["ids"])]
        statuses = {result["http_status"] for result in found}
        status = 207
        if statuses in ({200}, {409}):
            (status,) = statuses
        body: dict[str, Any] = {"sent": sum(r["sent"] for r in found), "results": found}
        if status == 409:
            body = {"code": "conflict", "message": CONFLICT, "errors": {}, **body}
        return Response(body, status=status)


class OutboxStatusView(StrictParameters, APIView):
    """How the way back stands."""

    permission_classes = [MaySeeSales]

    @extend_schema(operation_id="o2r_sync_status", responses=OutboxStatusSerializer)
    def get(self, request: Request) -> Response:
        return Response(OutboxStatusSerializer(outbox_state()).data)


class ConflictsView(StrictParameters, APIView):
    """Changes that the CRM contradicts; a person chooses."""

    permission_classes = [MaySeeSales]
    orders = {"id": BY_ID}
    default_ordering = "id"

    def known_parameters(self) -> set[str]:
        return set(Pages.PARAMETERS)

    @extend_schema(operation_id="o2r_conflicts", responses=ConflictSerializer(many=True))
    def get(self, request: Request) -> Response:
        pages = Pages()
        rows = pages.paginate_queryset(open_conflicts(), request, view=self)
        return pages.get_paginated_response(conflict_bodies(rows))


class ResolveConflictView(StrictParameters, APIView):
    """Decides one conflict."""

    permission_classes = [MaySeeSales]

    @extend_schema(
        operation_id="o2r_conflict_resolve",
        request=ResolveSerializer,
        responses={
            200: ConflictSerializer,
            409: OpenApiResponse(description="It is not in conflict any more."),
        },
    )
    def post(self, request: Request, id: str) -> Response:
        entry = OutboxEntry.objects.filter(pk=int(id)).first() if is_number(id) else None
        if entry is None:
            raise NotFound(f"There is no conflict with the id {id[:40]}.")
        record = BY_NAME[entry.module].model.objects.filter(pk=entry.record_id).first()
        decision = may_resolve(request.user, record)
        if not decision:
            raise PermissionDenied(decision.why)
        wanted = ResolveSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        keep = wanted.validated_data["keep"]
        decided = decisions.resolve(entry.pk, keep, by=request.user, now=timezone.now())
        return Response(conflict_bodies([decided])[0])


# -- what the views share --------------------------------------------------------------------------


def one_deal(user: Any, word: str) -> Deal:
    """The deal, deleted ones too where their deletion is on its way. Raises NotFound,
    PermissionDenied."""
    leaving = OutboxEntry.objects.filter(
        module=DEALS.name, kind=outbox.DELETE, status__in=outbox.OPEN
    ).values("record_id")
    rows = Deal.objects.filter(is_stub=False).filter(Q(deleted_at=None) | Q(pk__in=leaving))
    deal = cast(Deal, by_id(rows, word, "opportunity"))
    decision = may_write_back(user, outbox.EDIT, deal)
    if not decision:
        raise PermissionDenied(decision.why)
    return deal


def send_deals(
    user: Any, deals: Sequence[Deal], fields: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Send what waits of these and say of each what became of it. Raises WriteBackOff."""
    pks = [deal.pk for deal in deals]
    rows = OutboxEntry.objects.filter(module=DEALS.name, record_id__in=pks).order_by("id")
    if fields is not None:
        rows = rows.filter(Q(field__in=fields) & ~Q(kind=outbox.CONVERT))
    concerned = (*_WAITING, outbox.CONFLICT, outbox.DEAD)
    before = set(rows.filter(status__in=concerned).values_list("pk", flat=True))
    if rows.filter(status__in=_WAITING).exists():
        if switch.mode() != switch.ON:
            raise WriteBackOff
        send.send_due(make_client=_quick_client, record_ids=(DEALS, pks), fields=fields)
    by_deal: dict[int, list[OutboxEntry]] = {pk: [] for pk in pks}
    for entry in OutboxEntry.objects.filter(pk__in=before).order_by("id"):
        by_deal[entry.record_id].append(entry)
    return [_result_of(deal, by_deal[deal.pk]) for deal in deals]


def _quick_client() -> Any:
    """A person waits for the answer: few tries."""
    return client_from_settings(purpose="page")


def _result_of(deal: Deal, entries: Sequence[OutboxEntry]) -> dict[str, Any]:
    sent = sum(e.sent_at is not None and e.status in (outbox.SENT, outbox.DONE) for e in entries)
    statuses = {entry.status for entry in entries}
    status = next((word for s, word in _WORST_FIRST if s in statuses), "")
    if not status:
        waits = bool(statuses & set(_WAITING))
        status = "pending" if waits else "sent" if entries else "nothing_waiting"
    deal.refresh_from_db(fields=["zoho_id"])
    return {
        "id": str(deal.pk),
        "zoho_id": None if deal.zoho_id is None else str(deal.zoho_id),
        "status": status,
        "sent": sent,
        "changes": [
            {
                "id": str(entry.pk),
                "kind": entry.kind,
                "field": entry.field,
                "status": entry.status,
                "code": entry.code,
                "message": entry.message,
            }
            for entry in entries
        ],
        "http_status": 409 if status == "conflict" else 200,
    }


def outbox_state() -> dict[str, Any]:
    """Counts and times of the outbox; four queries, none over what is long done."""
    concerned = OutboxEntry.objects.filter(status__in=(*outbox.OPEN, outbox.REFUSED))
    found = concerned.aggregate(
        pending=Count("pk", filter=Q(status=outbox.PENDING)),
        in_flight=Count("pk", filter=Q(status__in=(outbox.READING, outbox.SENDING))),
        unknown=Count("pk", filter=Q(status=outbox.UNKNOWN)),
        conflicts=Count("pk", filter=Q(status=outbox.CONFLICT)),
        refused=Count("pk", filter=Q(status=outbox.REFUSED)),
        failed=Count("pk", filter=Q(status=outbox.DEAD)),
        oldest_pending_at=Min("created_at", filter=Q(status=outbox.PENDING)),
    )
    sent = OutboxEntry.objects.filter(sent_at__isnull=False).order_by("-sent_at")
    found["last_sent_at"] = sent.values_list("sent_at", flat=True).first()
    return {**found, "write_back": switch.mode(), "killed": switch.is_killed()}


def open_conflicts() -> QuerySet:
    return OutboxEntry.objects.filter(status=outbox.CONFLICT)


def conflict_bodies(entries: Sequence[OutboxEntry]) -> list[dict[str, Any]]:
    """Each with its record; one query a module."""
    wanted: dict[str, set[int]] = {}
    for entry in entries:
        wanted.setdefault(entry.module, set()).add(entry.record_id)
    found = {name: BY_NAME[name].model.objects.in_bulk(pks) for name, pks in wanted.items()}
    return [_conflict_body(entry, found[entry.module].get(entry.record_id)) for entry in entries]


def _conflict_body(entry: OutboxEntry, record: Any) -> dict[str, Any]:
    base, ours, theirs = (
        shown(entry.field, json.loads(text or "null"), record)
        for text in (entry.base, entry.new, entry.theirs)
    )
    body = {
        "id": str(entry.pk),
        "module": entry.module,
        "record_id": str(entry.record_id),
        "record_name": str(record or ""),
        "kind": entry.kind,
        "field": entry.field,
        "base": base,
        "ours": ours,
        "theirs": theirs,
        "author": entry.author_name,
        "changed_at": entry.created_at,
        "theirs_by": entry.theirs_by,
        "theirs_at": entry.theirs_at,
        "status": entry.status,
    }
    return ConflictSerializer(body).data


def shown(field: str, value: Any, record: Any) -> Any:
    """Money as a string with its currency's decimals; the rest as it is kept."""
    if field.endswith("_minor") and isinstance(value, int):
        code = "SGD" if field == "given_sgd_minor" else getattr(record, "currency", "")
        decimals = decimals_of(code)
        sign, digits = "-" * (value < 0), str(abs(value)).rjust(decimals + 1, "0")
        return sign + (f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits)
    return value
