"""A stand-in CRM with a few records or a few hundred, and the product pointed at it.

A test that ran the product against such a CRM fails at its end if the product broke a rule of the
CRM's API (see `crm/sandbox/stats.py`), unless it is marked `breaks_rules`.

The tables are imported within the fixtures: Django is not ready when this file is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crm.tests.forked_sandbox import fork_sandbox
from crm.tests.sandbox_process import Sandbox, running_sandbox

if TYPE_CHECKING:
    from crm.tests.synced import Crm

MANY_DEALS = 450  # three pages of the records API


@pytest.fixture(scope="session")
def many_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    with running_sandbox(folder, deals=MANY_DEALS) as process:
        return process.db


@pytest.fixture
def make_crm(
    tmp_path: Path, settings: Any, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Crm]]:
    """Start a sandbox on a copy of a seeded file, and point the settings at it."""
    from crm.tests.synced import Crm, zoho_settings

    started: list[Sandbox] = []

    def make(seed: Path) -> Crm:
        folder = tmp_path / f"crm-{len(started)}"
        folder.mkdir()
        shutil.copy(seed, folder / "sandbox.db")
        sandbox = fork_sandbox(folder)
        started.append(sandbox)
        settings.ZOHO = zoho_settings(sandbox.url)
        settings.SYNC_LEASE_SECONDS, settings.SYNC_HEARTBEAT_SECONDS = 5, 1
        return Crm(sandbox, settings)

    yield make
    broken = {rule: n for sandbox in started for rule, n in rules_broken(sandbox).items()}
    for sandbox in started:
        sandbox.stop()
    if request.node.get_closest_marker("breaks_rules") is None:
        assert broken == {}, "our client broke rules of the CRM's API"


def rules_broken(sandbox: Sandbox) -> dict[str, int]:
    """What the sandbox counted since its start; nothing if it is down."""
    if sandbox.process.poll() is not None:
        return {}
    return sandbox.control("stats")["rule_breaks_ever"]


@pytest.fixture
def crm(make_crm: Callable[..., Crm], sandbox_seed: Path, transactional_db: None) -> Crm:
    """Fifty deals."""
    return make_crm(sandbox_seed)


@pytest.fixture
def big_crm(make_crm: Callable[..., Crm], many_seed: Path, transactional_db: None) -> Crm:
    """Three pages of deals."""
    return make_crm(many_seed)
