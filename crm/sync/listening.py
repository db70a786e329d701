"""One worker process listens for notices, so that each is taken at once.

A message through the broker, a new connection to the database and one to the CRM cost more than
fetching the record; and a full sync, or whatever else keeps the other processes of the workers
busy, does not hold this place. Decides who listens and how one is woken. Comfort alone: without
Redis, or while nobody listens, a nudge or the sweeper has the inbox looked at (`crm.tasks`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections

from crm.models import NotificationChannel
from crm.sync import events
from crm.zoho.client import ZohoClient

log = structlog.get_logger(__name__)
LISTENER, BELL = "pulse:notices:listener", "pulse:notices:bell"
# A listener that is gone without a word is believed in for so long; the sweeper looks meanwhile.
BELIEVED_S = 5
TURN_S = 1.0
# Then another task takes over, with new connections.
LONGEST_S = 300.0

_RING = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end
redis.call('lpush', KEYS[2], 1)
redis.call('ltrim', KEYS[2], 0, 0)
redis.call('expire', KEYS[2], 60)
return 1
"""
# Ours, or nobody's: then it is ours from now on.
_HOLD = """
local holder = redis.call('get', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
_LEAVE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"


def ring() -> bool:
    """Wake who listens; False if nobody does."""
    with suppress(redis.RedisError, OSError):
        return bool(_run(_RING, [LISTENER, BELL]))
    return False


def is_wanted() -> bool:
    """Whether notices may come and nobody listens for them."""
    if not settings.REDIS_URL or not NotificationChannel.objects.exists():
        return False
    with suppress(redis.RedisError, OSError):
        return not _redis(_url()).exists(LISTENER)
    return False


def listen(
    *,
    should_stop: Callable[[], bool],
    monotonic: Callable[[], float] = time.monotonic,
    longest_s: float = LONGEST_S,
) -> bool:
    """Work the inbox off, wait for more, and so on. True if somebody should go on with it.

    Where another one listens it looks once. One process at a time; two for a moment do no harm,
    a claim is theirs who took it.
    """
    me, until, kept = uuid.uuid4().hex, monotonic() + longest_s, KeptClient()
    try:
        while not should_stop() and monotonic() < until:
            is_ours = _run(_HOLD, [LISTENER], [me, BELIEVED_S])
            events.take_waiting(should_stop=should_stop, make_client=kept)
            if not is_ours:
                return False
            if _redis(_url(), TURN_S + 4).blpop([BELL], timeout=TURN_S) is None:
                close_old_connections()
        return not should_stop()
    except (redis.RedisError, OSError, DatabaseError) as error:
        log.warning("notices_not_listened_for", reason=type(error).__name__)
        return False
    finally:
        kept.close()
        with suppress(redis.RedisError, OSError):
            _run(_LEAVE, [LISTENER], [me])


class KeptClient:
    """The same client for round after round; another one after a failure or with other settings."""

    def __init__(self, make: Callable[[], ZohoClient] = events.event_client) -> None:
        self._make = make
        self._client: ZohoClient | None = None
        self._zoho: Any = None

    @contextmanager
    def __call__(self) -> Iterator[ZohoClient]:
        if self._client is None or self._zoho is not settings.ZOHO:
            self.close()
            self._client, self._zoho = self._make(), settings.ZOHO
        try:
            yield self._client
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


def _run(script: str, keys: list[str], values: list[Any] | None = None) -> Any:
    if not settings.REDIS_URL:
        return 0
    return _redis(_url()).eval(script, len(keys), *keys, *(values or []))


def _url() -> str:
    return str(settings.REDIS_CLIENT_URL)


@lru_cache
def _redis(url: str, answers_in_s: float = 1.0) -> redis.Redis:
    return redis.Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=answers_in_s)
