"""Ten times the deals (a million by default) at 200 ms a call: time, memory, dashboard and tracker.

Only on demand: `manage.py bench million`.
"""

from __future__ import annotations

from pathlib import Path

from pipelinepulse.benchmarks.dashboard import SETTINGS, medians, serving
from pipelinepulse.benchmarks.kit import Bench, Figure, require

HERE = Path(__file__).parent
OURS, PREPARE = HERE / "our_sync.py", HERE / "prepare_dashboard.py"
LATENCY_MS = 200
Page = tuple[str, dict[str, str]]
MAX_SECONDS = 300
MAX_MEMORY, MAX_DASHBOARD = 1.2, 1.3


def run(bench: Bench) -> list[Figure]:
    many, few = bench.deals * 10, max(1000, bench.deals // 10)
    database = bench.fresh_database()
    with bench.crm(bench.deals, latency_ms=LATENCY_MS) as crm:
        usual = bench.child(bench.fresh_database(), crm, OURS)
    with bench.crm(many, latency_ms=LATENCY_MS) as crm:
        large = bench.child(database, crm, OURS)
    require(large.said["seen"] >= many, f"{large.said['seen']:,} of {many:,} deals were read")
    return [
        Figure(
            f"full sync of {many:,} at {LATENCY_MS} ms, of five minutes",
            large.said["seconds"] / MAX_SECONDS,
            1.0,
            False,
            f"{large.said['seconds']:.0f} s in {large.said['calls']} calls",
        ),
        Figure(
            f"peak memory at {many:,} deals, of that at {bench.deals:,}",
            large.peak_mb / usual.peak_mb,
            MAX_MEMORY,
            False,
            f"{large.peak_mb:.0f} MB, {usual.peak_mb:.0f} MB",
        ),
        *_pages(bench, database, many, few),
    ]


def _pages(bench: Bench, database: str, many: int, few: int) -> list[Figure]:
    """The same pages over both mirrors, each with its figures held against a live GROUP BY."""
    mirrors = []
    for deals, address in ((many, database), (few, bench.fresh_database())):
        with bench.crm(deals) as crm:
            said = bench.child(address, crm, PREPARE).said
        require(said["is_equal"], "the dashboard's figures differ from a live GROUP BY")
        mirrors.append((address, {said["cookie"]: said["session"]}))
    (large, large_cookies), (small, small_cookies) = mirrors
    wsgi = "pipelinepulse.wsgi"
    with (
        serving(bench, large, "", wsgi, SETTINGS) as large_url,
        serving(bench, small, "", wsgi, SETTINGS) as small_url,
    ):
        found = []
        for name, path in (("dashboard", ""), ("tracker", "o2r")):
            large_page = (large_url + path, large_cookies)
            small_page = (small_url + path, small_cookies)
            title = f"{name} at {many:,} deals, of that at {few:,}"
            found.append(_growth(title, large_page, small_page))
        return found


def _growth(name: str, large: Page, small: Page) -> Figure:
    slow, quick = medians(large, small)
    return Figure(
        name,
        slow / quick,
        MAX_DASHBOARD,
        False,
        f"{slow * 1000:.1f} ms, {quick * 1000:.1f} ms",
    )
