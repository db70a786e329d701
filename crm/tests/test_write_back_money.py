"""An amount and its currency are changed by two sides: never one number in another's currency."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from crm.models import Deal, OutboxEntry, outbox
from crm.tests.factories import NOON, connect, minutes, store
from crm.tests.factories import deal as record
from crm.tests.replay import live_values, replayed
from crm.tests.synced import Crm
from crm.tests.writing import a_deal, change, entries, only_entry, send_now, there
from crm.writeback import decisions
from crm.writeback.outbox import edit


@pytest.fixture
def mirror(crm: Crm, transactional_db: None) -> Crm:
    crm.sync()
    return crm


def usd_deal(crm: Crm) -> Deal:
    deal = a_deal(crm)
    crm.control("edit", module="Deals", id=deal.zoho_id, values={"Currency": "USD", "Amount": 1000})
    crm.sync("delta")
    deal.refresh_from_db()
    assert (deal.currency, deal.amount_minor) == ("USD", 100_000)
    return deal


def theirs(crm: Crm, deal: Deal, **values: Any) -> None:
    crm.control("edit", module="Deals", id=deal.zoho_id, values=values)


def pair(crm: Crm, deal: Deal) -> tuple[Any, Any]:
    return there(crm, deal, "Amount"), there(crm, deal, "Currency")


@pytest.mark.parametrize("keep", ["ours", "theirs"])
def test_row_77_an_amount_whose_currency_changed_there_is_a_conflict(mirror, manager, keep):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=120_000)
    theirs(mirror, deal, Currency="EUR")
    assert send_now().conflicts == 1
    assert pair(mirror, deal) == (1000, "EUR")
    assert (deal.amount_minor, deal.currency) == (120_000, "USD")  # ours, until somebody decides
    entry = only_entry(deal)
    assert entry.status == outbox.CONFLICT
    decisions.resolve(entry.pk, keep, by=manager, now=timezone.now())
    send_now(later=60)
    wanted = (1200, "USD") if keep == "ours" else (1000, "EUR")
    assert pair(mirror, deal) == wanted
    mirror.sync("delta")
    deal.refresh_from_db()
    assert (deal.amount_minor, deal.currency) == (wanted[0] * 100, wanted[1])
    mirror.assert_mirrored()


@pytest.mark.parametrize("keep", ["ours", "theirs"])
def test_row_77_a_currency_whose_amount_changed_there_is_a_conflict(mirror, manager, keep):
    deal = usd_deal(mirror)
    change(deal, manager, currency="JPY")
    theirs(mirror, deal, Amount=5000)
    assert send_now().conflicts == 1
    assert pair(mirror, deal) == (5000, "USD")
    assert (deal.amount_minor, deal.currency) == (1000, "JPY")
    decisions.resolve(only_entry(deal).pk, keep, by=manager, now=timezone.now())
    send_now(later=60)
    wanted = (1000, "JPY") if keep == "ours" else (5000, "USD")
    assert pair(mirror, deal) == wanted
    mirror.sync("delta")
    mirror.assert_mirrored()


@pytest.mark.parametrize("keep", ["ours", "theirs"])
def test_row_77_both_changed_here_are_one_conflict_and_decided_at_once(mirror, manager, keep):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=900, currency="JPY")
    theirs(mirror, deal, Amount=5000)
    assert send_now().conflicts == 2
    assert pair(mirror, deal) == (5000, "USD")
    decisions.resolve(entries(deal)[0].pk, keep, by=manager, now=timezone.now())
    send_now(later=60)
    wanted = (900, "JPY") if keep == "ours" else (5000, "USD")
    assert pair(mirror, deal) == wanted
    mirror.sync("delta")
    mirror.assert_mirrored()


def test_the_same_number_in_another_currency_has_not_arrived(mirror, manager):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=120_000)
    theirs(mirror, deal, Amount=1200, Currency="EUR")
    assert send_now().conflicts == 1
    deal.refresh_from_db()
    assert (deal.amount_minor, deal.currency) == (120_000, "USD")
    theirs(mirror, deal, Currency="USD")
    mirror.sync("delta")
    assert only_entry(deal).status == outbox.DONE
    mirror.assert_mirrored()


def test_both_changed_here_arrive_together(mirror, manager):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=900, currency="JPY")
    assert send_now().sent == 2
    assert pair(mirror, deal) == (900, "JPY")
    mirror.sync("delta")
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


def test_an_amount_that_waits_keeps_its_number_in_a_new_currency(mirror, manager):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=120_000)
    change(Deal.objects.get(pk=deal.pk), manager, currency="JPY")
    deal.refresh_from_db()
    assert (deal.amount_minor, deal.currency) == (1200, "JPY")
    mirror.sync("delta")
    deal.refresh_from_db()
    assert (deal.amount_minor, deal.currency) == (1200, "JPY")
    assert send_now().sent == 2
    assert pair(mirror, deal) == (1200, "JPY")
    mirror.sync("delta")
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


def test_a_currency_follows_an_amount_that_is_on_its_way(mirror, manager):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=120_000)
    mirror.control("faults", rules=[{"do": "reset", "method": "PUT", "when": "after"}])
    assert send_now().unknown == 1
    change(Deal.objects.get(pk=deal.pk), manager, currency="JPY")
    for step in range(1, 4):
        send_now(later=120 * step)
    assert pair(mirror, deal) == (1200, "JPY")
    mirror.sync("delta")
    assert {e.status for e in entries(deal)} == {outbox.DONE}
    mirror.assert_mirrored()


@pytest.mark.parametrize("refused", ["Amount", "Currency"])
def test_row_80_of_the_two_one_is_refused(mirror, manager, refused):
    deal = usd_deal(mirror)
    change(deal, manager, amount_minor=900, currency="JPY")
    said = {"code": "INVALID_DATA", "status": "error", "message": "refused by a rule",
            "details": {"api_name": refused, "json_path": f"$.data[0].{refused}"}}  # fmt: skip
    rule = {"do": "status", "method": "PUT", "status": 400, "body": {"data": [said]}}
    mirror.control("faults", rules=[rule])
    report = send_now()
    assert (report.refused, report.sent) == (1, 1)
    assert pair(mirror, deal) == ((1000, "JPY") if refused == "Amount" else (900, "USD"))
    mirror.sync("delta")
    mirror.assert_mirrored()


@pytest.mark.django_db
def test_a_conflict_of_a_currency_ends_when_the_crm_takes_it_back(settings):
    settings.WRITE_BACK = "off"
    connect(USD="1.0", SGD="1.35")
    store(record(1))
    deal = Deal.objects.get(zoho_id=1)
    edit(deal, {"amount_minor": 120_000}, author=None, now=NOON)
    store(record(1, modified=minutes(2), Currency="JPY"), read_at=minutes(2))
    assert only_entry(deal).status == outbox.CONFLICT
    store(record(1, modified=minutes(3)), read_at=minutes(3))
    entry = only_entry(deal)
    assert (entry.status, entry.theirs) == (outbox.PENDING, None)
    deal.refresh_from_db()
    assert (deal.amount_minor, deal.currency) == (120_000, "SGD")
    assert OutboxEntry.objects.count() == 1
    assert replayed("Deals") == live_values("Deals")
