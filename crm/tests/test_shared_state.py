"""Shared values hold their promises in the database, in Redis, and where one stands in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fakeredis
import pytest
import redis
from django.conf import settings
from django.db import connection

from crm import shared_state
from crm.shared_state import DatabaseState, FallbackState, RedisState
from crm.zoho.state import MemoryState, SharedState


@pytest.fixture(
    params=[
        "memory",
        pytest.param("database", marks=pytest.mark.django_db(transaction=True)),
        "fake redis",
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
def state(request: pytest.FixtureRequest) -> Iterator[SharedState]:
    if request.param == "memory":
        yield MemoryState()
    elif request.param == "database":
        yield DatabaseState()
    elif request.param == "fake redis":
        yield RedisState(fakeredis.FakeRedis())
    else:
        client = redis.Redis.from_url(request.getfixturevalue("redis_url"))
        yield RedisState(client)
        for name in client.scan_iter("pulse:shared:test:*"):
            client.delete(name)


def test_a_value_is_kept_replaced_and_absent_when_it_never_was(state):
    assert state.get("test:a") is None
    state.put("test:a", "one")
    state.put("test:a", "two ☃")
    assert state.get("test:a") == "two ☃"


def test_a_value_ends_with_its_life(state):
    state.put("test:b", "x", 60)
    assert state.get("test:b") == "x"
    state.put("test:b", "x", 0.05)
    threading.Event().wait(0.08)
    assert state.get("test:b") is None
    assert state.compare_and_set("test:b", None, "y") is True


def test_only_who_knows_the_value_may_change_it(state):
    assert state.compare_and_set("test:c", "x", "y") is False
    assert state.compare_and_set("test:c", None, "x") is True
    assert state.compare_and_set("test:c", None, "z") is False
    assert state.compare_and_set("test:c", "other", "z") is False
    assert state.compare_and_set("test:c", "x", "y", 60) is True
    assert state.get("test:c") == "y"
    assert state.compare_and_set("test:c", "y", None) is True
    assert state.get("test:c") is None
    assert state.compare_and_set("test:c", None, None) is True


def test_an_empty_text_is_a_value(state):
    state.put("test:d", "")
    assert state.get("test:d") == ""
    assert state.compare_and_set("test:d", None, "x") is False
    assert state.compare_and_set("test:d", "", "x") is True


def test_a_lock_has_one_holder_and_comes_free(state):
    with state.lock("test:e", 60) as first:
        assert first is True
        with state.lock("test:e", 60) as second:
            assert second is False
        with state.lock("test:e", 60) as third:
            assert third is False
    with state.lock("test:e", 60) as again:
        assert again is True


def test_a_lock_that_outlived_its_holder_is_not_taken_from_the_next(state):
    with state.lock("test:f", 0.05):
        threading.Event().wait(0.08)
        with state.lock("test:f", 60) as late:
            assert late is True
    # the first holder came late and must not have freed it
    assert state.get("test:f") is None


def test_the_bucket_gives_a_minute_and_then_says_how_long(state):
    assert state.take("test:g", 40, 60).granted == 40
    assert state.take("test:g", 40, 60).granted == 20
    empty = state.take("test:g", 1, 60)
    assert empty.granted == 0
    assert 0 < empty.wait_s <= 1


def test_the_bucket_refills_with_time(state):
    state.take("test:h", 6000, 6000)
    threading.Event().wait(0.1)
    assert 5 <= state.take("test:h", 6000, 6000).granted <= 60


def test_permits_are_never_given_twice(state):
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: state.take("test:i", 7, 60).granted, range(40)))
    assert 60 <= sum(given) <= 64  # the bucket, and what a slow machine lets flow in


def test_exactly_one_of_many_gets_a_lock(state):
    everybody = threading.Barrier(8)

    def grab(_: int) -> bool:
        everybody.wait(5)
        with state.lock("test:j", 60) as held:
            everybody.wait(10)
            return held

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(grab, range(8))) == 1


# ---------------------------------------------------------------- the database


@pytest.mark.django_db(transaction=True)
def test_a_thread_gives_its_connection_back():
    seen: list[Any] = []

    def work() -> None:
        state = DatabaseState()
        state.put("test:k", "x")
        state.get("test:k")
        state.take("test:l", 1, 60)
        seen.append(connection.connection)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert seen == [None]


@pytest.mark.django_db
def test_a_connection_in_use_stays_open():
    DatabaseState().put("test:m", "x")
    assert connection.connection is not None


@pytest.mark.django_db
def test_row_18_a_clock_that_went_back_does_not_lengthen_a_life():
    clock = [1_000_000.0]
    state = DatabaseState(now=lambda: clock[0])
    state.put("test:n", "x", 60)
    clock[0] -= 7200
    assert state.get("test:n") is None
    assert state.compare_and_set("test:n", None, "y", 60) is True
    assert state.get("test:n") == "y"


@pytest.mark.django_db
def test_a_bucket_that_cannot_be_read_is_full():
    state = DatabaseState()
    state.put("test:o", "nonsense")
    assert state.take("test:o", 100, 60).granted == 60


# ---------------------------------------------------------------- Redis away


class AwayRedis:
    """A state whose server is away until told otherwise; knows how often it was asked."""

    def __init__(self) -> None:
        self.inner = MemoryState()
        self.away = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def act(*arguments: Any) -> Any:
            self.asked += 1
            if self.away:
                raise redis.ConnectionError("away")
            return getattr(self.inner, name)(*arguments)

        return act


def test_row_10_the_second_serves_while_the_first_is_away():
    clock = [0.0]
    first, second = AwayRedis(), MemoryState()
    state = FallbackState(first, second, monotonic=lambda: clock[0])  # type: ignore[arg-type]
    state.put("a", "x")
    assert second.get("a") == "x"
    assert state.take("bucket", 5, 60).granted == 5
    assert state.compare_and_set("a", "x", "y") is True
    with state.lock("l", 5) as held:
        assert held is True
    assert first.asked == 1  # one wait for a dead server, not one a call
    first.away = False
    assert state.get("a") == "y"
    clock[0] += 6
    assert state.get("a") is None
    state.put("a", "z")
    assert first.inner.get("a") == "z"


def test_row_10_a_server_that_refuses_connections_is_survived():
    nowhere = RedisState(redis.Redis(port=1, socket_connect_timeout=0.2, retry=None))
    state = FallbackState(nowhere, MemoryState())
    assert state.take("bucket", 5, 60).granted == 5


def test_where_shared_state_lives(monkeypatch):
    monkeypatch.setattr(settings, "REDIS_URL", "")
    monkeypatch.setattr(settings, "REDIS_CLIENT_URL", "", raising=False)
    assert isinstance(shared_state.fast(), DatabaseState)
    monkeypatch.setattr(settings, "REDIS_CLIENT_URL", "redis://127.0.0.1:1/0")
    assert isinstance(shared_state.fast(), FallbackState)
    assert isinstance(shared_state.durable(), DatabaseState)
