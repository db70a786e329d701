"""What must hold when both sides have come to rest: nothing is on its way, the mirror is the CRM
but for what is shown as open, and what is open is shown as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator

from crm.models import ChangeEvent, OutboxEntry, outbox
from crm.tests import oracle
from crm.tests.simulator.colleagues import Colleagues
from crm.tests.simulator.fates import PAIR, Fates
from crm.tests.simulator.people import MODULES
from crm.tests.simulator.terms import WRITABLE, name_of, of_ours, of_value
from crm.tests.simulator.trail import Trail
from crm.tests.simulator.users import in_oracle_words, row_of

UNDER_WAY = (outbox.PENDING, outbox.READING, outbox.SENDING, outbox.UNKNOWN, outbox.SENT)


def under_way() -> Iterator[str]:
    """Whatever does not come to an end though nothing stands in its way. A record's deletion that
    waits for a person keeps its other changes back."""
    held = set(
        OutboxEntry.objects.filter(
            kind=outbox.DELETE, status__in=(outbox.CONFLICT, outbox.DEAD)
        ).values_list("module", "record_id")
    )
    for entry in OutboxEntry.objects.filter(status__in=UNDER_WAY).order_by("id"):
        if (entry.module, entry.record_id) not in held or entry.status != outbox.PENDING:
            yield f"{entry} is still on its way: {entry.code} {entry.message}"


def differences(people: Colleagues, *, after_a_full: bool) -> Iterator[str]:
    """Between the mirror and the CRM, apart from what waits for a person."""
    open_ = set(
        OutboxEntry.objects.filter(status__in=outbox.OPEN).values_list(
            "module", "record_id", "field"
        )
    )
    pks = {
        (module, zoho_id): pk
        for module in MODULES
        for pk, zoho_id in oracle.MODELS[module].objects.values_list("pk", "zoho_id")
    }
    for found in oracle.differences(people.sandbox, MODULES):
        pk = pks.get((found.module, found.zoho_id), 0)
        fields = {name_of(found.module, f) for m, p, f in open_ if (m, p) == (found.module, pk)}
        if found.field in (oracle.MISSING, oracle.TOO_MANY) and "" in fields:
            continue
        if found.zoho_id is None and any(m == "Deals" and f == "" for m, _, f in open_):
            continue  # made here, and given up for now: said so
        if found.field in fields or (found.field in FOLLOWING and fields & FOLLOWING[found.field]):
            continue
        if not after_a_full and _is_beyond_a_delta(people, found):
            continue
        yield str(found)


# What the CRM fills in by itself when a deal is made.
DEFAULTS = {"crm_probability", "aws_funded", "strategic_account"}
# What our own rows work out from a field that may be open.
_WORTH = {"amount_minor", "currency"}
FOLLOWING = {
    "amount_minor": _WORTH,
    "currency": _WORTH,  # they are in conflict together, and shown together
    "amount_sgd_minor": _WORTH,
    "weighted_sgd_minor": {*_WORTH, "crm_stage", "crm_probability"},
    "probability": {"crm_stage", "crm_probability"},
    "stage": {"crm_stage"},
    "stage_type": {"crm_stage"},
}


def _is_beyond_a_delta(people: Colleagues, found: oracle.Difference) -> bool:
    if (found.module, found.zoho_id) in people.unseen:
        return True
    # The CRM empties lookups to what was deleted, and moves no time over it.
    ends = {found.actual, found.expected}
    return found.is_reference and None in ends and bool(ends & people.ever_gone)


def shown_wrong(fates: Fates) -> Iterator[str]:
    """Open entries: the row shows ours, and a conflict shows what the CRM really has."""
    for entry in OutboxEntry.objects.filter(status__in=outbox.OPEN, kind=outbox.EDIT):
        module, name = entry.module, name_of(entry.module, entry.field)
        row = row_of(module, entry.record_id) or {}
        ours = in_oracle_words(module, name, json.loads(entry.new or "null"))
        if (row[name] or None) != (ours or None):
            yield f"{entry} wants {ours!r}, the row shows {row[name]!r}"
        zoho_id = fates.zoho_ids[module, entry.record_id]
        key = (module, zoho_id)
        if entry.status != outbox.CONFLICT or key not in fates.trail.records:
            continue
        there = fates.trail.now((*key, WRITABLE[module][name]))
        told = in_oracle_words(module, name, json.loads(entry.theirs or "null"))
        currency = fates.trail.now((*key, "Currency")) if name == "amount_minor" else None
        theirs = of_value(module, name, told, currency)
        if theirs != there:
            yield f"{entry} shows {theirs!r} as the CRM's, which has {there!r}"
        if theirs == of_value(module, name, ours, currency):
            yield f"{entry} is a conflict of {ours!r} with itself"


def conflicts_of_nothing(fates: Fates) -> Iterator[str]:
    """A conflict with a field that nobody but us has ever changed in the CRM."""
    for entry in OutboxEntry.objects.filter(status=outbox.CONFLICT, kind=outbox.EDIT):
        module, name = entry.module, name_of(entry.module, entry.field)
        key = (module, fates.zoho_ids[module, entry.record_id])
        names = PAIR if name in PAIR else (name,)
        spots = [(*key, WRITABLE[module][each]) for each in names]
        is_default = name in DEFAULTS and entry.record_id in {m.pk for m in fates.makings}
        if name in oracle.REFS[module] or is_default:
            continue  # emptied with what it pointed to, or filled when the record was made
        if not any(_was_moved(fates.trail, spot) for spot in spots):
            yield f"{entry} is in conflict, and nobody in the CRM has changed the field"


def _was_moved(trail: Trail, spot: tuple[str, int, str]) -> bool:
    return any(not step.is_ours or step.follows for step in trail.steps.get(spot, []))


def echoes() -> Iterator[str]:
    """News of a sync that tell what the row showed already are an echo taken for news."""
    for event in ChangeEvent.objects.filter(kind=ChangeEvent.CHANGED):
        if event.old == event.new:
            yield f"{event.module} {event.record_id} {event.field} changed from {event.old} to it"


def told_back(fates: Fates) -> Iterator[str]:
    """News of the CRM, for a field, that bring a value which nobody there has ever set: ours."""
    changed = ChangeEvent.objects.filter(kind=ChangeEvent.CHANGED).exclude(
        source__in=("local", "writeback")
    )
    for event in changed.order_by("id"):
        module, name = event.module, name_of(event.module, event.field)
        zoho_id = fates.zoho_ids.get((module, event.record_id))
        if name not in ("next_step", "description", "name") or zoho_id is None:
            continue
        if (module, zoho_id) not in fates.trail.records:
            continue
        value = of_ours(module, name, {name: json.loads(event.new)})
        wishes = fates.wishes.get((module, event.record_id, name), [])
        spot = (module, zoho_id, WRITABLE[module][name])
        by_them = [step.new for step in fates.trail.steps.get(spot, []) if not step.is_ours]
        if value in [wish.value for wish in wishes] and value not in by_them:
            yield f"{event.module} {event.record_id} {event.field}: our own {value!r} came as news"
