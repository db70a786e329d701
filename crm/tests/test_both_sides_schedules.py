"""Hundreds of schedules of people who change the same records on both sides, while calls fail,
answers are lost, workers die and clocks leap: nothing is lost, doubled or wrong on either side.

`PULSE_SCHEDULES=1000` runs so many (100 unless asked for), `PULSE_KILLED_SCHEDULES=150` so many in
processes that are really killed (10), `PULSE_SEED=7` begins at that seed. A seed that fails prints
the line that repeats it; of a killed one the moment of death may differ.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crm.tests.forked_sandbox import fork_sandbox
from crm.tests.simulator.both_sides import START, BothSides
from crm.tests.simulator.killed import KilledAgainAndAgain
from crm.tests.synced import Crm, zoho_settings
from crm.tests.test_oracle_schedules import (
    FIRST,
    NUMBER,
    blocks,
    mirror_alone,
    repeat_line,
    worlds,
)

__all__ = ["mirror_alone", "worlds"]  # fixtures

FILE = "crm/tests/test_both_sides_schedules.py"
NUMBER_NAME, KILLED_NAME = "PULSE_SCHEDULES", "PULSE_KILLED_SCHEDULES"
KILLED = int(os.environ.get(KILLED_NAME, "10"))
Run = Callable[..., BothSides]


@pytest.fixture
def run_seed(
    worlds: list[Path],
    tmp_path: Path,
    mirror_alone: Any,
    monkeypatch: pytest.MonkeyPatch,
    person: Callable[..., Any],
) -> Run:
    """One schedule on a sandbox of its own."""
    authors = [person("manager", name) for name in ("ann", "bob")]
    ops = person("ops")

    def run(seed: int, kind: type[BothSides] = BothSides) -> BothSides:
        home = tmp_path / f"seed-{seed}-{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        shutil.copy(worlds[seed % 2], home / "sandbox.db")
        sandbox = fork_sandbox(home, at=START)
        mirror_alone.ZOHO = zoho_settings(sandbox.url)
        try:
            with monkeypatch.context() as patched:
                crm = Crm(sandbox, mirror_alone)
                return kind(seed, crm, patched, authors, ops, home).run()
        finally:
            sandbox.kill()
            shutil.rmtree(home)

    return run


def failure(schedule: BothSides, test: str = "schedules_lose", number: str = NUMBER_NAME) -> str:
    """What is wrong, what was done, and the line that does it again."""
    lines = [f"seed {schedule.seed}:", *schedule.wrong[:15], "", *schedule.trace, ""]
    again = repeat_line(schedule.seed, test, FILE).replace(NUMBER_NAME, number)
    return "\n".join([*lines, "Again, from the project's root:", again])


@pytest.mark.timeout(1800)  # against a hang; a busy machine is none
@pytest.mark.parametrize("seeds", blocks(NUMBER), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_schedules_lose_double_and_falsify_nothing(
    seeds: range, run_seed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, begun = Counter(), time.monotonic()
    for seed in seeds:
        schedule = run_seed(seed)
        tally += schedule.tally
        assert not schedule.wrong, failure(schedule)
    if NUMBER_NAME in os.environ:
        with capsys.disabled():
            seconds = time.monotonic() - begun
            sys.stdout.write(f"\n{seeds} {dict(tally)} {seconds:.1f} s\n")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + KILLED))
def test_a_machine_killed_again_and_again_loses_nothing(
    seed: int, run_seed: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    schedule = run_seed(seed, KilledAgainAndAgain)
    assert not schedule.wrong, failure(schedule, "killed_again", KILLED_NAME)
    if KILLED_NAME in os.environ:
        with capsys.disabled():
            seconds = time.monotonic() - begun
            sys.stdout.write(f"\nseed {seed} {dict(schedule.tally)} {seconds:.1f} s\n")


def test_a_seed_is_one_schedule(run_seed: Run) -> None:
    """Else the line that repeats a failure would repeat something else."""
    first, second = (run_seed(FIRST + 3) for _ in range(2))
    assert first.trace == second.trace
    assert first.tally == second.tally
