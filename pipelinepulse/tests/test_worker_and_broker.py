"""A real worker at a real broker: told to end, the broker killed again and again, its data lost.

Beat runs within the worker and sweeps every second, so that nothing here is done by the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import RedisError

from crm import heartbeat
from crm.models import Deal, SharedValue, SyncLease, SyncRun
from crm.sync import lease, listening, runs
from crm.tasks import run_sync
from crm.tests.notices import LIVE, known_channels, nobody_works, tell
from crm.tests.sandbox_process import ROOT
from crm.tests.synced import Crm
from crm.tests.test_sync_command import environment, wait_for
from crm.tests.writing import change, switch
from pipelinepulse.tests import servers

pytestmark = [pytest.mark.redis, pytest.mark.broker]


class Broker:
    """A Redis of the test's own, which forgets everything when it is killed."""

    def __init__(self, folder: Path) -> None:
        self.port = servers.free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [servers.redis_program(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            with Redis.from_url(self.url, socket_connect_timeout=1, retry=None) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def flush(self) -> None:
        with Redis.from_url(self.url) as client:
            client.flushall()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    try:
        one = Broker(tmp_path)
        one.start()
    except servers.NotInstalled as missing:
        pytest.skip(f"{missing} is not installed")
    yield one
    one.kill()


@pytest.fixture
def start_worker(
    big_crm: Crm, broker: Broker, tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    celery = [sys.executable, "-m", "celery", "-A", "pipelinepulse", "--quiet", "worker"]

    def start(places: int = 1, sweep_s: float = 1) -> subprocess.Popen[bytes]:
        with (tmp_path / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [
                    *celery,
                    "--concurrency",
                    str(places),
                    "--without-mingle",
                    "--without-gossip",
                    "--beat",
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    **environment(big_crm),
                    "REDIS_URL": broker.url,
                    "SWEEP_SECONDS": str(sweep_s),
                    "SYNC_LEASE_SECONDS": "2",
                    "SYNC_HEARTBEAT_SECONDS": "0.5",
                    "PULSE_HOME": str(tmp_path),
                },
                stdout=log,
                stderr=log,
            )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is not None:
            continue
        worker.terminate()
        try:
            worker.wait(30)
        finally:
            worker.kill()


def slow_run(crm: Crm, latency_ms: int = 150) -> SyncRun:
    crm.control("config", latency_ms=latency_ms)
    return runs.request_run(kind="full", trigger="schedule", method="pages", nudge=False)


def have_it_run(run: SyncRun, broker: Broker) -> None:
    """By a message to the worker; the tests' own tasks are done where they are called."""
    configured, is_eager = run_sync.app.conf, run_sync.app.conf.task_always_eager
    configured.task_always_eager = False
    try:
        with Connection(broker.url) as connection:
            run_sync.apply_async([run.pk], connection=connection)
    finally:
        configured.task_always_eager = is_eager


def has(run: SyncRun, *, pages: int) -> bool:
    run.refresh_from_db()
    return run.pages >= pages


def holder() -> int:
    """The process that holds the lease."""
    return int(SyncLease.objects.get().holder.split(":")[1])


def forked_by(worker: subprocess.Popen[bytes]) -> list[int]:
    """The processes in which it works, its Beat among them."""
    ps = ["ps", "-o", "pid=", "--ppid", str(worker.pid)]
    return [int(pid) for pid in subprocess.run(ps, capture_output=True, text=True).stdout.split()]


def is_over(run: SyncRun) -> bool:
    run.refresh_from_db()
    return run.ended_at is not None


def heard_of_worker_at() -> float:
    return SharedValue.objects.values_list("set_at", flat=True).get(name=heartbeat.NAME)


def assert_read_once(crm: Crm, run: SyncRun) -> None:
    assert run.status == "succeeded", run.message
    assert run.created == run.seen == sum(len(crm.ids(module)) for module in run.modules)
    crm.assert_mirrored()


@pytest.mark.processes
def test_row_4_a_worker_told_to_end_finishes_its_page_and_gives_the_lease_back(
    big_crm: Crm, start_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    run = slow_run(big_crm)
    worker = start_worker()
    wait_for(lambda: has(run, pages=3))
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert time.monotonic() - begun < 30
    run.refresh_from_db()
    assert (run.status, run.ended_at) == ("queued", None)
    assert not lease.is_held()
    assert run.created == run.seen > 0

    big_crm.control("config", latency_ms=0)
    start_worker()
    wait_for(lambda: is_over(run))
    assert SyncRun.objects.filter(kind="full").count() == 1
    assert_read_once(big_crm, run)


@pytest.mark.processes
def test_row_11_a_broker_killed_five_times_under_work_loses_none_of_it(
    big_crm: Crm, broker: Broker, start_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    run = slow_run(big_crm, latency_ms=500)
    worker = start_worker()
    under_work = 0
    for number in range(5):
        wait_for(lambda number=number: has(run, pages=number + 1) or is_over(run))
        under_work += run.ended_at is None
        broker.kill()
        broker.start()
    assert under_work >= 3
    back_at = time.time()
    wait_for(lambda: heard_of_worker_at() > back_at, seconds=60)  # the banner of row 10 ends
    big_crm.control("config", latency_ms=0)
    wait_for(lambda: is_over(run), seconds=60)
    assert_read_once(big_crm, run)
    # The same worker still hears: what is asked for now is done too.
    one = big_crm.ids()[0]
    big_crm.control("edit", module="Deals", id=one, values={"Next_Step": "after all that"})
    later = runs.request_run(kind="delta", trigger="schedule", nudge=False)
    wait_for(lambda: is_over(later), seconds=60)
    assert worker.poll() is None
    assert Deal.objects.get(zoho_id=one).next_step == "after all that"


@pytest.mark.processes
def test_row_12_a_broker_that_forgot_everything_is_filled_again_by_the_sweepers(
    big_crm: Crm, broker: Broker, start_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    known_channels()
    big_crm.settings.WEBHOOK_TOKENS = [LIVE]
    run = slow_run(big_crm)
    start_worker()
    wait_for(lambda: has(run, pages=2))
    broker.flush()
    big_crm.control("config", latency_ms=0)
    wait_for(lambda: is_over(run), seconds=60)
    assert_read_once(big_crm, run)

    told, edited = Deal.objects.live().order_by("pk")[:2]
    values = {"Next_Step": "by notice"}
    big_crm.control("edit", module="Deals", id=str(told.zoho_id), values=values)
    change(edited, next_step="by a person")
    with nobody_works(big_crm.settings):
        tell(told.zoho_id)
    broker.flush()
    switch("on")
    wait_for(lambda: Deal.objects.get(pk=told.pk).next_step == "by notice", seconds=60)
    wait_for(
        lambda: big_crm.record(edited.zoho_id)["Next_Step"] == "by a person",
        seconds=60,
    )


def test_one_process_listens_for_notices_and_needs_neither_a_message_nor_a_sweep(
    big_crm: Crm, broker: Broker, start_worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Also while a full sync is under way. The next sweep is an hour away."""
    big_crm.sync()
    known_channels()
    big_crm.settings.WEBHOOK_TOKENS = [LIVE]
    big_crm.settings.REDIS_URL = big_crm.settings.REDIS_CLIENT_URL = broker.url
    run = slow_run(big_crm, latency_ms=1000)
    worker = start_worker(places=3, sweep_s=3600)
    have_it_run(run, broker)
    wait_for(lambda: has(run, pages=1) and not listening.is_wanted())
    target = Deal.objects.live().order_by("-pk").first()
    assert target is not None
    values = {"Next_Step": "heard"}
    big_crm.control("edit", module="Deals", id=str(target.zoho_id), values=values)
    tell(target.zoho_id)
    wait_for(lambda: Deal.objects.get(pk=target.pk).next_step == "heard")
    assert not is_over(run)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert listening.is_wanted()


@pytest.mark.timeout(240)  # against a hang; a busy machine is none
@pytest.mark.postgres
def test_two_workers_one_killed_and_the_broker_restarted_end_the_full_sync(
    big_crm: Crm, broker: Broker, start_worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    run = slow_run(big_crm)
    workers = [start_worker(), start_worker()]
    wait_for(lambda: has(run, pages=3), seconds=90)
    (killed,) = [worker for worker in workers if holder() in forked_by(worker)]
    (other,) = [worker for worker in workers if worker is not killed]
    for pid in [killed.pid, *forked_by(killed)]:
        os.kill(pid, signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    broker.kill()
    broker.start()
    run.refresh_from_db()
    assert run.ended_at is None  # it was killed in the middle of it
    fence = run.fence
    wait_for(lambda: is_over(run), seconds=90)
    assert other.poll() is None
    assert run.fence is not None and fence is not None and run.fence > fence
    assert SyncRun.objects.filter(kind="full").count() == 1
    assert_read_once(big_crm, run)
