"""Our write-back of many edits in its own process: `prepare N` them in bulk, `send N`; JSON."""

import json
import sys
import time

import django

django.setup()

from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from crm.models import Deal, OutboxEntry, SyncRun  # noqa: E402
from crm.sync import runs  # noqa: E402
from crm.sync.batch import encode  # noqa: E402
from crm.sync.execute import execute  # noqa: E402
from crm.sync.modules import DEALS  # noqa: E402
from crm.writeback import send, switch  # noqa: E402
from crm.writeback.context import WritingContext  # noqa: E402
from crm.writeback.local import LOCAL, LocalRows  # noqa: E402

FIELD, VALUE = "next_step", "ours"
A_TIME = 1000


def prepare(edits: int) -> None:
    """The mirror, and an edit of one field of each deal, as `outbox.edit` keeps it."""
    run = runs.request_run(kind="full", trigger="command", module_names=None, nudge=False)
    execute(run.pk)
    if (status := SyncRun.objects.get(pk=run.pk).status) != "succeeded":
        raise SystemExit(f"the mirror could not be made: {status}")
    switch.set_mode(switch.OFF, by=None, now=timezone.now())
    pks = list(Deal.objects.live().order_by("pk").values_list("pk", flat=True)[:edits])
    for at in range(0, len(pks), A_TIME):
        _edit(pks[at : at + A_TIME])
    print(json.dumps({"entries": OutboxEntry.objects.count()}))  # noqa: T201


def _edit(pks: list[int]) -> None:
    now = timezone.now()
    with transaction.atomic():
        context = WritingContext(now)
        rows = LocalRows(DEALS, context, source=LOCAL, author_id=None, now=now, most=len(pks))
        entries = []
        for pk, before in rows.values_of(pks).items():
            old, new = rows.put(pk, before, {FIELD: f"{VALUE} {pk}"})[FIELD]
            entries.append(
                OutboxEntry(
                    module=DEALS.name,
                    record_id=pk,
                    field=FIELD,
                    base=encode(old),
                    new=encode(new),
                    created_at=now,
                    next_attempt_at=now,
                )
            )
        rows.save()
        OutboxEntry.objects.bulk_create(entries)


def deliver() -> None:
    switch.set_mode(switch.ON, by=None, now=timezone.now())
    started = time.monotonic()
    report = send.send_due()
    seconds = time.monotonic() - started
    print(  # noqa: T201
        json.dumps(
            {
                "seconds": seconds,
                "sent": report.sent,
                "conflicts": report.conflicts,
                "waiting": report.waiting,
                "stopped": report.stopped,
                "calls": report.calls,
                "values": VALUE,
            }
        )
    )


if sys.argv[1] == "prepare":
    prepare(int(sys.argv[2]))
else:
    deliver()
