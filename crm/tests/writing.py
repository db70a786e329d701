"""Changes made here and sent to a stand-in CRM, for tests of the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from crm.models import CrmConnection, Deal, OutboxEntry, WriteBack, outbox
from crm.tests.synced import Crm
from crm.writeback import send
from crm.writeback.outbox import edit


def switch(mode: str) -> None:
    org_id = CrmConnection.objects.values_list("org_id", flat=True).first() or ""
    said = {"mode": mode, "is_killed": False, "org_id": org_id}
    WriteBack.objects.update_or_create(pk=1, defaults=said)


def change(deal: Deal, author: Any = None, **values: Any) -> None:
    """An edit that waits: nothing is sent by itself."""
    switch("off")
    edit(deal, values, author=author, now=timezone.now())


def send_now(*, later: float = 0, **options: Any) -> send.Report:
    """Send what is due, or what will be due so many seconds from now."""
    switch("on")
    clock: Callable[[], datetime] = lambda: timezone.now() + timedelta(seconds=later)  # noqa: E731
    try:
        return send.send_due(clock=clock, **options)
    finally:
        switch("off")


def a_deal(crm: Crm, **wanted: Any) -> Deal:
    """An open deal of the mirror, with an amount."""
    rows = Deal.objects.live().filter(stage_type="open", amount_minor__isnull=False, **wanted)
    deal = rows.order_by("pk").first()
    assert deal is not None
    return deal


def entries(deal: Any, module: str = "Deals") -> list[OutboxEntry]:
    return list(OutboxEntry.objects.filter(module=module, record_id=deal.pk).order_by("id"))


def only_entry(deal: Any, module: str = "Deals") -> OutboxEntry:
    (entry,) = entries(deal, module)
    return entry


def there(crm: Crm, deal: Any, field: str, module: str = "Deals") -> Any:
    deal.refresh_from_db()
    return crm.record(deal.zoho_id, module)[field]


def value(text: str | None) -> Any:
    return json.loads(text or "null")


def is_settled() -> bool:
    return not OutboxEntry.objects.filter(status__in=outbox.OPEN).exists()
