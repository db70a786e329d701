"""The CRM's notices as a test sends them, and the channels that they come through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.test import Client

from crm import webhook
from crm.models import Notice, NotificationChannel
from crm.sync.modules import ORDER

ADDRESS = "/api/zoho/webhook"
LIVE, OLD = "live-token-of-the-webhook", "token-before"
CHANNELS = {module.name: str(1001 + at) for at, module in enumerate(ORDER)}


def known_channels(now: datetime | None = None) -> None:
    """A channel for each module, as if the CRM had accepted it just now."""
    now = now or datetime.now(UTC)
    webhook.forget_channels()
    for module, channel_id in CHANNELS.items():
        NotificationChannel.objects.create(
            module=module,
            channel_id=channel_id,
            state=NotificationChannel.ACTIVE,
            notify_url=f"http://127.0.0.1:8000{ADDRESS}",
            created_at=now,
            registered_at=now,
            checked_at=now,
            expires_at=now + timedelta(days=7),
        )


def body_of(ids: Iterable[Any], module: str = "Deals", **changes: Any) -> dict[str, Any]:
    """As the CRM sends it (ZOHO.md §11)."""
    return {
        "server_time": 1_718_117_126_473,
        "query_params": {},
        "module": module,
        "resource_uri": f"https://www.zohoapis.com/crm/v8/{module}",
        "ids": [str(each) for each in ids],
        "affected_fields": [],
        "operation": "update",
        "channel_id": CHANNELS.get(module, "1"),
        "token": LIVE,
        **changes,
    }


def post(body: Any, **options: Any) -> Any:
    """Send a body: an object as JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    options.setdefault("content_type", "application/json")
    return Client().post(ADDRESS, data, **options)


def tell(*ids: Any, module: str = "Deals", **changes: Any) -> None:
    """A notice that must be accepted."""
    assert post(body_of(ids, module, **changes)).status_code == 202


def statuses() -> dict[int, str]:
    rows = Notice.objects.filter(zoho_id__isnull=False)
    return dict(rows.values_list("zoho_id", "status"))


@contextmanager
def nobody_works(settings: Any) -> Iterator[None]:
    """Notices are stored and nobody takes them: as while every worker is down."""
    zoho, settings.ZOHO = settings.ZOHO, None
    try:
        yield
    finally:
        settings.ZOHO = zoho
