"""No broker: people sign in, read and ask for syncs, the CRM's notices are taken; work waits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.utils import timezone

from crm import heartbeat, tasks
from crm.freshness import sync_state
from crm.models import Deal, Notice, SyncRun
from crm.tests.notices import ADDRESS, LIVE, body_of, known_channels
from crm.tests.synced import Crm
from crm.tests.test_sync_command import environment, wait_for
from pipelinepulse.tests import servers

ROOT = Path(__file__).resolve().parents[2]
SLOWEST_S = 5.0

pytestmark = pytest.mark.processes


@pytest.fixture
def address(big_crm: Crm, tmp_path: Path) -> Iterator[str]:
    """Gunicorn as it is deployed; nothing listens where its broker should be."""
    big_crm.sync("full")
    known_channels()
    port = servers.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "pipelinepulse.wsgi"],
        cwd=ROOT,
        env={
            **os.environ,
            **environment(big_crm),
            "REDIS_URL": f"redis://127.0.0.1:{servers.free_port()}/0",
            "WEBHOOK_TOKEN": LIVE,
            "PORT": str(port),
            "PULSE_HOME": str(tmp_path),
            "WEB_CONCURRENCY": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or is_up(address), seconds=60)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def is_up(address: str) -> bool:
    try:
        return requests.get(f"{address}/healthz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def token_in(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found
    return found[1]


def test_row_10_without_its_broker_the_product_serves_and_work_waits_in_the_database(
    big_crm: Crm, address: str, ops: Any
) -> None:
    ops.password = PBKDF2PasswordHasher().encode("a password", "some salt of the test")
    ops.save(update_fields=["password"])  # as the product hashes it
    told = big_crm.ids()[0]
    big_crm.control("edit", module="Deals", id=told, values={"Next_Step": "told of meanwhile"})
    ready = requests.get(f"{address}/readyz", timeout=10)
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["broker"] == "unreachable"
    with requests.Session() as browser:
        form = token_in(browser.get(f"{address}/login", timeout=10).text)
        filled = {"username": ops.username, "password": "a password", "csrfmiddlewaretoken": form}
        page = browser.post(f"{address}/login", filled, timeout=10)
        assert (page.status_code, page.url) == (200, f"{address}/")
        for path in ("/", "/opportunities", "/api/zoho/status", "/api/opportunities"):
            begun = time.monotonic()
            assert browser.get(address + path, timeout=20).status_code == 200
            assert time.monotonic() - begun < SLOWEST_S, path
            assert "Background work is delayed." not in browser.get(address + path).text
        heartbeat.beat(timezone.now() - timedelta(minutes=10))  # the worker's last word
        for path in ("/", "/opportunities"):
            assert "Background work is delayed." in browser.get(address + path, timeout=20).text
        head = {"X-CSRFToken": token_in(page.text), "Referer": address}
        asked = browser.post(f"{address}/api/zoho/sync", json={}, headers=head, timeout=20)
        assert asked.status_code == 202, asked.text
    assert requests.post(address + ADDRESS, json=body_of([told]), timeout=20).status_code == 202

    run = SyncRun.objects.get(pk=asked.json()["run"]["id"])
    assert run.status == "queued"
    assert Notice.objects.get().status == Notice.WAITING
    assert Deal.objects.get(zoho_id=told).next_step != "told of meanwhile"

    assert sync_state(timezone.now()).work_delayed_since is not None
    tasks.sweep()  # what beat sends as soon as there is a broker again
    tasks.sweep_notices()
    assert sync_state(timezone.now()).work_delayed_since is None
    run.refresh_from_db()
    assert run.status == "succeeded"
    assert Notice.objects.get().status == Notice.DONE
    big_crm.assert_mirrored()
