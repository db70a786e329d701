"""Many changes at once: few calls, and what a quick look may not miss."""

from __future__ import annotations

from typing import Any

import pytest

from crm.mapping import convert
from crm.models import Deal, OutboxEntry, outbox
from crm.sync.reading import id_of
from crm.tests.synced import Crm
from crm.tests.test_write_back_creations import without_queries
from crm.tests.writing import a_deal, change, is_settled, only_entry, send_now, there
from crm.zoho.factory import client_from_settings

pytestmark = pytest.mark.django_db(transaction=True)


def many(crm: Crm, number: int) -> list[Deal]:
    crm.sync()
    deals = list(Deal.objects.live().order_by("zoho_id")[:number])
    for deal in deals:
        change(deal, next_step=f"Step {deal.pk}")
    crm.control("reset_stats")
    return deals


def calls(crm: Crm) -> tuple[int, int]:
    """Writes and readings."""
    found = crm.control("stats")["by_path"]
    writes = sum(n for path, n in found.items() if path.startswith("PUT"))
    return writes, sum(found.values()) - writes


def assert_there(crm: Crm, deals: list[Deal]) -> None:
    records = {r["id"]: r for r in crm.control("dump", module="Deals")["records"]}
    assert all(records[str(d.zoho_id)]["Next_Step"] == f"Step {d.pk}" for d in deals)
    crm.sync("delta")
    assert is_settled()
    crm.assert_mirrored()


def test_neighbours_are_read_by_their_range(big_crm):
    deals = many(big_crm, 250)
    assert send_now().sent == 250
    assert calls(big_crm) == (3, 2)
    assert_there(big_crm, deals)


def test_where_queries_are_refused_fifty_are_read_a_call(big_crm):
    deals = many(big_crm, 250)
    without_queries(big_crm)
    assert send_now().sent == 250
    writes, reads = calls(big_crm)
    assert (writes, reads <= 7) == (3, True)  # two of them were the refused ones
    assert_there(big_crm, deals)


def test_what_changed_among_many_is_seen(big_crm):
    deals = many(big_crm, 250)
    ours, other, gone = deals[10], deals[20], deals[30]
    big_crm.control("edit", module="Deals", id=ours.zoho_id, values={"Next_Step": "Theirs"})
    big_crm.control("edit", module="Deals", id=other.zoho_id, values={"Description": "Theirs"})
    big_crm.control("delete", module="Deals", ids=[gone.zoho_id])
    report = send_now()
    assert (report.sent, report.conflicts, report.refused) == (248, 1, 1)
    assert there(big_crm, ours, "Next_Step") == "Theirs"
    assert only_entry(ours).status == outbox.CONFLICT
    other.refresh_from_db()
    assert (other.description, other.next_step) == ("Theirs", f"Step {other.pk}")
    assert only_entry(gone).code == "record_deleted"
    big_crm.sync("delta")
    big_crm.assert_mirrored("Accounts", "Contacts")


def test_row_77_a_change_in_the_second_of_the_last_one_is_seen(crm):
    """The CRM's clock shows seconds: a record may change without a new time."""
    crm.sync()
    deal = a_deal(crm)
    change(deal, next_step="Ours")
    crm.control("edit", module="Deals", id=deal.zoho_id, values={"Next_Step": "Theirs"})
    told = convert.moment(there(crm, deal, "Modified_Time"))
    Deal.objects.filter(pk=deal.pk).update(crm_modified_at=told)
    assert send_now().conflicts == 1
    assert there(crm, deal, "Next_Step") == "Theirs"


def test_order_of_rounds_loses_none_that_has_to_wait(big_crm, monkeypatch: Any):
    """Rounds of few records, with refusals, locks and lost answers among them."""
    monkeypatch.setattr("crm.writeback.send.ROUND", 40)
    deals = many(big_crm, 300)
    locked = [deal.zoho_id for deal in deals[100:103]]
    big_crm.control("hold", module="Deals", ids=locked, **{"as": "lock"})
    rule = {"do": "reset", "method": "PUT", "when": "after", "times": 2}
    big_crm.control("faults", rules=[rule])
    first = send_now()
    assert first.sent + first.unknown + first.waiting == 300
    assert not OutboxEntry.objects.filter(status__in=(outbox.READING, outbox.SENDING)).exists()
    big_crm.control("release", module="Deals", ids=locked)
    for step in range(1, 4):
        send_now(later=3600 * step)
    assert_there(big_crm, deals)
    with client_from_settings() as client:
        page = client.by_ids("Deals", [deals[100].zoho_id], ["Next_Step"])
    assert [id_of(record) for record in page.records] == [deals[100].zoho_id]
