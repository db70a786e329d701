"""Calls at once stay within the organisation's limit, however many processes call."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from crm.tests.odd_server import HeldTime, OddServer, answer, client_of, page
from crm.zoho.errors import RateLimited
from crm.zoho.limits import Gate
from crm.zoho.slots import LEASE_S, RENEW_S, SharedSlots
from crm.zoho.state import MemoryState


class Installation:
    def __init__(self) -> None:
        self.time = HeldTime()
        self.state = MemoryState(lambda: self.time.wall)
        self.gates: dict[SharedSlots, Gate] = {}

    def client(self, *, wanted: int = 8, is_run: bool = True) -> SharedSlots:
        gate = Gate(wanted)
        slots = SharedSlots(
            self.state,
            "us",
            gate=gate,
            wanted=wanted,
            is_run=is_run,
            timing=self.time.timing,
            wait=self.time.sleep,
        )
        self.gates[slots] = gate
        return slots

    def granted(self, slots: SharedSlots, budget_s: float = 0) -> int:
        try:
            slots.refresh(budget_s)
        except RateLimited:
            return 0
        return self.gates[slots].limit


@pytest.fixture
def house() -> Installation:
    return Installation()


def test_one_run_gets_what_was_configured(house):
    assert house.granted(house.client()) == 8


@pytest.mark.parametrize(
    ("limit", "expected"), [(18, [8, 8, 0]), (8, [6, 0, 0]), (3, [2, 0, 0]), (1, [1, 0, 0])]
)
def test_runs_share_the_limit_and_leave_something_to_people(house, limit, expected):
    runs = [house.client() for _ in range(3)]
    runs[0].learn(limit)
    assert [house.granted(run) for run in runs] == expected
    people = [house.client(wanted=1, is_run=False) for _ in range(5)]
    assert sum(house.granted(person) for person in people) == limit - sum(expected)


def test_without_a_known_limit_people_still_get_through(house):
    assert house.granted(house.client()) == 8
    assert house.granted(house.client()) == 2


def test_slots_come_back_when_a_run_ends(house):
    first, second = house.client(), house.client()
    first.learn(8)
    assert (house.granted(first), house.granted(second)) == (6, 0)
    first.release()
    assert house.granted(second) == 6


def test_slots_of_a_process_that_died_lapse(house):
    dead, alive = house.client(), house.client()
    dead.learn(8)
    house.granted(dead)
    assert house.granted(alive, budget_s=LEASE_S + 1) == 6
    assert sum(house.time.slept) == pytest.approx(LEASE_S, abs=1)


def test_slots_of_a_process_of_this_machine_that_was_killed_are_free_at_once(house):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait(20)
    dead, elsewhere, alive = house.client(), house.client(), house.client()
    dead._owner = f"{socket.gethostname()}:{process.pid}:x"
    elsewhere._owner = f"another-machine:{process.pid}:x"
    dead.learn(10)
    assert house.granted(dead) == 8
    assert house.granted(elsewhere) == 8
    assert house.granted(alive) == 0


def test_a_run_keeps_its_slots_by_calling(house):
    run, other = house.client(), house.client()
    run.learn(8)
    for _ in range(10):
        assert house.granted(run) == 6
        assert house.granted(other) == 0
        house.time.pass_by(RENEW_S + 1)


def test_shared_state_is_written_every_ten_seconds_not_every_call(house):
    writes = []
    compare_and_set = house.state.compare_and_set
    house.state.compare_and_set = lambda *a: (writes.append(a), compare_and_set(*a))[1]
    run = house.client()
    for _ in range(100):
        run.refresh(1)
        house.time.pass_by(0.1)
    assert len(writes) == 1


def test_row_18_a_clock_that_went_back_frees_what_it_promised(house):
    before, after = house.client(), house.client()
    before.learn(8)
    house.granted(before)
    house.time.wall -= 7200
    assert house.granted(after) == 6


def test_a_book_that_cannot_be_read_is_begun_anew(house):
    house.state.put("zoho:slots:us", '{"held": 5}')
    assert house.granted(house.client()) == 8


def test_an_organisations_edition_is_known_to_every_client_of_the_installation():
    time = HeldTime()
    state = MemoryState(lambda: time.wall)
    reply = answer({"org": [{"id": "1", "license_details": {"paid_type": "free"}}]})
    with OddServer([reply, page([{"id": "1"}])]) as server:
        with client_of(server, time, state=state) as first:
            first.org()
        second = client_of(server, time, state=state)
        second.by_ids("Deals", [1], ["Deal_Name"])
        assert second._transport.gate.limit == 2
