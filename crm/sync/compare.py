"""A record as the CRM has it held against our row, and the sums of both sides. Pure.

Compared are canonical values, so that a trimmed text or another spelling of a number is no
difference; references by the CRM's ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from crm.mapping.apply import MISSING, Mapped, Mapper, canonical
from crm.sync.modules import Module

# A reference's column → how the CRM's id of its row is asked for.
_BY_ID = {"owner_id": "owner__zoho_id", "account_id": "account__zoho_id",
          "contact_id": "contact__zoho_id"}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """What to compare: our columns, what to ask our tables for, and what stands for null there."""

    mapper: Mapper
    paths: tuple[str, ...]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, module: Module, mapper: Mapper) -> Fields:
        columns: Any = {name: module.model._meta.get_field(name) for name in mapper.columns}
        return cls(
            mapper,
            tuple(_BY_ID.get(name, name) for name in mapper.columns),
            {name: each.get_default() for name, each in columns.items() if not each.null},
        )

    def differing(self, theirs: Mapped, ours: Sequence[Any]) -> dict[str, list[Any]]:
        """Our field → [ours, theirs] where they are not the same. `ours` in the order of `paths`.

        A key that the answer left out is no difference; neither is an amount without currency.
        """
        found = {}
        for name, their, our in zip(self.mapper.columns, theirs.values, ours, strict=True):
            if their is MISSING or their.__class__ is Decimal:
                continue
            their, our = canonical(their), _told(our)
            if their is None and name in self.defaults:
                their = _told(self.defaults[name])
            if their != our:
                found[name] = [our, their]
        return found


@dataclass
class Tally:
    """Counts and sums of what was read so far; kept in the cursor, so JSON in and out.

    `months`: "2026-03 SGD" → [our count, our sum, their count, their sum], sums in minor units.
    """

    checked: int = 0
    ours: int = 0
    theirs: int = 0
    waiting: int = 0
    months: dict[str, list[int]] = field(default_factory=dict)

    def add(self, side: int, created_at: datetime | None, currency: str, minor: int | None) -> None:
        """`side` 0 is ours, 1 theirs."""
        month = f"{created_at:%Y-%m}" if created_at else "no time"
        sums = self.months.setdefault(f"{month} {currency or ''}".strip(), [0, 0, 0, 0])
        sums[side * 2] += 1
        sums[side * 2 + 1] += minor or 0

    def differing_months(self) -> list[dict[str, Any]]:
        return [
            {"month": month, "ours": sums[:2], "theirs": sums[2:]}
            for month, sums in sorted(self.months.items())
            if sums[:2] != sums[2:]
        ]


def _told(stored: Any) -> Any:
    """A column's value in the form of a canonical one."""
    if isinstance(stored, date) and not isinstance(stored, datetime):
        return stored.isoformat()
    return canonical(stored)
