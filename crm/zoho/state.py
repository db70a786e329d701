"""The little state that all processes of an installation share, as a protocol.

Decides what the library needs of it: values with a life, compare-and-set, a lock, a bucket of
permits. Leaves where it lives to the caller: `crm.shared_state` keeps it in Redis or the database;
`MemoryState` here serves one process (and the library's own tests).
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol


class Taken(NamedTuple):
    """`granted` permits now; if none, ask again in `wait_s` seconds."""

    granted: int
    wait_s: float


class SharedState(Protocol):
    """Text values by name. A value whose life has ended is absent (None)."""

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, value: str, ttl_s: float | None = None) -> None: ...

    def compare_and_set(
        self, name: str, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        """Set if the value is `expected` (None: absent); `value` None removes it."""
        ...

    def take(self, name: str, amount: int, per_minute: int) -> Taken:
        """Up to `amount` permits of a bucket that refills `per_minute` and holds one minute."""
        ...

    def lock(self, name: str, ttl_s: float) -> AbstractContextManager[bool]:
        """`with state.lock(name, 60) as held:` does not wait; `held` tells who got it."""
        ...


class LockByCompare:
    """`lock` for any state that can compare and set."""

    @contextmanager
    def lock(self: SharedState, name: str, ttl_s: float) -> Iterator[bool]:
        owner = secrets.token_hex(8)
        held = self.compare_and_set(name, None, owner, ttl_s)
        try:
            yield held
        finally:
            if held:
                self.compare_and_set(name, owner, None)


def take_from(
    tokens: float, at: float, now: float, amount: int, per_minute: int
) -> tuple[Taken, float]:
    """A bucket's arithmetic: what is granted at `now`, and the tokens left.

    A clock that went back refills nothing, so nobody gains by it.
    """
    rate = per_minute / 60
    tokens = min(float(per_minute), tokens + max(0.0, now - at) * rate)
    granted = min(amount, math.floor(tokens))
    wait_s = 0.0 if granted else (1 - tokens) / rate
    return Taken(granted, wait_s), tokens - granted


class MemoryState(LockByCompare):
    """Shared by the threads of one process only."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._guard = threading.RLock()
        self._values: dict[str, tuple[str, float | None]] = {}
        self._buckets: dict[str, tuple[float, float]] = {}

    def get(self, name: str) -> str | None:
        with self._guard:
            value, expires_at = self._values.get(name, (None, None))
            if expires_at is not None and self._now() >= expires_at:
                self._values.pop(name, None)
                return None
            return value

    def put(self, name: str, value: str, ttl_s: float | None = None) -> None:
        with self._guard:
            self._values[name] = (value, None if ttl_s is None else self._now() + ttl_s)

    def compare_and_set(
        self, name: str, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        with self._guard:
            if self.get(name) != expected:
                return False
            if value is None:
                self._values.pop(name, None)
            else:
                self.put(name, value, ttl_s)
            return True

    def take(self, name: str, amount: int, per_minute: int) -> Taken:
        with self._guard:
            now = self._now()
            tokens, at = self._buckets.get(name, (float(per_minute), now))
            taken, left = take_from(tokens, at, now, amount, per_minute)
            self._buckets[name] = (left, now)
            return taken


class CachedValue:
    """One shared value, read at most once per `max_age_s`: asked before every call, kept cheap."""

    def __init__(
        self, state: SharedState, name: str, *, max_age_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._state = state
        self._name = name
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._read_at: float | None = None
        self._value: str | None = None

    def get(self) -> str | None:
        read_at = self._read_at
        if read_at is None or self._monotonic() - read_at >= self._max_age_s:
            return self.fresh()
        return self._value

    def fresh(self) -> str | None:
        self._remember(self._state.get(self._name))
        return self._value

    def put(self, value: str, ttl_s: float | None) -> None:
        self._state.put(self._name, value, ttl_s)
        self._remember(value)

    def compare_and_set(
        self, expected: str | None, value: str | None, ttl_s: float | None = None
    ) -> bool:
        if not self._state.compare_and_set(self._name, expected, value, ttl_s):
            self._read_at = None
            return False
        self._remember(value)
        return True

    def _remember(self, value: str | None) -> None:
        self._value = value
        self._read_at = self._monotonic()
