"""Tables of the mirror. Import from here: `from crm.models import Deal`."""

from crm.models.events import ChangeEvent, ReceivedRecord
from crm.models.failures import DeletionHold, FailedRecord, RecordProblem
from crm.models.inbox import Notice, NotificationChannel
from crm.models.mapping import FieldMapping
from crm.models.metadata import (
    CrmConnection,
    CrmField,
    CrmStage,
    CrmUser,
    Currency,
    ExchangeRate,
    Pipeline,
    PipelineStage,
)
from crm.models.outbox import OutboxEntry, WriteBack
from crm.models.reconciliation import MirrorDifference, Reconciliation
from crm.models.records import Account, Contact, Deal, Lead, MirroredRecord
from crm.models.runs import MirrorState, SweepCandidate, SyncLease, SyncRun, SyncRunModule
from crm.models.shared import SharedValue

__all__ = [
    "Account",
    "ChangeEvent",
    "Contact",
    "CrmConnection",
    "CrmField",
    "CrmStage",
    "CrmUser",
    "Currency",
    "Deal",
    "DeletionHold",
    "ExchangeRate",
    "FailedRecord",
    "FieldMapping",
    "Lead",
    "MirrorDifference",
    "MirrorState",
    "MirroredRecord",
    "Notice",
    "NotificationChannel",
    "OutboxEntry",
    "Pipeline",
    "PipelineStage",
    "ReceivedRecord",
    "Reconciliation",
    "RecordProblem",
    "SharedValue",
    "SweepCandidate",
    "SyncLease",
    "SyncRun",
    "SyncRunModule",
    "WriteBack",
]
