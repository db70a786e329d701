"""What writing works with, read once: the mapping in force, and how the CRM takes each field."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from crm.mapping.check import picklists_of, present_specs
from crm.mapping.payload import FieldFacts, PayloadWriter
from crm.models import CrmConnection, CrmField, MirroredRecord
from crm.sync.context import SyncContext, configured_profile, mapping_of
from crm.sync.derive import Deriver
from crm.sync.modules import DEALS, ORDER, Module

_BY_MODEL = {module.model: module for module in ORDER}


def module_of(record: MirroredRecord) -> Module:
    return _BY_MODEL[type(record)]


def _writer(module: str, profile: str, has_currencies: bool) -> PayloadWriter:
    rows = list(CrmField.objects.filter(module=module))
    described: dict[str, Any] = {
        row.api_name: {"data_type": row.data_type, "picklist": row.picklist} for row in rows
    }
    facts = {
        row.api_name: FieldFacts(row.data_type, row.is_read_only, row.is_unique) for row in rows
    }
    specs = present_specs(mapping_of(module, profile), described)
    return PayloadWriter(specs, facts, picklists_of(described), has_currencies=has_currencies)


def why_not_writable(module: Module, names: Iterable[str]) -> dict[str, str]:
    """Those of our fields that cannot be edited from here, each with why. Three queries, for pages
    that only say so."""
    connection = CrmConnection.objects.filter(pk=1).first() or CrmConnection()
    profile = connection.profile or configured_profile()
    writer = _writer(module.name, profile, connection.multi_currency)
    found = {name: writer.why_not_writable(name) for name in names}
    return {name: why for name, why in found.items() if why}


class WritingContext(SyncContext):
    """A `SyncContext` with the way back. One serves any number of edits of the same moment."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.now = now
        self._writers: dict[str, PayloadWriter] = {}

    def writer(self, module: str) -> PayloadWriter:
        if module not in self._writers:
            self._writers[module] = _writer(module, self.profile, self.multi_currency)
        return self._writers[module]

    def deriver_of(self, module: Module) -> Deriver | None:
        return self.deriver if module is DEALS else None
