"""Made-up histories of deals, put through the real store page by page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.utils import timezone

from crm.models import Deal
from crm.sync.modules import DEALS
from crm.sync.tombstones import tell_deletions
from crm.tests.factories import NOON, connect, crm_time, deal, make_store, minutes, raws

STAGES = ["Qualification", "Needs Analysis", "Proposal/Price Quote", "Negotiation/Review",
          "Closed Won", "Closed Lost", "Verbal Yes", None]  # fmt: skip
TERRITORIES = ["APAC", "EMEA", "India", "", None]
LINES = ["Gen AI", "Security", None]
OWNERS = [{"id": str(9000 + n), "name": f"Owner {n}"} for n in range(4)]
CURRENCIES = ["SGD", "USD", "JPY", "XBT", None]


class History:
    """`step` is one page of changes; `rng` decides all. The mirror is only changed by the store."""

    def __init__(self, seed: int, size: int = 60) -> None:
        self.rng = random.Random(seed)
        self.size = size
        self.round = 0
        connect(USD="0.74", JPY="111.5")

    def steps(self, count: int) -> Iterator[None]:
        for _ in range(count):
            self.step()
            yield

    def step(self) -> None:
        self.round += 1
        rng = self.rng
        ids = rng.sample(range(1, self.size + 1), rng.randint(1, 15))
        page = [self.some_deal(zoho_id) for zoho_id in ids]
        now = timezone.now() + timedelta(minutes=self.round)
        make_store(source="delta").store(raws(*page), read_at=now)
        if rng.random() < 0.5:
            tell_deletions(DEALS, rng.sample(range(1, self.size + 1), 4), source="list")

    def some_deal(self, zoho_id: int) -> Any:
        rng = self.rng
        created = NOON - timedelta(days=rng.randint(0, 60))
        values: dict[str, Any] = {
            "Stage": rng.choice(STAGES),
            "Territory": rng.choice(TERRITORIES),
            "Service_Line": rng.choice(LINES),
            "Owner": rng.choice([*OWNERS, None]),
            "Currency": rng.choice(CURRENCIES),
            "Amount": rng.choice([None, 0, rng.randint(-500, 900_000), rng.random() * 10_000]),
            "Probability": rng.choice([None, 0, 10, 55, 100]),
            "Closing_Date": rng.choice(
                [None, (NOON + timedelta(days=rng.randint(-500, 60))).date().isoformat()]
            ),
            "Created_Time": crm_time(created),
            "Account_Name": None,
        }
        return deal(zoho_id, modified=minutes(self.round), **values)


def live() -> list[Deal]:
    return [d for d in Deal.objects.select_related("owner") if not d.deleted_at and not d.is_stub]
