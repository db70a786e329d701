"""Calls at once, shared by all processes of an installation.

Decides how many calls each client may have under way, so that all together stay below what the
CRM's edition allows. Leaves holding back single calls to `limits.Gate`.

A client leases slots for half a minute and renews them while it calls: a write every ten seconds,
not two per call (SQLite has one writer). A process that died gives its slots back by letting them
lapse, or as soon as another one on its machine looks.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from crm.zoho.errors import RateLimited
from crm.zoho.limits import Gate, Timing
from crm.zoho.state import SharedState

LEASE_S = 30.0
RENEW_S = 10.0
_POLL_S = 0.5
_FOR_PEOPLE = 2  # slots that runs leave to pages and checks
_MEMORY_S = 86_400.0


@dataclass(frozen=True)
class _Book:
    """Who holds how many until when, and the organisation's limit once it is known."""

    limit: int | None
    held: dict[str, tuple[int, float]]

    @classmethod
    def read(cls, text: str | None) -> _Book:
        try:
            kept = json.loads(text or "{}")
            held = {str(owner): (int(n), float(t)) for owner, (n, t) in kept["held"].items()}
            limit = None if kept["limit"] is None else int(kept["limit"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(None, {})
        return cls(limit, held)

    def write(self) -> str:
        return json.dumps({"limit": self.limit, "held": self.held}, sort_keys=True)


class SharedSlots:
    """`refresh` before a call; sets the gate to what this client may have at once."""

    def __init__(
        self,
        shared: SharedState,
        name: str,
        *,
        gate: Gate,
        wanted: int,
        is_run: bool,
        timing: Timing,
        wait: Callable[[float], None],
    ) -> None:
        self._shared = shared
        self._name = f"zoho:slots:{name}"
        self._gate = gate
        self._wanted = max(1, wanted)
        self._is_run = is_run
        self._timing = timing
        self._wait = wait
        self._guard = threading.Lock()
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        self._renew_at = float("-inf")
        self._holds = False

    def refresh(self, budget_s: float) -> None:
        """Hold at least one slot. RateLimited if none comes free within `budget_s`."""
        if self._timing.monotonic() < self._renew_at:
            return
        give_up_at = self._timing.monotonic() + budget_s
        while not self._lease_once():
            if self._timing.monotonic() >= give_up_at:
                raise RateLimited(
                    "All calls that the CRM allows at once are in use by other runs of this "
                    "installation. It goes on by itself.",
                    code="own_concurrency",
                    retry_after_s=RENEW_S,
                )
            self._wait(_POLL_S)

    def learn(self, limit: int) -> None:
        """The organisation allows `limit` calls at once: true for every client from now on."""
        for _ in range(5):
            text = self._shared.get(self._name)
            book = _Book.read(text)
            if book.limit == limit:
                break
            if self._swap(text, _Book(limit, book.held)):
                break
        self._renew_at = float("-inf")

    def release(self) -> None:
        """Give the slots back; what fails here lapses by itself."""
        if not self._holds:
            return
        with suppress(Exception):
            text = self._shared.get(self._name)
            book = _Book.read(text)
            held = {owner: kept for owner, kept in book.held.items() if owner != self._owner}
            self._swap(text, _Book(book.limit, held))

    def _lease_once(self) -> bool:
        with self._guard:
            if self._timing.monotonic() < self._renew_at:
                return True
            text = self._shared.get(self._name)
            book = _Book.read(text)
            now = self._timing.wall()
            # A life longer than a lease was written by a clock that has gone back since.
            others = {
                owner: (n, until)
                for owner, (n, until) in book.held.items()
                if owner != self._owner
                and now < until <= now + LEASE_S + 5
                and not _has_died(owner)
            }
            granted = self._share(book.limit, sum(n for n, _ in others.values()))
            if granted < 1:
                return False
            mine = {self._owner: (granted, now + LEASE_S)}
            if not self._swap(text, _Book(book.limit, {**others, **mine})):
                return False
            self._gate.set_ceiling(granted)
            self._holds = True
            self._renew_at = self._timing.monotonic() + RENEW_S
            return True

    def _share(self, limit: int | None, taken: int) -> int:
        if limit is None:  # the edition is not known: what was configured, and some for people
            return min(self._wanted, self._wanted + _FOR_PEOPLE - taken)
        reserve = min(_FOR_PEOPLE, max(0, limit - 1) // 2) if self._is_run else 0
        return min(self._wanted, limit - reserve - taken)

    def _swap(self, text: str | None, book: _Book) -> bool:
        return self._shared.compare_and_set(self._name, text, book.write(), _MEMORY_S)


def _has_died(owner: str) -> bool:
    """Whether the owner is a process of this machine that is no more."""
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdecimal() or int(rest) < 1:
        return False
    try:
        os.kill(int(rest), 0)  # signal 0 only asks
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
