"""Who listens for notices: one at a time, woken by a bell, and nobody where there is no Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from crm.models import Notice
from crm.sync import listening
from crm.tests.notices import LIVE, known_channels, nobody_works, statuses, tell
from crm.tests.synced import Crm

pytestmark = pytest.mark.redis


@pytest.fixture
def redis(crm: Crm, redis_url: str) -> Iterator[Redis]:
    """The Redis that the product uses; a mirror with channels."""
    crm.sync()
    known_channels()
    crm.settings.WEBHOOK_TOKENS = [LIVE]
    crm.settings.REDIS_URL = crm.settings.REDIS_CLIENT_URL = redis_url
    with Redis.from_url(redis_url) as client:
        client.delete(listening.LISTENER, listening.BELL)
        yield client
        client.delete(listening.LISTENER, listening.BELL)


def until_done() -> bool:
    return Notice.DONE in statuses().values()


def test_a_listener_takes_what_waits_and_leaves_its_place(crm: Crm, redis: Redis) -> None:
    with nobody_works(crm.settings):
        tell(crm.ids()[0])
    assert listening.is_wanted()
    assert listening.listen(should_stop=until_done) is False
    assert set(statuses().values()) == {Notice.DONE}
    assert listening.is_wanted()


def test_after_its_time_a_listener_asks_for_another_one(redis: Redis) -> None:
    assert listening.listen(should_stop=lambda: False, longest_s=0) is True


def test_a_bell_that_nobody_hears_is_told(redis: Redis) -> None:
    assert listening.ring() is False
    redis.set(listening.LISTENER, "somebody", ex=5)
    assert listening.ring() is True
    assert listening.ring() is True
    assert redis.llen(listening.BELL) == 1


def test_beside_a_listener_another_looks_once_and_keeps_away(crm: Crm, redis: Redis) -> None:
    redis.set(listening.LISTENER, "somebody", ex=60)
    with nobody_works(crm.settings):
        tell(crm.ids()[0])
    assert listening.listen(should_stop=lambda: False) is False
    assert set(statuses().values()) == {Notice.DONE}
    assert redis.get(listening.LISTENER) == b"somebody"


def test_without_redis_nobody_listens_and_a_nudge_does_it(crm: Crm, redis: Redis) -> None:
    crm.settings.REDIS_URL = crm.settings.REDIS_CLIENT_URL = ""
    assert (listening.is_wanted(), listening.ring()) == (False, False)
    tell(crm.ids()[0])
    assert set(statuses().values()) == {Notice.DONE}


def test_a_redis_that_is_away_costs_nothing_but_speed(crm: Crm, redis: Redis) -> None:
    crm.settings.REDIS_URL = crm.settings.REDIS_CLIENT_URL = "redis://127.0.0.1:1/0"
    assert (listening.is_wanted(), listening.ring()) == (False, False)
    assert listening.listen(should_stop=lambda: False) is False
    tell(crm.ids()[0])
    assert set(statuses().values()) == {Notice.DONE}


def test_a_kept_client_is_made_anew_after_a_failure_and_with_other_settings(
    crm: Crm, redis: Redis
) -> None:
    made: list[Any] = []

    class Client:
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    def make() -> Any:
        made.append(Client())
        return made[-1]

    kept = listening.KeptClient(make)
    for _ in range(3):
        with kept() as client:
            assert client is made[0]
    with pytest.raises(ZeroDivisionError), kept():
        raise ZeroDivisionError
    with kept() as client:
        assert client is made[1]
    with nobody_works(crm.settings), kept() as client:
        assert client is made[2]
    kept.close()
    assert [each.is_closed for each in made] == [True, True, True]
