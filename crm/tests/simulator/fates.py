"""What became of every wish of people here, judged without the product's help: from the book of
what they did and what was sent, and from the CRM's own history.

A wish has reached the CRM once, was folded into a later one of the same field, was taken back by
somebody, or can be seen: as pending, in conflict, given up, or as a draft. Nothing else may be.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crm.models import OutboxEntry, outbox
from crm.tests import oracle
from crm.tests.simulator.book import Line
from crm.tests.simulator.terms import AMOUNT, CURRENCY, WRITABLE, column, of_ours, of_value
from crm.tests.simulator.trail import Spot, Step, Trail

VISIBLE = (*outbox.OPEN, outbox.REFUSED)
PAIR = (AMOUNT, CURRENCY)
OUR_KEYS = "pulse-"
EDITS = ("edit", "undo", "ours", "again")
Place = tuple[str, int, str]  # module, our key, the oracle's name


@dataclass
class Wish:
    """`value` is what somebody here wanted, `shown` what they saw the CRM to hold."""

    line: int
    at: int
    value: Any
    shown: Any
    currency: Any = None
    effects: list[Step] = field(default_factory=list)


@dataclass
class Making:
    """A record made here, by its external id."""

    pk: int
    key: str
    row: dict[str, Any]


@dataclass
class Fates:
    """All wishes by field, and what else people here did."""

    trail: Trail
    lines: list[Line]
    wishes: dict[Place, list[Wish]] = field(default_factory=lambda: defaultdict(list))
    withdrawn: dict[Place, int] = field(default_factory=dict)
    makings: list[Making] = field(default_factory=list)
    # module, our key → the row that was deleted, with what was decided upon since
    deletions: dict[tuple[str, int], list[dict[str, set[Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    wrong: list[str] = field(default_factory=list)
    tally: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.zoho_ids = {
            (module, pk): zoho_id
            for module, model in oracle.MODELS.items()
            for pk, zoho_id in model.objects.values_list("pk", "zoho_id")
        }
        self.pks = {(key[0], zoho): key[1] for key, zoho in self.zoho_ids.items() if zoho}
        self._answers: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        self._read_answers()
        self._read_acts()
        self._match_effects()

    def _read_answers(self) -> None:
        """What the sender knows for sure to have happened: answered, and it lived to note it."""
        heard: list[Line] = []
        for line in self.lines:
            if line["what"] == "sender":
                heard = []
            elif line["what"] == "answer":
                heard.append(line)
            elif line["what"] == "ended":
                for each in heard:
                    for zoho_id in each["ids"]:
                        self._answers[each["module"], zoho_id].append((each["begun"], each["at"]))

    def is_known(self, key: tuple[str, int], effect: Step) -> bool:
        """Whether the sender was told of this effect."""
        return any(begun < effect.at <= at for begun, at in self._answers.get(key, ()))

    # -- what people here wanted ------------------------------------------------------------------

    def _read_acts(self) -> None:
        begun: Line = {}
        for number, line in enumerate(self.lines):
            if line["what"] == "act":
                begun = line
            elif line["what"] == "done" and line["n"] == begun["n"]:
                self.tally[f"{begun['kind']}s"] += 1
                self._read_act(number, begun, line)

    def _read_act(self, number: int, begun: Line, done: Line) -> None:
        kind, module, row = begun["kind"], begun["module"], done["row"]
        if kind == "create":
            self.makings.append(Making(done["pk"], done["key"], row))
            return
        pk = begun["pk"]
        if kind == "delete":
            seen = {name: {of_ours(module, name, begun["row"])} for name in WRITABLE[module]}
            self.deletions[module, pk].append(seen)
        elif begun.get("entry_kind") in (outbox.DELETE, outbox.CREATE):
            self._decide_record(number, begun)
        elif kind == "theirs":
            for name in _decided(begun):
                self.withdrawn[module, pk, name] = number
        elif kind == "dismiss":
            self.withdrawn[module, pk, begun["name"]] = number
        elif kind in EDITS:
            self._read_edit(number, begun, row)

    def _decide_record(self, number: int, begun: Line) -> None:
        module, pk, kind = begun["module"], begun["pk"], begun["kind"]
        if begun["entry_kind"] == outbox.DELETE and kind == "ours":
            for name, value in begun["theirs"].items():
                currency = begun["theirs"].get(CURRENCY, begun["row"].get(CURRENCY))
                told = of_value(module, name, value, currency)
                self.deletions[module, pk][-1][name].add(told)
        elif kind in ("theirs", "dismiss"):
            # A deletion that was taken back, or a record that is not to be made.
            self.withdrawn[module, pk, ""] = number

    def _read_edit(self, number: int, begun: Line, row: dict[str, Any]) -> None:
        module, pk, kind, before = begun["module"], begun["pk"], begun["kind"], begun["row"]
        names = begun["wanted"] if kind == "edit" else _decided(begun)
        for name in names:
            value, shown = of_ours(module, name, row), of_ours(module, name, before)
            if kind == "edit":
                wanted = of_value(module, name, begun["wanted"][name], row.get(CURRENCY))
                if value != wanted and not _is_same_text(value, wanted):
                    self.wrong.append(f"{module} {pk} {name} shows {value!r}, not {wanted!r}")
            elif kind == "ours":
                if name not in begun["theirs"]:
                    continue
                currency = begun["theirs"].get(CURRENCY, before.get(CURRENCY))
                shown = of_value(module, name, begun["theirs"][name], currency)
            if value != shown or kind == "ours":
                wish = Wish(number, begun["at"], value, shown, row.get(CURRENCY))
                self.wishes[module, pk, name].append(wish)

    # -- what came of it in the CRM ---------------------------------------------------------------

    def _spot(self, place: Place) -> Spot | None:
        module, pk, name = place
        zoho_id = self.zoho_ids.get((module, pk))
        return None if zoho_id is None else (module, zoho_id, WRITABLE[module][name])

    def _match_effects(self) -> None:
        """Each effective change of ours is some wish's, in their order, and no wish's second."""
        names = {module: {api: name for name, api in f.items()} for module, f in WRITABLE.items()}
        for (module, zoho_id, api), steps in self.trail.steps.items():
            pk = self.pks.get((module, zoho_id), 0)
            place = (module, pk, names[module][api])
            wishes, at = self.wishes.get(place, []), 0
            for n, step in enumerate(steps):
                if not step.is_ours:
                    continue
                mine = [
                    i for i in range(at, len(wishes))
                    if wishes[i].value == step.new and wishes[i].at < step.at
                ]  # fmt: skip
                if mine:
                    wishes[mine[0]].effects.append(step)
                    at = mine[0] + 1
                    self.tally["effects"] += 1
                elif step.follows:
                    continue
                elif at and self._may_go_again((module, zoho_id), wishes[at - 1], steps, n):
                    # Its outcome was unknown, and somebody there had made it look unsent.
                    self.tally["sent again after it was put back"] += 1
                elif _was_put_back(steps, n) or not self._is_of_a_making(pk, place, step):
                    self.wrong.append(
                        f"{place} of {zoho_id} was changed from {step.old!r} to {step.new!r}: "
                        f"nobody wished it, or not again (wishes {_short(wishes)})"
                    )

    def _may_go_again(self, key: tuple[str, int], wish: Wish, steps: list[Step], n: int) -> bool:
        """Nobody here knows that it arrived, and somebody there has put it back since."""
        is_known = any(self.is_known(key, effect) for effect in wish.effects)
        return wish.value == steps[n].new and not is_known and _was_put_back(steps, n)

    def _is_of_a_making(self, pk: int, place: Place, step: Step) -> bool:
        """A creation that is sent again carries the record as it is by then."""
        wishes = self.wishes.get(place, [])
        return any(m.pk == pk for m in self.makings) and any(w.value == step.new for w in wishes)

    def lost(self) -> Iterator[str]:
        """Wishes of which nothing can be found."""
        visible = self._visible()
        for place, wishes in self.wishes.items():
            wish, (module, pk, _) = wishes[-1], place
            if self._is_withdrawn(place, wish) or place in visible:
                continue
            if (module, pk, "") in visible:
                continue  # its record waits to be made, or to be deleted
            spot = self._spot(place)
            if spot is None:
                yield f"{place} = {wish.value!r} is not sent, and nothing says so"
            elif spot[:2] not in self.trail.records:
                yield f"{place}: the CRM has never had {spot[1]}"
            elif not self.trail.held_after(spot, wish.at, wish.value):
                yield f"{place} = {wish.value!r} (of {spot[1]}) was lost: {_short(wishes)}"

    def _is_withdrawn(self, place: Place, wish: Wish) -> bool:
        if self.withdrawn.get(place, -1) > wish.line:
            return True
        if place[:2] in self.deletions.keys() | {each[:2] for each in self.withdrawn}:
            rows = oracle.MODELS[place[0]].objects.filter(pk=place[1])
            if rows.filter(deleted_at__isnull=False).exists():
                return True  # whoever deleted the record wants none of it
        # Back to what the CRM held, before any of it was sent: there is nothing to send.
        wishes = self.wishes[place]
        sent = [n for n, each in enumerate(wishes) if each.effects]
        return wish.value in [each.shown for each in wishes[sent[-1] + 1 if sent else 0 :]]

    def _visible(self) -> set[Place]:
        found = set()
        for entry in OutboxEntry.objects.filter(status__in=VISIBLE):
            names = {column(entry.module, name): name for name in WRITABLE[entry.module]}
            found.add((entry.module, entry.record_id, names.get(entry.field, "")))
        return found

    # -- records ----------------------------------------------------------------------------------

    def made_wrong(self) -> Iterator[str]:
        """One record for each that was made here, however often it was sent."""
        there = Counter(
            key
            for record in self.trail.records.values()
            if (key := record.get("Pulse_Id") or "").startswith(OUR_KEYS)
        )
        visible = self._visible()
        for making in self.makings:
            number, key = there.pop(making.key, 0), ("Deals", making.pk)
            self.tally["made there"] += number
            if number > 1:
                yield f"{making.key} was made {number} times in the CRM"
            elif number == 0 and not (
                (*key, "") in visible or self.deletions.get(key) or (*key, "") in self.withdrawn
            ):
                yield f"{making.key} was never made in the CRM, and nothing says so"
        for key in there:
            yield f"{key} was made in the CRM, by nobody here"

    def deleted_wrong(
        self, by_them: set[tuple[str, int]], back: set[tuple[str, int]]
    ) -> Iterator[str]:
        """What is gone in the CRM was deleted there, or by somebody here. `back`: restored there
        so that only a full sync tells."""
        for module, zoho_id in sorted(self.trail.gone - by_them):
            pk = self.pks.get((module, zoho_id), 0)
            self.tally["deleted there"] += 1
            if not self.deletions.get((module, pk)):
                yield f"{module} {zoho_id} is gone in the CRM, and nobody wanted that"
        visible = self._visible()
        for module, pk in self.deletions:
            zoho_id = self.zoho_ids.get((module, pk))
            is_there = (module, zoho_id) in self.trail.records.keys() - self.trail.gone
            told = (module, pk, "") in visible or (module, pk, "") in self.withdrawn
            row = oracle.MODELS[module].objects.filter(pk=pk, deleted_at__isnull=False)
            if is_there and row.exists() and not told and (module, zoho_id) not in back:
                yield f"{module} {zoho_id} was deleted here, is there still, and nothing says so"


def _decided(begun: Line) -> list[str]:
    """The fields that an act upon an entry concerns: an amount and its currency go together."""
    is_a_pair = begun["name"] in PAIR and begun["kind"] in ("ours", "theirs")
    return list(PAIR) if is_a_pair else [begun["name"]]


def _was_put_back(steps: list[Step], n: int) -> bool:
    """Since our last change of it somebody else changed the field."""
    return n > 0 and not steps[n - 1].is_ours


def _is_same_text(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and oracle.text(one, "") == other


def _short(wishes: list[Wish]) -> list[tuple[Any, Any]]:
    return [(str(wish.shown), str(wish.value)) for wish in wishes[-6:]]
