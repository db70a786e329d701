"""Whether a worker does its work: asked at the broker that is named, whatever the settings say."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from redis import Redis

from pipelinepulse import env
from pipelinepulse.management.commands.alive import worker_problem
from pipelinepulse.tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
NODE = "celery@asked"

pytestmark = [pytest.mark.processes, pytest.mark.redis, pytest.mark.broker]


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A worker of the product at the test's own broker."""
    celery = [sys.executable, "-m", "celery", "-A", "pipelinepulse", "--quiet"]
    process = subprocess.Popen(
        [*celery, "worker", "--concurrency", "1", "--without-mingle", "--hostname", NODE],
        cwd=ROOT,
        env={
            **os.environ,
            **dict.fromkeys(env.SETTING_NAMES, ""),
            "PULSE_HOME": str(tmp_path),
            "PULSE_EMBEDDED": "1",
            "REDIS_URL": redis_url,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(20)
    finally:
        process.kill()


def problem(redis_url: str, *, seconds: float) -> str:
    """What is said about the worker as soon as that is nothing, or when the time is over."""
    end = time.monotonic() + seconds
    while (said := worker_problem(NODE, broker_url=redis_url)) and time.monotonic() < end:
        time.sleep(0.2)
    return said


def kept_by(broker: Redis) -> set[bytes]:
    return {key for key in map(bytes, broker.scan_iter()) if not key.startswith(b"unacked")}


def test_row_11_worker_answers_one_whose_own_settings_name_no_broker(
    worker: subprocess.Popen, redis_url: str
) -> None:
    """As the supervisor asks on the first start of a run."""
    assert settings.REDIS_URL == ""
    assert problem(redis_url, seconds=60) == ""
    with Redis.from_url(redis_url) as broker:
        # Every answer is of now, and the asking leaves nothing behind (what a task of the worker's
        # own is about at that moment, it holds as unacknowledged).
        left = kept_by(broker)
        assert [worker_problem(NODE, broker_url=redis_url) for _ in range(3)] == [""] * 3
        assert kept_by(broker) == left

    worker.send_signal(signal.SIGSTOP)
    assert worker_problem(NODE, broker_url=redis_url) == f"{NODE} does not answer"
    worker.send_signal(signal.SIGCONT)
    assert problem(redis_url, seconds=30) == ""


def test_broker_that_is_away_is_told_from_a_deaf_worker() -> None:
    said = worker_problem(NODE, broker_url=f"redis://127.0.0.1:{free_port()}/0")
    assert said.startswith("the broker does not answer (")
