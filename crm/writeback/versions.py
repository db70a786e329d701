"""The version of a record, for what hangs on it but is no field of it: milestones, a block.

Decides that a change of those is seen by whoever had the record open, as a change of a field is:
`change_seq` grows, in commit order, and those above are told.
"""

from __future__ import annotations

from datetime import datetime

from crm.models import MirroredRecord
from crm.sync.gate import pass_gate
from crm.sync.tombstones import announce
from crm.writeback.context import module_of


def hold(record: MirroredRecord) -> int | None:
    """The record's version behind the gate of its module: until commit nobody else changes it.

    None if it is gone. Inside a transaction.
    """
    pass_gate(module_of(record).name, 0)
    rows = type(record).objects.live().filter(pk=record.pk)
    return rows.values_list("change_seq", flat=True).first()


def renew(record: MirroredRecord, now: datetime) -> int:
    """Give the record its next version and tell those above; inside a transaction."""
    module = module_of(record)
    seq = pass_gate(module.name, 1) + 1
    type(record).objects.filter(pk=record.pk).update(change_seq=seq, updated_at=now)
    announce(module, [record.pk])
    return seq
