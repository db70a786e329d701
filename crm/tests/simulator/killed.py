"""A machine that is switched off again and again: one process does everything our side does, one
step after the other, and is ended by SIGKILL at a moment that nobody chose. People in the CRM work
on meanwhile.

The steps and the moments are drawn from the seed; what a moment meets is the machine's own doing,
so a seed that fails may have to be run more than once to fail again.
"""

from __future__ import annotations

import random
import signal
import time
import traceback
from dataclasses import dataclass

from crm import tasks
from crm.sync import runs
from crm.sync.execute import execute
from crm.tests import notices
from crm.tests.processes import child
from crm.tests.simulator.book import Book
from crm.tests.simulator.both_sides import BothSides
from crm.writeback import switch

STEPS = 10
KINDS = ("edit", "edit", "send", "send", "sync", "notices")
LONGEST_LIFE_S = 0.6
FIRST_LIFE_S = 0.2  # too short for all of the steps
MOST_LIVES = 200


@dataclass
class KilledAgainAndAgain(BothSides):
    """The steps of a schedule in processes of their own; the judge is the same."""

    lives: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chance = 0.0  # of acts between two calls: those are left to the moments
        self.error = self.folder / "error"
        self.moments = random.Random(f"moments {self.seed}")
        self.book = Book(self.crm.sandbox.db, self.folder / "book")
        self.users.book = self.book

    def _choose_sizes(self) -> None:
        """The real threads, and waiting times that a test can wait for."""
        self.monkeypatch.setattr(tasks, "nudge", lambda *_: True)
        self.crm.settings.WEBHOOK_TOKENS = [notices.LIVE]

    def _live_through(self) -> None:
        kinds = [self.rng.choice(KINDS) for _ in range(STEPS)]
        longest, done = FIRST_LIFE_S, 0
        while done < len(kinds) and not self.wrong:
            self.lives += 1
            if self.lives > MOST_LIVES:
                self.wrong.append(f"after {MOST_LIVES} lives it is not through")
            self._live_once(kinds, longest)
            before, done = done, len(self._done())
            # A step must come to its end at last, on a machine however busy.
            longest = LONGEST_LIFE_S if done > before else longest * 1.3

    def _done(self) -> set[int]:
        return {line["step"] for line in self.book.lines() if line["what"] == "step"}

    def _live_once(self, kinds: list[str], longest: float) -> None:
        """A process, until it is through or is killed; people in the CRM act while it runs."""
        self.people.look_again()
        self._let_time_pass()
        for module, record, operation in self.people.postman.bring():
            notices.tell(record, module=module, operation=operation)
            self.tally["notices"] += 1
        self.people.at_once(self.moments.randint(0, 2))
        with child(lambda: self._work(kinds)) as process:
            ends = time.monotonic() + self.moments.random() * longest
            acts = sorted(self.moments.random() * longest for _ in range(2))
            while time.monotonic() < ends and process.poll() is None:
                if acts and time.monotonic() > ends - acts[0]:
                    acts.pop(0)
                    self.people.at_once(1)
                time.sleep(0.002)
            if process.poll() is None:
                process.signal(signal.SIGKILL)
            status = process.wait()
        self.tally["lives"] += 1
        self.tally["kills"] += status == -signal.SIGKILL
        self._note(f"life {self.lives} ended with {status}, {len(self._done())} steps are done")
        if status not in (0, -signal.SIGKILL):
            self.wrong.append(f"life {self.lives} raised: {self.error.read_text()}")

    # -- in a process of its own ------------------------------------------------------------------

    def _work(self, kinds: list[str]) -> None:
        """What is left to do, one step after the other."""
        try:
            self._wake_up()
            for step in sorted({*range(len(kinds))} - self._done()):
                getattr(self, f"_{kinds[step]}")()
                self.book.add("step", step=step)
        except BaseException:
            self.error.write_text(traceback.format_exc())
            raise

    def _wake_up(self) -> None:
        """Who comes to life asks what was done, and how things stand."""
        self.users.settle_last()
        acts = (line["n"] for line in self.book.lines() if line["what"] == "act")
        self.users.acts_done = max(acts, default=0)
        self.users.rng = random.Random(f"users {self.seed} {self.lives}")
        self.users.begin_with(self.lives * 100)
        self.book.add("switch", mode="killed" if switch.is_killed() else switch.mode())

    def _edit(self) -> None:
        self.users.act(self.users.rng.randint(1, 4))

    def _send(self) -> None:
        if self.users.rng.random() < 0.9:
            self.users.switch_on()
        self._send_once()

    def _sync(self) -> None:
        tasks.sweep()
        if runs.active_run() is None:
            kind = runs.DELTA if self.users.rng.random() < 0.7 else runs.FULL
            run = runs.request_run(kind=kind, trigger="schedule", nudge=False)
            execute(run.pk)

    def _notices(self) -> None:
        self._sweep_notices()
