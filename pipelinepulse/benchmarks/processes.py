"""The processes of the product as the benchmarks start them, and what is asked of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import requests

from pipelinepulse import broker
from pipelinepulse.benchmarks.kit import ROOT, Bench, require

TOKEN = "token-of-the-benchmark"  # noqa: S105
WAIT_S = 60.0
HERE = Path(__file__).parent


def environment(bench: Bench, database: str, crm: str, port: int, redis: str) -> dict[str, str]:
    return {
        **bench.environment(database, crm),
        "PORT": str(port),
        "APP_BASE_URL": f"http://127.0.0.1:{port}",
        "WEBHOOK_TOKEN": TOKEN,
        "REDIS_URL": redis,
    }


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
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
def serving(env: dict[str, str], port: int, module: str, ready: str) -> Iterator[None]:
    """The same server for both: two processes, four threads each."""
    command = [sys.executable, "-m", "gunicorn", "--config", os.devnull, "--workers", "2"]
    command += ["--threads", "4", "--bind", f"127.0.0.1:{port}", "--log-level", "error", module]

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}{ready}", timeout=2).ok
        except requests.RequestException:
            return False

    with running(command, env):
        wait_for(answers, "the web process does not answer")
        yield


@contextmanager
def working(env: dict[str, str]) -> Iterator[None]:
    """A worker, and Beat for what its first nudge missed."""
    celery = [sys.executable, "-m", "celery", "-A", "pipelinepulse", "--quiet"]
    worker = [*celery, "worker", "--concurrency", "5", "--without-mingle", "--without-gossip"]
    beat = [*celery, "beat", "--pidfile="]
    env = {**env, "SWEEP_SECONDS": "2"}
    with running(worker, env), running(beat, env):
        yield


@contextmanager
def syncing(
    bench: Bench, database: str, crm: str, *, what: str = "empty"
) -> Iterator[subprocess.Popen[bytes]]:
    """One full sync after the other (see `our_endless_sync.py`); begun when this is entered."""
    env = bench.environment(database, crm)
    runs = count(database, "crm_syncrun")
    with running([sys.executable, str(HERE / "our_endless_sync.py"), what], env) as process:
        wait_for(lambda: count(database, "crm_syncrun") > runs, "the full sync did not begin")
        yield process


@contextmanager
def redis(bench: Bench) -> Iterator[str]:
    home = bench.folder / "redis"
    home.mkdir(exist_ok=True)
    chosen = broker.choose_broker(home, given_url="")
    require(chosen.command is not None, "no Redis program was found")
    with running(list(chosen.command or ()), dict(os.environ)):
        wait_for(lambda: broker.answers(chosen.url), "Redis does not answer")
        yield chosen.url


def output(env: dict[str, str], script: Path) -> str:
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    require(done.returncode == 0, f"{script.name} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def control(crm: str, do: str, **options: Any) -> Any:
    answer = requests.post(f"{crm}/_control", json={"do": do, **options}, timeout=300)
    answer.raise_for_status()
    return answer.json()


def count(database: str, table: str) -> int:
    return int(sql(database, f"SELECT count(*) FROM {table}"))  # noqa: S608


def sql(database: str, statement: str) -> Any:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


def wait_for(is_so: Callable[[], Any], otherwise: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        require(time.monotonic() < deadline, otherwise)
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
