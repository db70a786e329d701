"""Workers and the webhook lock notices in one order: neither ever waits for the other in a ring."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

import pytest
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from crm import webhook
from crm.models import Notice
from crm.sync import inbox
from crm.sync.inbox import Claim

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 3000
ROUNDS = 10


def claimed(now: datetime) -> Claim:
    """Everything is taken; the rows lie in another order than that of their ids."""
    for ids in (range(MANY // 2, MANY), range(1, MANY // 2)):
        webhook.store_notices("Deals", list(ids), "1", "update", now)
    claim = inbox.claim_due(now)
    assert claim is not None
    return claim


def settle(claim: Claim, now: datetime) -> None:
    with transaction.atomic():
        inbox.settle(claim, "Deals", list(range(MANY, 0, -1)))


def put_back(claim: Claim, now: datetime) -> None:
    inbox.put_back(claim, "Deals", code="down", message="Down.", wait_s=1.0)


def retry(claim: Claim, now: datetime) -> None:
    inbox.retry(Notice.objects.all(), now)


def as_before(claim: Claim, status: str) -> None:
    """All of them in this state again, locked in the order of ids."""
    with transaction.atomic():
        rows = Notice.objects.order_by("zoho_id").select_for_update().values_list("pk", flat=True)
        Notice.objects.filter(pk__in=list(rows)).update(status=status, run_id=claim.run.pk)


@pytest.mark.parametrize(
    ("work", "status"),
    [(inbox.keep, "taken"), (put_back, "taken"), (settle, "taken"), (retry, "dead")],
)
def test_notices_of_many_records_never_stand_in_a_ring_with_a_worker(
    work: Callable[[Claim, datetime], None], status: str
) -> None:
    claim = claimed(timezone.now())
    broken: list[str] = []
    done = threading.Event()

    def tell() -> None:
        try:
            while not done.is_set():
                webhook.store_notices("Deals", list(range(1, MANY)), "1", "update", timezone.now())
        except DatabaseError as error:
            broken.append(f"webhook: {error}")
        finally:
            connections.close_all()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for _ in range(ROUNDS):
            as_before(claim, status)
            work(claim, timezone.now())
    except DatabaseError as error:
        broken.append(f"worker: {error}")
    finally:
        done.set()
        teller.join(30)
    assert not broken
