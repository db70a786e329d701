"""The mirror as its events alone tell it, beside the mirror as its rows say."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import Any

from crm.models import ChangeEvent
from crm.sync.context import SyncContext
from crm.sync.modules import BY_NAME
from crm.tests.factories import NOON


def replayed(module: str) -> dict[int, dict[str, Any]]:
    """From nothing, event by event: the non-empty mapped values of each live record by our key."""
    rows: dict[int, dict[str, Any]] = {}
    gone: set[int] = set()
    for event in ChangeEvent.objects.filter(module=module).order_by("id"):
        if event.kind == ChangeEvent.CREATED:
            assert event.record_id not in rows, "created twice"
            rows[event.record_id] = json.loads(event.new)
        elif event.kind == ChangeEvent.CHANGED:
            row = rows[event.record_id]
            assert row.get(event.field) == json.loads(event.old), "old is not what was"
            row[event.field] = json.loads(event.new)
        elif event.kind == ChangeEvent.DELETED:
            assert event.record_id in rows, "deleted before it was created"
            assert event.record_id not in gone, "deleted twice"
            gone.add(event.record_id)
        else:
            gone.remove(event.record_id)
    return {
        pk: {name: value for name, value in row.items() if value is not None}
        for pk, row in rows.items()
        if pk not in gone
    }


def live_values(module: str) -> dict[int, dict[str, Any]]:
    """The same from the rows."""
    columns = SyncContext(NOON).mapper(module).columns
    rows = BY_NAME[module].model.objects.live().values("pk", *columns)
    return {
        row.pop("pk"): {name: _plain(value) for name, value in row.items() if value is not None}
        for row in rows
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value
