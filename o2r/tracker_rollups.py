"""The tracker's roll-ups: cells, margins and day counts, moved by differences. One writer.

As `rollups.py` for the pipeline: the old standing of an opportunity comes off, the new one goes
on, in the transaction that writes it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import NamedTuple

from crm.sync import bulk_write
from o2r.models import DayCount, TrackerCell, TrackerMargin
from o2r.models.rollups import STANDING
from o2r.rollups import add_up

SUMS = ("count", "sgd_minor", "weighted_minor", "no_amount", "no_rate")
CYCLE = "cycle"
STAYS = ("phase1", "phase2", "phase3", "phase4")
KINDS = (CYCLE, *STAYS)


class Tracked(NamedTuple):
    """One live opportunity as the tracker counts it. `days` is by `KINDS`, None: not counted."""

    standing: tuple[str, int, int, str, bool, bool]  # STANDING
    territory: str
    service_line: str
    owner_id: int
    sgd_minor: int | None
    weighted_minor: int | None
    has_amount: bool
    days: tuple[int | None, int | None, int | None, int | None, int | None]


class TrackerDifference:
    """Collects what a batch changes and writes it at once."""

    def __init__(self) -> None:
        self._cells: dict[tuple, list[int]] = defaultdict(lambda: [0] * len(SUMS))
        self._margins: dict[tuple, list[int]] = defaultdict(lambda: [0] * len(SUMS))
        self._days: dict[tuple, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def move(self, old: Tracked | None, new: Tracked | None) -> None:
        if old == new:
            return
        for tracked, sign in ((old, -1), (new, 1)):
            if tracked is not None:
                self._add(tracked, sign)

    def _add(self, t: Tracked, sign: int) -> None:
        sums = (
            sign,
            sign * (t.sgd_minor or 0),
            sign * (t.weighted_minor or 0),
            sign * (t.sgd_minor is None and not t.has_amount),
            sign * (t.sgd_minor is None and t.has_amount),
        )
        margins = (
            ("all", ""),
            ("territory", t.territory),
            ("service_line", t.service_line),
            ("owner", str(t.owner_id)),
        )
        held = [self._cells[(t.territory, t.service_line, t.owner_id, *t.standing)]]
        held += [self._margins[(*margin, *t.standing)] for margin in margins]
        for kept in held:
            for at, value in enumerate(sums):
                kept[at] += value
        for kind, days in zip(KINDS, t.days, strict=True):
            if days is not None:
                for margin in margins:
                    self._days[(*margin, kind)][str(days)] += sign

    def write(self) -> None:
        """Inside the transaction that writes the opportunities."""
        for model, keys, kept in (
            (TrackerCell, ("territory", "service_line", "owner_id"), self._cells),
            (TrackerMargin, ("dimension", "value"), self._margins),
        ):
            add_up(
                model,
                (*keys, *STANDING),
                SUMS,
                [(*key, *values) for key, values in sorted(kept.items()) if any(values)],
            )
        self._write_days()

    def _write_days(self) -> None:
        moved = {key: {d: n for d, n in days.items() if n} for key, days in self._days.items()}
        moved = {key: days for key, days in moved.items() if days}
        if not moved:
            return
        # The state's lock is held: nobody else writes these rows.
        values = {value for _, value, _ in moved}
        known = {
            (row.dimension, row.value, row.kind): row
            for row in DayCount.objects.filter(value__in=values)
        }
        new = []
        for key, days in moved.items():
            row = known.get(key)
            if row is None:
                row = DayCount(dimension=key[0], value=key[1], kind=key[2])
                new.append(row)
            for day, count in days.items():
                row.counts[day] = row.counts.get(day, 0) + count
                if not row.counts[day]:
                    del row.counts[day]
        rows = [(json.dumps(known[key].counts), known[key].pk) for key in moved if key in known]
        bulk_write.update(DayCount, ("counts",), rows)
        DayCount.objects.bulk_create(new)
