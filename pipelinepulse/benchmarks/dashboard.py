"""The dashboard, served by gunicorn and signed in, against a bare view that lists 50 rows."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from pipelinepulse.benchmarks.kit import ROOT, Bench, Figure, require

HERE = Path(__file__).parent
SETTINGS = "pipelinepulse.settings"
BARE, BARE_SETTINGS = "pipelinepulse.benchmarks.bare_page", "pipelinepulse.benchmarks.bare_settings"
ROUNDS, WARM_UP = 60, 10
MAX_QUERIES, MAX_TIMES_BARE = 10, 6.0


def run(bench: Bench) -> list[Figure]:
    database = bench.fresh_database()
    with bench.crm(bench.deals) as crm:
        said = bench.child(database, crm, HERE / "prepare_dashboard.py").said
        require(said["is_equal"], "the dashboard's figures differ from a live GROUP BY")
        cookies = {said["cookie"]: said["session"]}
        with (
            serving(bench, database, crm, BARE, BARE_SETTINGS) as bare_url,
            serving(bench, database, crm, "pipelinepulse.wsgi", SETTINGS) as our_url,
        ):
            bare, ours = medians((bare_url, {}), (our_url, cookies))
    return [
        Figure(
            f"dashboard at {said['deals']:,} deals, times a bare view of 50 rows",
            ours / bare,
            MAX_TIMES_BARE,
            False,
            f"{ours * 1000:.1f} ms, bare {bare * 1000:.1f} ms; figures equal a live GROUP BY",
        ),
        Figure("queries of the dashboard", said["queries"], MAX_QUERIES, False, "session included"),
    ]


def medians(*pages: tuple[str, dict[str, str]]) -> list[float]:
    """Seconds of each page (address, cookies), taken in turn, so that a slow moment of the machine
    falls on all of them."""
    sessions = [requests.Session() for _ in pages]
    times: list[list[float]] = [[] for _ in pages]
    for at in range(WARM_UP + ROUNDS):
        for (url, jar), session, kept in zip(pages, sessions, times, strict=True):
            started = time.perf_counter()
            answer = session.get(url, cookies=jar, timeout=60, allow_redirects=False)
            elapsed = time.perf_counter() - started
            require(
                answer.status_code == 200,
                f"{url} answered {answer.status_code} {answer.headers.get('Location', '')}",
            )
            if at >= WARM_UP:
                kept.append(elapsed)
    return [statistics.median(kept) for kept in times]


@contextmanager
def serving(bench: Bench, database: str, crm: str, module: str, settings: str) -> Iterator[str]:
    """One gunicorn process with four threads; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The same server for both: one process, four threads, nothing of ours around the bare page.
    command = [sys.executable, "-m", "gunicorn", "--config", os.devnull]
    command += ["--bind", f"127.0.0.1:{port}"]
    command += ["--workers", "1", "--threads", "4", "--log-level", "error", module]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**bench.environment(database, crm), "DJANGO_SETTINGS_MODULE": settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(200):
            try:
                requests.get(url, timeout=5, allow_redirects=False)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
