"""A delta of 500 changed deals at 50 ms against a bare loop that fetches and upserts the same."""

from __future__ import annotations

import statistics
from datetime import datetime, timedelta
from pathlib import Path

from pipelinepulse.benchmarks.kit import Bench, Figure, ask_control, require

HERE = Path(__file__).parent
BARE, OURS = HERE / "bare_delta.py", HERE / "our_delta.py"
LATENCY_MS = 50
CHANGED = 500
ROUNDS = 3
MODULES = 4
CALLS_A_MODULE = 2  # what changed, what was deleted


def run(bench: Bench) -> list[Figure]:
    database = bench.fresh_database()
    with bench.crm(bench.deals) as crm:
        bench.child(database, crm, OURS, "full")
        records = ask_control(crm, "dump", module="Deals")["records"]
        ids = [row["id"] for row in records[:: max(1, len(records) // CHANGED)][:CHANGED]]
        ask_control(crm, "config", latency_ms=LATENCY_MS)
        idle = bench.child(database, crm, OURS, "delta").said
        require(idle["changed"] == 0, f"nothing changed, and {idle['changed']} rows were written")
        most = CALLS_A_MODULE * MODULES
        require(idle["calls"] == most, f"nothing changed: {idle['calls']} calls instead of {most}")
        ours, bare = [], []
        for at in range(ROUNDS):
            change(crm, ids, f"ours {at}")
            said = bench.child(database, crm, OURS, "delta", "Deals").said
            require(said["changed"] == len(ids), f"{said['changed']} of {len(ids)} were stored")
            ours.append(said["seconds"])
            since = change(crm, ids, f"bare {at}")
            said = bench.child(database, crm, BARE, since).said
            require(said["changed"] == len(ids), f"bare: {said['changed']} of {len(ids)}")
            bare.append(said["seconds"])
    return [
        Figure(
            f"delta of {len(ids):,} changed in {bench.deals:,} at {LATENCY_MS} ms, "
            "times a bare loop",
            statistics.median(ours) / statistics.median(bare),
            2.0,
            False,
            f"median of {ROUNDS}: {statistics.median(ours):.2f} s, "
            f"bare {statistics.median(bare):.2f} s; nothing changed: {idle['calls']} calls",
        )
    ]


def change(crm: str, ids: list[str], word: str) -> str:
    """Another next step in each; the CRM's time of the first, a second earlier."""
    times = [
        ask_control(crm, "edit", module="Deals", id=i, values={"Next_Step": f"{word} {i}"})[
            "Modified_Time"
        ]
        for i in ids
    ]
    return (datetime.fromisoformat(min(times)) - timedelta(seconds=1)).isoformat()
