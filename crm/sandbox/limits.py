"""How much a client may ask: credits over a rolling day, calls at once, heavy calls at once.

The credits spent are written beside the database once a second, so that a restart does not make
the org rich again; a kill forgets that second.
"""

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crm.sandbox.clock import Clock
from crm.sandbox.errors import too_many_requests

CONCURRENCY = {"free": 5, "standard": 10, "professional": 15, "enterprise": 20, "ultimate": 25}
SUB_CONCURRENCY = 10
DAY_S = 86_400
SLOT_S = 60
KEEP_EVERY_S = 1.0


def credits_of(edition: str, users: int) -> int:
    """Credits a day of an edition with so many user licences."""
    if edition == "free":
        return 5_000
    per_user, cap = {
        "standard": (250, 100_000),
        "professional": (500, 3_000_000),
        "enterprise": (1_000, 5_000_000),
        "ultimate": (2_000, None),
    }[edition]
    total = 50_000 + per_user * users
    return total if cap is None else min(total, cap)


class Limits:
    """The org's account of credits and of calls in flight. Thread-safe."""

    def __init__(self, clock: Clock, credits: int, concurrency: int) -> None:
        self.clock = clock
        self.credits = credits
        self.concurrency = concurrency
        self.in_flight = 0
        self.heavy_in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()
        self._slots: deque[list[int]] = deque()
        self._spent = 0
        self._kept: Path | None = None
        self._written = 0

    def start(self, kept: Path) -> None:
        """Take up what was spent before, and keep what is spent from now on in that file."""
        with contextlib.suppress(FileNotFoundError):
            self._slots = deque(json.loads(kept.read_text()))
            self._spent = sum(credits for _, credits in self._slots)
        self._kept, self._written = kept, self._spent
        threading.Thread(target=self._keep_writing, daemon=True, name="credits").start()

    def keep(self) -> None:
        """Write what was spent, if it is more than was written."""
        with self._lock:
            if self._kept is None or self._spent == self._written:
                return
            text, self._written = json.dumps(list(self._slots)), self._spent
        partial = self._kept.with_name(self._kept.name + ".part")
        partial.write_text(text)
        partial.replace(self._kept)

    def _keep_writing(self) -> None:
        pause = threading.Event()
        while not pause.wait(KEEP_EVERY_S):
            with contextlib.suppress(OSError):  # the folder is gone: a test has ended
                self.keep()

    @contextmanager
    def admit(self, heavy: bool) -> Iterator[None]:
        """Hold one place while a call runs; 429 if there is none or the credits are gone."""
        with self._lock:
            self._forget_old()
            if self._spent >= self.credits:
                raise too_many_requests("You have exceeded the API credits of the last 24 hours")
            if self.in_flight >= self.concurrency:
                raise too_many_requests("You have reached the limit of concurrent calls")
            if heavy and self.heavy_in_flight >= SUB_CONCURRENCY:
                raise too_many_requests(
                    "You have reached the limit of concurrent calls of this API"
                )
            self.in_flight += 1
            self.heavy_in_flight += heavy
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
                self.heavy_in_flight -= heavy

    def spend(self, credits: int) -> None:
        """Book what a call cost."""
        slot = int(self.clock.time()) // SLOT_S
        with self._lock:
            if self._slots and self._slots[-1][0] == slot:
                self._slots[-1][1] += credits
            else:
                self._slots.append([slot, credits])
            self._spent += credits

    @property
    def spent(self) -> int:
        """Credits used in the last 24 hours."""
        with self._lock:
            self._forget_old()
            return self._spent

    def remaining_header(self) -> str | None:
        """The header's value; None while less than half is used, when the CRM sends none."""
        spent = self.spent
        return str(max(0, self.credits - spent)) if spent * 2 >= self.credits else None

    def _forget_old(self) -> None:
        oldest = (int(self.clock.time()) - DAY_S) // SLOT_S
        while self._slots and self._slots[0][0] <= oldest:
            self._spent -= self._slots.popleft()[1]
