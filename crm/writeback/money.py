"""An amount and its currency belong together: an edit of one is based on the other, too. Pure.

An entry of an amount keeps the currency of its base and of its new value; one of a currency keeps
the amounts that it was changed with. Where the CRM has changed the other one meanwhile, the edit is
in conflict although its own field is as it was: 100 USD must not become 100 EUR unseen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from crm.mapping import convert
from crm.mapping.apply import MISSING, Mapper
from crm.models import OutboxEntry, outbox
from crm.writeback.conflicts import same

CURRENCY = "currency"
# In `details`, of an amount: the currency of its base and of its new value.
BASE_CURRENCY, NEW_CURRENCY = "base_currency", "currency"
# Of a currency: the amounts that it was changed with, and in which currency these were.
AMOUNTS, AMOUNTS_CURRENCY = "amounts", "amounts_currency"
# Of a conflict: what the CRM has of the other one.
THEIRS_WITH = "theirs_with"


def details_of(
    mapper: Mapper, name: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """What the entry of an edit of this column keeps of the other ones."""
    if name in mapper.money_columns:
        return {BASE_CURRENCY: before[CURRENCY] or "", NEW_CURRENCY: after[CURRENCY] or ""}
    if name == CURRENCY and mapper.money_columns:
        amounts = {column: before[column] for column in mapper.money_columns}
        return {AMOUNTS: amounts, AMOUNTS_CURRENCY: before[CURRENCY] or ""}
    return {}


def in_units(amount: Any, was: str, now: str) -> Any:
    """The same number in the minor units of another currency."""
    if amount.__class__ is not int or not was or not now:
        return amount
    found = convert.rescaled(amount, was, now)
    return found if found.__class__ is int else amount


def theirs_with(mapper: Mapper, entry: OutboxEntry, values: Sequence[Any]) -> dict[str, Any]:
    """What the CRM has of the other one; what it did not say is left out."""
    if entry.field in mapper.money_columns:
        names = [CURRENCY]
    elif entry.field == CURRENCY:
        names = list(mapper.money_columns)
    else:
        return {}
    found = {name: values[mapper.index[name]] for name in names}
    return {name: value for name, value in found.items() if value is not MISSING}


def has_moved(
    entry: OutboxEntry, told: Mapping[str, Any], chains: Mapping[str, Any], at: str
) -> bool:
    """Whether the CRM has changed the other one since: to neither what it was nor what we want.

    `told`: as `theirs_with`; `chains`: the record's open entries by field; `at`: the currency in
    which the CRM's amounts are.
    """
    if CURRENCY in told and BASE_CURRENCY in entry.details:
        known = {entry.details[BASE_CURRENCY], entry.details[NEW_CURRENCY]}
        return (told[CURRENCY] or "") not in known
    if AMOUNTS not in entry.details:
        return False
    for name, theirs in told.items():
        if name not in entry.details[AMOUNTS]:
            continue
        was = entry.details[AMOUNTS_CURRENCY]
        known_amounts = [in_units(entry.details[AMOUNTS][name], was, at)]
        for other in chains.get(name, ()):
            known_amounts += [base_in(other, at), new_in(other, at)]
        if not any(same(theirs, amount) for amount in known_amounts):
            return True
    return False


def base_in(entry: OutboxEntry, currency: str) -> Any:
    """The base of an amount's entry in units of this currency; of any other as it is."""
    return in_units(entry.base_value, entry.details.get(BASE_CURRENCY, ""), currency)


def new_in(entry: OutboxEntry, currency: str) -> Any:
    return in_units(entry.new_value, entry.details.get(NEW_CURRENCY, ""), currency)


def noted(
    entry: OutboxEntry, told: Mapping[str, Any], at: str, *, has_theirs: bool
) -> dict[str, Any]:
    """The entry's details after a look at what the CRM has: of a conflict with theirs, else an edit
    of a currency stands on the amounts that are there."""
    details = {k: v for k, v in entry.details.items() if k != THEIRS_WITH}
    if has_theirs and told:
        details[THEIRS_WITH] = dict(told)
    elif AMOUNTS in details and told:
        details[AMOUNTS] = {**details[AMOUNTS], **told}
        details[AMOUNTS_CURRENCY] = at
    return details


def stand_on(later: OutboxEntry, entry: OutboxEntry) -> None:
    """The later edit of the field stands on what this one stood on."""
    later.base = entry.base
    kept = {k: entry.details[k] for k in (BASE_CURRENCY, AMOUNTS, AMOUNTS_CURRENCY)
            if k in entry.details}  # fmt: skip
    later.details = {**later.details, **kept}


def shown_with(entry: OutboxEntry) -> dict[str, Any]:
    """What the row shows of the other one beside a conflict of ours: ours, too."""
    if NEW_CURRENCY in entry.details:
        return {CURRENCY: entry.details[NEW_CURRENCY]}
    if AMOUNTS in entry.details:
        was = entry.details[AMOUNTS_CURRENCY]
        return {
            name: in_units(amount, was, entry.new_value or "")
            for name, amount in entry.details[AMOUNTS].items()
        }
    return {}


def rebase(entry: OutboxEntry) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Ours stays in a conflict: the entry stands on what the CRM has. Of the other one, what has to
    be sent with it: column → base, new and details of an entry."""
    told = entry.details.get(THEIRS_WITH) or {}
    entry.base, entry.theirs = entry.theirs, None
    entry.details = {k: v for k, v in entry.details.items() if k != THEIRS_WITH}
    if BASE_CURRENCY in entry.details and CURRENCY in told:
        there, ours = told[CURRENCY] or "", entry.details[NEW_CURRENCY]
        entry.details[BASE_CURRENCY] = there
        amounts = {AMOUNTS: {entry.field: entry.base_value}, AMOUNTS_CURRENCY: there}
        return {} if same(there, ours) else {CURRENCY: (there, ours, amounts)}
    if AMOUNTS not in entry.details:
        return {}
    shown, there, ours = shown_with(entry), entry.base_value or "", entry.new_value or ""
    entry.details |= {AMOUNTS: {**entry.details[AMOUNTS], **told}, AMOUNTS_CURRENCY: there}
    currencies = {BASE_CURRENCY: there, NEW_CURRENCY: ours}
    return {
        name: (theirs, shown[name], currencies)
        for name, theirs in told.items()
        if name in shown and not same(in_units(theirs, there, ours), shown[name])
    }


def theirs_of(entry: OutboxEntry) -> dict[str, Any]:
    """What the CRM has instead, the other one with it: by column."""
    return {**(entry.details.get(THEIRS_WITH) or {}), entry.field: entry.theirs_value}


def is_theirs(entry: OutboxEntry, new: Any, details: Mapping[str, Any]) -> bool:
    """Whether this value is what the CRM has in a conflict, the other one included."""
    told = entry.details.get(THEIRS_WITH) or {}
    if NEW_CURRENCY in details and CURRENCY in told and details[NEW_CURRENCY] != told[CURRENCY]:
        return False
    return same(entry.theirs_value, new)


def folded(entry: OutboxEntry, details: Mapping[str, Any]) -> dict[str, Any]:
    """A waiting entry takes a later edit: it still stands on what it stood on."""
    new = {k: v for k, v in details.items() if k == NEW_CURRENCY}
    return {**details, **entry.details, **new}


def in_new_currency(
    held: Sequence[OutboxEntry], changed: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[OutboxEntry]:
    """Amounts that wait keep their number when the currency is changed after them."""
    if CURRENCY not in wanted or CURRENCY not in changed:
        return []
    now = changed[CURRENCY][1] or ""
    found = []
    for entry in held:
        is_waiting = NEW_CURRENCY in entry.details and entry.status in outbox.WAITING
        if is_waiting and entry.field not in wanted:
            entry.new = json.dumps(new_in(entry, now))
            entry.details = {**entry.details, NEW_CURRENCY: now}
            found.append(entry)
    return found
