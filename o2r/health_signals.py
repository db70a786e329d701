"""Facts, thresholds, today → signal, reasons with evidence, and the day it gets worse. Pure.

A rule starts on a day and holds until one of the facts that end it. Strictly more days than a
threshold turn it. Blocked is worse than red, red than yellow, yellow than green; the worst wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

from o2r.facts import Facts
from o2r.milestones import is_passed, rank_of, title_of
from o2r.phases import ACTIVE, outcome_of, stage_day
from o2r.written import short_day

Day = date  # for a class that has a field of that name
GREEN, YELLOW, RED, BLOCKED = "green", "yellow", "red", "blocked"
SEVERITY = {"": -1, GREEN: 0, YELLOW: 1, RED: 2, BLOCKED: 3}


class Threshold(NamedTuple):
    """Days that may pass before the rule turns; None: it never has that colour."""

    is_on: bool
    yellow: int | None
    red: int | None


class Spell(NamedTuple):
    """A rule that holds from a day on, whether or not it has turned yet."""

    rule: str
    milestone: str
    on: date
    text: str = ""


Start = Callable[[Facts, dict[str, date], date], Iterable[tuple[str, date, str]]]


@dataclass(frozen=True)
class Rule:
    """`holds` gives (milestone, day, text) of each start that nothing has ended; `is_block`: it
    has no thresholds. `evidence` is filled with day, days, milestone and text."""

    key: str
    label: str
    holds: Start
    default: Threshold
    evidence: str
    advice: str
    is_block: bool = False


def _since_fact(start: str, *enders: str) -> Start:
    def holds(
        facts: Facts, reached: dict[str, date], today: date
    ) -> Iterable[tuple[str, date, str]]:
        if start in reached and not any(key in reached for key in enders):
            yield start, reached[start], ""

    return holds


_AFTER_PO = ("po", "kickoff", "signoff", "invoice", "payment", "revenue")
_AFTER_KICKOFF = _AFTER_PO[1:]
_AFTER_SIGNOFF = _AFTER_PO[3:]


def _won(facts: Facts, reached: dict[str, date], today: date) -> Iterable[tuple[str, date, str]]:
    if facts.stage_type == "won" and not any(key in reached for key in _AFTER_PO):
        yield "", stage_day(facts, today), ""


def _target(facts: Facts, reached: dict[str, date], today: date) -> Iterable[tuple[str, date, str]]:
    for key, on in facts.targets.items():
        if not is_passed(key, reached):
            yield key, on, ""


def _closing(
    facts: Facts, reached: dict[str, date], today: date
) -> Iterable[tuple[str, date, str]]:
    if facts.stage_type == "open" and facts.closing_date is not None:
        yield "", facts.closing_date, ""


def _unchanged(
    facts: Facts, reached: dict[str, date], today: date
) -> Iterable[tuple[str, date, str]]:
    if facts.stage_type == "open" and facts.last_change_on is not None:
        yield "", facts.last_change_on, ""


def _milestone_block(
    facts: Facts, reached: dict[str, date], today: date
) -> Iterable[tuple[str, date, str]]:
    for block in facts.blocked:
        if block.milestone and not is_passed(block.milestone, reached):
            yield block.milestone, block.on, block.reason


def _person_block(
    facts: Facts, reached: dict[str, date], today: date
) -> Iterable[tuple[str, date, str]]:
    for block in facts.blocked:
        if not block.milestone:
            yield "", block.on, block.reason


_TABLE = (
    Rule(
        "proposal_no_po",
        "Proposal submitted, no PO",
        _since_fact("proposal", *_AFTER_PO),
        Threshold(True, 14, 30),
        "Proposal sent {day}, {days}, no PO",
        "Ask the customer for the purchase order, or what still stands in its way.",
    ),
    Rule(
        "po_no_kickoff",
        "PO received, no kickoff",
        _since_fact("po", *_AFTER_KICKOFF),
        Threshold(True, 14, None),
        "PO received {day}, {days}, no kickoff",
        "Agree on a kickoff date with the customer and the delivery team.",
    ),
    Rule(
        "kickoff_no_invoice",
        "Kickoff, no invoice",
        _since_fact("kickoff", *_AFTER_SIGNOFF),
        Threshold(True, 60, None),
        "Kickoff {day}, {days}, no invoice",
        "Ask delivery what can be signed off, and invoice it.",
    ),
    Rule(
        "invoice_no_payment",
        "Invoice, no payment",
        _since_fact("invoice", "payment"),
        Threshold(True, None, 45),
        "Invoiced {day}, {days}, no payment",
        "Remind the customer of the invoice, and ask for the day of payment.",
    ),
    Rule(
        "milestone_blocked",
        "A milestone is blocked",
        _milestone_block,
        Threshold(True, None, None),
        "{milestone} blocked since {day}, {days}{text}",
        "Clear what blocks it, or say that it is not blocked any more.",
        is_block=True,
    ),
    Rule(
        "blocked_by_person",
        "Blocked by a person",
        _person_block,
        Threshold(True, None, None),
        "Blocked since {day}, {days}{text}",
        "Clear what blocks it, or say that it is not blocked any more.",
        is_block=True,
    ),
    Rule(
        "won_no_po",
        "Won, no PO",
        _won,
        Threshold(False, 14, 30),
        "Won {day}, {days}, no PO",
        "Ask the customer for the purchase order.",
    ),
    Rule(
        "signoff_no_invoice",
        "Sign-off, no invoice",
        _since_fact("signoff", *_AFTER_SIGNOFF),
        Threshold(False, 14, None),
        "Signed off {day}, {days}, no invoice",
        "Send the invoice.",
    ),
    Rule(
        "paid_no_revenue",
        "Paid, revenue not recognised",
        _since_fact("payment", "revenue"),
        Threshold(False, 30, None),
        "Paid {day}, {days}, revenue not recognised",
        "Ask finance to recognise the revenue.",
    ),
    Rule(
        "milestone_delayed",
        "A milestone is past its target",
        _target,
        Threshold(False, 0, None),
        "{milestone} was due {day}, {days} ago",
        "Record it, or agree on a new target date.",
    ),
    Rule(
        "closing_date_past",
        "Closing date past, still open",
        _closing,
        Threshold(False, 0, None),
        "Should have closed {day}, {days} ago",
        "Close it, or move the closing date.",
    ),
    Rule(
        "unchanged",
        "Nothing has changed",
        _unchanged,
        Threshold(False, 30, None),
        "Last change {day}, {days} ago",
        "Take the next step, or close it.",
    ),
)
RULES: dict[str, Rule] = {rule.key: rule for rule in _TABLE}
DEFAULTS: dict[str, Threshold] = {rule.key: rule.default for rule in _TABLE}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a signal is not green. `date` is the day on which the rule started, `since` the one on
    which it reached this severity, `worse_on` the one on which it gets worse, or None.

    `text` is what the person wrote who blocked it.
    """

    rule: str
    severity: str
    milestone: str
    date: Day
    days: int
    since: Day
    worse_on: Day | None
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: the keys of the API, and `text` where there is one."""
        told = {
            "rule": self.rule,
            "severity": self.severity,
            "milestone": self.milestone,
            "date": self.date.isoformat(),
            "days": self.days,
            "since": self.since.isoformat(),
            "worse_on": self.worse_on.isoformat() if self.worse_on else None,
        }
        return {**told, "text": self.text} if self.text else told

    def stored(self) -> dict[str, Any]:
        """As an opportunity keeps it: without `days`, which grow while nobody writes."""
        told = self.as_dict()
        del told["days"]
        return told


class Signal(NamedTuple):
    """`signal` "": the opportunity has ended. `worse_on`: the first later day on which the signal
    is worse by time alone. `turns_on`: the first one on which a rule reaches a threshold."""

    signal: str
    reasons: tuple[Reason, ...]
    worse_on: date | None
    turns_on: date | None


ENDED = Signal("", (), None, None)


def signal_of(facts: Facts, today: date, rules: Mapping[str, Threshold]) -> Signal:
    """The reasons come worst first. Plans are not counted: a day to come ends nothing today."""
    if outcome_of(facts, today) != ACTIVE:
        return ENDED
    worst: dict[str, Reason] = {}
    turns: list[tuple[date, str]] = []
    for spell in spells_of(facts, today, rules):
        threshold = rules[spell.rule]
        turns += _turns(spell, threshold, today)
        reason = _reason(spell, threshold, today)
        known = worst.get(spell.rule)
        if reason is not None and (known is None or _badness(reason) < _badness(known)):
            worst[spell.rule] = reason
    reasons = tuple(sorted(worst.values(), key=_order))
    signal = reasons[0].severity if reasons else GREEN
    worse = [day for day, severity in turns if SEVERITY[severity] > SEVERITY[signal]]
    return Signal(
        signal,
        reasons,
        min(worse, default=None),
        min((day for day, _ in turns), default=None),
    )


def spells_of(facts: Facts, today: date, rules: Mapping[str, Threshold]) -> Iterator[Spell]:
    """Every start of a rule that is on and not ended, turned or not."""
    reached = facts.reached(today)
    for key, rule in RULES.items():
        threshold = rules.get(key)
        if threshold is not None and threshold.is_on:
            for milestone, on, text in rule.holds(facts, reached, today):
                yield Spell(key, milestone, on, text)


def is_overdue(facts: Facts, today: date, rules: Mapping[str, Threshold]) -> bool:
    """A payment is overdue: invoiced, not paid, for more days than the red threshold of its rule,
    whether or not the rule is on. Of lost ones none is."""
    on = overdue_on(facts, today, rules)
    return on is not None and on <= today and outcome_of(facts, today) != "lost"


def overdue_on(facts: Facts, today: date, rules: Mapping[str, Threshold]) -> date | None:
    """The day on which the payment of a dated invoice is, or gets, overdue; by facts alone."""
    threshold = rules.get("invoice_no_payment")
    reached = facts.reached(today)
    if threshold is None or threshold.red is None or "payment" in reached:
        return None
    return turn_day(reached["invoice"], threshold.red) if "invoice" in reached else None


def turn_day(on: date, days: int) -> date | None:
    """The first day that is strictly more than `days` after `on`; None beyond the calendar."""
    try:
        return on + timedelta(days=days + 1)
    except OverflowError:
        return None


def _turns(spell: Spell, threshold: Threshold, today: date) -> list[tuple[date, str]]:
    """The days to come on which the rule reaches a severity, with that severity."""
    if RULES[spell.rule].is_block:
        return []
    found = []
    for severity, days in ((YELLOW, threshold.yellow), (RED, threshold.red)):
        day = turn_day(spell.on, days) if days is not None else None
        if day is not None and day > today:
            found.append((day, severity))
    return found


def _reason(spell: Spell, threshold: Threshold, today: date) -> Reason | None:
    """At its worst severity by today; None while it is green."""
    severity, since, worse_on = "", spell.on, None
    if RULES[spell.rule].is_block:
        severity = BLOCKED
    else:
        for colour, days in ((YELLOW, threshold.yellow), (RED, threshold.red)):
            day = turn_day(spell.on, days) if days is not None else None
            if day is None:
                continue
            if day <= today:
                severity, since = colour, day
            elif severity:
                worse_on = day
    if not severity:
        return None
    days_past = (today - spell.on).days
    return Reason(
        spell.rule, severity, spell.milestone, spell.on, days_past, since, worse_on, spell.text
    )


def _badness(reason: Reason) -> tuple:
    """Of several of one rule: the worst, then the one that holds longest, then the way's order."""
    where = (rank_of(reason.milestone), reason.milestone) if reason.milestone else (-1.0, "")
    return (-SEVERITY[reason.severity], reason.date, where)


def _order(reason: Reason) -> tuple:
    return (-SEVERITY[reason.severity], reason.since, list(RULES).index(reason.rule))


# -- in words -----------------------------------------------------------------------------------


def reasons_on(stored: Iterable[Mapping[str, Any]], today: date) -> list[Reason]:
    """The reasons that an opportunity keeps, with their days as of `today`."""
    return [reason_from(each, today) for each in stored]


def reason_from(stored: Mapping[str, Any], today: date | None = None) -> Reason:
    """A reason from JSON; its days as of `today`, or as they were when it was told."""
    on = date.fromisoformat(stored["date"])
    worse_on = stored.get("worse_on")
    return Reason(
        stored["rule"],
        stored["severity"],
        stored["milestone"],
        on,
        stored["days"] if today is None else (today - on).days,
        date.fromisoformat(stored["since"]),
        date.fromisoformat(worse_on) if worse_on else None,
        stored.get("text", ""),
    )


def evidence(reason: Reason | Mapping[str, Any], title: str = "") -> str:
    """`Proposal sent 2 Oct, 49 days, no PO`. `title`: of an own milestone, if it has one.

    Of a reason that an opportunity keeps take `reasons_on` first: it has no days.
    """
    told = reason if isinstance(reason, Reason) else reason_from(reason)
    asked_on = told.date + timedelta(days=told.days)
    return RULES[told.rule].evidence.format(
        day=short_day(told.date, asked_on),
        days=f"{told.days} day" if told.days == 1 else f"{told.days} days",
        milestone=title or title_of(told.milestone),
        text=f": {told.text}" if told.text else "",
    )


def advice(reason: Reason | Mapping[str, Any]) -> str:
    """What to do about it."""
    return RULES[reason.rule if isinstance(reason, Reason) else reason["rule"]].advice
