"""Schedules in which what is read and what happens meet as often as they can.

The common schedule does everything now and then, and hardly ever in the gap where it would tell a
wrong reader from a right one. Here a few deals are edited and deleted in nearly every gap between
two pages: of full syncs with deltas within (a page is stored after a newer state of its records; a
record moves into a page that is read already), and of deltas by pages whose window is many pages
wide and closed when the next one begins.
"""

from __future__ import annotations

from typing import Any

from crm import tasks
from crm.models import SyncRun
from crm.sync import reading, runs
from crm.sync.execute import execute
from crm.tests.simulator import judge
from crm.tests.simulator.people import Command, People
from crm.tests.simulator.schedule import Schedule

ROUNDS = 2
WINDOW = 24  # deals that change before a delta: several pages
GAPS = {runs.FULL: 24, runs.DELTA: 10}  # requests of a run, about
PAUSE_S = 700  # longer than the overlap: what a delta missed, the next one does not meet


class Busy(People):
    """The same few deals again and again; who goes is the oldest or the newest."""

    share_of_edits = 0.75

    def draw(self) -> list[Command]:
        self.edits += 1
        is_edit = self.rng.random() < self.share_of_edits
        act = self._edit_one_of_few if is_edit else self._one_goes
        return [*self.pass_time(self.rng.choice([0, 1, 2])), *act()]

    def _edit_one_of_few(self) -> list[Command]:
        return self.change(self.rng.choice(self.alive["Deals"][-WINDOW:]))

    def change(self, deal: int) -> list[Command]:
        return self._edit("Deals", deal, {"Next_Step": f"{deal} {self.offset_s} {self.edits}"})

    def _one_goes(self) -> list[Command]:
        """Behind it everything moves up by one place, whichever the order."""
        if not self._may_take("Deals"):
            return []
        place = self.rng.choice([0, -1, -2, -WINDOW // 2])
        return self._take("Deals", self.alive["Deals"][place], "recycle")


class Races(Schedule):
    """Full syncs with deltas within, and deltas by pages; then at rest, as ever."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.people: Busy = Busy(self.crm.sandbox, self.seed, self.people.start)

    def _choose_sizes(self) -> None:
        super()._choose_sizes()
        self.monkeypatch.setattr(reading, "RANGE_ROWS", self.rng.choice([6, 12]))
        self.monkeypatch.setattr(reading, "PAGE_ROWS", self.rng.choice([4, 6]))

    def _step(self, number: int) -> None:
        if not number:
            self._plainly(runs.FULL, "auto")
        for _ in range(ROUNDS):
            if self.wrong:
                return
            self._pause()
            self._full_amid_edits() if self.rng.random() < 0.5 else self._delta_by_pages()

    def _pause(self) -> None:
        for command in self.people.pass_time(PAUSE_S):
            self.people.carry_out(command)
        self._set_clock()

    def _delta_by_pages(self) -> None:
        self._choose_scopes(has_coql=False)
        for deal in self.people.alive["Deals"][-WINDOW:]:
            for command in [*self.people.pass_time(1), *self.people.change(deal)]:
                self.people.carry_out(command)
        self._pause()
        self.people.share_of_edits = self.rng.choice([1, 0.2])  # a deletion has all read again
        self._amid_edits(runs.DELTA, "auto")
        self._pause()
        self._sync_until_good(runs.DELTA)
        self._check("after a delta", judge.after_a_delta(self.people))

    def _full_amid_edits(self) -> None:
        self._choose_scopes(has_coql=True)
        self.people.share_of_edits = 0.75
        self._amid_edits(runs.FULL, self.rng.choice(["auto", "pages"]))

    def _amid_edits(self, kind: str, method: str) -> None:
        gaps = GAPS[kind]
        self.quiet_from = self.crm.requests() + gaps
        for after in range(2, gaps):
            for command in self.people.draw():
                self.crm.control("hook", after_requests=after, run=command)
        run = runs.request_run(
            kind=kind, trigger="command", module_names=["Deals"], method=method, nudge=False
        )
        execute(run.pk, on_page=self._let_delta_in)
        self._note_run(SyncRun.objects.get(pk=run.pk))
        self._drain()
        tasks._close_orphans()

    def _let_delta_in(self, *_: Any) -> None:
        if self.rng.random() < 0.4:
            tasks.request_scheduled(runs.DELTA, self.people.now)
