"""Which columns a module's rows have, in the order in which they are written."""

from __future__ import annotations

from typing import Any

from crm.mapping.apply import Mapper
from crm.sync import derive
from crm.sync.modules import Module

BOOKKEEPING = (
    "zoho_id",
    "modified_by_id",
    "crm_created_at",
    "crm_modified_at",
    "read_at",
    "content_hash",
    "change_seq",
    "updated_at",
)
_BIRTH = ("first_seen_at", "is_stub", "deleted_source", "deleted_by")
_REVIVAL = ("is_stub", "deleted_at", "deleted_source", "deleted_by")


class RowLayout:
    """`content` are the mapped and derived columns; `defaults` what a column that may not be null
    holds instead; `birth` the values that every new row ends with, after `first_seen_at`."""

    def __init__(self, module: Module, mapper: Mapper, *, is_derived: bool) -> None:
        fields = module.model._meta
        self.mapped = tuple(mapper.columns)
        self.content = (*self.mapped, *(derive.COLUMNS if is_derived else ()))
        self.defaults: dict[str, Any] = {
            name: fields.get_field(name).get_default()
            for name in self.mapped
            if not fields.get_field(name).null
        }
        own = {"id", *BOOKKEEPING, *_BIRTH, *self.content}
        # A raw INSERT must name what may not be null, also where nothing maps it.
        unmapped = {
            f.column: f.get_default()
            for f in fields.concrete_fields
            if not f.null and f.column not in own
        }
        self.insert = ("id", *self.content, *BOOKKEEPING, *_BIRTH, *unmapped)
        self.birth = (False, "", "", *unmapped.values())
        self.update = (*self.content, *BOOKKEEPING, *_REVIVAL)
        self.revival = (False, None, "", "")
