"""What writing works with, read once: the mapping in force, and how the CRM takes each field."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from crm.mapping.check import picklists_of
from crm.mapping.payload import FieldFacts, PayloadWriter
from crm.models import CrmField, MirroredRecord
from crm.sync.context import SyncContext
from crm.sync.derive import Deriver
from crm.sync.modules import DEALS, ORDER, Module

_BY_MODEL = {module.model: module for module in ORDER}


def module_of(record: MirroredRecord) -> Module:
    return _BY_MODEL[type(record)]


class WritingContext(SyncContext):
    """A `SyncContext` with the way back. One serves any number of edits of the same moment."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.now = now
        self._writers: dict[str, PayloadWriter] = {}

    def writer(self, module: str) -> PayloadWriter:
        if module not in self._writers:
            rows = list(CrmField.objects.filter(module=module))
            described: dict[str, Any] = {
                row.api_name: {"data_type": row.data_type, "picklist": row.picklist} for row in rows
            }
            self._writers[module] = PayloadWriter(
                self.specs(module),
                {
                    row.api_name: FieldFacts(row.data_type, row.is_read_only, row.is_unique)
                    for row in rows
                },
                picklists_of(described),
                has_currencies=self.multi_currency,
            )
        return self._writers[module]

    def deriver_of(self, module: Module) -> Deriver | None:
        return self.deriver if module is DEALS else None
