"""What is known of one opportunity on a day: the only thing that the rules look at. Pure.

Read from deal, milestones and events by `o2r/gather.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple


class Block(NamedTuple):
    """Somebody marked it blocked. `milestone` "": the opportunity as a whole."""

    milestone: str
    reason: str
    on: date


@dataclass(frozen=True, slots=True)
class Facts:
    """Days are business days; `dates` and `targets` are by milestone key.

    `dates` holds plans too: `reached` tells what is a fact by a day. `least_phase` is what the
    CRM's stage says (0: nothing), `stage_since` the day on which the deal was seen to come into its
    stage, None if that was not seen. `last_change_on` is the last change by a person or the CRM.
    """

    first_seen_on: date
    created_on: date | None = None
    dates: Mapping[str, date] = field(default_factory=dict)
    targets: Mapping[str, date] = field(default_factory=dict)
    stage_type: str = "open"
    least_phase: int = 0
    stage_since: date | None = None
    closing_date: date | None = None
    last_change_on: date | None = None
    sow_estimated_on: date | None = None
    is_deleted: bool = False
    blocked: tuple[Block, ...] = ()

    def reached(self, today: date) -> dict[str, date]:
        """The milestones that are facts today: one dated later is a plan."""
        return {key: on for key, on in self.dates.items() if on <= today}


def facts_of(opportunity_pks: Iterable[int]) -> dict[int, Facts]:
    """By primary key of the opportunity, in a constant number of queries."""
    from o2r.gather import facts_of_opportunities

    return facts_of_opportunities(opportunity_pks)
