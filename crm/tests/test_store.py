"""The one door into the mirror: what one page makes of rows, events, payloads and counts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Sum
from django.utils import timezone

from crm.models import (
    Account,
    ChangeEvent,
    Contact,
    CrmUser,
    Deal,
    FailedRecord,
    Lead,
    ReceivedRecord,
    RecordProblem,
)
from crm.signals import deals_changed
from crm.sync.modules import DEALS
from crm.sync.tombstones import tell_deletions
from crm.tests.factories import NOON, account, connect, deal, lead, minutes, raws, store
from crm.tests.replay import live_values, replayed

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _connected(db: None) -> None:
    connect(USD="0.75")


def tally(counts: Any) -> dict[str, int]:
    names = ("seen", "created", "updated", "unchanged", "failed", "deleted", "restored")
    found = {name: getattr(counts, name) for name in names if getattr(counts, name)}
    assert counts.seen == counts.created + counts.updated + counts.unchanged + counts.failed
    return found


def events_of(module: str = "Deals", **where: Any) -> list[tuple]:
    rows = ChangeEvent.objects.filter(module=module, **where).order_by("id")
    return list(rows.values_list("kind", "field", "old", "new"))


# -- new ------------------------------------------------------------------------------------------


def test_a_new_deal_is_stored_with_its_one_created_event_and_its_payload() -> None:
    text = '{"id" : "1",  "Deal_Name":"A \\u00e9 \\ud83d\\udc4d", "Amount":1.10, "Currency":"USD",'
    text += '"Stage":"Closed Won","Closing_Date":"2026-03-10","Unknown":[1,{"x":null}],'
    text += '"Modified_Time":"2026-03-10T12:00:00+08:00","Created_Time":"2026-01-01T00:00:00Z"}'
    assert tally(store(text, run_id=77, read_at=minutes(3))) == {"seen": 1, "created": 1}

    row = Deal.objects.get()
    assert (row.zoho_id, row.name, row.amount_minor, row.currency) == (1, "A é 👍", 110, "USD")
    assert (row.stage, row.stage_type, row.probability) == ("closed_won", "won", 100)
    assert (row.amount_sgd_minor, row.weighted_sgd_minor) == (147, 147)
    assert row.crm_modified_at == NOON
    assert row.read_at == minutes(3)
    assert not row.is_stub and row.deleted_at is None

    received = ReceivedRecord.objects.get()
    assert received.body == text
    assert (received.module, received.record_id) == ("Deals", row.pk)
    assert received.received_at == minutes(3)

    event = ChangeEvent.objects.get()
    assert (event.kind, event.field, event.old, event.source) == ("created", "", None, "full")
    assert event.run_id == 77 and event.changed_at == row.crm_created_at
    assert json.loads(event.new) == {
        "name": "A é 👍",
        "crm_stage": "Closed Won",
        "currency": "USD",
        "amount_minor": 110,
        "closing_date": "2026-03-10",
    }


def test_an_empty_page_changes_nothing() -> None:
    assert tally(store()) == {}
    assert not Deal.objects.exists()


def test_a_raw_nul_in_a_text_does_not_lose_the_page() -> None:
    assert tally(store('{"id":"1","Deal_Name":"a\x00b"}', deal(2))) == {"seen": 2, "created": 2}
    assert Deal.objects.get(zoho_id=1).name == "a�b"
    body = ReceivedRecord.objects.get(record_id=Deal.objects.get(zoho_id=1).pk).body
    assert json.loads(body)["Deal_Name"] == "a\x00b"


# -- same, changed, touched -----------------------------------------------------------------------


def test_the_same_page_twice_writes_nothing() -> None:
    page = [deal(i) for i in range(1, 6)]
    store(*page)
    before = list(Deal.objects.order_by("id").values())
    assert tally(store(*page, read_at=minutes(1))) == {"seen": 5, "unchanged": 5}
    assert list(Deal.objects.order_by("id").values()) == before
    assert ChangeEvent.objects.count() == 5
    assert ReceivedRecord.objects.count() == 5


def test_each_differing_field_is_one_event_with_old_new_and_its_times() -> None:
    store(deal(1), run_id=1)
    changed = deal(1, modified=minutes(9), Stage="Closed Won", Amount=20.5, Closing_Date=None)
    counts = store(changed, read_at=minutes(10), source="delta", run_id=2)
    assert tally(counts) == {"seen": 1, "updated": 1}
    assert sorted(events_of(kind="changed")) == [
        ("changed", "amount_minor", "100000", "2050"),
        ("changed", "closing_date", '"2026-06-30"', "null"),
        ("changed", "crm_stage", '"Qualification"', '"Closed Won"'),
    ]
    for event in ChangeEvent.objects.filter(kind="changed"):
        assert event.changed_at == minutes(9)
        assert (event.source, event.run_id) == ("delta", 2)
        assert event.learnt_at > NOON
    row = Deal.objects.get()
    assert (row.stage, row.amount_minor, row.closing_date) == ("closed_won", 2050, None)
    assert counts.changed_pks == [row.pk]
    assert ReceivedRecord.objects.get().body == raws(changed)[0].text


def test_references_in_events_are_our_primary_keys() -> None:
    store(deal(1))
    store(deal(1, modified=minutes(1), Account_Name={"id": "7002", "name": "Beta"}))
    old, new = Account.objects.get(zoho_id=7001).pk, Account.objects.get(zoho_id=7002).pk
    assert events_of(kind="changed") == [("changed", "account_id", str(old), str(new))]


def test_only_a_later_modified_time_keeps_the_newest_payload_without_an_event() -> None:
    store(deal(1))
    seq = Deal.objects.get().change_seq
    touched = deal(1, modified=minutes(5), Unmapped="moved")
    assert tally(store(touched, read_at=minutes(6))) == {"seen": 1, "unchanged": 1}
    row = Deal.objects.get()
    assert row.crm_modified_at == minutes(5)
    assert row.change_seq == seq
    assert "moved" in ReceivedRecord.objects.get().body
    assert events_of(kind="changed") == []


def test_a_missing_key_keeps_our_value_and_null_clears_it() -> None:
    store(deal(1, Next_Step="Call", Description="long"))
    store(deal(1, modified=minutes(1), drop=["Next_Step"], Description=None))
    row = Deal.objects.get()
    assert (row.next_step, row.description) == ("Call", None)
    assert events_of(kind="changed") == [("changed", "description", '"long"', "null")]


def test_an_answer_that_only_lacks_keys_changes_nothing() -> None:
    store(deal(1))
    counts = store(deal(1, drop=["Next_Step", "Amount", "Currency"]), read_at=minutes(1))
    assert tally(counts) == {"seen": 1, "unchanged": 1}
    assert Deal.objects.get().amount_minor == 100000
    assert ChangeEvent.objects.count() == 1


def test_an_amount_that_comes_without_its_currency_is_in_the_one_we_hold() -> None:
    store(deal(1, Currency="JPY", Amount=5))
    store(deal(1, modified=minutes(1), drop=["Currency"], Amount=7))
    row = Deal.objects.get()
    assert (row.currency, row.amount_minor) == ("JPY", 7)


def test_times_and_people_that_an_answer_leaves_out_stay() -> None:
    store(deal(1))
    store(
        deal(1, drop=["Created_Time", "Modified_Time", "Modified_By"], Next_Step="Mail"),
        read_at=minutes(1),
    )
    row = Deal.objects.get()
    assert row.next_step == "Mail"
    assert row.crm_created_at == NOON - timedelta(days=30)
    assert row.crm_modified_at == NOON
    assert row.modified_by.zoho_id == 9001
    assert ChangeEvent.objects.get(kind="changed").changed_at is None


# -- order ----------------------------------------------------------------------------------------


def test_row_54_an_older_state_never_overwrites_a_newer_one() -> None:
    store(deal(1, modified=minutes(5), Amount=2))
    counts = store(deal(1, modified=minutes(4), Amount=1), read_at=minutes(60))
    assert tally(counts) == {"seen": 1, "unchanged": 1}
    assert Deal.objects.get().amount_minor == 200


def test_row_54_of_two_states_with_the_same_time_the_one_read_later_holds() -> None:
    store(deal(1, Amount=2), read_at=minutes(5))
    assert tally(store(deal(1, Amount=1), read_at=minutes(4))) == {"seen": 1, "unchanged": 1}
    assert Deal.objects.get().amount_minor == 200
    assert tally(store(deal(1, Amount=3), read_at=minutes(6))) == {"seen": 1, "updated": 1}
    assert Deal.objects.get().amount_minor == 300


@pytest.mark.parametrize("newest_first", [True, False])
def test_row_43_the_same_record_twice_on_a_page_counts_once(newest_first: bool) -> None:
    old, new = deal(1, Amount=1), deal(1, modified=minutes(1), Amount=2)
    page = [new, old] if newest_first else [old, new]
    assert tally(store(*page)) == {"seen": 2, "created": 1, "unchanged": 1}
    assert Deal.objects.get().amount_minor == 200
    assert ChangeEvent.objects.count() == 1


# -- gone -----------------------------------------------------------------------------------------


def test_ours_within_the_span_that_a_page_does_not_name_come_back() -> None:
    store(*[deal(i) for i in range(1, 8)])
    tell_deletions(DEALS, [5], source="list")
    counts = store(deal(2), deal(6), id_span=(1, 6), read_at=minutes(1))
    assert sorted(counts.gone_ids) == [3, 4]
    assert sorted(store(deal(6), id_span=(5, None), read_at=minutes(1)).gone_ids) == [7]
    assert store(deal(2), read_at=minutes(1)).gone_ids == []


def test_a_stub_is_never_gone() -> None:
    store(deal(1, Account_Name={"id": "7001", "name": "Acme"}))
    assert store(module="Accounts", id_span=(0, None)).gone_ids == []


def test_a_record_outside_the_span_that_was_asked_for_does_no_harm() -> None:
    store(deal(100))
    counts = store(deal(2), deal(100, modified=minutes(1), Amount=3), id_span=(0, 50))
    assert tally(counts) == {"seen": 2, "created": 1, "updated": 1}


def test_row_49_deletion_marks_once_and_keeps_everything() -> None:
    store(deal(1), deal(2))
    counts = tell_deletions(DEALS, [1, 3], source="list", run_id=5, told={1: (minutes(2), "Ann")})
    assert counts.deleted == 1
    row = Deal.objects.get(zoho_id=1)
    assert (row.deleted_at, row.deleted_source, row.deleted_by) == (minutes(2), "list", "Ann")
    assert row.name == "Deal 1"
    event = ChangeEvent.objects.get(kind="deleted")
    assert (event.record_id, event.changed_at, event.run_id) == (row.pk, minutes(2), 5)
    assert [d.zoho_id for d in Deal.objects.live()] == [2]
    assert tell_deletions(DEALS, [1], source="full").deleted == 0
    assert ChangeEvent.objects.filter(kind="deleted").count() == 1


def later() -> Any:
    """After the tombstone, whose time of reading is the real clock's."""
    return timezone.now() + timedelta(seconds=5)


def test_row_51_a_record_that_is_back_is_revived_with_its_history() -> None:
    store(deal(1))
    tell_deletions(DEALS, [1], source="list")
    counts = store(deal(1, Amount=5), read_at=later())
    assert tally(counts) == {"seen": 1, "updated": 1, "restored": 1}
    row = Deal.objects.get()
    assert (row.deleted_at, row.deleted_source, row.deleted_by) == (None, "", "")
    assert [kind for kind, *_ in events_of()] == ["created", "deleted", "restored", "changed"]


def test_row_54_a_page_read_before_the_deletion_does_not_revive() -> None:
    store(deal(1))
    tell_deletions(DEALS, [1], source="list")
    assert tally(store(deal(1), read_at=minutes(1))) == {"seen": 1, "unchanged": 1}
    assert not Deal.objects.live().exists()


# -- stubs ----------------------------------------------------------------------------------------


def test_unknown_references_become_stubs_that_their_own_record_fills() -> None:
    store(deal(1, Contact_Name={"id": "8001", "name": "Carl"}))
    row = Deal.objects.get()
    assert (row.account.name, row.account.is_stub) == ("Acme", True)
    assert (row.contact.last_name, row.contact.is_stub) == ("Carl", True)
    assert not Account.objects.live().exists()
    assert events_of("Accounts") == []
    owner = CrmUser.objects.get()
    assert (owner.zoho_id, owner.name, owner.email) == (9001, "Ann Lee", "ann@example.com")
    assert row.owner == row.modified_by == owner

    counts = store(account(7001, Account_Name="Acme Ltd"), module="Accounts")
    assert tally(counts) == {"seen": 1, "created": 1}
    filled = Account.objects.live().get()
    assert filled.pk == row.account_id
    assert (filled.name, filled.country, filled.employees) == ("Acme Ltd", "Singapore", 12)
    assert [kind for kind, *_ in events_of("Accounts")] == ["created"]
    assert ReceivedRecord.objects.filter(module="Accounts").count() == 1
    assert tally(store(account(7001, Account_Name="Acme Ltd"), module="Accounts")) == {
        "seen": 1,
        "unchanged": 1,
    }


def test_a_reference_by_bare_id_makes_a_stub_without_a_name() -> None:
    store(deal(1, Account_Name={"id": "7001"}, Owner={"id": "9002"}))
    row = Deal.objects.get()
    assert row.account.zoho_id == 7001
    assert str(row.account) == "Account 7001"
    assert str(row.owner) == "CRM user 9002"
    store(account(7001, Account_Name="Acme"), module="Accounts")
    row.refresh_from_db()
    assert row.account.name == "Acme"


def test_row_65_a_deal_without_account_and_owner_is_stored() -> None:
    store(deal(1, Account_Name=None, Owner=None, Modified_By=None))
    row = Deal.objects.get()
    assert (row.account, row.owner, row.modified_by) == (None, None, None)


def test_a_converted_lead_names_what_it_became() -> None:
    store(
        lead(
            1,
            Converted__s=True,
            Converted_Date_Time="2026-03-01T10:00:00+08:00",
            Converted_Deal={"id": "55", "name": "x"},
            Converted_Account={"id": "66"},
        ),
        module="Leads",
    )
    row = Lead.objects.get()
    assert row.is_converted
    assert (row.converted_deal_zoho_id, row.converted_account_zoho_id) == (55, 66)
    assert row.converted_at == NOON.replace(day=1, hour=2)
    assert not Deal.objects.exists() and not Account.objects.exists()
    again = lead(1, modified=minutes(1), Converted__s=True, Lead_Status="Lost")
    again |= {"Converted_Date_Time": "2026-03-01T10:00:00+08:00"}
    store(again, module="Leads")
    assert sorted(field for _, field, *_ in events_of("Leads", kind="changed")) == [
        "converted_account_zoho_id",
        "converted_deal_zoho_id",
        "status",
    ]


# -- problems and quarantine ----------------------------------------------------------------------


def problems() -> list[tuple[str, str]]:
    return sorted(RecordProblem.objects.values_list("field", "code"))


def test_problems_are_those_of_the_newest_state() -> None:
    store(deal(1, Amount="1,000", Closing_Date="2026-02-30"))
    assert problems() == [("amount_minor", "not_a_number"), ("closing_date", "bad_date")]
    store(deal(1, modified=minutes(1), Amount="1,000", Closing_Date="2026-02-28"))
    assert problems() == [("amount_minor", "not_a_number")]
    store(deal(1, modified=minutes(2), Amount=3))
    assert problems() == []


def test_a_wrong_value_mended_to_the_same_canonical_value_is_no_problem_any_more() -> None:
    store(deal(1, Amount="1,000"))
    assert tally(store(deal(1, modified=minutes(1), Amount=None))) == {"seen": 1, "unchanged": 1}
    assert problems() == []


def test_row_66_what_cannot_be_stored_is_kept_aside_and_the_rest_goes_on() -> None:
    page = [deal(1), {"Deal_Name": "no id"}, '"text"', '{"id":"3","id":"4"}', deal(2)]
    counts = store(*page, run_id=4)
    assert tally(counts) == {"seen": 5, "created": 2, "failed": 3}
    kept = FailedRecord.objects.order_by("id")
    assert [f.code for f in kept] == ["no_id", "not_an_object", "not_an_object"]
    assert json.loads(kept[0].payload) == {"Deal_Name": "no id"}
    assert kept[2].payload == '{"id":"3","id":"4"}'
    assert {f.run_id for f in kept} == {4}
    assert Deal.objects.count() == 2


def test_the_same_bad_record_again_is_one_failure_with_two_attempts() -> None:
    store({"Deal_Name": "no id"}, run_id=1)
    FailedRecord.objects.update(resolved_at=NOON)
    store({"Deal_Name": "no id"}, run_id=2)
    failed = FailedRecord.objects.get()
    assert (failed.attempts, failed.run_id, failed.resolved_at) == (2, 2, None)


def test_row_64_over_long_texts_and_odd_characters_never_lose_a_page() -> None:
    odd = ["x" * 300, "x" * 65_001, "👍" * 300, "a\x00b", "a\\ud800b", "\u202e\u200b", "\n"]
    page = [deal(i, Deal_Name=text, Description=text) for i, text in enumerate(odd, start=1)]
    page[4] = json.dumps(deal(5)).replace('"Deal 5"', '"a\\ud800b"')
    assert tally(store(*page))["created"] == len(odd)
    names = dict(Deal.objects.values_list("zoho_id", "name"))
    assert names[1] == "x" * 255 and names[3] == "👍" * 255
    assert (names[4], names[5], names[7]) == ("a�b", "a?b", "")
    assert len(Deal.objects.get(zoho_id=2).description) == 65_000


def test_row_58_amounts_at_the_limits_are_exact_and_their_sums_too() -> None:
    page = [deal(i, Amount=999_999_999_999.99) for i in range(1, 51)]
    page += [deal(51, Amount=-999_999_999_999.99), deal(52, Amount=10**12 + 1)]
    store(*page)
    assert Deal.objects.aggregate(s=Sum("amount_minor"))["s"] == 49 * 99_999_999_999_999
    assert Deal.objects.get(zoho_id=52).amount_minor is None


# -- all together ---------------------------------------------------------------------------------


def test_news_of_deals_goes_out_once_a_page_after_commit(
    django_capture_on_commit_callbacks: Any,
) -> None:
    heard: list[list[int]] = []

    def hear(sender: Any, pks: list[int], **kwargs: Any) -> None:
        heard.append(sorted(pks))

    deals_changed.connect(hear)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            store(deal(1), deal(2), deal(3))
            assert heard == []
        pks = sorted(Deal.objects.values_list("pk", flat=True))
        with django_capture_on_commit_callbacks(execute=True):
            store(deal(1), deal(2, modified=minutes(1), Amount=7))
            store(account(1), module="Accounts")
        assert heard == [pks, [pks[1]]]
    finally:
        deals_changed.disconnect(hear)


def test_change_numbers_grow_with_every_written_row_and_are_unique() -> None:
    store(*[deal(i) for i in range(1, 4)])
    store(deal(2, modified=minutes(1), Amount=7), deal(4))
    tell_deletions(DEALS, [1], source="list")
    seqs = dict(Deal.objects.values_list("zoho_id", "change_seq"))
    assert len(set(seqs.values())) == 4
    assert seqs[3] < seqs[4] and seqs[3] < seqs[2]
    assert seqs[1] == max(seqs.values())


def test_events_alone_give_the_live_rows_again() -> None:
    connect()
    store(*[deal(i) for i in range(1, 6)])
    store(deal(1, modified=minutes(1), Stage="Closed Lost", Reason_For_Loss__s="Price"))
    store(deal(2, modified=minutes(1), Amount=None, Account_Name=None))
    store(deal(3, modified=minutes(1), Currency="JPY", Amount=12.5, drop=["Next_Step"]))
    tell_deletions(DEALS, [4, 5], source="full")
    store(deal(5, modified=minutes(2), Deal_Name="Back"), read_at=later())
    store(account(7001), module="Accounts")
    store(lead(1), module="Leads")
    store(lead(1, modified=minutes(1), Converted__s=True), module="Leads")
    for module in ("Deals", "Accounts", "Leads"):
        assert replayed(module) == live_values(module) != {}


def test_contacts_lie_with_their_account() -> None:
    record = {
        "id": "1",
        "Last_Name": "Lee",
        "Account_Name": {"id": "7001", "name": "Acme"},
        "Modified_Time": "2026-03-10T12:00:00+08:00",
    }
    store(record, module="Contacts")
    assert Contact.objects.get().account.name == "Acme"
