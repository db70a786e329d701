"""SPEC 4 and RULES 4 said again, slowly: day by day, sentence by sentence, from those pages alone.

Shares nothing with the rules it is held against but the names of what it is given.
"""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction
from typing import Any

DAY = timedelta(days=1)
HORIZON = 75  # days looked ahead; no threshold of the tests is further away

ON_THE_WAY = [
    "qualified", "proposal", "proposal_accepted", "sow_initiated", "sow", "po", "kickoff",
    "execution_started", "(own)", "signoff", "invoice", "payment", "revenue",
]  # fmt: skip


def is_fact(given: Any, key: str, today: date) -> bool:
    """A milestone date after today is a plan."""
    return key in given.dates and not given.dates[key] > today


def any_fact(given: Any, keys: str, today: date) -> bool:
    return any(is_fact(given, key, today) for key in keys.split())


def phase(given: Any, today: date) -> tuple[int, date]:
    """The phase and the day on which it was entered."""
    by_fact = 1
    if any_fact(given, "proposal", today):
        by_fact = 2
    if any_fact(given, "po kickoff", today):
        by_fact = 3
    if any_fact(given, "signoff invoice payment revenue", today):
        by_fact = 4
    if given.least_phase > by_fact:
        return given.least_phase, day_of_stage(given, today)
    if by_fact == 1:
        return 1, given.created_on or given.first_seen_on
    keys = {2: "proposal", 3: "po kickoff", 4: "signoff invoice payment revenue"}[by_fact]
    return by_fact, min(given.dates[k] for k in keys.split() if is_fact(given, k, today))


def day_of_stage(given: Any, today: date) -> date:
    """The day of the stage change, else the closing date if not in the future, else first seen."""
    if given.stage_since is not None and not given.stage_since > today:
        return given.stage_since
    if given.closing_date is not None and not given.closing_date > today:
        return given.closing_date
    return given.first_seen_on


def outcome(given: Any, today: date) -> str:
    if given.is_deleted:
        return "lost"
    recognised = is_fact(given, "revenue", today)
    if given.stage_type == "lost" and not recognised:
        return "lost"
    unpaid = is_fact(given, "invoice", today) and not is_fact(given, "payment", today)
    return "realized" if recognised and not unpaid else "active"


def findings(given: Any, today: date) -> set[tuple[str, str]]:
    """(kind, the milestone that is missing, early or too soon); of pairs `later<earlier`."""
    chain = ["proposal", "po", "kickoff", "invoice", "revenue"]
    found = set()
    for i, earlier in enumerate(chain):
        for later in chain[i + 1 :]:
            if is_fact(given, later, today) and not is_fact(given, earlier, today):
                found.add(("gap", earlier))
            both = is_fact(given, later, today) and is_fact(given, earlier, today)
            is_normal = earlier == "po" and later == "kickoff"
            if both and given.dates[later] < given.dates[earlier] and not is_normal:
                found.add(("order", f"{later}<{earlier}"))
    if is_fact(given, "payment", today) and not is_fact(given, "invoice", today):
        found.add(("gap", "invoice"))
    for key in given.dates:
        if is_fact(given, key, today) and given.created_on and given.dates[key] < given.created_on:
            found.add(("before_creation", key))
    if given.stage_type == "lost" and is_fact(given, "revenue", today):
        found.add(("lost_with_revenue", "revenue"))
    return found


def passed(given: Any, key: str, today: date) -> bool:
    """The milestone or a later one is a fact."""
    place = ON_THE_WAY.index(key if key in ON_THE_WAY else "(own)")
    for other in given.dates:
        if is_fact(given, other, today):
            theirs = ON_THE_WAY.index(other if other in ON_THE_WAY else "(own)")
            if other == key or theirs > place:
                return True
    return False


def holding(given: Any, rule: str, today: date) -> list[tuple[str, date]]:
    """(milestone, the day from which its days are counted) of a rule that is not ended."""

    def since(start: str, enders: str) -> list[tuple[str, date]]:
        if is_fact(given, start, today) and not any_fact(given, enders, today):
            return [(start, given.dates[start])]
        return []

    if rule == "proposal_no_po":
        return since("proposal", "po kickoff signoff invoice payment revenue")
    if rule == "po_no_kickoff":
        return since("po", "kickoff signoff invoice payment revenue")
    if rule == "kickoff_no_invoice":
        return since("kickoff", "invoice payment revenue")
    if rule == "invoice_no_payment":
        return since("invoice", "payment")
    if rule == "signoff_no_invoice":
        return since("signoff", "invoice payment revenue")
    if rule == "paid_no_revenue":
        return since("payment", "revenue")
    if rule == "won_no_po":
        ended = any_fact(given, "po kickoff signoff invoice payment revenue", today)
        won = given.stage_type == "won" and not ended
        return [("", day_of_stage(given, today))] if won else []
    if rule == "milestone_delayed":
        return [(k, on) for k, on in given.targets.items() if not passed(given, k, today)]
    if rule == "closing_date_past":
        is_open = given.stage_type == "open" and given.closing_date is not None
        return [("", given.closing_date)] if is_open else []
    if rule == "unchanged":
        is_open = given.stage_type == "open" and given.last_change_on is not None
        return [("", given.last_change_on)] if is_open else []
    raise AssertionError(rule)


def blocks(given: Any, today: date) -> dict[str, date]:
    """Rule → the day since when, of what is marked blocked."""
    found: dict[str, date] = {}
    for block in given.blocked:
        if block.milestone and passed(given, block.milestone, today):
            continue
        rule = "milestone_blocked" if block.milestone else "blocked_by_person"
        found[rule] = min(found.get(rule, block.on), block.on)
    return found


COLOURS = ["green", "yellow", "red", "blocked"]


def colour(days: int, yellow: int | None, red: int | None) -> str:
    """Strictly more than."""
    if red is not None and days > red:
        return "red"
    if yellow is not None and days > yellow:
        return "yellow"
    return "green"


def reasons(given: Any, today: date, rules: Any) -> dict[str, str]:
    """Rule → its worst severity, of those that are not green."""
    if outcome(given, today) != "active":
        return {}
    found = {}
    for rule, (is_on, yellow, red) in rules.items():
        if not is_on or rule in ("milestone_blocked", "blocked_by_person"):
            continue
        for _, start in holding(given, rule, today):
            severity = colour((today - start).days, yellow, red)
            if COLOURS.index(severity) > COLOURS.index(found.get(rule, "green")):
                found[rule] = severity
    found |= {rule: "blocked" for rule in blocks(given, today) if rules[rule][0]}
    return found


def signal(given: Any, today: date, rules: Any) -> str:
    if outcome(given, today) != "active":
        return ""
    return max(reasons(given, today, rules).values(), key=COLOURS.index, default="green")


class WithoutPlans:
    """The same as it is today, and stays so: what lies ahead never comes."""

    def __init__(self, given: Any, today: date) -> None:
        self.dates = {key: on for key, on in given.dates.items() if on <= today}
        for name in ("first_seen_on", "created_on", "targets", "stage_type", "least_phase",
                     "stage_since", "closing_date", "last_change_on", "is_deleted",
                     "blocked"):  # fmt: skip
            setattr(self, name, getattr(given, name))
        # Nor does a day ahead come to tell since when a deal is in its stage.
        if given.stage_since is not None and given.stage_since > today:
            self.stage_since = None
        if given.stage_type != "open" and given.closing_date and given.closing_date > today:
            self.closing_date = None


def worse_on(given: Any, today: date, rules: Any) -> date | None:
    """The first later day on which the signal would be worse by time alone."""
    now = signal(given, today, rules)
    if now == "":
        return None
    frozen = WithoutPlans(given, today)
    for n in range(1, HORIZON):
        day = today + n * DAY
        if COLOURS.index(signal(frozen, day, rules)) > COLOURS.index(now):
            return day
    return None


def reached_severity(given: Any, today: date, rule: str, rules: Any) -> date:
    """The day it reached the severity it has: walk back while its facts alone say as much."""
    if rule in ("milestone_blocked", "blocked_by_person"):
        return blocks(given, today)[rule]
    _, yellow, red = rules[rule]
    severity = reasons(given, today, rules)[rule]
    starts = [start for _, start in holding(given, rule, today)]
    day = today
    while any(colour((day - DAY - start).days, yellow, red) == severity or
              COLOURS.index(colour((day - DAY - start).days, yellow, red))
              > COLOURS.index(severity) for start in starts):  # fmt: skip
        day -= DAY
    return day


def overdue(given: Any, today: date, rules: Any) -> bool:
    """Invoice a fact, no payment, more than the red threshold of its rule; any but lost."""
    red = rules["invoice_no_payment"][2]
    unpaid = is_fact(given, "invoice", today) and not is_fact(given, "payment", today)
    if outcome(given, today) == "lost" or not unpaid or red is None:
        return False
    return (today - given.dates["invoice"]).days > red


def cycle(given: Any, today: date) -> int | None:
    """Days between, where revenue is recognised with a proposal date not after it."""
    if not is_fact(given, "revenue", today) or "proposal" not in given.dates:
        return None
    days = (given.dates["revenue"] - given.dates["proposal"]).days
    return days if days >= 0 else None


def stays(given: Any, today: date) -> dict[int, int]:
    """Days spent in each phase that was left for a further one; walked through day by day."""
    if phase(given, today)[1] is None:
        return {}
    days_of_facts = [on for on in given.dates.values() if on <= today]
    begin = given.created_on
    at_stage = given.least_phase > 1 and phase(given, today)[0] == given.least_phase and not any(
        is_fact(given, k, today)
        for k in {2: "proposal signoff", 3: "po kickoff", 4: "signoff invoice payment revenue"}[
            given.least_phase].split() if phase_by(k) >= given.least_phase
    )  # fmt: skip
    stage_day = day_of_stage(given, today) if at_stage else None

    def reached_by(day: date) -> int:
        best = 1 if begin is not None and begin <= day else 0
        for key, on in given.dates.items():
            if on <= day and on <= today:
                best = max(best, phase_by(key))
        if stage_day is not None and stage_day <= day:
            best = max(best, given.least_phase)
        return best

    days = [on for on in (*days_of_facts, begin, stage_day) if on is not None]
    if not days:
        return {}
    first, last = min(days), max(days)
    found: dict[int, int] = {}
    day = first
    where, entered = reached_by(day), day
    # Phases entered and left on one day are stays of no days: told by the facts of that day.
    found |= passed_on_a_day(given, day, 0, where, begin, stage_day, today)
    while day < last:
        day += DAY
        now = reached_by(day)
        if now > where:
            if where > 0:
                found[where] = (day - entered).days
            found |= passed_on_a_day(given, day, where, now, begin, stage_day, today)
            where, entered = now, day
    if where == 4 and is_fact(given, "revenue", today):
        found[4] = (given.dates["revenue"] - entered).days
    return found


def phase_by(key: str) -> int:
    return {"proposal": 2, "po": 3, "kickoff": 3, "signoff": 4, "invoice": 4, "payment": 4,
            "revenue": 4}.get(key, 0)  # fmt: skip


def passed_on_a_day(
    given: Any, day: date, below: int, now: int, begin: date | None, stage_day: date | None,
    today: date,
) -> dict[int, int]:  # fmt: skip
    """Phases between that have a fact of that very day."""
    same = {phase_by(key) for key, on in given.dates.items() if on == day and on <= today}
    if begin == day:
        same.add(1)
    if stage_day == day:
        same.add(given.least_phase)
    return {p: 0 for p in same if below < p < now}


def average(values: list[int]) -> str | None:
    """One decimal, half up."""
    if not values:
        return None
    tenths = Fraction(sum(values) * 10, len(values)) + Fraction(1, 2)
    whole = tenths.numerator // tenths.denominator
    return f"{whole // 10}.{whole % 10}"


def median(values: list[int]) -> str | None:
    if not values:
        return None
    row = sorted(values)
    while len(row) > 2:
        row = row[1:-1]
    return average(row)
