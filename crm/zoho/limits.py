"""How patient the library is, and how many calls it allows itself.

Decides: the numbers of patience, permits per minute shared by all processes, the shared pause
after a 429, the gate for calls at once. Leaves the retry loop to `transport`, sharing the calls at
once between processes to `slots`, and which run stops at which floor of credits to the sync.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from crm.zoho.errors import RateLimited
from crm.zoho.state import CachedValue, SharedState

HEAVY_AT_ONCE = 8  # the CRM allows 10 heavy calls at once in every edition; two stay free
RESERVE = 2  # of an edition's concurrency, for other programs of the same connection

# edition: (calls at once, credits a day, credits a user, cap)
_EDITIONS: dict[str, tuple[int, int, int, int | None]] = {
    "free": (5, 5_000, 0, 5_000),
    "standard": (10, 50_000, 250, 100_000),
    "starter": (10, 50_000, 250, 100_000),
    "professional": (15, 50_000, 500, 3_000_000),
    "enterprise": (20, 50_000, 1_000, 5_000_000),
    "zohoone": (20, 50_000, 1_000, 5_000_000),
    "ultimate": (25, 50_000, 2_000, None),
    "crmplus": (25, 50_000, 2_000, None),
}


@dataclass(frozen=True)
class Patience:
    """Every waiting time and bound of the library, in seconds, bytes and counts."""

    connect_s: float = 5.0
    read_s: float = 20.0
    exchange_s: float = 45.0  # one request with its whole answer, however slowly it drips
    tries: int = 6
    first_delay_s: float = 1.0
    last_delay_s: float = 60.0
    total_s: float = 600.0
    retry_after_max_s: float = 900.0
    max_body_bytes: int = 20 * 1024 * 1024
    download_s: float = 300.0  # a file of 200,000 records, whole
    max_file_bytes: int = 1024 * 1024 * 1024
    mint_interval_s: float = 60.0
    mint_blocked_s: float = 600.0
    refused_for_s: float = 900.0
    token_life_share: float = 0.8
    breaker_failures: int = 5
    breaker_open_s: float = 60.0
    state_cache_s: float = 1.0
    outlast_rest: bool = True  # a run under way waits for a CRM that is left alone

    def with_overrides(self, overrides: Mapping[str, float]) -> Patience:
        """The same with other numbers. Raises ValueError for a name it does not know."""
        known = {field.name for field in fields(self)}
        unknown = sorted(set(overrides) - known)
        if unknown:
            raise ValueError(f"unknown patience: {', '.join(unknown)}")
        return replace(self, **overrides)  # type: ignore[arg-type]

    def delay_before(self, next_try: int, jitter: Callable[[float, float], float]) -> float:
        """Full jitter below a cap that grows from the first delay to the last over all tries."""
        steps = max(1, self.tries - 2)
        growth = (self.last_delay_s / self.first_delay_s) ** (max(0, next_try - 2) / steps)
        return jitter(0.0, min(self.last_delay_s, self.first_delay_s * growth))


@dataclass(frozen=True)
class Timing:
    """The clocks, the sleep and the dice, so that a test can hold them.

    `sleep` None means: an interruptible wait that ends when the client is closed.
    """

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] | None = None
    jitter: Callable[[float, float], float] = random.uniform


def concurrency_of(edition: str) -> int | None:
    """Calls an edition allows at once, or None for an edition we do not know."""
    known = _edition(edition)
    return known[0] if known else None


def daily_credits(edition: str, users: int) -> int | None:
    """API credits of 24 hours, or None for an edition we do not know."""
    known = _edition(edition)
    if known is None:
        return None
    _, base, per_user, cap = known
    total = base + per_user * users
    return total if cap is None else min(total, cap)


def is_at_floor(remaining: int, total: int, percent: float) -> bool:
    """Whether no more than this share of the day's credits is left."""
    return remaining * 100 <= total * percent


def _edition(name: str) -> tuple[int, int, int, int | None] | None:
    return _EDITIONS.get(name.lower().replace(" ", "").replace("_", ""))


class RateLimiter:
    """Permits per minute shared by all processes, and the shared pause after a 429.

    Permits come from the shared bucket in chunks that grow while they are used up fast: a burst
    costs few writes to the shared state (SQLite has one writer), a trickle hoards nothing.
    """

    _STALE_S = 10.0
    _FAST_S = 2.0

    def __init__(
        self,
        shared: SharedState,
        name: str,
        *,
        per_minute: int,
        timing: Timing,
        patience: Patience,
        wait: Callable[[float], None],
    ) -> None:
        self._shared = shared
        self._bucket = f"zoho:rate:{name}"
        self._per_minute = max(1, per_minute)
        self._timing = timing
        self._wait = wait
        self._guard = threading.Lock()
        self._permits = 0
        self._taken_at = float("-inf")
        self._chunk = 1
        self._largest_chunk = max(1, min(50, self._per_minute // 10))
        self._pause_until = CachedValue(
            shared,
            f"zoho:pause:{name}",
            max_age_s=patience.state_cache_s,
            monotonic=timing.monotonic,
        )

    def acquire(self, budget_s: float) -> None:
        """Wait for a permit; RateLimited when that would take longer than `budget_s`."""
        give_up_at = self._timing.monotonic() + budget_s
        while True:
            wait_s = self._pause_left() or self._try_take()
            if not wait_s:
                return
            if self._timing.monotonic() + wait_s > give_up_at:
                raise RateLimited(
                    "Calls to the CRM are paused or used up for this minute. It goes on by itself; "
                    "RATE_LIMIT_CALLS_PER_MINUTE sets how many are allowed.",
                    code="own_rate_limit",
                    retry_after_s=wait_s,
                )
            self._wait(wait_s)

    def pause(self, seconds: float) -> None:
        """All processes hold their calls for `seconds`; a longer pause stands."""
        if seconds <= 0:
            return
        with self._guard:
            self._permits = 0
            until = self._timing.wall() + seconds
            if until > _number(self._pause_until.fresh()):
                self._pause_until.put(repr(until), seconds)

    def _pause_left(self) -> float:
        left = _number(self._pause_until.get()) - self._timing.wall()
        if left <= 0:
            return 0.0
        # Not all at the same instant: what follows a pause would be the next burst.
        return left + self._timing.jitter(0.0, min(1.0, left / 4))

    def _try_take(self) -> float:
        with self._guard:
            now = self._timing.monotonic()
            if self._permits and now - self._taken_at < self._STALE_S:
                self._permits -= 1
                return 0.0
            fast = now - self._taken_at < self._FAST_S
            self._chunk = min(self._largest_chunk, self._chunk * 2) if fast else 1
            taken = self._shared.take(self._bucket, self._chunk, self._per_minute)
            if not taken.granted:
                return max(taken.wait_s, 0.001)
            self._permits = taken.granted - 1
            self._taken_at = now
            return 0.0


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


class Gate:
    """Calls at once in this process; halves on a concurrency 429, grows back by success."""

    _GROW_EVERY = 20

    def __init__(self, limit: int, heavy_limit: int = HEAVY_AT_ONCE) -> None:
        self._changed = threading.Condition()
        self._ceiling = max(1, limit)
        self._limit = self._ceiling
        self._heavy_limit = max(1, heavy_limit)
        self._inside = 0
        self._heavy_inside = 0
        self._successes = 0

    @property
    def limit(self) -> int:
        return self._limit

    @contextmanager
    def enter(self, *, heavy: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(heavy))
            self._inside += 1
            self._heavy_inside += heavy
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._heavy_inside -= heavy
                self._changed.notify_all()

    def set_ceiling(self, ceiling: int) -> None:
        """At most `ceiling` from now on; a gate that a 429 made smaller stays small."""
        with self._changed:
            was_full = self._limit == self._ceiling
            self._ceiling = max(1, ceiling)
            self._limit = self._ceiling if was_full else min(self._limit, self._ceiling)
            self._changed.notify_all()

    def shrink(self) -> None:
        with self._changed:
            self._limit = max(1, self._limit // 2)
            self._successes = 0

    def succeeded(self) -> None:
        if self._limit >= self._ceiling:
            return
        with self._changed:
            self._successes += 1
            if self._successes >= self._GROW_EVERY and self._limit < self._ceiling:
                self._successes = 0
                self._limit += 1
                self._changed.notify_all()

    def _has_room(self, heavy: bool) -> bool:
        if self._inside >= self._limit:
            return False
        return not heavy or self._heavy_inside < self._heavy_limit
