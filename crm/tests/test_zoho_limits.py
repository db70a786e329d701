"""Permits a minute, the shared pause, calls at once, and the numbers of patience."""

from __future__ import annotations

import threading

import pytest

from crm.tests.odd_server import HeldTime
from crm.zoho.errors import RateLimited
from crm.zoho.limits import Gate, Patience, RateLimiter, concurrency_of, daily_credits
from crm.zoho.state import MemoryState, take_from


def limiter_of(time: HeldTime, state: MemoryState, per_minute: int = 100) -> RateLimiter:
    return RateLimiter(
        state,
        "us",
        per_minute=per_minute,
        timing=time.timing,
        patience=Patience(),
        wait=time.sleep,
    )


@pytest.mark.parametrize(
    ("tokens", "idle_s", "amount", "granted", "left"),
    [
        (60.0, 0, 10, 10, 50.0),
        (5.0, 0, 10, 5, 0.0),
        (0.0, 1, 10, 1, 0.0),
        (0.5, 0, 1, 0, 0.5),
        (0.0, 3600, 100, 60, 0.0),  # the bucket holds one minute
        (10.0, -3600, 1, 1, 9.0),  # a clock that went back refills nothing
    ],
)
def test_bucket_arithmetic(tokens, idle_s, amount, granted, left):
    taken, after = take_from(tokens, 1000.0, 1000.0 + idle_s, amount, 60)
    assert taken.granted == granted
    assert after == pytest.approx(left)
    assert (taken.wait_s > 0) == (granted == 0)


def test_a_burst_gets_one_minute_and_then_the_pace():
    time = HeldTime()
    limiter = limiter_of(time, MemoryState(lambda: time.wall))
    for _ in range(100):
        limiter.acquire(600)
    assert time.slept == []
    start = time.wall
    for _ in range(50):
        limiter.acquire(600)
    assert time.wall - start == pytest.approx(30, abs=2)


def test_two_processes_share_one_bucket():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    mine, theirs = limiter_of(time, state), limiter_of(time, state)
    start = time.wall
    for _ in range(100):
        mine.acquire(600)
        theirs.acquire(600)
    assert time.wall - start >= 50  # 200 calls: one minute's worth at once, one at the pace


def test_permits_kept_back_by_an_idle_process_lapse():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    limiter = limiter_of(time, state, per_minute=60)
    for _ in range(8):
        limiter.acquire(600)
    time.pass_by(30)
    before = state.take("zoho:rate:us", 0, 60)
    limiter.acquire(600)
    assert before.granted == 0
    assert state.take("zoho:rate:us", 100, 60).granted == 59  # one taken afresh, not a chunk


def test_waiting_longer_than_the_budget_is_refused_at_once_with_the_time():
    time = HeldTime()
    limiter = limiter_of(time, MemoryState(lambda: time.wall), per_minute=1)
    limiter.acquire(10)
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(10)
    assert 10 < caught.value.retry_after_s <= 60
    assert time.slept == []


def test_row_24_a_pause_holds_every_process():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    mine, theirs = limiter_of(time, state), limiter_of(time, state)
    theirs.acquire(600)
    time.pass_by(1)
    mine.pause(30)
    theirs.acquire(600)
    assert sum(time.slept) >= 30


def test_a_longer_pause_stands():
    time = HeldTime()
    limiter = limiter_of(time, MemoryState(lambda: time.wall))
    limiter.pause(30)
    limiter.pause(2)
    limiter.acquire(600)
    assert sum(time.slept) >= 30


def test_full_jitter_grows_from_one_second_to_a_minute_over_six_tries():
    patience = Patience()
    caps = [patience.delay_before(n, lambda low, high: high) for n in range(2, 7)]
    assert caps[0] == 1
    assert caps[-1] == pytest.approx(60)
    assert caps == sorted(caps)
    assert all(patience.delay_before(n, lambda low, high: low) == 0 for n in range(2, 7))


def test_unknown_patience_is_named():
    with pytest.raises(ValueError, match="tires"):
        Patience().with_overrides({"tires": 3})


@pytest.mark.parametrize(
    ("edition", "at_once", "of_ten_users"),
    [
        ("Free", 5, 5_000),
        ("standard", 10, 52_500),
        ("Enterprise", 20, 60_000),
        ("Zoho One", 20, 60_000),
        ("CRM Plus", 25, 70_000),
        ("something new", None, None),
    ],
)
def test_what_an_edition_allows(edition, at_once, of_ten_users):
    assert concurrency_of(edition) == at_once
    assert daily_credits(edition, 10) == of_ten_users


def test_credits_stop_at_the_cap():
    assert daily_credits("standard", 10_000) == 100_000


# ---------------------------------------------------------------- calls at once


class Crowd:
    """Threads that enter a gate and stay until told; knows how many were in at once."""

    def __init__(self, gate: Gate, heavy: list[bool]) -> None:
        self.inside = 0
        self.most = 0
        self._guard = threading.Lock()
        self._leave = threading.Event()
        self._gate = gate
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in heavy]
        for thread in self._threads:
            thread.start()

    def _run(self, heavy: bool) -> None:
        with self._gate.enter(heavy=heavy):
            with self._guard:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self._leave.wait(5)
            with self._guard:
                self.inside -= 1

    def finish(self) -> int:
        threading.Event().wait(0.1)
        self._leave.set()
        for thread in self._threads:
            thread.join(5)
        return self.most


def test_no_more_calls_at_once_than_allowed():
    assert Crowd(Gate(3), [False] * 9).finish() == 3


def test_heavy_calls_have_their_own_limit():
    assert Crowd(Gate(6, heavy_limit=2), [True] * 6).finish() == 2


def test_a_concurrency_429_halves_and_success_grows_back():
    gate = Gate(8)
    gate.shrink()
    gate.shrink()
    assert gate.limit == 2
    for _ in range(20 * 6):
        gate.succeeded()
    assert gate.limit == 8
    for _ in range(100):
        gate.succeeded()
    assert gate.limit == 8


def test_a_ceiling_moves_the_gate_unless_a_429_made_it_smaller():
    gate = Gate(8)
    gate.set_ceiling(3)
    assert gate.limit == 3
    gate.set_ceiling(6)
    assert gate.limit == 6
    gate.shrink()
    gate.set_ceiling(8)
    assert gate.limit == 3
