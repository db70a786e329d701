"""What time alone will do: the days to come on which signals turn, and the calendar of reds.

`turns_of` is pure. The calendar looks at the largest opportunities that get worse soon, and says
how many it left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from django.db.models import F

from crm.models import Deal
from o2r import health_signals
from o2r.facts import Facts, facts_of
from o2r.filters import Selection
from o2r.gather import Rulebook
from o2r.health_signals import RED, RULES, SEVERITY, YELLOW, Threshold
from o2r.models.opportunity import ACTIVE, GREEN
from o2r.models.opportunity import YELLOW as IS_YELLOW

MOST = 300


class Turn(NamedTuple):
    """A day to come on which a rule reaches a severity, by time alone."""

    on: date
    severity: str
    rule: str
    milestone: str


class RedTurn(NamedTuple):
    deal: Deal
    turn: Turn


@dataclass(frozen=True)
class RedDay:
    """What turns red on one day, the largest first."""

    on: date
    turns: list[RedTurn]

    @property
    def sgd_minor(self) -> int:
        return sum(each.deal.amount_sgd_minor or 0 for each in self.turns)


@dataclass(frozen=True)
class Calendar:
    """`is_cut`: more than the largest `MOST` get worse by then; the others were not looked at."""

    days: list[RedDay]
    is_cut: bool


def turns_of(facts: Facts, today: date, rules: Mapping[str, Threshold]) -> list[Turn]:
    """The days to come on which one of its rules turns, the earliest first."""
    found = []
    for spell in health_signals.spells_of(facts, today, rules):
        if RULES[spell.rule].is_block:
            continue
        threshold = rules[spell.rule]
        for severity, days in ((YELLOW, threshold.yellow), (RED, threshold.red)):
            on = health_signals.turn_day(spell.on, days) if days is not None else None
            if on is not None and on > today:
                found.append(Turn(on, severity, spell.rule, spell.milestone))
    return sorted(found, key=lambda turn: (turn.on, -SEVERITY[turn.severity]))


def future_reds(selection: Selection, today: date, *, days: int) -> Calendar:
    """What turns red within so many days if nothing happens. A constant number of queries."""
    last = today + timedelta(days=days)
    rows = selection.deals().filter(
        opportunity__outcome=ACTIVE,
        opportunity__health_signal__in=(GREEN, IS_YELLOW),
        opportunity__worse_on__gt=today,
        opportunity__worse_on__lte=last,
    )
    largest = rows.select_related("account", "owner", "opportunity").order_by(
        F("amount_sgd_minor").desc(nulls_last=True), "pk"
    )
    deals = list(largest[: MOST + 1])
    facts = facts_of([deal.opportunity.pk for deal in deals[:MOST]])
    rules = Rulebook.load().thresholds
    by_day: dict[date, list[RedTurn]] = defaultdict(list)
    for deal in deals[:MOST]:
        turns = turns_of(facts[deal.opportunity.pk], today, rules)
        red = next((turn for turn in turns if turn.severity == RED), None)
        if red is not None and red.on <= last:
            by_day[red.on].append(RedTurn(deal, red))
    return Calendar([RedDay(on, by_day[on]) for on in sorted(by_day)], len(deals) > MOST)
