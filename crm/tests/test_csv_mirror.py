"""Real sales data through the whole chain: CSV → sandbox → HTTP → mirror, counted from both ends.

PULSE_CSV_DIR names the folder with accounts.csv, sales_pipeline.csv and sales_teams.csv.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Count, Sum

from crm.models import Account, ChangeEvent, CrmUser, Deal
from crm.tests.sandbox_process import running_sandbox
from crm.tests.synced import Crm, zoho_settings

pytestmark = [pytest.mark.external, pytest.mark.django_db(transaction=True)]
STAGES = {
    "Prospecting": ("qualification", "Qualification"),
    "Engaging": ("discovery", "Needs Analysis"),
    "Won": ("closed_won", "Closed Won"),
    "Lost": ("closed_lost", "Closed Lost"),
}


@pytest.fixture
def folder() -> Path:
    return Path(os.environ["PULSE_CSV_DIR"])


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def day(text: str) -> Any:
    return datetime.strptime(text, "%m/%d/%Y").date() if text else None  # noqa: DTZ007


def test_the_mirror_holds_what_the_files_say(tmp_path: Path, folder: Path, settings: Any) -> None:
    pipeline = rows_of(folder, "sales_pipeline.csv")
    accounts = rows_of(folder, "accounts.csv")
    offices = {r["sales_agent"]: r["regional_office"] for r in rows_of(folder, "sales_teams.csv")}
    with running_sandbox(tmp_path, csv=folder) as sandbox:
        settings.ZOHO = zoho_settings(sandbox.url)
        crm = Crm(sandbox, settings)
        run = crm.sync("full")
        assert (run.status, run.failed) == ("succeeded", 0), run.message
        assert run.created == len(pipeline) + len(accounts)
        crm.assert_mirrored()
        assert crm.sync("full").unchanged == run.created

    deals = Deal.objects.live()
    assert deals.count() == len(pipeline)
    assert ChangeEvent.objects.filter(module="Deals").count() == len(pipeline)
    assert Account.objects.live().count() == len(accounts)

    def counted(column: str) -> dict[Any, int]:
        return dict(deals.order_by().values_list(column).annotate(Count("pk")))

    by_stage = Counter(STAGES[r["deal_stage"]] for r in pipeline)
    assert counted("stage") == {ours: n for (ours, _), n in by_stage.items()}
    assert counted("crm_stage") == {theirs: n for (_, theirs), n in by_stage.items()}
    assert counted("account__name") == Counter(r["account"] or None for r in pipeline)
    assert counted("owner__name") == Counter(r["sales_agent"] for r in pipeline)
    assert counted("territory") == Counter(offices[r["sales_agent"]] for r in pipeline)
    assert counted("currency") == {"USD": len(pipeline)}

    won = sum((Decimal(r["close_value"]) for r in pipeline if r["deal_stage"] == "Won"), Decimal())
    held = deals.filter(stage="closed_won").aggregate(total=Sum("amount_minor"))["total"]
    assert Decimal(held) / 100 == won

    found = {
        d.external_id: d for d in deals.select_related("account", "owner").iterator(chunk_size=2000)
    }
    for row in pipeline:
        deal = found[row["opportunity_id"]]
        product = "GTX Pro" if row["product"] == "GTXPro" else row["product"]
        amount = round(Decimal(row["close_value"]) * 100) if row["close_value"] else None
        assert (deal.name, deal.closing_date, deal.amount_minor, deal.owner.name) == (
            f"{row['account'] or 'No account'} – {product}",
            day(row["close_date"]),
            amount,
            row["sales_agent"],
        )
    assert not CrmUser.objects.filter(email="").exists()
