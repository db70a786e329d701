"""A CRM that is down is left alone, and tried again by one caller only."""

from __future__ import annotations

import pytest

from crm.tests.odd_server import HeldTime
from crm.zoho.breaker import Breaker
from crm.zoho.errors import BreakerOpen
from crm.zoho.limits import Patience
from crm.zoho.state import MemoryState


class World:
    def __init__(self) -> None:
        self.time = HeldTime()
        self.state = MemoryState(lambda: self.time.wall)

    def process(self) -> Breaker:
        return Breaker(self.state, "crm", timing=self.time.timing, patience=Patience())

    def fail(self, breaker: Breaker, times: int) -> None:
        for _ in range(times):
            started = self.time.wall
            self.time.pass_by(0.1)
            breaker.failed(started)


@pytest.fixture
def world() -> World:
    return World()


def is_open(breaker: Breaker) -> bool:
    try:
        breaker.admit()
    except BreakerOpen:
        return True
    return False


def test_row_27_opens_at_the_fifth_failure_in_a_row_for_a_minute(world):
    breaker = world.process()
    world.fail(breaker, 4)
    assert not is_open(breaker)
    world.fail(breaker, 1)
    with pytest.raises(BreakerOpen) as caught:
        breaker.admit()
    assert caught.value.retry_after_s == pytest.approx(60)
    world.time.pass_by(59.9)
    assert is_open(breaker)


def test_asking_whether_it_rests_takes_no_probe(world):
    breaker = world.process()
    breaker.raise_if_resting()
    world.fail(breaker, 5)
    with pytest.raises(BreakerOpen):
        breaker.raise_if_resting()
    world.time.pass_by(61)
    breaker.raise_if_resting()
    assert breaker.admit() is True


def test_a_success_between_ends_the_row(world):
    breaker = world.process()
    world.fail(breaker, 4)
    breaker.succeeded()
    world.fail(breaker, 4)
    assert not is_open(breaker)


def test_row_27_all_processes_see_it_and_one_of_them_probes(world):
    first, second, third = world.process(), world.process(), world.process()
    world.fail(first, 5)
    assert is_open(second)
    world.time.pass_by(61)
    assert second.admit() is True
    assert is_open(first)
    assert is_open(third)


def test_a_good_probe_opens_the_way_for_all(world):
    first, second = world.process(), world.process()
    world.fail(first, 5)
    world.time.pass_by(61)
    assert second.admit() is True
    second.succeeded()
    world.time.pass_by(1.1)
    assert first.admit() is False


def test_row_27_a_failed_probe_closes_it_for_another_minute(world):
    breaker = world.process()
    world.fail(breaker, 5)
    world.time.pass_by(61)
    assert breaker.admit() is True
    world.fail(breaker, 1)
    world.time.pass_by(59)
    assert is_open(breaker)
    world.time.pass_by(2)
    assert breaker.admit() is True


def test_a_probe_that_was_not_sent_leaves_its_place(world):
    breaker = world.process()
    world.fail(breaker, 5)
    world.time.pass_by(61)
    assert breaker.admit() is True
    breaker.abandon()
    assert breaker.admit() is True


def test_a_probe_whose_process_died_is_replaced(world):
    dead, alive = world.process(), world.process()
    world.fail(dead, 5)
    world.time.pass_by(61)
    assert dead.admit() is True
    world.time.pass_by(Patience().exchange_s + 1)
    assert alive.admit() is True


def test_calls_that_fail_side_by_side_count_once(world):
    breaker = world.process()
    started = world.time.wall
    for _ in range(10):
        world.time.pass_by(0.01)
        breaker.failed(started)
    assert not is_open(breaker)


def test_failures_of_long_ago_are_not_in_a_row(world):
    breaker = world.process()
    world.fail(breaker, 4)
    world.time.pass_by(3600)
    world.fail(breaker, 1)
    assert not is_open(breaker)


def test_a_state_that_cannot_be_read_counts_as_well(world):
    world.state.put("zoho:breaker:crm", "nonsense")
    breaker = world.process()
    assert not is_open(breaker)
    world.fail(breaker, 5)
    assert is_open(breaker)
