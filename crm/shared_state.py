"""Where the processes of an installation keep what they share for the CRM library.

Decides: in Redis where there is one and it answers, else in the database. `durable()` is always the
database (tokens, the breaker: losing them costs a mint, or hammers a CRM that is down); `fast()` is
Redis first (permits, taken often). Leaves the meaning of the values to `crm.zoho`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import redis
from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction
from django.db.models import Q

from crm.zoho.state import LockByCompare, SharedState, Taken, take_from

log = logging.getLogger("crm.shared_state")
T = TypeVar("T")
_CLOCK_SLACK_S = 5.0


def durable() -> SharedState:
    """The database: survives the broker and all processes."""
    return _database()


def fast() -> SharedState:
    """Redis where it is set and answers, else the database."""
    url = getattr(settings, "REDIS_CLIENT_URL", "") or settings.REDIS_URL
    return _with_redis(url) if url else _database()


@lru_cache
def _database() -> DatabaseState:
    return DatabaseState()


@lru_cache
def _with_redis(url: str) -> FallbackState:
    return FallbackState(RedisState.at(url), _database())


# ---------------------------------------------------------------- in the database


class DatabaseState(LockByCompare):
    """Rows changed by compare-and-set: one short write each, on SQLite and PostgreSQL alike.

    Must not be used inside an open transaction that waits for the CRM: on SQLite it would hold the
    only writer. A thread that had no connection gives back the one it opened, because the threads
    that fetch come and go and nobody else would close it.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._given_now = now

    def get(self, name: str) -> str | None:
        with self._connection() as now:
            row = self._rows().filter(name=name).values_list("value", "set_at", "expires_at")
            found = row.first()
            if found is None:
                return None
            value, set_at, expires_at = found
            if expires_at is None:
                return str(value)
            instant = now()
            alive = instant < expires_at and set_at <= instant + _CLOCK_SLACK_S
            return str(value) if alive else None

    def put(self, name: str, value: str, ttl_s: float | None = None) -> None:
        with self._connection() as now:
            row = _row(value, now(), ttl_s)
            if self._rows().filter(name=name).update(**row) or self._create(name, row):
                return
            self._rows().filter(name=name).update(**row)

    def compare_and_set(
        self, name: str, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        with self._connection() as now:
            instant = now()
            rows = self._rows().filter(name=name)
            if expected is None and value is None:
                return not rows.exclude(_ended(instant)).exists()
            if expected is None:
                row = _row(str(value), instant, ttl_s)
                return bool(rows.filter(_ended(instant)).update(**row)) or self._create(name, row)
            same = rows.filter(value=expected).exclude(_ended(instant))
            if value is None:
                return bool(same.delete()[0])
            return bool(same.update(**_row(value, instant, ttl_s)))

    def take(self, name: str, amount: int, per_minute: int) -> Taken:
        with self._connection() as now:
            for _ in range(50):
                instant = now()
                text = self._rows().filter(name=name).values_list("value", flat=True).first()
                tokens, at = _bucket(text, per_minute, instant)
                taken, left = take_from(tokens, at, instant, amount, per_minute)
                if not taken.granted:
                    return taken
                row = _row(json.dumps([left, instant]), instant, None)
                if text is None:
                    done = self._create(name, row)
                else:
                    done = bool(self._rows().filter(name=name, value=text).update(**row))
                if done:
                    return taken
        return Taken(0, 0.05)  # everybody wants this row: come again

    def _create(self, name: str, row: dict[str, Any]) -> bool:
        try:
            with transaction.atomic():  # a savepoint where a transaction is open already
                self._rows().create(name=name, **row)
        except IntegrityError:
            return False
        return True

    @staticmethod
    def _rows() -> Any:
        # By name: the library's factory imports this module, and must not import models.
        return apps.get_model("crm", "SharedValue")._default_manager  # type: ignore[misc]

    @contextmanager
    def _connection(self) -> Iterator[Callable[[], float]]:
        connection = connections[DEFAULT_DB_ALIAS]
        opened_here = connection.connection is None
        try:
            yield self._given_now or _clock_of(connection)
        finally:
            if opened_here and not connection.in_atomic_block:
                connection.close()


def _clock_of(connection: Any) -> Callable[[], float]:
    """The database server's clock where machines share one; ours beside a file."""
    if connection.vendor != "postgresql":
        return time.time

    def server_time() -> float:
        with connection.cursor() as cursor:
            cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            return float(cursor.fetchone()[0])

    return server_time


def _ended(now: float) -> Q:
    return Q(expires_at__isnull=False) & (
        Q(expires_at__lte=now) | Q(set_at__gt=now + _CLOCK_SLACK_S)
    )


def _row(value: str, now: float, ttl_s: float | None) -> dict[str, Any]:
    return {
        "value": value,
        "set_at": now,
        "expires_at": None if ttl_s is None else now + ttl_s,
    }


def _bucket(text: str | None, per_minute: int, now: float) -> tuple[float, float]:
    try:
        tokens, at = json.loads(text or "")
        return float(tokens), float(at)
    except (ValueError, TypeError):
        return float(per_minute), now


# ---------------------------------------------------------------- in Redis

_TAKE = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local amount, per_minute = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1]) or per_minute, tonumber(kept[2]) or now
tokens = math.min(per_minute, tokens + math.max(0, now - at) * per_minute / 60)
local granted = math.min(amount, math.floor(tokens))
local wait = 0
if granted == 0 then wait = (1 - tokens) * 60 / per_minute end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - granted), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 180)
return {granted, tostring(wait)}
"""

_COMPARE_AND_SET = """
local found = redis.call('GET', KEYS[1])
local matches = (ARGV[1] == '0' and not found) or (ARGV[1] == '1' and found == ARGV[2])
if not matches then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1])
elseif ARGV[5] == '0' then redis.call('SET', KEYS[1], ARGV[4])
else redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
return 1
"""


class RedisState(LockByCompare):
    """One script per act, by the server's clock. Raises redis.RedisError when it is away."""

    _PREFIX = "pulse:shared:"

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._take = client.register_script(_TAKE)
        self._compare_and_set = client.register_script(_COMPARE_AND_SET)

    @classmethod
    def at(cls, url: str) -> RedisState:
        return cls(redis.Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=0.5))

    def get(self, name: str) -> str | None:
        found: Any = self._client.get(self._PREFIX + name)
        return None if found is None else _text(found)

    def put(self, name: str, value: str, ttl_s: float | None = None) -> None:
        if ttl_s is not None and ttl_s <= 0:
            self._client.delete(self._PREFIX + name)
            return
        self._client.set(self._PREFIX + name, value, px=_milliseconds(ttl_s) or None)

    def compare_and_set(
        self, name: str, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        arguments = [
            "0" if expected is None else "1",
            expected or "",
            "0" if value is None else "1",
            value or "",
            str(_milliseconds(ttl_s)),
        ]
        return bool(self._compare_and_set(keys=[self._PREFIX + name], args=arguments))

    def take(self, name: str, amount: int, per_minute: int) -> Taken:
        answer: Any = self._take(keys=[self._PREFIX + name], args=[amount, per_minute])
        return Taken(int(answer[0]), float(_text(answer[1])))


def _milliseconds(ttl_s: float | None) -> int:
    return 0 if ttl_s is None else max(1, int(ttl_s * 1000))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


# ---------------------------------------------------------------- Redis, or the database


class FallbackState:
    """Asks the first; while it fails, the second, and the first again after a few seconds."""

    _LEAVE_ALONE_S = 5.0

    def __init__(
        self,
        first: SharedState,
        second: SharedState,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._second = second
        self._monotonic = monotonic
        self._down_until = float("-inf")
        self._guard = threading.Lock()

    def get(self, name: str) -> str | None:
        return self._ask(lambda state: state.get(name))

    def put(self, name: str, value: str, ttl_s: float | None = None) -> None:
        self._ask(lambda state: state.put(name, value, ttl_s))

    def compare_and_set(
        self, name: str, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        return self._ask(lambda state: state.compare_and_set(name, expected, value, ttl_s))

    def take(self, name: str, amount: int, per_minute: int) -> Taken:
        return self._ask(lambda state: state.take(name, amount, per_minute))

    @contextmanager
    def lock(self, name: str, ttl_s: float) -> Iterator[bool]:
        # Both acts of one lock go through the same fallback: at worst it ends by its life.
        with LockByCompare.lock(self, name, ttl_s) as held:  # type: ignore[arg-type]
            yield held

    def _ask(self, act: Callable[[SharedState], T]) -> T:
        if self._monotonic() >= self._down_until:
            try:
                return act(self._first)
            except redis.RedisError as error:
                self._note_down(error)
        return act(self._second)

    def _note_down(self, error: redis.RedisError) -> None:
        with self._guard:
            if self._monotonic() >= self._down_until:
                kind = type(error).__name__
                log.warning("shared state: Redis is away (%s), the database serves", kind)
            self._down_until = self._monotonic() + self._LEAVE_ALONE_S
