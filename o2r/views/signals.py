"""A signal as pages show it: word and shape, its reasons with evidence, and when it gets worse.

Decides the words alone. What a signal is, `o2r/health_signals.py` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from o2r import health_signals
from o2r.future import Turn
from o2r.health_signals import RED, SEVERITY, Reason
from o2r.milestones import title_of
from o2r.models import Opportunity
from o2r.written import day_words

# Word and shape: a signal is never colour alone.
SIGNALS = {
    "green": ("On Track", "circle-check"),
    "yellow": ("Need Attention", "alert-triangle"),
    "red": ("At Risk", "alert-octagon"),
    "blocked": ("Blocked", "ban"),
}
WHY = {
    "green": "On track",
    "yellow": "Why it needs attention",
    "red": "Why it is at risk",
    "blocked": "Why it is blocked",
}
PHASES = {
    1: "Opportunity → Proposal",
    2: "Proposal → Commitment",
    3: "Execution",
    4: "Revenue realization",
}
ROMAN = {1: "I", 2: "II", 3: "III", 4: "IV"}
# "turns red on 4 Dec 2026 if …"
_UNLESS = {
    "proposal_no_po": "no PO arrives",
    "po_no_kickoff": "there is no kickoff",
    "kickoff_no_invoice": "no invoice is sent",
    "invoice_no_payment": "no payment arrives",
    "won_no_po": "no PO arrives",
    "signoff_no_invoice": "no invoice is sent",
    "paid_no_revenue": "the revenue is not recognised",
    "milestone_delayed": "{milestone} is not reached",
    "closing_date_past": "it is neither closed nor moved",
    "unchanged": "nothing changes",
}


@dataclass(frozen=True)
class ReasonShown:
    severity: str
    rule: str
    evidence: str
    since: date
    worse: str
    advice: str


@dataclass(frozen=True)
class SignalShown:
    """`key` "": it has ended. `worse` is the sentence of when it gets worse, if by time alone."""

    key: str
    word: str
    icon: str
    reasons: list[ReasonShown] = field(default_factory=list)
    worse: str = ""

    @property
    def first(self) -> ReasonShown | None:
        return self.reasons[0] if self.reasons else None


def signal_shown(
    opportunity: Opportunity,
    today: date,
    *,
    titles: Mapping[str, str] | None = None,
    turns: list[Turn] | None = None,
) -> SignalShown:
    """Of what the opportunity keeps. `titles` are those of own milestones; `turns`, where they are
    known, tell what makes a green one worse."""
    titles = titles or {}
    key = opportunity.health_signal
    word, icon = SIGNALS.get(key, (opportunity.get_outcome_display(), "flag"))
    reasons = [
        reason_shown(reason, titles)
        for reason in health_signals.reasons_on(opportunity.reasons, today)
    ]
    return SignalShown(key, word, icon, reasons, _worse(opportunity, reasons, turns, titles))


def reason_shown(reason: Reason, titles: Mapping[str, str]) -> ReasonShown:
    title = titles.get(reason.milestone, "")
    worse = ""
    if reason.worse_on is not None:
        turn = Turn(reason.worse_on, RED, reason.rule, reason.milestone)
        worse = sentence(turn_words(turn, titles))
    return ReasonShown(
        reason.severity,
        reason.rule,
        health_signals.evidence(reason, title),
        reason.since,
        worse,
        health_signals.advice(reason),
    )


def _worse(
    opportunity: Opportunity,
    reasons: list[ReasonShown],
    turns: list[Turn] | None,
    titles: Mapping[str, str],
) -> str:
    if opportunity.worse_on is None:
        return ""
    for turn in turns or []:
        is_worse = SEVERITY[turn.severity] > SEVERITY[opportunity.health_signal]
        if turn.on == opportunity.worse_on and is_worse:
            return sentence(turn_words(turn, titles))
    for stored, shown in zip(opportunity.reasons, reasons, strict=True):
        if stored.get("worse_on") == opportunity.worse_on.isoformat() and shown.worse:
            return shown.worse
    return f"Gets worse on {day_words(opportunity.worse_on)} if nothing happens"


def turn_words(turn: Turn, titles: Mapping[str, str] | None = None) -> str:
    """`turns red on 4 Dec 2026 if no PO arrives`."""
    return f"turns {turn.severity} on {day_words(turn.on)} {unless_words(turn, titles)}"


def unless_words(turn: Turn, titles: Mapping[str, str] | None = None) -> str:
    """`if no PO arrives`."""
    milestone = (titles or {}).get(turn.milestone) or title_of(turn.milestone)
    return f"if {_UNLESS[turn.rule].format(milestone=milestone)}"


def sentence(words: str) -> str:
    """With a capital at its beginning; the rest as it is."""
    return words[:1].upper() + words[1:]
