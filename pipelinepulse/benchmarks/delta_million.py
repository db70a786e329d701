"""A delta of 500 changed deals in ten times the mirror (a million), against the usual one.

Only on demand: `manage.py bench delta_million`. Both are taken in turn, so that a slow moment of
the machine falls on both.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

from pipelinepulse.benchmarks.delta import CHANGED, LATENCY_MS, change
from pipelinepulse.benchmarks.kit import Bench, Figure, ask_control, require

OURS = Path(__file__).parent / "our_delta.py"
ROUNDS = 5
MAX_TIMES = 1.2


def run(bench: Bench) -> list[Figure]:
    few, many = bench.deals, bench.deals * 10
    with ExitStack() as stack:
        mirrors = {size: _mirror(bench, stack, size) for size in (few, many)}
        took: dict[int, list[float]] = {few: [], many: []}
        for at in range(ROUNDS):
            for size, (crm, database, ids) in mirrors.items():
                change(crm, ids, f"round {at}")
                said = bench.child(database, crm, OURS, "delta", "Deals").said
                require(said["changed"] == len(ids), f"{said['changed']} of {len(ids)} were stored")
                took[size].append(said["seconds"])
    slow, usual = (statistics.median(took[size]) for size in (many, few))
    return [
        Figure(
            f"delta of {CHANGED} changed in {many:,} at {LATENCY_MS} ms, of that in {few:,}",
            slow / usual,
            MAX_TIMES,
            False,
            f"median of {ROUNDS}: {slow:.2f} s, {usual:.2f} s",
        )
    ]


def _mirror(bench: Bench, stack: ExitStack, size: int) -> tuple[str, str, list[str]]:
    """A CRM of so many deals, its mirror, and the deals that will change."""
    crm, database = stack.enter_context(bench.crm(size)), bench.fresh_database()
    bench.child(database, crm, OURS, "full")
    ids = bench.some_ids(database, CHANGED)
    ask_control(crm, "config", latency_ms=LATENCY_MS)
    return crm, database, ids
