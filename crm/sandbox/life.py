"""A life of its own: people work in the CRM while nobody from outside asks.

A thread lets so many acts a minute happen, or control `live` lets some happen now; what they are
stands in `life_acts.py`. The same seed and data give the same acts on the same records; when they
happen is the clock's.
"""

import random
import sys
import threading
import traceback
from typing import Any

from crm.sandbox.life_acts import Acts
from crm.sandbox.store import Store


class Life:
    """The thread and its pace. `edits_per_minute` may be changed at any time; 0 rests."""

    def __init__(self, store: Store, edits_per_minute: float, seed: int) -> None:
        self.store = store
        self.edits_per_minute = edits_per_minute
        self._acts = Acts(store, random.Random(f"life {seed}"))
        self._pace = random.Random(f"pace {seed}")
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="life").start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            rate = self.edits_per_minute
            pause.wait(min(0.5, 60 / rate) if rate > 0 else 0.5)
            if rate > 0 and (60 / rate <= 0.5 or self._pace.random() < 0.5 * rate / 60):
                self._live()

    def _live(self) -> None:
        try:
            self.act()
        except Exception:
            traceback.print_exc(file=sys.stderr)

    def act(self) -> dict[str, Any]:
        """One thing that somebody does now: {"act", "module", "id"}; id None: nothing to do."""
        with self._lock, self.store.write() as tx:
            return self._acts.one(tx)
