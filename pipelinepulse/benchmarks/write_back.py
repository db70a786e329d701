"""10,000 edits sent to a CRM at 50 ms, against a bare loop that sends the same batches.

The bare loop only writes: it reads nothing, compares nothing and keeps no outcome. It runs before
and after ours, because a machine that others use is never twice the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipelinepulse.benchmarks.kit import Bench, Figure, ask_control, require

HERE = Path(__file__).parent
BARE, OURS = HERE / "bare_write_back.py", HERE / "our_write_back.py"
LATENCY_MS = 50
EDITS = 10_000
ROWS_A_WRITE, IDS_A_READING = 100, 50
RECORDS = "/crm/v8/Deals"


def run(bench: Bench) -> list[Figure]:
    edits = min(EDITS, bench.deals)
    database = bench.fresh_database()
    ids = bench.folder / "ids.txt"
    with bench.crm(edits) as crm:
        ids.write_text("\n".join(row["id"] for row in _deals(crm)))
        ask_control(crm, "config", latency_ms=LATENCY_MS)
        bare = [bench.child(database, crm, BARE, str(ids), "before").said["seconds"]]
        bench.child(database, crm, OURS, "prepare", str(edits))
        ask_control(crm, "reset_stats")
        ours = bench.child(database, crm, OURS, "send", str(edits)).said
        calls = ask_control(crm, "stats")["by_path"]
        there = sum(str(row["Next_Step"]).startswith(ours["values"]) for row in _deals(crm))
        require(there == edits, f"the CRM holds {there:,} of {edits:,} changes: {ours}")
        bare.append(bench.child(database, crm, BARE, str(ids), "after").said["seconds"])
    writes, reads = calls.get(f"PUT {RECORDS}", 0), calls.get(f"GET {RECORDS}", 0)
    reads += calls.get("POST /crm/v8/coql", 0) + calls.get(f"GET {RECORDS}/{{id}}", 0)
    least_writes, most_reads = math.ceil(edits / ROWS_A_WRITE), math.ceil(edits / IDS_A_READING)
    require(ours["sent"] == edits, f"{ours['sent']:,} of {edits:,} changes were sent: {ours}")
    require(writes <= least_writes, f"{writes} write calls, at most {least_writes} are needed")
    require(reads <= most_reads, f"{reads} read calls, at most {most_reads} are needed")
    floor = sum(bare) / len(bare)
    return [
        Figure(
            f"{edits:,} write-backs at {LATENCY_MS} ms, times a bare loop of the same batches",
            floor / ours["seconds"],
            0.5,
            True,
            f"{ours['seconds']:.2f} s in {writes} writes and {reads} reads, bare "
            + ", ".join(f"{seconds:.2f} s" for seconds in bare),
        )
    ]


def _deals(crm: str) -> list[dict[str, Any]]:
    return ask_control(crm, "dump", module="Deals")["records"]
