"""What happened to a record, oldest first: what was kept, and before that a likely past.

A record that was seeded has no kept history. Its past is told from what it is: it was added at
its creation; a deal then went through the stages before its own, reached the proposal on its
proposal date where it has one, and was closed on its closing date where that is past. The same
record always tells the same past, and what was kept since begins where it ends.
"""

import json
import random
import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.fragments import from_fragment, to_fragment
from crm.sandbox.picklists import STAGES
from crm.sandbox.store import fetch_row

PROPOSAL = "Proposal/Price Quote"
PROPOSAL_FIELDS = ("Proposal_Date", "Proposal_Submission_date")
PERCENT = {display: percent for display, _, percent, _, _ in STAGES}
OPEN_PATH = tuple(display for display, _, _, kind, _ in STAGES if kind == "Open")


@dataclass(frozen=True)
class Entry:
    """One line of a timeline. `changes` are [field, old fragment, new fragment]."""

    id: int
    at: str
    by: Any
    source: str
    action: str
    changes: list[list[Any]]


def past_of(sql: sqlite3.Connection, module: str, record_id: int) -> list[Entry]:
    """All entries of a live record, oldest first; none if it is not there."""
    row = fetch_row(sql, module, record_id)
    if row is None:
        return []
    kept = [
        Entry(i, _text(at), by, _text(source), "updated", json.loads(content))
        for i, at, by, source, content in sql.execute(
            "select id, at, by_user, source, content from history where module=? and record=? "
            "order by id",
            (module, record_id),
        )
    ]
    ends = [old for entry in kept for name, old, _ in entry.changes if name == "Modified_Time"]
    until = from_fragment(ends[0] if ends else row.get("Modified_Time"))
    shown = [
        replace(entry, changes=[c for c in entry.changes if c[0] != "Modified_Time"])
        for entry in kept
    ]
    shown = [entry for entry in shown if entry.changes]
    return _before(module, row, shown, str(until)) + shown


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _before(module: str, row: dict[str, Any], kept: list[Entry], until: str) -> list[Entry]:
    created = from_fragment(row.get("Created_Time"))
    if not isinstance(created, str) or (begun := parse_instant(created)) is None:
        return []
    first = {"id": row["id"], "at": created, "by": row.get("Created_By"), "source": "crm_ui"}
    if module != "Deals":
        return [Entry(**first, action="added", changes=[])]
    changed = [c for entry in kept for c in entry.changes if c[0] == "Stage"]
    stage = from_fragment(changed[0][1] if changed else row.get("Stage"))
    steps = _steps(row, str(stage), begun, max(begun, parse_instant(until) or begun))
    added = Entry(**first, action="added", changes=_stage_change(None, steps[0][0]))
    return [added] + [
        Entry(row["id"] + n, text_of(at), row.get("Owner"), "crm_ui", "updated",
              _stage_change(steps[n - 1][0], name))
        for n, (name, at) in enumerate(steps[1:], 1)
    ]  # fmt: skip


def _stage_change(old: str | None, new: str) -> list[list[Any]]:
    changes = [["Stage", to_fragment(old), to_fragment(new)]]
    if new in PERCENT:
        before = PERCENT.get(old or "")
        changes.append(["Probability", to_fragment(before), to_fragment(PERCENT[new])])
    return changes


def _steps(row: dict[str, Any], stage: str, begun: float, end: float) -> list[tuple[str, float]]:
    """The stages the deal entered and when, from its creation to its `stage`."""
    rng = random.Random(f"past {row['id']}")
    if stage in OPEN_PATH:
        names = [s for s in OPEN_PATH[: OPEN_PATH.index(stage)] if rng.random() < 0.75]
    elif stage in PERCENT:  # closed
        names = [s for s in OPEN_PATH if rng.random() < 0.75 or s == PROPOSAL]
    else:
        names = []
    names = [OPEN_PATH[0], *(n for n in names if n != OPEN_PATH[0])]
    if stage != names[-1]:
        names.append(stage)
    proposal = min(end, max(begun, _day(row, PROPOSAL_FIELDS) or begun))
    closing = _day(row, ("Closing_Date",)) if stage not in OPEN_PATH else None
    last = min(end, max(proposal, closing if closing is not None else end))
    return list(zip(names, _moments(names, begun, proposal, last), strict=True))


def _moments(names: list[str], begun: float, proposal: float, last: float) -> list[float]:
    """One moment for each stage, rising: the proposal's at its own, the last at the end."""
    has_proposal = PROPOSAL in names and proposal > begun
    pivot = names.index(PROPOSAL) if has_proposal else len(names) - 1
    until = proposal if has_proposal else last
    moments = [begun + (until - begun) * n / max(1, pivot) for n in range(pivot + 1)]
    rest = len(names) - 1 - pivot
    return moments + [until + (last - until) * n / max(1, rest) for n in range(1, rest + 1)]


def _day(row: dict[str, Any], names: tuple[str, ...]) -> float | None:
    """Ten in the morning of the first date among these fields."""
    for name in names:
        value = from_fragment(row.get(name))
        if isinstance(value, str) and len(value) == 10:
            return parse_instant(f"{value}T10:00:00+08:00")
    return None
