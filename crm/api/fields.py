"""How values are written in JSON: money and ids as strings, references as small objects."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from crm.links import record_url
from crm.mapping.convert import decimals_of

SGD_DECIMALS = 2


def decimal_text(minor: int, decimals: int) -> str:
    """Whole minor units as a decimal: -5 with two decimals is "-0.05", with none "-5"."""
    if decimals == 0:
        return str(minor)
    whole, rest = divmod(abs(minor), 10**decimals)
    return f"{'-' if minor < 0 else ''}{whole}.{rest:0{decimals}d}"


def sgd_text(cents: int | None) -> str | None:
    return None if cents is None else decimal_text(cents, SGD_DECIMALS)


class IdField(serializers.Field):
    """An id is opaque: a string, whatever it is made of."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: int) -> str:
        return str(value)


extend_schema_field(OpenApiTypes.STR)(IdField)


@extend_schema_field({"type": "string", "example": "1234.50"})
class SgdField(serializers.Field):
    """Cents of SGD as a decimal with two places."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: int) -> str:
        return decimal_text(value, SGD_DECIMALS)


@extend_schema_field({"type": "string", "nullable": True, "example": "1234.50"})
class AmountField(serializers.Field):
    """`amount_minor` of the row, with the decimals of its own currency."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, source="*", **kwargs)

    def to_representation(self, row: Any) -> str | None:
        if row.amount_minor is None:
            return None
        return decimal_text(row.amount_minor, decimals_of(row.currency))


@extend_schema_field({"type": "string", "format": "uri", "nullable": True})
class CrmUrlField(serializers.Field):
    """The record in the CRM's own pages; null where that address is not known."""

    def __init__(self, module: str) -> None:
        super().__init__(read_only=True, source="*")
        self.module = module

    def to_representation(self, row: Any) -> str | None:
        return record_url(self.module, row.zoho_id, self.context["domain_name"])


class NamedSerializer(serializers.Serializer):
    """A referenced record."""

    id = IdField(source="pk")
    name = serializers.CharField(source="__str__")


class PersonSerializer(serializers.Serializer):
    """A CRM user, as owner."""

    id = IdField(source="pk")
    name = serializers.CharField(source="__str__")
    email = serializers.CharField()


class StrictSerializer(serializers.Serializer):
    """Refuses fields that it does not know, by name."""

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        unknown = [str(name) for name in data if name not in self.fields]
        if unknown:
            raise serializers.ValidationError({name: ["Not a known field."] for name in unknown})
        return values
