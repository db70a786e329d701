"""Rows of a mirror as a sync would leave them, for tests of what reads it."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from django.utils import timezone

from crm.models import Account, ChangeEvent, CrmConnection, CrmUser, Deal, MirrorState, SyncRun
from crm.stages import LOST, OPEN, WON
from crm.sync import modules
from o2r import recompute

TYPES = {"closed_won": WON, "closed_lost": LOST}
ids = itertools.count(9_000_000)

# Configured, as far as pages look: nothing listens there.
ZOHO = SimpleNamespace(
    base_url="http://127.0.0.1:9",
    accounts_url="http://127.0.0.1:9",
    api_version="v8",
    client_id="id",
    client_secret="secret",
    refresh_token="refresh",
    rate_limit_per_minute=100,
    concurrency=5,
    patience={},
)


def owner(name: str, email: str = "") -> CrmUser:
    return CrmUser.objects.create(
        zoho_id=next(ids), name=name, email=email, updated_at=timezone.now()
    )


def account(name: str) -> Account:
    now = timezone.now()
    return Account.objects.create(zoho_id=next(ids), name=name, first_seen_at=now, updated_at=now)


def deal(
    name: str = "A deal", *, stage: str = "proposal", sgd: int | None = 100_000, **columns: Any
) -> Deal:
    """A deal of `sgd` cents in one of our stages; its probability is 50, if open."""
    now = timezone.now()
    number = next(ids)
    is_open = stage not in TYPES
    values: dict[str, Any] = {
        "zoho_id": number,
        "change_seq": number,
        "name": name,
        "stage": stage,
        "crm_stage": stage.replace("_", " ").title(),
        "stage_type": TYPES.get(stage, OPEN),
        "probability": 50 if is_open else 100,
        "amount_minor": sgd,
        "currency": "SGD",
        "amount_sgd_minor": sgd,
        "weighted_sgd_minor": None if sgd is None else sgd // 2,
        "crm_created_at": now - timedelta(days=90),
        "crm_modified_at": now - timedelta(days=20),
        "first_seen_at": now,
        "updated_at": now,
    }
    return Deal.objects.create(**{**values, **columns})


def changed(row: Deal, field: str, at: datetime) -> ChangeEvent:
    return ChangeEvent.objects.create(
        module="Deals",
        record_id=row.pk,
        kind=ChangeEvent.CHANGED,
        field=field,
        changed_at=at,
        learnt_at=at,
        source="delta",
    )


def count() -> None:
    """What o2r does after a sync."""
    recompute.catch_up()


def synced(minutes_ago: float = 1) -> SyncRun:
    """The mirror is whole, as of some minutes ago; the run that made it so has ended."""
    then = timezone.now() - timedelta(minutes=minutes_ago)
    for module in modules.ORDER:
        MirrorState.objects.update_or_create(
            module=module.name,
            defaults={"complete_s0": then, "full_at": then, "watermark": then},
        )
    CrmConnection.objects.update_or_create(
        pk=1,
        defaults={
            "org_name": "Nimbus CRM",
            "last_attempt_at": then,
            "last_success_at": then,
            "error_code": "",
            "error_message": "",
        },
    )
    return SyncRun.objects.create(
        kind="delta",
        trigger="schedule",
        status="succeeded",
        requested_at=then,
        started_at=then,
        ended_at=then,
        seen=5,
        created=3,
        updated=2,
    )


def refused(message: str) -> None:
    """The last attempt to reach the CRM failed."""
    CrmConnection.objects.update_or_create(
        pk=1,
        defaults={
            "last_attempt_at": timezone.now(),
            "error_code": "unreachable",
            "error_message": message,
        },
    )
