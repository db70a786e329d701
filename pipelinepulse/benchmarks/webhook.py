"""Notices under a full sync: our webhook against a bare view, none lost; how soon a change is here.

On PostgreSQL alone: SQLite has one writer, and the sync is it. The load is open: each request has
its moment, and what it waits for its turn counts.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import requests

from pipelinepulse import broker
from pipelinepulse.benchmarks.kit import ROOT, Bench, Figure, require

HERE = Path(__file__).parent
OURS, SETTINGS = "pipelinepulse.wsgi", "pipelinepulse.settings"
BARE = "pipelinepulse.benchmarks.bare_webhook:application"
BARE_SETTINGS = "pipelinepulse.benchmarks.bare_webhook_settings"
ADDRESS = "/api/zoho/webhook"
TOKEN = "token-of-the-benchmark"  # noqa: S105
LATENCY_MS, ALLOWED_MS = 50, 50
PER_SECOND = int(os.environ.get("BENCH_WEBHOOK_PER_SECOND", "500"))
SECONDS = int(os.environ.get("BENCH_WEBHOOK_SECONDS", "60"))
SENDERS = 32
CHANGES = 30
WAIT_S = 60.0
MAX_TIMES_BARE = 3.0


def run(bench: Bench) -> list[Figure]:
    if not bench.is_postgres:
        return []
    with bench.crm(bench.deals, latency_ms=LATENCY_MS) as crm:
        _control(crm, "config", notice_gather_ms=0)
        records = [row["id"] for row in _control(crm, "dump", module="Deals")["records"]]
        bare, _ = _under_a_sync(bench, crm, records, is_ours=False)
        ours, seen = _under_a_sync(bench, crm, records, is_ours=True)
    return [
        Figure(
            f"webhook at {PER_SECOND} a second under a full sync, p99 times a bare insert",
            ours.p99_ms / bare.p99_ms,
            MAX_TIMES_BARE,
            False,
            f"{ours.p99_ms:.1f} ms, bare {bare.p99_ms:.1f} ms; {ours.accepted:,} of {ours.sent:,} "
            f"accepted, {ours.under_sync:.0%} under the sync",
        ),
        Figure("notices that were accepted and are not there", ours.lost, 0, False, "of ours"),
        Figure(
            f"change in the CRM to row here, of latency + {ALLOWED_MS} ms, no sync",
            statistics.median(seen.idle_ms) / (LATENCY_MS + ALLOWED_MS),
            1.0,
            False,
            f"median {statistics.median(seen.idle_ms):.0f} ms",
        ),
        Figure(
            f"change in the CRM to row here, of latency + {ALLOWED_MS} ms, under a full sync",
            statistics.median(seen.busy_ms) / (LATENCY_MS + ALLOWED_MS),
            1.0,
            False,
            f"median {statistics.median(seen.busy_ms):.0f} ms",
        ),
    ]


@dataclass
class Load:
    """What became of the requests."""

    sent: int
    accepted: int
    lost: int
    p99_ms: float
    under_sync: float


@dataclass
class Seen:
    """Milliseconds from a change to its row, with and without a full sync under way."""

    busy_ms: list[float]
    idle_ms: list[float]


# -- one measurement ------------------------------------------------------------------------------


def _under_a_sync(
    bench: Bench, crm: str, records: list[str], *, is_ours: bool
) -> tuple[Load, Seen]:
    database = bench.fresh_database()
    seen = Seen([], [])

    def is_syncing() -> bool:
        full = "SELECT count(*) FROM crm_syncrun WHERE kind = 'full' AND status = 'running'"
        return bool(_sql(database, full))

    with ExitStack() as stack:
        port = _free_port()
        redis = stack.enter_context(_redis(bench)) if is_ours else ""
        env = _environment(bench, database, crm, port, redis)
        if not is_ours:
            _sql(database, "CREATE TABLE bare_notice (id bigserial primary key, module text, "
                 "zoho_id bigint, received_at timestamptz)")  # fmt: skip
        env["DJANGO_SETTINGS_MODULE"] = SETTINGS if is_ours else BARE_SETTINGS
        ready = "/healthz" if is_ours else "/ready"
        stack.enter_context(_serving(env, port, OURS if is_ours else BARE, ready))
        channels: dict[str, str] = {}
        if is_ours:
            channels = json.loads(_output(env, HERE / "our_channels.py"))
        body = {"module": "Deals", "operation": "update", "channel_id": channels.get("Deals", "1"),
                "token": TOKEN, "affected_fields": [], "server_time": 0}  # fmt: skip
        with _syncing(bench, database, crm) as sync:
            load = _load(port, body, records, sync)
        if is_ours:
            load.lost = _lost(database, load.accepted)
            stack.enter_context(_working(env))
            _wait_for(lambda: _is_worked_off(database), "the inbox was not worked off")
            seen.idle_ms = _visibility(crm, database, records, lambda: True)
            _sql(database, "TRUNCATE crm_deal, crm_account, crm_contact, crm_lead, crm_changeevent,"
                 " crm_receivedrecord, crm_mirrorstate, crm_syncrun CASCADE")  # fmt: skip
            # An empty mirror: the sweeper has the worker read everything.
            _wait_for(lambda: _count(database, "crm_deal") > 0, "no deal was synced")
            seen.busy_ms = _visibility(crm, database, records, is_syncing)
    return load, seen


def _load(
    port: int, body: dict[str, Any], records: list[str], sync: subprocess.Popen[bytes]
) -> Load:
    """Open load from so many connections; latencies count from the moment that was planned."""
    began = time.perf_counter() + 0.5
    number = PER_SECOND * SECONDS
    turn = iter(range(number))
    guard, results = threading.Lock(), []

    def send() -> None:
        with requests.Session() as session:
            url = f"http://127.0.0.1:{port}{ADDRESS}"
            while True:
                with guard:
                    at = next(turn, None)
                if at is None:
                    return
                due = began + at / PER_SECOND
                time.sleep(max(0.0, due - time.perf_counter()))
                said = {**body, "ids": [records[at % len(records)]]}
                try:
                    status = session.post(url, json=said, timeout=30).status_code
                except requests.RequestException:
                    status = 0
                took_ms = (time.perf_counter() - due) * 1000
                results.append((status, took_ms, sync.poll() is None))

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    busy = sorted(took for status, took, is_busy in results if is_busy and status == 202)
    require(len(busy) > 100, "the full sync had ended before the load began; sync more deals")
    return Load(
        sent=number,
        accepted=sum(status == 202 for status, _, _ in results),
        lost=0,
        p99_ms=busy[int(len(busy) * 0.99)],
        under_sync=len(busy) / number,
    )


def _visibility(
    crm: str, database: str, records: list[str], goes_on: Callable[[], bool]
) -> list[float]:
    """One change after the other, each until its row shows it, while `goes_on`."""
    took: list[float] = []
    with psycopg.connect(database, autocommit=True) as connection:
        for at in range(CHANGES):
            if not goes_on():
                break
            target, mark = records[at], f"seen {time.time_ns()}"
            started = time.perf_counter()
            _control(crm, "edit", module="Deals", id=target, values={"Next_Step": mark})
            while time.perf_counter() - started < WAIT_S:
                found = connection.execute(
                    "SELECT 1 FROM crm_deal WHERE zoho_id = %s AND next_step = %s",
                    (int(target), mark),
                ).fetchone()
                if found:
                    break
                time.sleep(0.001)
            took.append((time.perf_counter() - started) * 1000)
    told = ", ".join(f"{each:.0f}" for each in took)
    require(len(took) >= 5, f"the full sync had ended before five changes were seen ({told} ms)")
    return took


def _lost(database: str, accepted: int) -> int:
    stored = _sql(database, "SELECT coalesce(sum(times), 0) FROM crm_notice WHERE zoho_id > 0")
    return max(0, accepted - int(stored))


def _is_worked_off(database: str) -> bool:
    waiting = "SELECT count(*) FROM crm_notice WHERE status IN ('waiting', 'taken')"
    return not _sql(database, waiting)


# -- processes ------------------------------------------------------------------------------------


def _environment(bench: Bench, database: str, crm: str, port: int, redis: str) -> dict[str, str]:
    return {
        **bench.environment(database, crm),
        "PORT": str(port),
        "APP_BASE_URL": f"http://127.0.0.1:{port}",
        "WEBHOOK_TOKEN": TOKEN,
        "REDIS_URL": redis,
    }


@contextmanager
def _process(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextmanager
def _serving(env: dict[str, str], port: int, module: str, ready: str) -> Iterator[None]:
    """The same server for both: two processes, four threads each."""
    command = [sys.executable, "-m", "gunicorn", "--config", os.devnull, "--workers", "2"]
    command += ["--threads", "4", "--bind", f"127.0.0.1:{port}", "--log-level", "error", module]

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}{ready}", timeout=2).ok
        except requests.RequestException:
            return False

    with _process(command, env):
        _wait_for(answers, "the web process does not answer")
        yield


@contextmanager
def _working(env: dict[str, str]) -> Iterator[None]:
    """A worker, and Beat for what its first nudge missed."""
    celery = [sys.executable, "-m", "celery", "-A", "pipelinepulse", "--quiet"]
    worker = [*celery, "worker", "--concurrency", "5", "--without-mingle", "--without-gossip"]
    beat = [*celery, "beat", "--pidfile="]
    env = {**env, "SWEEP_SECONDS": "2"}
    with _process(worker, env), _process(beat, env):
        yield


@contextmanager
def _syncing(bench: Bench, database: str, crm: str) -> Iterator[subprocess.Popen[bytes]]:
    """A full sync of everything, under way."""
    env = bench.environment(database, crm)
    command = [sys.executable, str(ROOT / "manage.py"), "sync_zoho", "--full"]
    with _process(command, env) as process:
        _wait_for(lambda: _count(database, "crm_syncrun") > 0, "the full sync did not begin")
        yield process


@contextmanager
def _redis(bench: Bench) -> Iterator[str]:
    home = bench.folder / "redis"
    home.mkdir(exist_ok=True)
    chosen = broker.choose_broker(home, given_url="")
    require(chosen.command is not None, "no Redis program was found")
    with _process(list(chosen.command or ()), dict(os.environ)):
        _wait_for(lambda: broker.answers(chosen.url), "Redis does not answer")
        yield chosen.url


def _output(env: dict[str, str], script: Path) -> str:
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{script.name} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def _control(crm: str, do: str, **options: Any) -> Any:
    answer = requests.post(f"{crm}/_control", json={"do": do, **options}, timeout=300)
    answer.raise_for_status()
    return answer.json()


def _count(database: str, table: str) -> int:
    return int(_sql(database, f"SELECT count(*) FROM {table}"))  # noqa: S608


def _sql(database: str, statement: str) -> Any:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


def _wait_for(is_so: Any, otherwise: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        require(time.monotonic() < deadline, otherwise)
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
