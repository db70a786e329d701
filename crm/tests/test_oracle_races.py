"""Schedules of nothing but races: no older state over a newer one, no deletion of what is there.

As `test_oracle_schedules`, and by the same variables: `PULSE_SCHEDULES` so many (10 unless
asked for), `PULSE_SEED` from that one on.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from crm.tests.forked_sandbox import fork_sandbox
from crm.tests.simulator.races import Races
from crm.tests.simulator.schedule import START
from crm.tests.synced import Crm, zoho_settings
from crm.tests.test_oracle_schedules import blocks, failure, mirror_alone, worlds

__all__ = ["mirror_alone", "worlds"]  # fixtures
NUMBER = int(os.environ.get("PULSE_SCHEDULES", "10"))
FILE = "crm/tests/test_oracle_races.py"


def run_race(seed: int, world: Path, folder: Path, settings: Any, monkeypatch: Any) -> Races:
    home = folder / f"seed-{seed}"
    home.mkdir()
    shutil.copy(world, home / "sandbox.db")
    sandbox = fork_sandbox(home, at=START)
    settings.ZOHO = zoho_settings(sandbox.url)
    try:
        with monkeypatch.context() as patched:
            race = Races(seed, Crm(sandbox, settings), patched)
            race.run()
            return race
    finally:
        sandbox.kill()
        shutil.rmtree(home)


@pytest.mark.timeout(600)  # against a hang; a busy machine is none
@pytest.mark.parametrize("seeds", blocks(NUMBER), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_races_end_with_the_mirror_that_the_crm_is(
    seeds: range, worlds: list[Path], tmp_path: Path, mirror_alone: Any, monkeypatch: Any
) -> None:
    for seed in seeds:
        race = run_race(seed, worlds[-1], tmp_path, mirror_alone, monkeypatch)
        assert not race.wrong, failure(race, "races_end", FILE)
