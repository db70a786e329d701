"""Leave a CRM that is down alone.

Decides when to stop calling (failures in a row), for how long, and who may try first. Leaves
what counts as a failure to `transport`: a 429 or a refusal comes from a CRM that is well.

State is shared by all processes and read at most once a second. Calls that ran side by side and
fail together count once: a short hiccup under ten threads is one failure, not ten.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from crm.zoho.errors import BreakerOpen
from crm.zoho.limits import Patience, Timing
from crm.zoho.state import CachedValue, SharedState

_MEMORY_S = 600.0  # failures older than this are no longer "in a row"


@dataclass(frozen=True)
class _Weather:
    failures: int = 0
    failed_at: float = 0.0
    open_until: float = 0.0
    probe_until: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> _Weather:
        if not text:
            return cls()
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return cls()


def shared_name(base_url: str) -> str:
    """Under which the failures of the CRM at this address are shared."""
    return f"zoho:breaker:{base_url.rstrip('/').split('//')[-1]}"


def failures_in(text: str | None) -> int:
    """How many calls in a row have failed, by what is shared; 0 for a CRM that answers."""
    return _Weather.read(text).failures


class Breaker:
    """`admit` before a request, then `succeeded` or `failed`; a probe may also `abandon`."""

    def __init__(
        self, shared: SharedState, host: str, *, timing: Timing, patience: Patience
    ) -> None:
        self._host = host
        self._timing = timing
        self._patience = patience
        self._guard = threading.RLock()
        self._value = CachedValue(
            shared,
            shared_name(host),
            max_age_s=patience.state_cache_s,
            monotonic=timing.monotonic,
        )

    def admit(self) -> bool:
        """Returns if the CRM may be called; raises BreakerOpen with the time to wait.

        Once the rest is over exactly one caller of all processes gets through as the probe, and
        is told so by True.
        """
        if not self._value.get():
            return False
        with self._guard:
            text = self._value.fresh()
            weather = _Weather.read(text)
            if not weather.open_until:
                return False
            now = self._timing.wall()
            if now < weather.open_until:
                raise self._open(weather.open_until - now)
            if now < weather.probe_until:
                raise self._open(min(1.0, weather.probe_until - now))
            probing = _Weather(
                weather.failures,
                weather.failed_at,
                weather.open_until,
                now + self._patience.exchange_s,
            )
            if not self._swap(text, probing):
                raise self._open(1.0)
            return True

    def raise_if_resting(self) -> None:
        """Raises BreakerOpen while nobody may call; never takes the place of the probe."""
        rest_s = _Weather.read(self._value.get()).open_until - self._timing.wall()
        if rest_s > 0:
            raise self._open(rest_s)

    def succeeded(self) -> None:
        if self._value.get():
            with self._guard:
                self._value.compare_and_set(self._value.fresh(), None)

    def failed(self, started_at: float) -> None:
        """One failed request that began at `started_at` (wall clock)."""
        with self._guard:
            for _ in range(5):
                text = self._value.fresh()
                weather = _Weather.read(text)
                if weather.failures and started_at < weather.failed_at:
                    return
                now = self._timing.wall()
                failures = weather.failures + 1
                opens = failures >= self._patience.breaker_failures
                rest = now + self._patience.breaker_open_s if opens else 0.0
                if self._swap(text, _Weather(failures, now, rest)):
                    return

    def abandon(self) -> None:
        """The probe was not sent, or said nothing about the CRM: free its place."""
        with self._guard:
            text = self._value.fresh()
            weather = _Weather.read(text)
            if weather.probe_until:
                self._swap(text, _Weather(weather.failures, weather.failed_at, weather.open_until))

    def _swap(self, text: str | None, weather: _Weather) -> bool:
        life = _MEMORY_S + self._patience.breaker_open_s
        return self._value.compare_and_set(text, json.dumps(asdict(weather)), life)

    def _open(self, wait_s: float) -> BreakerOpen:
        again = datetime.fromtimestamp(self._timing.wall() + wait_s, UTC)
        return BreakerOpen(
            f"The CRM at {self._host} failed {self._patience.breaker_failures} times in a row and "
            f"is left alone until {again:%H:%M:%S} UTC, then tried again by itself.",
            code="breaker_open",
            retry_after_s=max(wait_s, 0.0),
        )
