"""Hundreds of schedules of a CRM that changes, fails and is read by processes that die: at rest the
mirror is the CRM, field by field, and its events tell the same.

`PULSE_SCHEDULES=1000` runs so many (100 unless asked for), `PULSE_SEED=7` begins at that seed. A
seed that fails prints the line that repeats it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from crm import signals
from crm.tests.forked_sandbox import fork_sandbox
from crm.tests.sandbox_process import ROOT, running_sandbox
from crm.tests.simulator.schedule import START, Schedule
from crm.tests.synced import Crm, zoho_settings

FIRST = int(os.environ.get("PULSE_SEED", "0"))
NUMBER = int(os.environ.get("PULSE_SCHEDULES", "100"))
AT_ONCE = 10  # seeds of one test
FILE = "crm/tests/test_oracle_schedules.py"
WORLDS = (10, 30, 70)  # deals; with accounts, contacts and leads 40 to 150 records
ACCOUNTS = 12


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seeded organisations of a few sizes, made once."""
    found = []
    for deals in WORLDS:
        folder = tmp_path_factory.mktemp(f"world-{deals}")
        with running_sandbox(folder, deals=deals, today=START.date()) as process:
            found.append(process.db)
        _thin_out(process.db)
    return found


def _thin_out(db: Path) -> None:
    """A consultancy of any size has forty accounts; a schedule is quicker with a dozen."""
    with sqlite3.connect(db) as sql:
        sql.execute(
            "delete from m_Accounts where id not in (select id from m_Accounts where id in "
            "(select Account_Name from m_Deals union select Converted_Account from m_Leads) "
            f"order by id limit {ACCOUNTS})"
        )
        sql.execute("delete from m_Contacts where Account_Name not in (select id from m_Accounts)")
        for table, name, target in (
            ("Deals", "Account_Name", "Accounts"),
            ("Deals", "Contact_Name", "Contacts"),
            ("Leads", "Converted_Account", "Accounts"),
            ("Leads", "Converted_Contact", "Contacts"),
        ):
            sql.execute(
                f"update m_{table} set {name}=null where {name} not in (select id from m_{target})"
            )
    sql.close()


@pytest.fixture
def mirror_alone(transactional_db: None, settings: Any) -> Iterator[Any]:
    """Nothing above the mirror hears of changes: it is not what is judged here."""
    receivers, signals.deals_changed.receivers = signals.deals_changed.receivers, []
    signals.deals_changed.sender_receivers_cache.clear()
    logging.disable()
    yield settings
    logging.disable(logging.NOTSET)
    signals.deals_changed.receivers = receivers
    signals.deals_changed.sender_receivers_cache.clear()


def run_seed(
    seed: int, worlds: list[Path], folder: Path, settings: Any, monkeypatch: Any, **options: Any
) -> Schedule:
    """One schedule on a sandbox of its own."""
    home = folder / f"seed-{seed}-{len(list(folder.iterdir()))}"
    home.mkdir()
    shutil.copy(worlds[seed % len(worlds)], home / "sandbox.db")
    sandbox = fork_sandbox(home, at=START)
    settings.ZOHO = zoho_settings(sandbox.url)
    try:
        with monkeypatch.context() as patched:
            return Schedule(seed, Crm(sandbox, settings), patched, **options).run()
    finally:
        sandbox.kill()
        shutil.rmtree(home)


def failure(schedule: Schedule, test: str, file: str = FILE) -> str:
    """What is wrong, what was done, and the line that does it again."""
    lines = [f"seed {schedule.seed}:", *schedule.wrong[:15], "", *schedule.trace, ""]
    return "\n".join(
        [*lines, "Again, from the project's root:", repeat_line(schedule.seed, test, file)]
    )


def repeat_line(seed: int, test: str, file: str) -> str:
    python = Path(sys.executable)
    shown = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
    database = _database_without_password()
    return f"{database}PULSE_SEED={seed} PULSE_SCHEDULES=1 {shown} -m pytest {file} -k {test}"


def _database_without_password() -> str:
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.password:
        parts = parts._replace(netloc=f"{parts.username}@{parts.hostname}:{parts.port or 5432}")
    return f"DATABASE_URL={parts.geturl()} "


def blocks(number: int) -> list[range]:
    last = FIRST + number
    return [range(at, min(at + AT_ONCE, last)) for at in range(FIRST, last, AT_ONCE)]


@pytest.mark.timeout(60 * AT_ONCE)  # against a hang; a busy machine is none
@pytest.mark.parametrize("seeds", blocks(NUMBER), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_schedules_end_with_the_mirror_that_the_crm_is(
    seeds: range,
    worlds: list[Path],
    tmp_path: Path,
    mirror_alone: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally, begun = Counter(), time.monotonic()
    for seed in seeds:
        schedule = run_seed(seed, worlds, tmp_path, mirror_alone, monkeypatch)
        tally += schedule.tally
        assert not schedule.wrong, failure(schedule, "schedules_end")
    if "PULSE_SCHEDULES" in os.environ:
        with capsys.disabled():
            seconds = time.monotonic() - begun
            sys.stdout.write(f"\n{seeds} {dict(tally)} {seconds:.1f} s\n")


@pytest.mark.parametrize("seed", range(FIRST, FIRST + min(NUMBER, 5)))
def test_schedules_survive_processes_that_are_really_killed(
    seed: int, worlds: list[Path], tmp_path: Path, mirror_alone: Any, monkeypatch: Any
) -> None:
    schedule = run_seed(seed, worlds, tmp_path, mirror_alone, monkeypatch, is_really_killed=True)
    assert not schedule.wrong, failure(schedule, "really_killed")


def test_a_seed_is_one_schedule(
    worlds: list[Path], tmp_path: Path, mirror_alone: Any, monkeypatch: Any
) -> None:
    """Else the line that repeats a failure would repeat something else."""
    first, second = (
        run_seed(FIRST + 3, worlds, tmp_path, mirror_alone, monkeypatch) for _ in range(2)
    )
    assert first.trace == second.trace
    assert first.tally == second.tally
