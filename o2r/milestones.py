"""The milestones: keys, titles, order, phase, and the deal's column that holds the day. Pure.

Own ones are known by a slug and stand in phase III, between execution started and sign-off, in no
order among themselves. What a milestone says of the phase is `phases.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

PENDING, COMPLETED, DELAYED, BLOCKED = "pending", "completed", "delayed", "blocked"


class BuiltIn(NamedTuple):
    """`column` of the deal holds the day where the CRM has a field for it; "": kept here alone."""

    key: str
    title: str
    phase: int
    column: str


_TABLE = (
    BuiltIn("qualified", "Qualified", 1, ""),
    BuiltIn("proposal", "Proposal submitted", 1, "proposal_date"),
    BuiltIn("proposal_accepted", "Proposal accepted", 2, ""),
    BuiltIn("sow_initiated", "SOW initiated", 2, ""),
    BuiltIn("sow", "SOW approved", 2, "sow_date"),
    BuiltIn("po", "PO received", 2, "po_date"),
    BuiltIn("kickoff", "Kickoff", 3, "kickoff_date"),
    BuiltIn("execution_started", "Execution started", 3, ""),
    BuiltIn("signoff", "Customer sign-off", 3, "signoff_date"),
    BuiltIn("invoice", "Invoice", 4, "invoice_date"),
    BuiltIn("payment", "Payment", 4, "payment_date"),
    BuiltIn("revenue", "Revenue recognised", 4, "revenue_date"),
)
BUILT_IN: dict[str, BuiltIn] = {row.key: row for row in _TABLE}
MAPPED: dict[str, str] = {row.key: row.column for row in _TABLE if row.column}
KEY_OF: dict[str, str] = {column: key for key, column in MAPPED.items()}
OWN_PHASE = 3
_RANK = {row.key: float(at) for at, row in enumerate(_TABLE)}
_OWN_RANK = _RANK["execution_started"] + 0.5


def title_of(key: str) -> str:
    """The built-in title; of an own one the words of its slug (its row may know a better one)."""
    built_in = BUILT_IN.get(key)
    return built_in.title if built_in else key.replace("-", " ").replace("_", " ").capitalize()


def rank_of(key: str) -> float:
    """Its place on the way; own ones share one."""
    return _RANK.get(key, _OWN_RANK)


def phase_of_key(key: str) -> int:
    """The phase in which it belongs on a page."""
    built_in = BUILT_IN.get(key)
    return built_in.phase if built_in else OWN_PHASE


def in_order(keys: Iterable[str]) -> list[str]:
    """The order of the way; own ones by their slug."""
    return sorted(keys, key=lambda key: (rank_of(key), key))


def is_passed(key: str, reached: Iterable[str]) -> bool:
    """Whether it, or a later one, is among those reached."""
    rank = rank_of(key)
    return any(other == key or rank_of(other) > rank for other in reached)


def status_of(said: str, completed_on: date | None, target_on: date | None, today: date) -> str:
    """What people see: a fact is completed, whatever was said; one blocked says so; one whose
    target has passed is delayed, as is one said to be. A day after today is a plan: pending."""
    if completed_on is not None and completed_on <= today:
        return COMPLETED
    if said in (BLOCKED, DELAYED):
        return said
    if target_on is not None and target_on < today:
        return DELAYED
    return PENDING
