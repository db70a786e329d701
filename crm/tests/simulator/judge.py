"""What must hold when the CRM has come to rest: the mirror is the CRM, its ledger adds up, and its
history alone tells the same. Each answers with what is wrong, in words; nothing said is good."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count

from crm.models import (
    ChangeEvent,
    FailedRecord,
    SweepCandidate,
    SyncLease,
    SyncRun,
)
from crm.models import runs as ledger
from crm.sync import modules, runs
from crm.tests import oracle
from crm.tests.replay import live_values, replayed
from crm.tests.simulator.people import MODULES, People

ENDED = [ledger.SUCCEEDED, ledger.PARTIAL, ledger.FAILED, ledger.ABORTED]


def after_a_delta(people: People) -> list[str]:
    """Differences that a delta had to see."""
    found = oracle.differences(people.sandbox, MODULES)
    return [str(difference) for difference in found if not _is_beyond_a_delta(people, difference)]


def _is_beyond_a_delta(people: People, difference: oracle.Difference) -> bool:
    """Only a whole reading tells: what came back as old as it was, lost rights, values that moved
    without Modified_Time, deletions that no list names, lookups emptied by a deletion elsewhere."""
    key = (difference.module, difference.zoho_id)
    if key in people.unseen:
        return True
    if difference.field == oracle.TOO_MANY:
        return key in people.forgotten
    api = oracle.api_name_of(difference.module, difference.field)
    if api in people.unseen_fields.get(key, ()):
        return True
    ends = {difference.actual, difference.expected}
    return difference.is_reference and None in ends and bool(ends & people.ever_gone)


def after_a_full(people: People) -> list[str]:
    """Differences after everything was read: there must be none, people included."""
    found = [str(difference) for difference in oracle.differences(people.sandbox, MODULES)]
    return [*found, *oracle.compare_users(people.sandbox), *_tombstones(people)]


def _tombstones(people: People) -> Iterator[str]:
    """Every record that ever was is a row still; one whose deletion was told says when."""
    for module in modules.ORDER:
        rows = module.model.objects.filter(is_stub=False)
        created = ChangeEvent.objects.filter(module=module.name, kind=ChangeEvent.CREATED)
        if rows.count() != created.count():
            yield f"{module.name}: {rows.count()} rows, {created.count()} were created"
        listed = {
            int(row["id"]): datetime.fromisoformat(row["deleted_time"])
            for row in people.sandbox.control("dump", module=module.name)["deleted"]
        }
        told = rows.filter(deleted_source="list", zoho_id__in=listed)
        for zoho_id, when in told.values_list("zoho_id", "deleted_at"):
            if when > listed[zoho_id]:
                yield f"{module.name} {zoho_id} was deleted at {listed[zoho_id]}, not {when}"


def false_alarms(people: People) -> Iterator[str]:
    """Deletions that were told of records that never went, though they may be back by now."""
    for module in modules.ORDER:
        deleted = ChangeEvent.objects.filter(module=module.name, kind=ChangeEvent.DELETED)
        rows = module.model.objects.filter(pk__in=deleted.values("record_id"))
        for zoho_id in rows.values_list("zoho_id", flat=True):
            if zoho_id not in people.ever_gone:
                yield f"{module.name} {zoho_id} was told as deleted and never was"


def turned_back() -> Iterator[str]:
    """Changes of a record that were told after a newer one: the mirror showed an old state again,
    even if the next reading mended it."""
    newest: dict[tuple[str, int], datetime] = {}
    changes = ChangeEvent.objects.filter(kind=ChangeEvent.CHANGED, changed_at__isnull=False)
    for module, record, when in changes.order_by("id").values_list(
        "module", "record_id", "changed_at"
    ):
        if when < newest.get((module, record), when):
            yield f"{module} {record} went back to how it was at {when}"
        newest[module, record] = max(when, newest.get((module, record), when))


def history() -> Iterator[str]:
    """From nothing, event by event, to the live rows."""
    for module in MODULES:
        try:
            told = replayed(module)
        except (AssertionError, KeyError) as error:
            yield f"the events of {module} make no sense: {error!r}"
            continue
        if told != live_values(module):
            yield f"the events of {module} tell other rows than there are"


def accounts() -> Iterator[str]:
    """The ledger: counters that add up, and say what the history says."""
    happened = {
        (row["run_id"], row["kind"]): row["number"]
        for row in ChangeEvent.objects.values("run_id", "kind").annotate(number=Count("id"))
    }
    for run in SyncRun.objects.prefetch_related("parts"):
        if run.status in (ledger.QUEUED, ledger.RUNNING):
            yield f"run {run.pk} never ended"
        for name in runs.COUNTERS:
            parts = sum(getattr(part, name) for part in run.parts.all())
            if parts != getattr(run, name):
                yield f"run {run.pk}: {name} is {getattr(run, name)}, its parts say {parts}"
        for kind in (ChangeEvent.CREATED, ChangeEvent.DELETED, ChangeEvent.RESTORED):
            if happened.get((run.pk, kind), 0) != getattr(run, kind):
                yield (
                    f"run {run.pk} counts {getattr(run, kind)} {kind}, "
                    f"there are {happened.get((run.pk, kind), 0)} events"
                )


def left_over() -> Iterator[str]:
    """Nothing stays behind: no half answer taken for a record, no candidate, no lease."""
    for failed in FailedRecord.objects.all():
        yield f"put aside, though the CRM sent no bad record: {failed.message}"
    if SyncLease.objects.filter(expires_ms__gt=0).exists():
        yield "the lease was not given back"
    if SweepCandidate.objects.exclude(part__run__status=ledger.FAILED).exists():
        yield "candidates of a sweep that is over"
