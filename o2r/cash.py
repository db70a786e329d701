"""Opportunity to cash on one line: which day was planned and which came, what money has come how
far, where the rest waits and for how long. Pure; `today` is passed in.

Money is whole minor units of the deal's currency. A milestone without an amount of its own stands
for the whole deal. What has come further has come this far too: what is collected was invoiced,
whatever the dates leave out (that is a finding, see `phases.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from o2r.facts import Facts
from o2r.milestones import title_of

CREATED = "created"
LINE = ("proposal", "sow", "po", "kickoff", "signoff", "invoice", "payment", "revenue")
# How far money has come, the milestone that says so, and what the rest of it then waits for.
BOOKED, INVOICED, COLLECTED, RECOGNISED = "booked", "invoiced", "collected", "recognised"
STANDS = {BOOKED: "po", INVOICED: "invoice", COLLECTED: "payment", RECOGNISED: "revenue"}
# The days since which money waits at a place: the latest of these that is a fact.
_BEFORE = {
    "po": ("proposal",),
    "invoice": ("po", "kickoff", "signoff"),
    "payment": ("invoice",),
    "revenue": ("payment",),
}


@dataclass(frozen=True)
class Step:
    """One place on the line. `days` from the last place reached before it to this one."""

    key: str
    title: str
    planned_on: date | None
    actual_on: date | None
    days: int | None
    is_estimate: bool = False
    amount_minor: int | None = None


@dataclass(frozen=True)
class Money:
    """How much has come how far, and since when; None: the deal has no amount."""

    key: str
    minor: int | None
    on: date | None


@dataclass(frozen=True)
class Wait:
    """Money that waits for `milestone` since a day. `overdue_days`: since it should have come."""

    milestone: str
    minor: int | None
    since: date
    days: int
    overdue_days: int = 0


@dataclass(frozen=True)
class Cash:
    steps: list[Step]
    money: list[Money]
    waits: list[Wait]
    currency: str
    left_out: tuple[str, ...] = ()

    @property
    def overdue(self) -> Wait | None:
        return next((wait for wait in self.waits if wait.overdue_days > 0), None)


def cash_of(
    facts: Facts,
    today: date,
    *,
    amount_minor: int | None,
    currency: str,
    amounts: Mapping[str, tuple[int, str]],
    overdue_after: int | None,
) -> Cash:
    """`amounts` are those that people gave to milestones, with their currencies; one in another
    currency than the deal's is not added up, and named in `left_out`. `overdue_after`: days after
    which an unpaid invoice is overdue; None: never.
    """
    own = {key: minor for key, (minor, code) in amounts.items() if code in ("", currency)}
    left_out = tuple(key for key in amounts if key not in own)
    reached = facts.reached(today)
    money = _money(reached, amount_minor, own)
    return Cash(
        steps=_steps(facts, reached, today, own),
        money=money,
        waits=_waits(reached, today, amount_minor, money, overdue_after),
        currency=currency,
        left_out=left_out,
    )


def planned_on(key: str, facts: Facts, today: date) -> date | None:
    """A day ahead in the deal is a plan; else the target."""
    on = facts.dates.get(key)
    return on if on is not None and on > today else facts.targets.get(key)


def _steps(
    facts: Facts, reached: Mapping[str, date], today: date, own: Mapping[str, int]
) -> list[Step]:
    begun = facts.created_on or facts.first_seen_on
    steps = [Step(CREATED, "Created", None, begun, None)]
    last = begun
    for key in LINE:
        on, is_estimate = reached.get(key), False
        if key == "sow" and on is None and facts.sow_estimated_on is not None:
            on, is_estimate = facts.sow_estimated_on, True
        days = (on - last).days if on is not None else None
        planned = planned_on(key, facts, today)
        steps.append(Step(key, title_of(key), planned, on, days, is_estimate, own.get(key)))
        last = max(last, on) if on is not None else last
    return steps


def _money(reached: Mapping[str, date], whole: int | None, own: Mapping[str, int]) -> list[Money]:
    came = {stand: (own.get(key, whole) if key in reached else 0) for stand, key in STANDS.items()}
    if whole is None and not own:
        return [Money(stand, None, reached.get(key)) for stand, key in STANDS.items()]
    came[INVOICED] = _most(came[INVOICED], came[COLLECTED])
    came[BOOKED] = _most(came[BOOKED], came[INVOICED], came[RECOGNISED])
    return [Money(stand, came[stand], reached.get(key)) for stand, key in STANDS.items()]


def _most(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _waits(
    reached: Mapping[str, date],
    today: date,
    whole: int | None,
    money: list[Money],
    overdue_after: int | None,
) -> list[Wait]:
    """Where money stands now: not ordered, ordered but not invoiced, invoiced but not paid, paid
    but not recognised. Nothing waits before the proposal."""
    at = {each.key: each.minor for each in money}
    stretches = (
        ("po", whole, at[BOOKED]),
        ("invoice", at[BOOKED], at[INVOICED]),
        ("payment", at[INVOICED], at[COLLECTED]),
        ("revenue", at[COLLECTED], at[RECOGNISED]),
    )
    waits = []
    for milestone, come, gone in stretches:
        since = max((reached[key] for key in _BEFORE[milestone] if key in reached), default=None)
        if since is None:
            continue
        if come is None or gone is None:
            # Without an amount it is known only whether it waits, not how much.
            if milestone in reached or _is_passed(milestone, reached):
                continue
            rest = None
        else:
            rest = come - gone
            if rest <= 0:
                continue
        days = (today - since).days
        late = days - overdue_after if overdue_after is not None else 0
        waits.append(Wait(milestone, rest, since, days, late if milestone == "payment" else 0))
    return waits


def _is_passed(milestone: str, reached: Mapping[str, date]) -> bool:
    return any(key in reached for key in LINE[LINE.index(milestone) + 1 :])
