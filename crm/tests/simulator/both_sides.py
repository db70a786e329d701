"""One seed → one schedule of people at work on both sides, from a mirror just read to rest."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import time_machine
from django.utils import timezone

from crm import tasks
from crm.errors import SyncUnderWay
from crm.models import OutboxEntry, SyncRun, outbox
from crm.models import runs as ledger
from crm.sync import deletions, events, inbox, reading, runs, session
from crm.sync.execute import execute
from crm.tests import notices, oracle
from crm.tests.simulator import both_at_rest, judge, machine, sendings, weather
from crm.tests.simulator.book import Book
from crm.tests.simulator.colleagues import Colleagues
from crm.tests.simulator.fates import Fates
from crm.tests.simulator.trail import trail_of
from crm.tests.simulator.users import Users
from crm.tests.simulator.watched import AFTER_READING, BEFORE_READING, BEFORE_WRITING, WatchedClient
from crm.tests.synced import Crm
from crm.writeback import looking, send, settle

START = datetime(2026, 3, 10, 4, 0, tzinfo=UTC)
PAUSES = (0, 0, 1, 5, 40, 120, 700)
LEAPS = (timedelta(hours=2), timedelta(hours=-2), timedelta(days=-3))
ROUNDS_TO_REST = 8
SENDING = (
    "send.after_claim", "send.after_reading", "send.before_call", "send.after_call",
    "send.before_settle", "settle.before_sent", "send.after_settle",
)  # fmt: skip
NOTICES = ("events.after_claim", "events.before_settle", "store.before_commit")


@dataclass
class BothSides:
    """`run` it; `wrong` then holds what does not hold, `trace` what was done."""

    seed: int
    crm: Crm
    monkeypatch: Any
    authors: list[Any]
    ops: Any
    folder: Path
    trace: list[str] = field(default_factory=list)
    tally: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"both sides {self.seed}")
        self.crm.control("config", mint_limit=1000, credits=10**9)
        self.people = Colleagues(self.crm.sandbox, self.seed, START)
        self.book = Book(self.crm.sandbox.db)
        self.rates = oracle.rates_of(self.crm.sandbox)
        self.users = Users(self.book, self.seed, self.people.hot, self.authors, self.ops)
        self.leap = timedelta(0)
        self.chance = self.rng.choice([0.0, 0.1, 0.3, 0.6])  # of something between two calls
        self._choose_sizes()

    def _choose_sizes(self) -> None:
        rng, patch = self.rng, self.monkeypatch.setattr
        patch(tasks, "nudge", lambda *_: True)  # nothing happens by itself
        patch(reading, "RANGE_ROWS", rng.choice([15, 45]))
        patch(reading, "PAGE_ROWS", rng.choice([12, 30]))
        patch(deletions, "IDS_PER_CALL", rng.choice([5, 50]))
        patch(session, "BETWEEN_CHECKS_S", 0.0)
        patch(send, "ThreadPoolExecutor", machine.SendingPool)
        patch(send, "wait", machine.wait_for_next)
        # Of a few records, too, some are read one by one and some as a range.
        patch(looking, "IDS_A_READING", rng.choice([1, 3, 50]))
        patch(looking, "ROWS_A_WANTED", rng.choice([2, 30]))
        zoho = replace(self.crm.settings.ZOHO, concurrency=rng.choice([1, 2, 3, 4]))
        self.crm.settings.ZOHO = zoho
        self.crm.settings.WEBHOOK_TOKENS = [notices.LIVE]

    def run(self) -> BothSides:
        machine.empty_the_mirror()
        with time_machine.travel(START, tick=False) as self.clock:
            with machine.drawn_reads(self.monkeypatch, (self.seed, "first")):
                self.crm.sync(runs.FULL)
            notices.known_channels(timezone.now())
            self.users.switch_on()
            self._live_through()
            if self.wrong:
                return self
            with machine.drawn_reads(self.monkeypatch, (self.seed, "rest")):
                self._come_to_rest()
        return self

    def _live_through(self) -> None:
        for number in range(self.rng.randint(5, 11)):
            with machine.drawn_reads(self.monkeypatch, (self.seed, number)):
                self._step()

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.people.offset_s:>7} {text}")

    def _check(self, what: str, found: Any) -> None:
        self.wrong += [f"{what}: {line}" for line in found]

    # -- one step ---------------------------------------------------------------------------------

    def _step(self) -> None:
        rng = self.rng
        self.people.look_again()
        if rng.random() < 0.8:
            self.users.act(rng.randint(1, 4))
        if rng.random() < 0.6:
            self.people.at_once(rng.randint(1, 4))
        self._let_time_pass()
        ways = [self._send] * 5 + [self._sync] * 2 + [self._take_notices] * 2
        rng.choice(ways)()
        self.crm.control("clear_faults")
        self._set_clock()

    def _let_time_pass(self) -> None:
        """Both clocks move on; at times ours leaps besides, as a wrong NTP server makes it."""
        for command in self.people.pass_time(self.rng.choice(PAUSES)):
            self.people.carry_out(command)
        if self.rng.random() < 0.12:
            self.leap = timedelta(0) if self.leap else self.rng.choice(LEAPS)
            self.tally["leaps"] += 1
            self._note(f"our clock is {self.leap} ahead")
        self._set_clock()

    def _set_clock(self) -> None:
        self.clock.move_to(self.people.now + self.leap)

    def _spoil(self, rules: list[dict[str, Any]]) -> None:
        self.crm.control("faults", rules=rules)
        self.tally["faults"] += len(rules)
        self._note(f"faults {rules}")

    def _world(self, moment: str) -> None:
        """What happens on either side between two calls of the sender. Right before a call leaves
        nobody here acts: the sender has asked the switch by then."""
        if self.rng.random() >= self.chance:
            return
        may_freeze = moment == AFTER_READING and not machine.SendingPool.is_writing()
        if may_freeze and self.rng.random() < 0.15:
            self._overtake()
        elif moment in (BEFORE_READING, BEFORE_WRITING) or self.rng.random() < 0.5:
            self.people.at_once(self.rng.randint(1, 2))
        else:
            self.users.act()
        self._note(f"acts {moment}")

    # -- what our machine does --------------------------------------------------------------------

    def _send(self) -> None:
        if self.rng.random() < 0.8:
            self.users.switch_on()
        if self.rng.random() < 0.35:
            self._spoil(weather.of_writing(self.rng, self.rng.randint(1, 2)))
        place = ""
        if self.rng.random() < 0.3:
            place = f"{self.rng.choice(SENDING)}:{self.rng.choice([1, 1, 1, 2])}"
        self._send_once(place)

    def _send_once(self, place: str = "") -> None:
        self.book.add("sender")
        has_died = machine.dies_quietly(lambda: self._note(f"sent: {self._sending()}"), place)
        self.tally["kills"] += has_died
        if has_died:
            self._note(f"the sender died at {place}")
        else:
            self.book.add("ended")

    def _sending(self) -> send.Report:
        report = send.send_due(make_client=self._client)
        for name in ("sent", "settled", "conflicts", "refused", "waiting", "unknown"):
            self.tally[name] += getattr(report, name)
        return report

    def _client(self) -> Any:
        return WatchedClient(self.book, self.rates, self._world)

    def _overtake(self) -> None:
        """The sender freezes past its claim; another takes over what it held, then it wakes."""
        chance, self.chance = self.chance, 0.0
        for command in self.people.pass_time(120):
            self.people.carry_out(command)
        self._set_clock()
        self._sending()
        self.chance = chance
        self.tally["overtaken"] += 1

    def _sync(self) -> None:
        kind = runs.DELTA if self.rng.random() < 0.7 else runs.FULL
        if self.rng.random() < 0.3:
            self._spoil(weather.rules(self.rng, self.rng.randint(1, 2)))
        place = machine.draw_place(self.rng) if self.rng.random() < 0.35 else ""
        try:
            run = runs.request_run(kind=kind, trigger="schedule", nudge=False)
        except SyncUnderWay as error:
            run = error.run
        has_died = machine.dies(lambda: execute(run.pk, on_page=self._on_page), place)
        self.tally["kills"] += has_died
        self._note(f"{kind}{f', died at {place}' if has_died else ''}")
        machine.sweep_until_idle(lambda: runs.active_run() is not None)
        self._note_run()

    def _on_page(self, *_: Any) -> None:
        if self.rng.random() < self.chance / 2:
            self._world("between two pages")

    def _note_run(self) -> None:
        run = SyncRun.objects.order_by("-pk").first()
        if run is not None:
            told = {name: getattr(run, name) for name in runs.COUNTERS if getattr(run, name)}
            self._note(f"→ {run.kind} {run.status} {run.error_code} {told}")

    def _take_notices(self) -> None:
        arriving = self.people.postman.bring()
        for module, record, operation in arriving:
            notices.tell(record, module=module, operation=operation)
        if self.rng.random() < 0.2:
            self._spoil(weather.rules(self.rng, 1))
        place = f"{self.rng.choice(NOTICES)}:1" if self.rng.random() < 0.25 else ""
        has_died = machine.dies_quietly(self._sweep_notices, place)
        self.tally["kills"] += has_died
        self.tally["notices"] += len(arriving)
        self._note(f"{len(arriving)} notices{f', died at {place}' if has_died else ''}")

    def _sweep_notices(self) -> None:
        inbox.release_lapsed(timezone.now())
        events.take_waiting(wait=lambda _: None)

    # -- at rest ----------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Nobody works, nothing is spoilt, our clock is right; what waits has time to go."""
        self.leap, self.chance = timedelta(0), 0.0
        self._note("at rest")
        self.people.settle()
        self._go_round()
        given_up = list(OutboxEntry.objects.filter(status=outbox.DEAD).order_by("id"))
        for entry in given_up:
            self.users.try_again(entry)
        if given_up:
            self._go_round()
        self.people.ever_gone |= {zoho_id for _, zoho_id in trail_of(self.crm.sandbox.db).gone}
        self._check("on its way", both_at_rest.under_way())
        self._check("after a delta", both_at_rest.differences(self.people, after_a_full=False))
        self._judge()
        if self.seed % 2 and not self.wrong:
            self._decide_all()
            self._judge()
        if not self.wrong:
            self._settle_sync(runs.FULL)
            self._check("after a full", both_at_rest.differences(self.people, after_a_full=True))
        self._check("history", judge.history())
        self._check("ledger", judge.accounts())
        self._check("left over", judge.left_over())
        stats = self.crm.control("stats")
        broken = [text for text in stats["rule_breaks"] if "(page_token)" not in text]
        self._check("rule broken", broken)
        self.tally["users' acts"] = self.users.acts_done
        self.tally["colleagues' acts"] = self.people.edits
        self.tally["requests"] = stats["requests"]

    def _go_round(self) -> None:
        """Time passes and everything is tried, until nothing is on its way."""
        for _ in range(ROUNDS_TO_REST):
            self.people.look_again()
            for command in self.people.pass_time(5 * 3600):
                self.people.carry_out(command)
            self._set_clock()
            tasks.sweep()
            self._sweep_notices()
            self.users.switch_on()
            self._send_once()
            self._settle_sync(runs.DELTA)
            settle.close_old(timezone.now())
            if not any(both_at_rest.under_way()):
                return

    def _settle_sync(self, kind: str) -> None:
        """A run may be the rest of one that failed; a window may have to be read again."""
        begun_after = SyncRun.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        machine.sweep_until_idle(lambda: runs.active_run() is not None)
        for _ in range(4):
            run = self.crm.sync(kind)
            if run.status == ledger.SUCCEEDED and run.pk > begun_after:
                return
        self._check(f"{kind} at rest", [f"{run.status} {run.error_code} {run.message}"])

    def _decide_all(self) -> None:
        """Whatever is in conflict is decided, and no conflict is left."""
        for _ in range(5):
            found = list(OutboxEntry.objects.filter(status=outbox.CONFLICT).order_by("id"))
            if not found:
                return
            for entry in found:
                self.users.decide(entry)
            self._go_round()
        self._check("decided", [f"{entry} is a conflict still" for entry in found])

    def _judge(self) -> None:
        trail = trail_of(self.crm.sandbox.db)
        fates = Fates(trail, self.book.lines())
        self._check("wishes", fates.wrong)
        self._check("wishes", fates.lost())
        self._check("sent", sendings.unasked(fates))
        self._check("made", fates.made_wrong())
        self._check("deleted", fates.deleted_wrong(self.people.deleted, self.people.unseen))
        self._check("shown", both_at_rest.shown_wrong(fates))
        self._check("shown", both_at_rest.conflicts_of_nothing(fates))
        self._check("echo", both_at_rest.told_back(fates))
        self.tally["left in conflict"] = OutboxEntry.objects.filter(status=outbox.CONFLICT).count()
        for name, number in fates.tally.items():
            self.tally[name] = number
