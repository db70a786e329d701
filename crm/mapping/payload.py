"""A canonical value of ours → what the CRM is sent for it: the way back of `convert`. Pure.

For every writable field canonical → payload → canonical is the identity, so what comes back is
recognised by its value. What would not come back as it went is refused before it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from crm.mapping import convert, profiles
from crm.mapping.apply import converter_for
from crm.mapping.convert import Noted, Ref
from crm.mapping.profiles import FieldSpec

# Written by the CRM or by the product itself, never by a person's edit.
OWN_FIELDS = frozenset({"external_id"})


class Unfit(Exception):
    """A value that the field cannot hold; the message says why, for a person."""


@dataclass(frozen=True)
class FieldFacts:
    """What the CRM's metadata says of a field that writing has to know."""

    data_type: str = ""
    is_read_only: bool = False
    is_unique: bool = False


class PayloadWriter:
    """Writes the fields of one module. `facts`: API name → facts; empty: metadata is not known."""

    def __init__(
        self,
        specs: Sequence[FieldSpec],
        facts: Mapping[str, FieldFacts],
        picklists: Mapping[str, Mapping[str, str]] | None = None,
        *,
        has_currencies: bool = True,
    ) -> None:
        self._specs = {spec.ours: spec for spec in specs}
        self._facts = facts
        self._picklists = picklists or {}
        self._has_currencies = has_currencies

    def spec(self, ours: str) -> FieldSpec:
        return self._specs[ours]

    def api_name(self, ours: str) -> str:
        return self._specs[ours].api

    def fact(self, ours: str) -> FieldFacts:
        return self._facts.get(self._specs[ours].api, FieldFacts())

    def why_not_writable(self, ours: str) -> str:
        """The sentence that refuses an edit of this field; empty if it may be edited."""
        spec = self._specs.get(ours)
        if spec is None:
            return "This field is not mapped to a field of the CRM."
        if ours in OWN_FIELDS:
            return "This field is kept by the product itself."
        if spec.kind == profiles.CURRENCY and not self._has_currencies:
            return "The CRM organisation has one currency only."
        if self.fact(ours).is_read_only or spec.kind == profiles.MOMENT:
            return f"The CRM's field {spec.api} is read-only."
        return ""

    def canonical(self, ours: str, value: Any, currency: str) -> Any:
        """The value as rows, events and the outbox keep it. Raises Unfit.

        References are our primary keys and pass as they are; money is minor units of `currency`.
        """
        spec = self._specs[ours]
        if spec.kind == profiles.REF:
            if value is None or (value.__class__ is int and value > 0):
                return value
            raise Unfit("This is not the key of a record.")
        if value.__class__ is date:
            value = value.isoformat()
        if value is None or value == "":
            return None
        if spec.kind in (profiles.MONEY, profiles.SGD) and value.__class__ is not int:
            raise Unfit("An amount is given in whole minor units.")
        return self.read(ours, self.payload(ours, value, currency), currency)

    def read(self, ours: str, sent: Any, currency: str) -> Any:
        """What the mapping would make of this payload. Raises Unfit where it would not fit."""
        spec = self._specs[ours]
        if sent is None:
            return None
        if spec.kind == profiles.MONEY:
            found = convert.minor_units(sent, convert.decimals_of(currency))
        else:
            converter = converter_for(spec, dict(self._picklists.get(spec.api) or {}) or None)
            found = converter(sent) if converter is not None else sent
        if found.__class__ is Noted:
            raise Unfit(found.message)
        return found

    def payload(self, ours: str, value: Any, currency: str) -> Any:
        """JSON for the CRM. References come as `Ref`; None clears the field."""
        spec = self._specs[ours]
        if value is None or value == "":
            return None
        if spec.kind == profiles.REF:
            return {"id": str(value.id if isinstance(value, Ref) else value)}
        if spec.kind == profiles.MONEY:
            return _units(value, convert.decimals_of(currency))
        if spec.kind == profiles.SGD:
            return _units(value, 2)
        if spec.kind == profiles.FLAG:
            return self._flag(spec, value)
        if isinstance(value, datetime):
            return value.isoformat(timespec="seconds")
        return value

    def _flag(self, spec: FieldSpec, value: Any) -> Any:
        """A boolean, or the word that stands for it where the CRM has a text or a picklist."""
        if value is not True and value is not False:
            return value
        data_type = self._facts.get(spec.api, FieldFacts()).data_type
        if data_type == "picklist":
            labels = dict.fromkeys((self._picklists.get(spec.api) or {}).values())
            return next((label for label in labels if convert.flag(label) is value), value)
        return ("Yes" if value else "No") if data_type == "text" else value


def _units(minor: int, decimals: int) -> int | Decimal:
    exact = Decimal(minor).scaleb(-decimals)
    return int(exact) if exact == exact.to_integral_value() else exact
