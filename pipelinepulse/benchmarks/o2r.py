"""The tracker: a full recompute, the same one killed half-way, and its page against a bare view."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from pipelinepulse.benchmarks.dashboard import BARE, BARE_SETTINGS, SETTINGS, medians, serving
from pipelinepulse.benchmarks.kit import ROOT, Bench, Figure, require

HERE = Path(__file__).parent
PREPARE = HERE / "prepare_o2r.py"
MAX_SECONDS_OF_100_000 = 60.0
MAX_QUERIES, MAX_TIMES_BARE = 12, 6.0
BATCH = 1000


def run(bench: Bench) -> list[Figure]:
    mirror, other = bench.fresh_database(), ""
    with bench.crm(bench.deals) as crm:
        deals = bench.child(mirror, crm, PREPARE, "mirror").said["deals"]
        other = _copied(bench, mirror)
        said = bench.child(mirror, "", PREPARE, "whole").said
        _killed(bench, other, at=max(1, deals // BATCH // 2))
        again = bench.child(other, "", PREPARE, "whole").said
        require(again["state"] == said["state"], "killed half-way it came to another end")
        figures = [
            Figure(
                f"full recompute of {deals:,} opportunities, of a minute per 100,000",
                said["seconds"] / (MAX_SECONDS_OF_100_000 * max(1.0, deals / 100_000)),
                1.0,
                False,
                f"{said['seconds']:.1f} s; killed half-way, it went on to the same end",
            )
        ]
        if not said["path"]:
            return figures
        return [*figures, *_page(bench, mirror, crm, deals, said)]


def _page(bench: Bench, mirror: str, crm: str, deals: int, said: dict) -> list[Figure]:
    cookies = {said["cookie"]: said["session"]}
    path = said["path"].lstrip("/")
    with (
        serving(bench, mirror, crm, BARE, BARE_SETTINGS) as bare_url,
        serving(bench, mirror, crm, "pipelinepulse.wsgi", SETTINGS) as our_url,
    ):
        bare, ours = medians((bare_url, {}), (our_url + path, cookies))
    return [
        Figure(
            f"tracker at {deals:,} opportunities, times a bare view of 50 rows",
            ours / bare,
            MAX_TIMES_BARE,
            False,
            f"{ours * 1000:.1f} ms, bare {bare * 1000:.1f} ms",
        ),
        Figure("queries of the tracker", said["queries"], MAX_QUERIES, False, "session included"),
    ]


def _copied(bench: Bench, mirror: str) -> str:
    """The same mirror once more: both recompute the very same rows."""
    if bench.is_postgres:
        name = f"{mirror.rsplit('/', 1)[1]}_copy"
        template = mirror.rsplit("/", 1)[1]
        bench._psql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        bench.databases.append(name)
        return f"{mirror.rsplit('/', 1)[0]}/{name}"
    source = Path(mirror.removeprefix("sqlite:///"))
    target = source.with_name(f"{source.stem}-copy.sqlite3")
    shutil.copyfile(source, target)
    for end in ("-wal", "-shm"):
        if Path(f"{source}{end}").exists():
            shutil.copyfile(f"{source}{end}", f"{target}{end}")
    return f"sqlite:///{target}"


def _killed(bench: Bench, database: str, *, at: int) -> None:
    """A recompute that dies with SIGKILL in its `at`-th batch."""
    process = subprocess.run(
        [sys.executable, str(PREPARE), "whole"],
        cwd=ROOT,
        env={
            **bench.environment(database, ""),
            "PULSE_FAILPOINTS": f"recompute.after_rows:{at}=kill",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    require(process.returncode == -signal.SIGKILL, "the recompute was not killed")
