"""The cache on Redis: it works, and without its server every look-up is a miss."""

import pytest
from redis import Redis

from pipelinepulse.cache import ForgivingRedisCache
from pipelinepulse.tests.servers import free_port


def cache_at(url: str) -> ForgivingRedisCache:
    options = {"socket_connect_timeout": 0.5, "socket_timeout": 1}
    return ForgivingRedisCache(url, {"KEY_PREFIX": "test", "OPTIONS": options})


@pytest.mark.redis
@pytest.mark.processes
def test_values_are_kept(redis_url: str) -> None:
    cache = cache_at(redis_url)
    cache.set("a", {"b": 1})
    assert cache.get("a") == {"b": 1}
    assert cache.add("a", 2) is False
    assert cache.get_or_set("c", 3) == 3
    assert cache.incr("c") == 4
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    assert cache.get("a", "gone") == "gone"


def test_row_10_server_that_is_away_is_an_empty_cache() -> None:
    cache = cache_at(f"redis://127.0.0.1:{free_port()}/0")
    cache.set("a", 1)
    assert cache.get("a") is None
    assert cache.get("a", "nothing") == "nothing"
    assert cache.get_many(["a", "b"]) == {}
    assert cache.set_many({"a": 1}) == ["a"]
    assert cache.add("a", 1) is True
    assert cache.incr("a", 2) == 2
    assert cache.has_key("a") is False
    assert cache.delete("a") is False
    assert cache.touch("a") is False
    assert cache.get_or_set("a", 5) == 5
    cache.delete_many(["a"])
    cache.clear()
