"""The client's calls about notification channels, against the stand-in CRM."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crm.tests.odd_server import HeldTime, OpenCipher
from crm.tests.sandbox_process import Sandbox, running_sandbox
from crm.tests.synced import zoho_settings
from crm.zoho.client import ChannelWish, ZohoClient
from crm.zoho.errors import FixRequest
from crm.zoho.factory import States, build_client
from crm.zoho.state import MemoryState
from crm.zoho.times import crm_time

HOOK = "https://pulse.example.com/api/zoho/webhook"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with running_sandbox(tmp_path_factory.mktemp("crm"), deals=5) as sandbox:
        yield sandbox


@pytest.fixture(params=["v8", "v6"])
def client(running: Sandbox, request: pytest.FixtureRequest) -> Iterator[ZohoClient]:
    time = HeldTime(breath_s=0.002)
    running.control("config", mint_limit=1000)
    state = MemoryState(lambda: time.wall)
    with build_client(
        zoho_settings(running.url, api_version=request.param),
        states=States(durable=state, fast=state),
        cipher=OpenCipher(),
        timing=time.timing,
    ) as made:
        yield made
        made.unwatch([each.channel_id for each in made.watched()])


def soon(**ahead: Any) -> datetime:
    return datetime.now(UTC).replace(microsecond=123456) + timedelta(**(ahead or {"days": 6}))


def wish(channel_id: str = "1001", **changes: Any) -> ChannelWish:
    return ChannelWish(
        **{
            "channel_id": channel_id,
            "events": ["Deals.all", "Leads.edit"],
            "notify_url": HOOK,
            "token": "a-token",
            "expires_at": soon(),
            **changes,
        }
    )


def test_a_channel_is_made_with_the_expiry_we_asked_for(client: ZohoClient) -> None:
    asked = wish()
    [made] = client.watch([asked])
    assert made.ok
    assert made.expires_at == asked.expires_at.replace(microsecond=0)
    [listed] = client.watched(channel_id="1001")
    assert (listed.channel_id, listed.events, listed.notify_url, listed.expires_at) == (
        "1001",
        ("Deals.all", "Leads.edit"),
        HOOK,
        made.expires_at,
    )


def test_related_records_do_not_call(client: ZohoClient, running: Sandbox) -> None:
    client.watch([wish()])
    with sqlite3.connect(running.db) as sql:
        [definition] = sql.execute("select definition from channel").fetchone()
    assert '"notify_on_related_action": false' in definition
    assert '"token": "a-token"' in definition


def test_beyond_a_week_is_told_as_the_hour_that_it_is(client: ZohoClient) -> None:
    [made] = client.watch([wish(expires_at=soon(days=8))])
    assert made.expires_at is not None
    assert made.expires_at - datetime.now(UTC) < timedelta(hours=1, seconds=1)


def test_some_channels_of_a_call_may_be_refused(client: ZohoClient) -> None:
    results = client.watch([wish("1001"), wish("1002", events=["Nope.all"])])
    assert [(r.channel_id, r.ok) for r in results] == [("1001", True), ("1002", False)]
    assert results[1].code == "INVALID_DATA"
    assert [each.channel_id for each in client.watched()] == ["1001"]


def test_all_refused_is_an_answer_too(client: ZohoClient) -> None:
    results = client.rewatch([wish("77"), wish("78")])
    assert [(r.ok, r.code) for r in results] == [(False, "NOT_SUBSCRIBED")] * 2


def test_prolonging_replaces_the_whole_channel(client: ZohoClient) -> None:
    client.watch([wish(expires_at=soon(hours=2))])
    [longer] = client.rewatch([wish(events=["Deals.all"], notify_url=HOOK + "/2")])
    [listed] = client.watched()
    assert (listed.events, listed.notify_url) == (("Deals.all",), HOOK + "/2")
    assert listed.expires_at == longer.expires_at


def test_events_are_taken_away_and_channels_ended(client: ZohoClient) -> None:
    client.watch([wish("1001"), wish("1002")])
    assert client.drop_events("1001", ["Leads.edit"]).ok
    [listed] = client.watched(channel_id="1001")
    assert listed.events == ("Deals.all",)
    results = client.unwatch(["1001", "9"])
    assert [(r.ok, r.code) for r in results] == [(True, "SUCCESS"), (False, "NOT_SUBSCRIBED")]
    assert [each.channel_id for each in client.watched()] == ["1002"]


def test_none_and_too_many(client: ZohoClient) -> None:
    assert client.watched() == []
    assert client.watch([]) == client.rewatch([]) == client.unwatch([]) == []
    with pytest.raises(FixRequest, match="51 channels"):
        client.watch([wish(str(n)) for n in range(1, 52)])


def test_times_are_aware_and_without_fractions() -> None:
    assert crm_time(datetime(2026, 3, 1, 8, 0, 0, 999_999, UTC)) == "2026-03-01T08:00:00+00:00"
    with pytest.raises(ValueError, match="aware"):
        crm_time(datetime(2026, 3, 1))  # noqa: DTZ001
