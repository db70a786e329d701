"""What left for the CRM, held against what was read right before it: nothing goes unread, over a
value that nobody here has seen, in another currency, or while the switch is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crm.tests.simulator.book import Line
from crm.tests.simulator.fates import Fates, Wish
from crm.tests.simulator.terms import AMOUNT, CURRENCY, WRITABLE, of_ours, of_theirs

Key = tuple[str, int]


def unasked(fates: Fates) -> Iterator[str]:
    """Everything that was sent and should not have been."""
    read: dict[Key, Line] = {}
    mode = ""
    for number, line in enumerate(fates.lines):
        what = line["what"]
        if what == "sender":
            read.clear()
        elif what == "switch":
            mode = line["mode"]
        elif what == "read":
            read[line["module"], line["id"]] = line
        elif what in ("update", "upsert", "insert", "delete"):
            fates.tally[f"{what} calls"] += 1
            if mode != "on":
                yield f"line {number}: {what} left while the switch was {mode}"
            yield from _CHECKS[what](fates, number, line, read)


def _update(fates: Fates, number: int, line: Line, read: dict[Key, Line]) -> Iterator[str]:
    module = line["module"]
    names = {api: name for name, api in WRITABLE[module].items()}
    for row in line["rows"]:
        key = (module, int(row["id"]))
        seen = read.pop(key, None)  # what was sent once is read again before it is sent again
        if seen is None:
            yield f"line {number}: {key} was sent unread"
            continue
        for api, raw in row.items():
            if api != "id":
                place = (module, fates.pks.get(key, 0), names.get(api, api))
                yield from _field(fates, number, place, of_theirs(module, api, raw), row, seen)


def _field(
    fates: Fates, number: int, place: tuple[str, int, str], sent: Any, row: Line, seen: Line
) -> Iterator[str]:
    module, _, name = place
    before = [wish for wish in fates.wishes.get(place, []) if wish.line < number]
    wishes = [n for n, wish in enumerate(before) if wish.value == sent]
    if not wishes:
        yield f"line {number}: {place} was sent as {sent!r}, which nobody wished"
        return
    held = of_ours(module, name, seen["row"])
    may = _bases(fates, (module, int(row["id"])), before[: wishes[-1] + 1], seen["at"])
    if held not in may:
        yield (
            f"line {number}: {place} was sent as {sent!r} over {held!r}, "
            f"which nobody here has seen ({sorted(map(str, may))})"
        )
    if name == AMOUNT:
        yield from _amount(fates, number, place, before[wishes[-1]], row, seen)


def _bases(fates: Fates, key: Key, wishes: list[Wish], at: int) -> set[Any]:
    """Values of the CRM that whoever wished the last of these knew of: what they saw, since the
    last of them that is known to have arrived."""
    arrived = [
        n
        for n, wish in enumerate(wishes)
        if any(e.at <= at and fates.is_known(key, e) for e in wish.effects)
    ]
    since = wishes[arrived[-1] :] if arrived else wishes
    known = {wish.value for wish in since}
    return known | {wish.shown for wish in (since[1:] if arrived else since)}


def _amount(
    fates: Fates, number: int, place: tuple[str, int, str], wish: Wish, row: Line, seen: Line
) -> Iterator[str]:
    currency = row.get("Currency", seen["row"][CURRENCY])
    turns = fates.wishes.get((*place[:2], CURRENCY), [])
    meant = {wish.currency} | {turn.value for turn in turns if wish.line < turn.line < number}
    if wish.value is not None and currency not in meant:
        yield f"line {number}: {place} was sent in {currency}, and was meant in {sorted(meant)}"


def _upsert(fates: Fates, number: int, line: Line, read: dict[Key, Line]) -> Iterator[str]:
    if line["keys"] != ["Pulse_Id"]:
        yield f"line {number}: a record was made by {line['keys']}, not by its external id"
    keys = {making.key for making in fates.makings}
    for row in line["rows"]:
        if row.get("Pulse_Id") not in keys:
            yield f"line {number}: a record was made that nobody here made"


def _insert(fates: Fates, number: int, line: Line, read: dict[Key, Line]) -> Iterator[str]:
    yield f"line {number}: a record was inserted, which a lost answer doubles"


def _delete(fates: Fates, number: int, line: Line, read: dict[Key, Line]) -> Iterator[str]:
    module = line["module"]
    for zoho_id in line["ids"]:
        key = (module, zoho_id)
        seen, pk = read.pop(key, None), fates.pks.get(key, 0)
        if seen is None:
            yield f"line {number}: {key} was deleted unread"
            continue
        known = fates.deletions.get((module, pk))
        if not known:
            yield f"line {number}: {key} was deleted, and nobody wanted that"
            continue
        for name in WRITABLE[module]:
            held = of_ours(module, name, seen["row"])
            wishes = fates.wishes.get((module, pk, name), [])
            may = set().union(*(seen_then[name] for seen_then in known))
            if None in may and any(making.pk == pk for making in fates.makings):
                continue  # the CRM filled it in when it made the record
            may |= {value for wish in wishes for value in (wish.value, wish.shown)}
            if held not in may:
                yield (
                    f"line {number}: {key} was deleted while its {name} was {held!r}, "
                    f"which nobody here has seen ({sorted(map(str, may))})"
                )


_CHECKS = {"update": _update, "upsert": _upsert, "insert": _insert, "delete": _delete}
