"""One seed → one schedule, from an empty mirror to a CRM at rest."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

from crm import tasks
from crm.errors import SyncUnderWay
from crm.models import ChangeEvent, SyncRun
from crm.models import runs as ledger
from crm.sync import deletions, reading, runs, session
from crm.sync.execute import execute
from crm.tests.processes import run_in_child
from crm.tests.simulator import judge, machine, weather
from crm.tests.simulator.people import MODULES, People
from crm.tests.synced import Crm

START = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
MOST_DELTAS = 4
REQUESTS_OF_A_RUN = 22
PAUSES = (0, 1, 30, 300, 720, 3000, 11_000)
SCOPES = ("ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL", "ZohoCRM.users.READ", "ZohoCRM.org.READ")
FOR_QUERIES = "ZohoCRM.coql.READ"
LEAPS = (timedelta(hours=2), timedelta(hours=-2), timedelta(days=-3), timedelta(days=4400))


@dataclass
class Schedule:
    """`run` it; `wrong` then holds what does not hold, `trace` what was done.

    `is_really_killed`: every run happens in a child process, and SIGKILL ends it.
    """

    seed: int
    crm: Crm
    monkeypatch: Any
    is_really_killed: bool = False
    trace: list[str] = field(default_factory=list)
    tally: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"schedule {self.seed}")
        self.crm.control("config", mint_limit=1000, credits=10**9)
        self.people = People(self.crm.sandbox, self.seed, START)
        self.leap = timedelta(0)
        self.quiet_from = 0  # requests after which no act is left hanging
        self._choose_sizes()

    def _choose_sizes(self) -> None:
        rng, patch = self.rng, self.monkeypatch.setattr
        patch(reading, "RANGE_ROWS", rng.choice([6, 15, 45]))
        patch(reading, "PAGE_ROWS", rng.choice([6, 12, 30]))
        patch(reading, "STORED_AT_ONCE", rng.choice([5, 50]))
        patch(deletions, "IDS_PER_CALL", rng.choice([2, 5, 50]))
        patch(session, "BETWEEN_CHECKS_S", 0.0)
        zoho = replace(self.crm.settings.ZOHO, concurrency=rng.choice([1, 2, 3, 4]))
        self.crm.settings.ZOHO = zoho

    def run(self) -> Schedule:
        machine.empty_the_mirror()
        with time_machine.travel(START) as self.clock:
            for number in range(self.rng.choice([1, 2, 2, 3, 3, 4])):
                with machine.drawn_reads(self.monkeypatch, (self.seed, number)):
                    self._step(number)
                if self.wrong:
                    return self
            with machine.drawn_reads(self.monkeypatch, (self.seed, "rest")):
                self._come_to_rest()
        return self

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.people.offset_s:>7} {text}")

    def _note_run(self, run: SyncRun) -> None:
        counted = {name: getattr(run, name) for name in runs.COUNTERS}
        told = {name: number for name, number in counted.items() if number}
        self._note(f"→ {run.kind} {run.status} {run.error_code} {run.api_calls} calls, {told}")

    def _check(self, what: str, found: Any) -> None:
        self.wrong += [f"{what}: {line}" for line in found]

    # -- one step --------------------------------------------------------------------------------

    def _step(self, number: int) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            self.people.at_once(rng.randint(1, 8))
        self._let_time_pass()
        if rng.random() < 0.06:
            self._lose_sight()
            return
        if rng.random() < 0.4:
            self._choose_scopes(rng.random() < 0.5)
        kind = runs.DELTA if number and rng.random() < 0.65 else runs.FULL
        method = "pages" if rng.random() < 0.3 else "auto"
        hung = self._hang_between_requests() if rng.random() < 0.75 else 0
        if rng.random() < 0.4:
            self._spoil(rng.randint(1, 3))
        way = rng.choice(
            [self._plainly, self._plainly, self._to_a_death, self._to_a_death, self._to_a_stop,
             self._overtaken, self._with_a_delta_within]
        )  # fmt: skip
        if self.is_really_killed:
            way = self._to_a_death
        self._note(f"{kind} by {method}, {way.__name__}, {hung} acts between its requests")
        way(kind, method)
        self._drain()
        self.crm.control("clear_faults")
        last = SyncRun.objects.order_by("-pk").first()
        if last is not None:
            self._note_run(last)

    def _let_time_pass(self) -> None:
        """Both clocks move on; at times ours leaps besides, as a wrong NTP server makes it."""
        seconds = self.rng.choice(PAUSES)
        if self.rng.random() < 0.03:
            seconds = 86_400 * self.rng.choice([61, 130])
            self.people.forget_deletions()
        for command in self.people.pass_time(seconds):
            self.people.carry_out(command)
        if self.rng.random() < 0.2:
            self.leap = timedelta(0) if self.leap else self.rng.choice(LEAPS)
            self.tally["leaps"] += 1
            self._note(f"our clock is {self.leap} ahead")
        self._set_clock()

    def _set_clock(self) -> None:
        self.clock.move_to(self.people.now + self.leap)

    def _choose_scopes(self, has_coql: bool) -> None:
        self.crm.control("config", scopes=[*SCOPES, *([FOR_QUERIES] if has_coql else [])])
        self._note("queries are allowed" if has_coql else "queries are not allowed")

    def _spoil(self, number: int) -> None:
        chosen = weather.rules(self.rng, number)
        if self.rng.random() < 0.15:
            chosen.append(weather.lagging_list(self.rng.choice(MODULES)))
            self.people.forget_deletions()
        self.crm.control("faults", rules=chosen)
        self.tally["faults"] += len(chosen)
        self._note(f"faults {chosen}")

    def _hang_between_requests(self) -> int:
        """Acts of people, each just before some answer of the coming run is sent."""
        number = self.rng.randint(1, 10)
        self.quiet_from = self.crm.requests() + REQUESTS_OF_A_RUN
        for after in sorted(self.rng.randint(1, REQUESTS_OF_A_RUN) for _ in range(number)):
            for command in self.people.draw():
                self.crm.control("hook", after_requests=after, run=command)
        return number

    def _drain(self) -> None:
        """Whatever the run asked too little for happens now."""
        self.crm.sandbox.knock(self.quiet_from - self.crm.requests())
        self._set_clock()

    # -- ways a run can go -----------------------------------------------------------------------

    def _request(self, kind: str, method: str) -> SyncRun | None:
        try:
            return runs.request_run(kind=kind, trigger="schedule", method=method, nudge=False)
        except SyncUnderWay as error:
            return error.run

    def _plainly(self, kind: str, method: str) -> None:
        run = self._request(kind, method)
        execute(run.pk)
        self.tally["runs"] += 1

    def _to_a_death(self, kind: str, method: str) -> None:
        """Killed at a place, once or twice, with people at work in between; then gone on with."""
        run = self._request(kind, method)
        self._die_in(lambda: execute(run.pk))
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            self._drain()
            self.people.at_once(self.rng.randint(0, 3))
            self._let_time_pass()
            self._die_in(tasks.sweep)
        machine.sweep_until_idle(lambda: runs.active_run() is not None)
        self.tally["runs"] += 1

    def _die_in(self, work: Callable[[], object]) -> None:
        place = machine.draw_place(self.rng)
        if self.is_really_killed:
            has_died = run_in_child(work, f"{place}=kill") != 0
        else:
            has_died = machine.dies(work, place)
        self.tally["kills"] += has_died
        self._note(f"{place} {'was deadly' if has_died else 'was not reached'}")

    def _to_a_stop(self, kind: str, method: str) -> None:
        """A deploy ends the worker between two pages, or a person presses Ctrl-C."""
        run = self._request(kind, method)
        pages, last = iter(range(10_000)), self.rng.randint(0, 8)
        how = self.rng.choice(["set_aside", "abort"])
        execute(run.pk, should_stop=lambda: next(pages) == last, on_interrupt=how)
        self.tally["runs"] += 1
        self._drain()
        machine.sweep_until_idle(lambda: runs.active_run() is not None)

    def _overtaken(self, kind: str, method: str) -> None:
        """The worker freezes past its lease; another ends the run; the first wakes and goes on."""
        run = self._request(kind, method)
        pages, nth, after = iter(range(10_000)), self.rng.randint(0, 5), []

        def freeze(*_: Any) -> None:
            if next(pages) == nth:
                machine.let_lease_run_out()
                execute(run.pk)
                after.append(_state_of(run))

        execute(run.pk, on_page=freeze)
        self.tally["runs"] += 1
        if after:
            self.tally["overtaken"] += 1
            if _state_of(run) != after[0]:
                self._check("overtaken", ["the late worker wrote over its successor"])

    def _with_a_delta_within(self, kind: str, method: str) -> None:
        """A delta falls due while a full run goes on, and is let through between two pages."""
        run = self._request(kind, method)
        pages, nth = iter(range(10_000)), self.rng.randint(0, 4)

        def fall_due(*_: Any) -> None:
            if next(pages) == nth:
                tasks.request_scheduled(runs.DELTA, self.people.now)

        execute(run.pk, on_page=fall_due)
        tasks._close_orphans()
        self.tally["runs"] += 1

    def _lose_sight(self) -> None:
        """A changed profile hides every deal from a full run: it deletes nothing, or little."""
        away, back = self.people.black_out()
        self.crm.control(**away[0])
        self._note("every deal is out of sight")
        self._plainly(runs.FULL, "auto")
        # What had really gone is held with all the others: ops or the next full run tell it.
        self.people.forget_deletions()
        self.crm.control(**back[0])

    # -- at rest ---------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Our clock is right again, nobody works, nothing is spoilt."""
        self.leap = timedelta(0)
        self.people.settle()
        self._set_clock()
        tasks.sweep()
        machine.sweep_until_idle(lambda: runs.active_run() is not None)
        self._note("at rest")
        self._sync_until_good(runs.DELTA)
        self._check("after a delta", judge.after_a_delta(self.people))
        if not self.wrong:
            self._sync_until_good(runs.FULL)
            self._check("after a full sync", judge.after_a_full(self.people))
            if self.seed % 2:
                self._repeat()
        self._check("history", judge.history())
        self._check("history", judge.false_alarms(self.people))
        self._check("history", judge.turned_back())
        self._check("ledger", judge.accounts())
        self._check("left over", judge.left_over())
        stats = self.crm.control("stats")
        # A page token that an answer invented is refused, and rightly.
        broken = [text for text in stats["rule_breaks"] if "(page_token)" not in text]
        self._check("rule broken", broken)
        self.tally["edits"] = self.people.edits
        self.tally["requests"] = stats["requests"]

    def _sync_until_good(self, kind: str) -> None:
        """A full run may be the rest of one that failed; a window may have to be read again."""
        begun_after = SyncRun.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        for _ in range(MOST_DELTAS):
            run = self.crm.sync(kind)
            self.tally["runs"] += 1
            self._note_run(run)
            if run.status == ledger.SUCCEEDED and run.pk > begun_after:
                return
        self._check(f"{kind} at rest", [f"{run.status} {run.error_code} {run.message}"])

    def _repeat(self) -> None:
        """Once more, and nothing is new."""
        events = ChangeEvent.objects.count()
        run = self.crm.sync(runs.DELTA)
        if (run.updated, run.created, run.deleted, ChangeEvent.objects.count()) != (
            0,
            0,
            0,
            events,
        ):
            self._check("repeated", [f"{run.updated} updated, {run.created} created"])


def _state_of(run: SyncRun) -> tuple:
    """What a late worker must leave as it is."""
    run.refresh_from_db()
    names = ("status", "ended_at", "pages", "message", *runs.COUNTERS)
    parts = run.parts.order_by("pk").values_list("state", "cursor", "pages", *runs.COUNTERS)
    events = ChangeEvent.objects.count()
    return [getattr(run, name) for name in names], [str(part) for part in parts], events
