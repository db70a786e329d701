"""What a full sync costs the pages, against what a bare loop that writes the same rows costs them.

Every deal of the mirror differs from the CRM's, so that both write all rows: deal, event, payload.
The bare loop pages serially; ours asks ten at once, checks, compares and has o2r follow.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from pipelinepulse.benchmarks.kit import Bench, Figure, require
from pipelinepulse.benchmarks.processes import (
    environment,
    free_port,
    redis,
    running,
    serving,
    syncing,
    working,
)

HERE = Path(__file__).parent
LATENCY_MS = 50
PAGES = {"dashboard": "/", "opportunity list": "/opportunities"}
LOOKS = 150
MAX_TIMES_BARE = 2.0
LONG_AGO = "2001-01-01T00:00:00+00:00"


def run(bench: Bench) -> list[Figure]:
    if not bench.is_postgres:
        return []
    database = bench.fresh_database()
    with bench.crm(bench.deals, latency_ms=LATENCY_MS) as crm, redis(bench) as broker:
        said = bench.child(database, crm, HERE / "prepare_dashboard.py").said
        cookies = {said["cookie"]: said["session"]}
        port = free_port()
        env = environment(bench, database, crm, port, broker)
        with serving(env, port, "pipelinepulse.wsgi", "/healthz"):
            idle = _p95s(port, cookies, lambda: True)
            with _rewriting(env) as is_at_it:
                bare = _p95s(port, cookies, is_at_it)
            with working(env), syncing(bench, database, crm, what="rewrite") as sync:
                ours = _p95s(port, cookies, lambda: sync.poll() is None)
    return [
        Figure(
            f"{name} at {said['deals']:,} deals during a full sync, p95 times during a bare loop",
            ours[name] / bare[name],
            MAX_TIMES_BARE,
            False,
            f"{ours[name]:.0f} ms, bare {bare[name]:.0f} ms, idle {idle[name]:.0f} ms",
        )
        for name in PAGES
    ]


@contextmanager
def _rewriting(env: dict[str, str]) -> Iterator[Callable[[], bool]]:
    command = [sys.executable, str(HERE / "bare_delta.py"), LONG_AGO, "endless"]
    with running(command, env) as process:
        time.sleep(2)
        yield lambda: process.poll() is None


def _p95s(port: int, cookies: dict[str, str], goes_on: Callable[[], bool]) -> dict[str, float]:
    """Milliseconds of each page, looked at in turn."""
    took: dict[str, list[float]] = {name: [] for name in PAGES}
    with requests.Session() as session:
        for at in range(LOOKS + 5):
            for name, path in PAGES.items():
                started = time.perf_counter()
                url = f"http://127.0.0.1:{port}{path}"
                answer = session.get(url, cookies=cookies, timeout=60, allow_redirects=False)
                require(answer.status_code == 200, f"{path} answered {answer.status_code}")
                if at >= 5:
                    took[name].append((time.perf_counter() - started) * 1000)
    require(goes_on(), "the writing ended before the pages were measured")
    return {name: sorted(found)[int(len(found) * 0.95)] for name, found in took.items()}
