"""Full sync of generated deals against a bare loop, memory, and a second sync of the same."""

from __future__ import annotations

from pathlib import Path

from pipelinepulse.benchmarks.kit import Bench, Figure, require

HERE = Path(__file__).parent
BARE, OURS = HERE / "bare_loop.py", HERE / "our_sync.py"
LATENCY_MS = 50
MEMORY_MB = 200


def run(bench: Bench) -> list[Figure]:
    return [*with_latency(bench), *without_latency(bench)]


def with_latency(bench: Bench) -> list[Figure]:
    with bench.crm(bench.deals, latency_ms=LATENCY_MS) as crm:
        bare = bench.child(bench.fresh_database(), crm, BARE).said
        ours = bench.child(bench.fresh_database(), crm, OURS).said
    return [
        Figure(
            f"full sync of {bench.deals:,} at {LATENCY_MS} ms, times a bare serial loop",
            bare["seconds"] / ours["seconds"],
            3.0,
            True,
            f"{ours['seconds']:.1f} s in {ours['calls']} calls, bare {bare['seconds']:.1f} s",
        )
    ]


def without_latency(bench: Bench) -> list[Figure]:
    small = max(1000, bench.deals // 10)
    with bench.crm(small) as crm:
        little = bench.child(bench.fresh_database(), crm, OURS)
    with bench.crm(bench.deals) as crm:
        bare = bench.child(bench.fresh_database(), crm, BARE).said
        database = bench.fresh_database()
        first = bench.child(database, crm, OURS)
        second = bench.child(database, crm, OURS).said
    ours = first.said
    require(second["is_unchanged"], "a second full sync of unchanged data wrote something")
    return [
        Figure(
            f"full sync of {bench.deals:,} at 0 ms, times a bare loop writing the same rows",
            bare["seconds"] / ours["seconds"],
            0.25,
            True,
            f"{ours['seconds']:.1f} s, bare {bare['seconds']:.1f} s",
        ),
        Figure(
            "second full sync of unchanged data, of the first",
            second["seconds"] / ours["seconds"],
            0.6,
            False,
            f"{second['seconds']:.1f} s; no row and no event written",
        ),
        Figure(
            f"peak memory at {bench.deals:,} deals, of that at {small:,}",
            first.peak_mb / little.peak_mb,
            1.2,
            False,
            f"{first.peak_mb:.0f} MB, {little.peak_mb:.0f} MB",
        ),
        Figure(
            f"peak memory at {bench.deals:,} deals, of {MEMORY_MB} MB",
            first.peak_mb / MEMORY_MB,
            1.0,
            False,
            f"{first.peak_mb:.0f} MB",
        ),
    ]
