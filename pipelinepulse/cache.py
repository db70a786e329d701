"""A cache that forgets rather than fails: without Redis every look-up is a miss.

Decides what a Redis that is away means for pages (nothing). State that must survive is kept in
the database, never here.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


def _or_else(fallback: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def forgiving(self: "ForgivingRedisCache", *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except (RedisError, OSError) as error:
            logger.warning("The cache is away (%s); going on without it.", type(error).__name__)
            return fallback(*args, **options)

    return forgiving


class ForgivingRedisCache(RedisCache):
    """Django's Redis cache; an unreachable server answers like an empty cache."""

    get = _or_else(lambda key, default=None, version=None: default, RedisCache.get)
    get_many = _or_else(lambda keys, version=None: {}, RedisCache.get_many)
    has_key = _or_else(lambda key, version=None: False, RedisCache.has_key)
    add = _or_else(lambda *args, **options: True, RedisCache.add)
    set = _or_else(lambda *args, **options: None, RedisCache.set)
    set_many = _or_else(lambda data, **options: list(data), RedisCache.set_many)
    touch = _or_else(lambda *args, **options: False, RedisCache.touch)
    delete = _or_else(lambda *args, **options: False, RedisCache.delete)
    delete_many = _or_else(lambda *args, **options: None, RedisCache.delete_many)
    incr = _or_else(lambda key, delta=1, version=None: delta, RedisCache.incr)
    clear = _or_else(lambda: False, RedisCache.clear)
