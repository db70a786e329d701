"""Fields that the CRM has lost, or changed the type of, since we learnt of them.

The mirror keeps the last values of a lost field (its key is missing in the replies), so somebody
must be told that they are old: which field, since when, how to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from crm.mapping.check import findings
from crm.models import CrmField, MirrorState
from crm.sync.context import SyncContext, mapping_of


@dataclass(frozen=True)
class StaleField:
    """One field of ours that stands still; `crm_field` is where it came from."""

    module: str
    field: str
    crm_field: str
    since: datetime

    @property
    def sentence(self) -> str:
        return (
            f"{self.module}: the CRM has no field {self.crm_field} any more; "
            f"{words_of(self.field)} keeps its last values, since {self.since:%Y-%m-%d}."
        )


def words_of(field: str) -> str:
    """Our column as people say it."""
    return field.removesuffix("_minor").replace("_", " ")


def stale_fields(profile: str, lost: Mapping[str, Any]) -> tuple[StaleField, ...]:
    """Mapped fields that the CRM has lost. `lost`: module → `MirrorState.lost_fields`. One query a
    module that lost any."""
    return tuple(
        StaleField(module, spec.ours, spec.api, datetime.fromisoformat(since))
        for module, fields in sorted(lost.items())
        if fields
        for spec in mapping_of(module, profile)
        if (since := fields.get(spec.api))
    )


def warnings(context: SyncContext, modules: Iterable[str]) -> list[str]:
    """What a run says of these modules: lost fields, and types that cannot feed ours."""
    rows = MirrorState.objects.filter(module__in=list(modules), lost_fields__isnull=False)
    lost = dict(rows.values_list("module", "lost_fields"))
    found = [each.sentence for each in stale_fields(context.profile, lost)]
    for module in modules:
        fields = CrmField.objects.filter(module=module)
        if types := dict(fields.values_list("api_name", "data_type")):
            wrong = findings(module, mapping_of(module, context.profile), types)
            found += [
                f"{module}: {each.message} {each.advice}"
                for each in wrong
                if each.code == "wrong_type"
            ]
    return found
