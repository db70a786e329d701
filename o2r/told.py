"""Changes in words for people: fields by their names, values as they are written. Pure.

Used where a change is told: the timeline, refusals, reviews. References come in as names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

from crm.mapping.convert import decimals_of
from o2r import milestones
from o2r.written import day_words, moment_words

FIELDS = {
    "name": "Name",
    "account_id": "Account",
    "contact_id": "Contact",
    "owner_id": "Owner",
    "pipeline": "Pipeline",
    "crm_stage": "Stage",
    "crm_probability": "Probability",
    "amount_minor": "Amount",
    "currency": "Currency",
    "given_sgd_minor": "Amount in SGD",
    "closing_date": "Closing date",
    "deal_type": "Type",
    "lead_source": "Lead source",
    "next_step": "Next step",
    "description": "Description",
    "loss_reason": "Reason for loss",
    "territory": "Territory",
    "service_line": "Service line",
    "aws_funded": "AWS funded",
    "aws_funded_tag": "AWS funding",
    "alliance_motion": "Alliance motion",
    "strategic_account": "Strategic account",
    "external_id": "External id",
}
SIGNALS = {
    "": "no signal",
    "green": "green",
    "yellow": "yellow",
    "red": "red",
    "blocked": "blocked",
}
PHASES = {0: "ended", 1: "I", 2: "II", 3: "III", 4: "IV"}
NOTHING = "nothing"
LONGEST = 120


def field_words(column: str) -> str:
    """`po_date` → `PO received`; `crm_stage` → `Stage`."""
    key = milestones.KEY_OF.get(column)
    if key is not None:
        return milestones.title_of(key)
    return FIELDS.get(column) or column.removesuffix("_id").replace("_", " ").capitalize()


def money_words(minor: int, currency: str) -> str:
    """`USD 92,000.00`."""
    decimals = decimals_of(currency)
    whole, rest = divmod(abs(minor), 10**decimals)
    digits = f"{whole:,}.{rest:0{decimals}d}" if decimals else f"{whole:,}"
    return f"{currency} {'-' if minor < 0 else ''}{digits}".strip()


def plain_money(minor: int | None, currency: str) -> str | None:
    """`92000.00`, for machines; None stays None."""
    if minor is None:
        return None
    decimals = decimals_of(currency)
    whole, rest = divmod(abs(minor), 10**decimals)
    digits = f"{whole}.{rest:0{decimals}d}" if decimals else str(whole)
    return f"{'-' if minor < 0 else ''}{digits}"


def value_words(
    column: str, value: Any, *, currency: str, name_of: Callable[[str, int], str]
) -> str:
    """One value of a deal as a person reads it. `name_of(column, pk)` names what is referred to."""
    if value is None or value == "":
        return NOTHING
    if column.endswith("_id") and isinstance(value, int):
        return name_of(column, value)
    if column.endswith("_minor") and isinstance(value, int):
        return money_words(value, "SGD" if column == "given_sgd_minor" else currency)
    if column == "crm_probability":
        return f"{value}%"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.endswith("_date") and isinstance(value, str):
        return day_words(date.fromisoformat(value))
    text = str(value)
    return f"“{text[:LONGEST].rstrip()}…”" if len(text) > LONGEST else text


def milestone_words(key: str, title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What somebody did to a milestone, as the rest of a sentence: `recorded PO received on …`."""
    if not key:
        reason = new.get("blocked_reason")
        return f"marked it as blocked: {reason}" if reason else "said that it is not blocked"
    parts = []
    if "title" in new:
        parts.append(f"added the milestone {title}")
    if new.get("completed_on"):
        day = day_words(date.fromisoformat(new["completed_on"]))
        parts.append(f"recorded {title} on {day}")
    elif "completed_on" in new:
        parts.append(f"cleared the date of {title}")
    if new.get("status") == "blocked":
        parts.append(f"marked {title} as blocked: {new.get('blocked_reason', '')}".rstrip(": "))
    elif new.get("status") == "delayed":
        parts.append(f"marked {title} as delayed")
    elif new.get("status") == "pending" and "completed_on" not in new:
        was = old.get("status")
        parts.append(f"said that {title} is not {was} any more")
    if new.get("target_on"):
        parts.append(f"planned {title} for {day_words(date.fromisoformat(new['target_on']))}")
    elif "target_on" in new:
        parts.append(f"took the target of {title} away")
    if new.get("amount_minor") is not None:
        amount = money_words(new["amount_minor"], new.get("currency") or old.get("currency") or "")
        parts.append(f"gave {title} the amount {amount}")
    elif "amount_minor" in new:
        parts.append(f"took the amount of {title} away")
    if "note" in new:
        parts.append(f"noted on {title}: {new['note']}" if new["note"] else "took a note away")
    return "; ".join(parts) or f"changed {title}"


def at_words(moment: datetime) -> str:
    """When something was learnt, for the end of a sentence."""
    return f"at {moment_words(moment)}"
