"""What became of each field in the CRM, from its own history: who changed it, when, from what to
what. The judge's only source about the CRM besides the records themselves.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crm.tests.simulator.terms import FOLLOWS, WRITABLE, of_theirs

OURS = "crm_api"
Spot = tuple[str, int, str]  # module, the CRM's id, API name


@dataclass(frozen=True)
class Step:
    """One effective change of one field. `follows`: the CRM did it over another field's change."""

    at: int
    source: str
    old: Any
    new: Any
    follows: bool = False

    @property
    def is_ours(self) -> bool:
        return self.source == OURS


@dataclass
class Trail:
    """`steps` of each field, oldest first; `records` as they are or last were, with the ids of
    those that are `gone`."""

    steps: dict[Spot, list[Step]]
    records: dict[tuple[str, int], dict[str, Any]]
    gone: set[tuple[str, int]]

    def first(self, spot: Spot) -> Any:
        """What the field held before anybody was seen to change it."""
        steps = self.steps.get(spot)
        return steps[0].old if steps else self.now(spot)

    def now(self, spot: Spot) -> Any:
        return self.records[spot[:2]].get(spot[2])

    def held_after(self, spot: Spot, at: int, value: Any) -> bool:
        """Whether the field held this value then, or at any time later."""
        steps = self.steps.get(spot, [])
        before = [step.new for step in steps if step.at <= at]
        held = before[-1] if before else self.first(spot)
        return value in (held, self.now(spot)) or any(
            step.new == value for step in steps if step.at > at
        )


def trail_of(sandbox_db: Path) -> Trail:
    sql = sqlite3.connect(f"file:{sandbox_db}?mode=ro", uri=True)
    try:
        return Trail(_steps(sql), *_records(sql))
    finally:
        sql.close()


def _steps(sql: sqlite3.Connection) -> dict[Spot, list[Step]]:
    found: dict[Spot, list[Step]] = defaultdict(list)
    for at, module, record, source, content in sql.execute(
        "select id, module, record, source, content from history order by id"
    ):
        changes = json.loads(content)
        names = {name for name, _, _ in changes}
        for name, old, new in changes:
            if name in WRITABLE.get(module, {}).values():
                follows = FOLLOWS.get(name) in names
                values = (_value(module, name, each) for each in (old, new))
                found[module, record, name].append(Step(at, source, *values, follows))
    return found


def _records(
    sql: sqlite3.Connection,
) -> tuple[dict[tuple[str, int], dict[str, Any]], set[tuple[str, int]]]:
    found, gone = {}, set()
    for module, names in WRITABLE.items():
        wanted = [*names.values(), *(["Pulse_Id"] if module == "Deals" else [])]
        columns = ", ".join(f'"{name}"' for name in wanted)
        for record, *values in sql.execute(f'select id, {columns} from "m_{module}"'):
            row = dict(zip(wanted, values, strict=True))
            found[module, record] = {k: _value(module, k, v) for k, v in row.items()}
    for module, record, content in sql.execute("select module, id, content from gone"):
        row = json.loads(content)
        gone.add((module, record))
        found[module, record] = {k: _value(module, k, v) for k, v in row.items()}
    return found, gone


def _value(module: str, name: str, fragment: Any) -> Any:
    raw = json.loads(fragment) if isinstance(fragment, str) else fragment
    return of_theirs(module, name, raw)
