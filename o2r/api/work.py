"""Action items, activities and reviews over HTTP: permit, fetch, call, answer.

What people may do and what follows is decided in `o2r/services`.
"""

from __future__ import annotations

from typing import Any, cast

import django_filters
from django.db.models import Model, Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from crm.api.base import ID, ReadViewSet, by_id
from crm.api.paging import BY_ID, Order
from crm.models import Deal
from crm.words import NONE, WordsFilter, numbers_in, owner_pks
from o2r import querysets
from o2r.api import work_serializers as shapes
from o2r.filters import today_of_business
from o2r.models import ActionItem, Activity, Review
from o2r.models.opportunity import SIGNALS
from o2r.permissions import owner_pks_of
from o2r.services import reviews, work
from o2r.services.entry import opportunity_of

YES_OR_NO = ("0", "1")


class WorkFilter(django_filters.FilterSet):
    """What all of them are filtered by: the opportunity, by our id or the CRM's."""

    opportunity = WordsFilter(method="by_opportunity")
    updated_since = django_filters.IsoDateTimeFilter(field_name="updated_at", lookup_expr="gte")

    def by_opportunity(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        numbers = numbers_in(words)
        deals = Deal.objects.filter(Q(pk__in=numbers) | Q(zoho_id__in=numbers))
        return rows.filter(opportunity__deal__in=deals.values("pk"))


class ActionItemFilter(WorkFilter):
    owner = WordsFilter(method="by_owner")
    mine = WordsFilter(choices=YES_OR_NO, method="by_mine")
    done = WordsFilter(choices=YES_OR_NO, method="by_done")
    rule = WordsFilter(method="by_rule")
    due_from = django_filters.DateFilter(field_name="due_on", lookup_expr="gte")
    due_to = django_filters.DateFilter(field_name="due_on", lookup_expr="lte")

    class Meta:
        model = ActionItem
        fields: list[str] = []

    def by_owner(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        found = Q(owner__in=owner_pks(words))
        return rows.filter(found | Q(owner__isnull=True) if NONE in words else found)

    def by_mine(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        if "1" not in words:
            return rows
        return rows.filter(owner__in=owner_pks_of(self.request.user))

    def by_done(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        if set(words) == set(YES_OR_NO):
            return rows
        return rows.filter(done_at__isnull="0" in words)

    def by_rule(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        """`-` finds those that people made."""
        return rows.filter(rule__in=["" if word == NONE else word for word in words])


class ActivityFilter(WorkFilter):
    type = WordsFilter(choices=work.TYPES, method="by_type")
    outcome = WordsFilter(choices=(*work.OUTCOMES, NONE), method="by_outcome")

    class Meta:
        model = Activity
        fields: list[str] = []

    def by_type(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(type__in=words)

    def by_outcome(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(outcome__in=["" if word == NONE else word for word in words])


class ReviewFilter(WorkFilter):
    mine = WordsFilter(choices=YES_OR_NO, method="by_mine")
    health_signal = WordsFilter(choices=SIGNALS, method="by_signal")
    reviewed_from = django_filters.DateFilter(field_name="reviewed_on", lookup_expr="gte")
    reviewed_to = django_filters.DateFilter(field_name="reviewed_on", lookup_expr="lte")

    class Meta:
        model = Review
        fields: list[str] = []

    def by_mine(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(reviewer=self.request.user) if "1" in words else rows

    def by_signal(self, rows: QuerySet, name: str, words: list[str]) -> QuerySet:
        return rows.filter(health_signal__in=words)


class WorkViewSet(ReadViewSet):
    """CRUD of something people do about an opportunity. The services say who may."""

    request_class: type[shapes.StrictSerializer]
    default_ordering = "-id"

    def get_queryset(self) -> QuerySet:
        model = cast(type[Model], self.filterset_class._meta.model)
        rows = model._default_manager.select_related("opportunity__deal", *self.related)
        return rows.filter(opportunity__deal__deleted_at__isnull=True)

    related: tuple[str, ...] = ()

    def create(self, request: Request) -> Response:
        said = self._said(request)
        deal = by_id(querysets.live_deals(), said.pop("opportunity"), "opportunity")
        row = self.make(opportunity_of(cast(Deal, deal)), said)
        return Response(self._answer(row), status=201)

    @extend_schema(parameters=[ID])
    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._change(request, partial=False)

    @extend_schema(parameters=[ID])
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._change(request, partial=True)

    @extend_schema(parameters=[ID], responses={204: OpenApiResponse(description="It is gone.")})
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        self.remove(self.get_object())
        return Response(status=204)

    def _change(self, request: Request, *, partial: bool) -> Response:
        row: Any = self.get_object()
        said = self._said(request, partial=partial, is_known=True)
        word = said.pop("opportunity", None)
        deal = row.opportunity.deal
        if word not in (None, str(deal.pk), str(deal.zoho_id)):
            raise ValidationError({"opportunity": ["It stays with its opportunity."]})
        self.change(row, said)
        return Response(self._answer(row))

    def _said(
        self, request: Request, *, partial: bool = False, is_known: bool = False
    ) -> dict[str, Any]:
        asked = self.request_class(data=request.data, partial=partial)
        if is_known:
            asked.fields["opportunity"].required = False
        asked.is_valid(raise_exception=True)
        return dict(asked.validated_data)

    def _answer(self, row: Any) -> Any:
        row = self.get_queryset().get(pk=row.pk)
        return self.get_serializer(row).data

    def make(self, opportunity: Any, said: dict[str, Any]) -> Any:
        raise NotImplementedError

    def change(self, row: Any, said: dict[str, Any]) -> None:
        raise NotImplementedError

    def remove(self, row: Any) -> None:
        raise NotImplementedError


def documented(noun: str, request: Any, response: Any) -> Any:
    """The schema's words for the acts of one kind."""

    def wrap(view: type[WorkViewSet]) -> type[WorkViewSet]:
        for act in ("create", "update", "partial_update"):
            status = 201 if act == "create" else 200
            inherited = getattr(view, act)

            def own(self: Any, *args: Any, _act: Any = inherited, **kwargs: Any) -> Response:
                return _act(self, *args, **kwargs)

            own.__name__, own.__doc__ = act, f"{_VERBS[act]} {noun}."
            parameters = [] if act == "create" else [ID]
            setattr(
                view,
                act,
                extend_schema(request=request, responses={status: response}, parameters=parameters)(
                    own
                ),
            )
        return view

    return wrap


_VERBS = {"create": "Make", "update": "Say anew all of", "partial_update": "Change"}


@documented("an action item", shapes.ActionItemRequest, shapes.ActionItemSerializer)
class ActionItemViewSet(WorkViewSet):
    """Action items, made by people or proposed by rules."""

    serializer_class = shapes.ActionItemSerializer
    request_class = shapes.ActionItemRequest
    filterset_class = ActionItemFilter
    noun = "action item"
    related = ("owner", "done_by", "created_by")
    orders = {"id": BY_ID, "due_on": Order("due_on", is_nullable=True)}

    def make(self, opportunity: Any, said: dict[str, Any]) -> Any:
        user, now = self.request.user, timezone.now()
        is_done = said.pop("done", False)
        item = work.add_item(opportunity, user=user, now=now, **said)
        return work.tick(item, user=user, now=now) if is_done else item

    def change(self, row: Any, said: dict[str, Any]) -> None:
        user, now = self.request.user, timezone.now()
        is_done = said.pop("done", None)
        if said or is_done is None:
            work.edit_item(row, user=user, now=now, **said)
        if is_done is not None:
            (work.tick if is_done else work.reopen)(row, user=user, now=now)

    def remove(self, row: Any) -> None:
        work.remove_item(row, user=self.request.user)


@documented("an activity", shapes.ActivityRequest, shapes.ActivitySerializer)
class ActivityViewSet(WorkViewSet):
    """Calls, meetings and mails: planned, done, and how they went."""

    serializer_class = shapes.ActivitySerializer
    request_class = shapes.ActivityRequest
    filterset_class = ActivityFilter
    noun = "activity"
    related = ("created_by",)
    orders = {
        "id": BY_ID,
        "scheduled_at": Order("scheduled_at", is_nullable=True),
        "completed_at": Order("completed_at", is_nullable=True),
    }

    def make(self, opportunity: Any, said: dict[str, Any]) -> Any:
        return work.add_activity(opportunity, **self._when(), **_without_null(said))

    def change(self, row: Any, said: dict[str, Any]) -> None:
        work.edit_activity(row, **self._when(), **_without_null(said))

    def _when(self) -> dict[str, Any]:
        return {"user": self.request.user, "now": timezone.now()}

    def remove(self, row: Any) -> None:
        work.remove_activity(row, user=self.request.user)


def _without_null(said: dict[str, Any]) -> dict[str, Any]:
    """No outcome is null out there, and empty text in here."""
    return said | {"outcome": said["outcome"] or ""} if "outcome" in said else said


@documented("a review", shapes.ReviewRequest, shapes.ReviewSerializer)
class ReviewViewSet(WorkViewSet):
    """What was decided in reviews, against the facts as they were."""

    serializer_class = shapes.ReviewSerializer
    request_class = shapes.ReviewRequest
    filterset_class = ReviewFilter
    noun = "review"
    orders = {"id": BY_ID, "reviewed_on": Order("reviewed_on")}

    def make(self, opportunity: Any, said: dict[str, Any]) -> Any:
        return reviews.review(opportunity, **self._when(), **said)

    def change(self, row: Any, said: dict[str, Any]) -> None:
        reviews.edit_review(row, **self._when(), **said)

    def remove(self, row: Any) -> None:
        reviews.remove_review(row, user=self.request.user, today=today_of_business())

    def _when(self) -> dict[str, Any]:
        return {
            "user": self.request.user,
            "now": timezone.now(),
            "today": today_of_business(),
        }
