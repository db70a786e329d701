"""What every view of the API shares: who may read, which parameters it knows, how one is found.

Decides that a parameter nobody knows is refused, by name, and that an id is ours or the CRM's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Model, Q, QuerySet
from django_filters import FilterSet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from crm.api.paging import Order, Pages
from crm.models import CrmConnection
from crm.permissions import may_see_sales
from crm.words import MAX_WORDS, WordsField, is_number

ID = OpenApiParameter("id", str, OpenApiParameter.PATH, description="Our id, or the CRM's.")


class MaySeeSales(BasePermission):
    """Signed in, and with a role that sees sales; else 403 with the reason."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user or not request.user.is_authenticated:
            return False
        decision = may_see_sales(request.user)
        if not decision:
            raise PermissionDenied(decision.why)
        return True


class StrictParameters:
    """Refuses parameters that the view does not know. `parameters` names those it does."""

    parameters: Iterable[str] = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        if request.method == "GET":
            refuse_unknown(request, self.known_parameters())

    def known_parameters(self) -> set[str]:
        return set(self.parameters)


def refuse_unknown(request: Request, known: Iterable[str]) -> None:
    known = set(known)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        said = f"Not a parameter of this address; known: {', '.join(sorted(known)) or 'none'}."
        raise ValidationError({name: [said] for name in unknown})


class StrictFilters(BaseFilterBackend):
    """The view's `filterset_class`; a value that does not fit is refused, by name."""

    def filter_queryset(self, request: Request, queryset: QuerySet, view: Any) -> QuerySet:
        filters = view.filterset_class(
            data=request.query_params, queryset=queryset, request=request
        )
        refuse_unfit(request, filters)
        return filters.qs

    def get_schema_operation_parameters(self, view: Any) -> list[dict]:
        return [
            {
                "name": name,
                "in": "query",
                "schema": _schema_of(each.field),
                **({"explode": False, "style": "form"} if _takes_several(each.field) else {}),
            }
            for name, each in view.filterset_class.base_filters.items()
        ]


def refuse_unfit(request: Request, filters: Any) -> None:
    """422 for values that are empty, given twice where one counts, or not what they should be."""
    wrong: dict[str, list[str]] = {}
    for name, field in filters.form.fields.items():
        given = request.query_params.getlist(name)
        if given and not any(word.strip(" ,") for word in given):
            wrong[name] = ["Give a value, or leave the parameter out."]
        elif len(given) > 1 and not isinstance(field, WordsField):
            wrong[name] = ["Given more than once."]
    wrong |= {name: [str(text) for text in texts] for name, texts in filters.form.errors.items()}
    if wrong:
        raise ValidationError(wrong)


def _takes_several(field: Any) -> bool:
    return isinstance(field, WordsField)


def _schema_of(field: Any) -> dict[str, Any]:
    if isinstance(field, WordsField):
        word: dict[str, Any] = {"type": "string"}
        if field.choices is not None:
            word["enum"] = sorted(field.choices)
        return {"type": "array", "items": word, "maxItems": MAX_WORDS}
    formats = {"DateField": "date", "MomentField": "date-time"}
    kind = type(field).__name__
    if kind == "DecimalField":
        return {"type": "number"}
    if kind in formats:
        return {"type": "string", "format": formats[kind]}
    return {"type": "string"}


class ReadViewSet(StrictParameters, ListModelMixin, RetrieveModelMixin, GenericViewSet):
    """A list and one of it. `orders` whitelists `ordering`; `zoho_id` finds one like our id."""

    permission_classes = [MaySeeSales]
    filter_backends = [StrictFilters]
    pagination_class = Pages
    lookup_url_kwarg = "id"
    filterset_class: type[FilterSet]
    noun = ""
    orders: dict[str, Order] = {}
    default_ordering = "id"

    def known_parameters(self) -> set[str]:
        if self.action != "list":
            return set(self.parameters)
        return {*self.parameters, *self.filterset_class.base_filters, *Pages.PARAMETERS}

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "domain_name": domain_name()}

    def get_object(self) -> Model:
        return by_id(self.get_queryset(), self.kwargs["id"], self.noun)

    @extend_schema(parameters=[ID])
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        return super().retrieve(request, *args, **kwargs)


def by_id(rows: QuerySet, word: str, noun: str = "") -> Model:
    """The row of this id, ours first, else the CRM's. Raises NotFound."""
    found: dict[int, Model] = {}
    if is_number(word) and not word.startswith("0"):
        number = int(word)
        names = {"pk", "zoho_id"} if has_zoho_id(rows.model) else {"pk"}
        wanted = reduce(or_, (Q(**{name: number}) for name in names))
        found = {row.pk: row for row in rows.filter(wanted)}
        if found:
            return found.get(number) or next(iter(found.values()))
    raise NotFound(f"There is no {noun or rows.model._meta.verbose_name} with the id {word[:40]}.")


def has_zoho_id(model: type[Model]) -> bool:
    return any(field.name == "zoho_id" for field in model._meta.fields)


def domain_name() -> str:
    """The CRM organisation's name in addresses, for links to its pages; one query."""
    return CrmConnection.objects.filter(pk=1).values_list("domain_name", flat=True).first() or ""
