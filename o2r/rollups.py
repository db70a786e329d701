"""The roll-up: one writer, moved by differences, provably equal to a live GROUP BY.

A `Contribution` is what one deal adds. Recompute takes the old one off and puts the new one on, in
the transaction that writes the opportunity, so that the roll-up can neither lose nor double a deal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from django.db import connection, models

from o2r.models import ClosedDay, PipelineCell, PipelineMove

CLOSED = ("closed_won", "closed_lost")


class Contribution(NamedTuple):
    """One live deal as the roll-up counts it; SGD cents, None without amount or rate."""

    stage: str
    territory: str
    service_line: str
    owner_id: int
    closed_on: date | None
    sgd_minor: int | None
    weighted_minor: int | None
    has_amount: bool


class Difference:
    """Collects what a batch changes and writes it at once.

    `day` is the business day the batch belongs to; None keeps no moves (a mirror being filled).
    """

    def __init__(self, day: date | None = None) -> None:
        self._day = day
        self._cells: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
        self._days: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0])
        self._moves: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0])

    def move(self, old: Contribution | None, new: Contribution | None) -> None:
        for contribution, sign in ((old, -1), (new, 1)):
            if contribution is not None:
                self._add(contribution, sign)

    def _add(self, c: Contribution, sign: int) -> None:
        cell = self._cells[(c.stage, c.territory, c.service_line, c.owner_id)]
        cell[0] += sign
        cell[1] += sign * (c.sgd_minor or 0)
        cell[2] += sign * (c.weighted_minor or 0)
        cell[3] += sign * (c.sgd_minor is None and not c.has_amount)
        cell[4] += sign * (c.sgd_minor is None and c.has_amount)
        if c.stage in CLOSED and c.closed_on is not None:
            for dimension, value in dimensions_of(c):
                day = self._days[(c.closed_on, c.stage, dimension, value)]
                day[0] += sign
                day[1] += sign * (c.sgd_minor or 0)
                day[2] += sign * (c.sgd_minor is not None)
        if c.stage not in CLOSED and self._day is not None:
            for dimension, value in dimensions_of(c):
                move = self._moves[(self._day, c.stage, dimension, value)]
                move[0] += sign
                move[1] += sign * (c.sgd_minor or 0)
                move[2] += sign * (c.weighted_minor or 0)

    def write(self) -> None:
        """Inside the transaction that writes the opportunities."""
        add_up(
            PipelineCell,
            ("stage", "territory", "service_line", "owner_id"),
            ("count", "sgd_minor", "weighted_minor", "no_amount", "no_rate"),
            [(*key, *values) for key, values in sorted(self._cells.items()) if any(values)],
        )
        for model, last_sum, kept in (
            (ClosedDay, "with_value", self._days),
            (PipelineMove, "weighted_minor", self._moves),
        ):
            add_up(
                model,
                ("day", "stage", "dimension", "value"),
                ("count", "sgd_minor", last_sum),
                [
                    (key[0].isoformat(), *key[1:], *values)
                    for key, values in sorted(kept.items())
                    if any(values)
                ],
            )


def dimensions_of(c: Contribution) -> Iterator[tuple[str, str]]:
    yield "all", ""
    yield "territory", c.territory
    yield "service_line", c.service_line
    yield "owner", str(c.owner_id)


def add_up(
    model: type[models.Model], keys: tuple[str, ...], sums: tuple[str, ...], rows: list[tuple]
) -> None:
    """Add each row's sums to those of its keys. Called by the roll-ups alone.

    Each key once among `rows`. PostgreSQL gets them as one statement of arrays: a statement a row
    costs it more than all else that a recompute does.
    """
    if not rows:
        return
    table, columns = model._meta.db_table, (*keys, *sums)
    names = ", ".join(f'"{name}"' for name in columns)
    adding = ", ".join(f'"{name}" = "{table}"."{name}" + excluded."{name}"' for name in sums)
    conflict = ", ".join(f'"{name}"' for name in keys)
    then = f"ON CONFLICT ({conflict}) DO UPDATE SET {adding}"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            types = [model._meta.get_field(name).db_type(connection) for name in columns]
            arrays = ", ".join(f"%s::{kind}[]" for kind in types)
            cursor.execute(
                f'INSERT INTO "{table}" ({names}) SELECT * FROM unnest({arrays}) {then}',  # noqa: S608
                [list(column) for column in zip(*rows, strict=True)],
            )
        else:
            marks = ", ".join(["%s"] * len(columns))
            cursor.executemany(
                f'INSERT INTO "{table}" ({names}) VALUES ({marks}) {then}',  # noqa: S608
                rows,
            )
