"""One page of a list: how many, from where, in which order; the same for every list of the API.

By `limit` and `offset`, or from a `cursor` on, which costs the same however deep the page lies.
The `next` of an offset page becomes a cursor by itself where offsets end. Which orders a list
offers is said by its view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core import signing
from django.db.models import F, Model, Q, QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET = 50, 200, 100_000
# Counting further would cost more than the page itself.
EXACT_TO = 100_000
_SALT = "api.cursor"


@dataclass(frozen=True)
class Order:
    """A way to sort: a column of the model (or of a related one); empty values last both ways."""

    column: str
    is_nullable: bool = False


BY_ID = Order("pk")


@dataclass(frozen=True)
class Position:
    """A row in an order: where a cursor page begins. `back`: the page before it."""

    ordering: str
    value: Any
    pk: int
    back: bool = False


class Pages(BasePagination):
    """Reads `limit`, `offset`, `cursor`, `ordering`; the view gives `orders` and a default."""

    PARAMETERS = ("limit", "offset", "cursor", "ordering")

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list:
        self.url = request.build_absolute_uri()
        query = request.query_params
        # A cursor holds for the lists of one model: another's values would not fit its columns.
        self.salt = f"{_SALT}.{queryset.model._meta.label_lower}"
        self.limit = min(_whole(query, "limit", DEFAULT_LIMIT, least=1), MAX_LIMIT)
        cursor = self._cursor_of(query)
        self.offset = self._offset_of(query)
        self.ordering = self._ordering_of(query, cursor, view)
        self.order = view.orders[self.ordering.removeprefix("-")]
        self.count, self.is_exact = bounded_count(queryset)
        if cursor is not None:
            return self._from_cursor(queryset, cursor)
        return self._from_offset(queryset)

    # -- what was asked --------------------------------------------------------------------------

    def _cursor_of(self, query: Any) -> Position | None:
        """The position; an empty cursor begins at the first row."""
        if "cursor" not in query:
            return None
        if "offset" in query:
            raise ValidationError({"offset": ["Give offset or cursor, not both."]})
        text = query["cursor"]
        if not text:
            return Position("", None, 0)
        try:
            return Position(*signing.loads(text, salt=self.salt))
        except (signing.BadSignature, TypeError, ValueError):
            raise ValidationError(
                {"cursor": ["This is no cursor of this list. Take it from `next`."]}
            ) from None

    def _offset_of(self, query: Any) -> int:
        offset = _whole(query, "offset", 0, least=0)
        if offset > MAX_OFFSET:
            raise ValidationError(
                {
                    "offset": [
                        f"Offsets end at {MAX_OFFSET:,}. Go on with `cursor`: follow `next`, or "
                        "begin with an empty cursor."
                    ]
                }
            )
        return offset

    def _ordering_of(self, query: Any, cursor: Position | None, view: Any) -> str:
        ordering = query.get("ordering")
        at = cursor.ordering if cursor else ""
        if ordering is None:
            ordering = at or view.default_ordering
        if ordering.removeprefix("-") not in view.orders:
            known = ", ".join(sorted(view.orders))
            raise ValidationError(
                {"ordering": [f"One of {known}, each with “-” in front for descending."]}
            )
        if at and at != ordering:
            raise ValidationError({"cursor": ["This cursor belongs to another ordering."]})
        return ordering

    # -- the rows --------------------------------------------------------------------------------

    def _from_offset(self, rows: QuerySet) -> list:
        rows = rows.order_by(*self._terms(back=False))
        found = list(rows[self.offset : self.offset + self.limit + 1])
        page, has_more = found[: self.limit], len(found) > self.limit
        self.next = self._next_of_offset(page) if has_more else None
        self.previous = self._link(offset=max(0, self.offset - self.limit)) if self.offset else None
        return page

    def _next_of_offset(self, page: list) -> str:
        offset = self.offset + self.limit
        if offset > MAX_OFFSET:
            return self._link(cursor=self._position(page[-1], back=False))
        return self._link(offset=offset)

    def _from_cursor(self, rows: QuerySet, at: Position) -> list:
        if at.ordering:
            rows = rows.filter(self._beyond(at))
        found = list(rows.order_by(*self._terms(back=at.back))[: self.limit + 1])
        page, has_more = found[: self.limit], len(found) > self.limit
        if at.back:
            page.reverse()
        has_next, has_previous = (True, has_more) if at.back else (has_more, bool(at.ordering))
        self.next = self.previous = None
        if page and has_next:
            self.next = self._link(cursor=self._position(page[-1], back=False))
        if page and has_previous:
            self.previous = self._link(cursor=self._position(page[0], back=True))
        return page

    def _is_descending(self, back: bool) -> bool:
        return self.ordering.startswith("-") != back

    def _terms(self, *, back: bool) -> list:
        """Empty values last, whichever way; backwards they come first."""
        sign = "-" if self._is_descending(back) else ""
        if self.order.column == "pk":
            return [f"{sign}pk"]
        column = F(self.order.column)
        nulls = {}
        if self.order.is_nullable:
            nulls = {"nulls_first": True} if back else {"nulls_last": True}
        term = column.desc(**nulls) if sign else column.asc(**nulls)
        return [term, f"{sign}pk"]

    def _beyond(self, at: Position) -> Q:
        """The rows after that position in this order (before it, for a page back)."""
        more = "lt" if self._is_descending(at.back) else "gt"
        column = self.order.column
        if column == "pk":
            return Q(**{f"pk__{more}": at.pk})
        tie = Q(**{f"pk__{more}": at.pk})
        is_empty = Q(**{f"{column}__isnull": True})
        if at.value is None:
            return ~is_empty | (is_empty & tie) if at.back else is_empty & tie
        beyond = Q(**{f"{column}__{more}": at.value}) | (Q(**{column: at.value}) & tie)
        return beyond | is_empty if self.order.is_nullable and not at.back else beyond

    # -- links -----------------------------------------------------------------------------------

    def _position(self, row: Model, *, back: bool) -> str:
        value: Any = None
        if self.order.column != "pk":
            value = row
            for name in self.order.column.split("__"):
                value = getattr(value, name, None)
        written = value.isoformat() if hasattr(value, "isoformat") else value
        return signing.dumps([self.ordering, written, row.pk, back], salt=self.salt)

    def _link(self, *, offset: int | None = None, cursor: str | None = None) -> str:
        url = replace_query_param(self.url, "limit", self.limit)
        if cursor is not None:
            return replace_query_param(remove_query_param(url, "offset"), "cursor", cursor)
        if not offset:
            return remove_query_param(url, "offset")
        return replace_query_param(url, "offset", offset)

    # -- the answer ------------------------------------------------------------------------------

    def envelope(self, data: list) -> dict[str, Any]:
        """`count` is exact up to 100,000; beyond, `count_is_about` is true: at least so many."""
        return {
            "count": self.count,
            "count_is_about": not self.is_exact,
            "next": self.next,
            "previous": self.previous,
            "results": data,
        }

    def get_paginated_response(self, data: list) -> Response:
        return Response(self.envelope(data))

    def get_paginated_response_schema(self, schema: dict) -> dict:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["count", "count_is_about", "next", "previous", "results"],
            "properties": {
                "count": {"type": "integer", "description": f"Exact to {EXACT_TO:,}."},
                "count_is_about": {"type": "boolean", "description": "At least `count`."},
                "next": link,
                "previous": link,
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict]:
        orders = [sign + name for name in sorted(view.orders) for sign in ("", "-")]
        return [
            _parameter(
                "limit",
                {"type": "integer", "minimum": 1, "default": DEFAULT_LIMIT},
                f"Rows of a page; more than {MAX_LIMIT} count as {MAX_LIMIT}.",
            ),
            _parameter(
                "offset",
                {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET},
                "Rows to skip. Further down use `cursor`.",
            ),
            _parameter(
                "cursor",
                {"type": "string"},
                "A place in the list, from `next`; empty begins at the first row.",
            ),
            _parameter(
                "ordering",
                {"type": "string", "enum": orders, "default": view.default_ordering},
                "Empty values come last both ways.",
            ),
        ]


def bounded_count(rows: QuerySet) -> tuple[int, bool]:
    """How many rows, and whether that is exact; never counts further than `EXACT_TO`."""
    count = rows.order_by()[: EXACT_TO + 1].count()
    return min(count, EXACT_TO), count <= EXACT_TO


def _whole(query: Any, name: str, default: int, *, least: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 40) or int(text) < least:
        raise ValidationError({name: [f"A whole number of at least {least}."]})
    return int(text)


def _parameter(name: str, schema: dict, description: str) -> dict:
    return {"name": name, "in": "query", "schema": schema, "description": description}
