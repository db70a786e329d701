"""What a filter is called on the page: one label for each value that an address gives it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from crm import stages
from crm.words import NONE, MomentField
from o2r.written import day_words, moment_words

NAMES = {
    "stage": "Stage",
    "territory": "Territory",
    "service_line": "Service line",
    "owner": "Owner",
    "account": "Account",
    "company": "Company",
    "search": "Search",
    "outcome": "Outcome",
    "phase": "Phase",
    "health_signal": "Signal",
    "closing_from": "Closing from",
    "closing_to": "Closing to",
    "amount_min": "SGD at least",
    "amount_max": "SGD at most",
    "changed_since": "Changed since",
    "updated_since": "Updated since",
}
WORDS = {
    "missing": {
        "amount": "Without an amount",
        "rate": "Without a rate to SGD",
        "closing_date": "Without a closing date",
        "account": "Without an account",
    },
    "overdue": {"1": "Payment overdue"},
    "counted": {"cycle": "With a cycle time"},
    "changed": {
        "signal": "Signal turned",
        "new": "New",
        "stage": "Stage moved",
        "amount": "Amount changed",
        "closing_date": "Closing date moved",
        "won": "Won",
        "lost": "Lost",
    },
}


def chip_label(name: str, word: str, owners: Mapping[str, str]) -> str:
    if name in WORDS:
        return WORDS[name].get(word, word)
    shown = "none" if word == NONE else word
    if name == "stage":
        shown = stages.LABELS.get(word, word)
    elif name == "owner":
        shown = owners.get(word.lower(), shown)
    elif name in ("outcome", "health_signal"):
        shown = word.capitalize()
    elif name == "phase":
        shown = ("I", "II", "III", "IV")[int(word.removeprefix("phase")) - 1]
    elif name in ("closing_from", "closing_to"):
        shown = day_words(date.fromisoformat(word))
    elif name in ("changed_since", "updated_since") and (moment := MomentField().clean(word)):
        shown = moment_words(moment)
    elif name in ("amount_min", "amount_max"):
        shown = f"{Decimal(word):,f}"
    return f"{NAMES.get(name, name)}: {shown}"
