"""A batch of deals → opportunities, their history, proposed items and roll-ups, as one difference.

Rows that stay as they are are not written. The caller holds the transaction and the state's lock
(`recompute.py`), which makes it the one writer of all of these.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from crm.sync import bulk_write
from crm.sync.bulk_write import db_moment
from o2r import action_rules, phases, standing
from o2r.action_rules import Item
from o2r.facts import Facts
from o2r.gather import DealRow, Rulebook, Said, facts_of_deals
from o2r.health_signals import GREEN, Signal
from o2r.milestones import title_of
from o2r.models import ActionItem, Opportunity, PhaseChange, SignalChange
from o2r.phases import ACTIVE, BY_STAGE
from o2r.rollups import CLOSED, Contribution, Difference
from o2r.standing import Standing
from o2r.tracker_rollups import Tracked, TrackerDifference

COUNTED = (
    "is_counted",
    "counted_stage",
    "counted_territory",
    "counted_service_line",
    "counted_owner_id",
    "counted_closed_on",
    "counted_sgd_minor",
    "counted_weighted_minor",
    "counted_has_amount",
)
NOT_COUNTED = (False, "", "", "", 0, None, None, None, False)
DERIVED = (*standing.COLUMNS, "highest_phase")
COLUMNS = (*COUNTED, *DERIVED, "as_of")
_JSON = frozenset(COLUMNS.index(name) for name in ("reasons", "findings"))
_DAYS = frozenset(
    COLUMNS.index(name)
    for name in (
        *("counted_closed_on", "phase_entered_on", "worse_on", "turns_on"),
        *("sow_estimated_on", "as_of"),
    )
)
FROM_CRM = "from CRM dates"


@dataclass
class Old:
    """An opportunity as it is stored; `values` by `COLUMNS`, dates as ISO text. `is_first`: nothing
    was ever derived of it."""

    pk: int
    said: Said
    values: tuple[Any, ...]

    @property
    def contribution(self) -> Contribution | None:
        is_counted, *given = self.values[: len(COUNTED)]
        if not is_counted:
            return None
        found = Contribution(*given)
        closed_on = self.values[COUNTED.index("counted_closed_on")]
        return found._replace(closed_on=closed_on and date.fromisoformat(closed_on))

    @property
    def standing(self) -> Standing:
        return Standing(*self.values[len(COUNTED) : len(COUNTED) + len(standing.COLUMNS)])

    @property
    def highest_phase(self) -> int:
        return self.values[-2]

    @property
    def tracked(self) -> Tracked | None:
        return _tracked(self.contribution, self.standing, self.highest_phase, self.is_first)

    @property
    def is_first(self) -> bool:
        return self.values[-1] is None


@dataclass
class Rewriting:
    """One batch. `day_of_moves`: the day that changes of the pipeline count for, None: none."""

    now: datetime
    today: date
    day_of_moves: date | None
    author: Any = None
    book: Rulebook = field(default_factory=Rulebook.load)

    def write(self, deals: Sequence[DealRow]) -> int:
        """Returns how many opportunities changed."""
        stored = _stored([deal.pk for deal in deals])
        blocks = {pk: old.said for pk, old in stored.items()}
        facts = facts_of_deals(deals, blocks, self.book)
        items = _items([old.pk for old in stored.values()])
        self._pipeline = Difference(self.day_of_moves)
        self._tracker = TrackerDifference()
        self._new: list[tuple] = []
        self._changed: list[tuple] = []
        self._phases: list[tuple] = []
        self._signals: list[tuple] = []
        self._proposed: list[tuple] = []
        self._closed: list[int] = []
        self._moved: list[tuple[int, date]] = []
        fresh = [deal.pk for deal in deals if deal.pk not in stored]
        ids = bulk_write.allocate_ids(Opportunity, len(fresh)) if fresh else []
        self._pks = dict(zip(fresh, ids, strict=True))
        for deal in deals:
            old = stored.get(deal.pk)
            known = items.get(old.pk, ()) if old else ()
            self._one(deal, old, facts[deal.pk], known)
        self._save()
        return len(self._new) + len(self._changed)

    def _one(self, deal: DealRow, old: Old | None, facts: Facts, items: Iterable[Item]) -> None:
        new, signal = standing.standing_of(facts, self.today, self.book.thresholds)
        highest = max(new.current_phase, old.highest_phase if old else 1)
        counted = contribution_of(deal)
        columns = NOT_COUNTED if counted is None else _columns(counted)
        # A record that was only named says nothing yet: its first look is when it is read.
        as_of = None if deal.is_stub and (old is None or old.is_first) else self.today.isoformat()
        values = (*columns, *new, highest, as_of)
        pk = old.pk if old else self._pks[deal.pk]
        self._propose(pk, deal, signal, items)
        if old is not None and _is_same(old.values, values):
            return
        self._pipeline.move(old.contribution if old else None, counted)
        self._tracker.move(
            old.tracked if old else None,
            _tracked(counted, new, highest, as_of is None),
        )
        if as_of is not None:
            known_before = None if old is None or old.is_first else old
            self._tell_phase(pk, deal, known_before, facts, new)
            self._tell_signal(pk, known_before, facts, signal)
        row = _as_written(values)
        if old is None:
            self._new.append((pk, deal.pk, *row))
        else:
            self._changed.append((*row, pk))

    # -- history --------------------------------------------------------------------------------

    def _tell_phase(
        self, pk: int, deal: DealRow, old: Old | None, facts: Facts, new: Standing
    ) -> None:
        was = old.standing.current_phase if old else phases.FIRST
        if new.current_phase < was:
            self._phase(pk, was, new.current_phase, self.today, "", "A date was cleared or moved")
        elif new.current_phase > was:
            for step in phases.steps_of(facts, self.today):
                if step.phase > was:
                    why = _why(step.by, deal) if old else FROM_CRM
                    by = "" if step.by == BY_STAGE else step.by
                    self._phase(pk, was, step.phase, step.on, by, why)
                    was = step.phase
        if old is not None and old.standing.outcome != new.outcome:
            if old.standing.outcome == ACTIVE:
                why = "Deleted in the CRM" if deal.deleted_at else new.outcome.capitalize()
                self._phase(pk, new.current_phase, 0, self.today, "", why)
            elif new.outcome == ACTIVE:
                self._phase(pk, 0, new.current_phase, self.today, "", "Active again")

    def _phase(self, pk: int, was: int, to: int, on: date, by: str, why: str) -> None:
        author = self.author.pk if self.author is not None else None
        self._phases.append(
            (pk, was, to, on.isoformat(), db_moment(self.now), by, why[:255], author)
        )

    def _tell_signal(self, pk: int, old: Old | None, facts: Facts, now: Signal) -> None:
        """Each turn on its day, also those of days on which nothing ran. Of the first look only
        what is not green, since the day it became so."""
        was = old.standing.health_signal if old else ""
        turned_on = old.standing.turns_on if old else None
        first = date.fromisoformat(turned_on) if turned_on else None
        path = standing.path_of(facts, first, self.today, self.book.thresholds)
        for day, signal in (*path, (self.today, now)):
            if signal.signal == was:
                continue
            if old is None:
                if signal.signal == GREEN:
                    continue
                day = signal.reasons[0].since
            self._signals.append(
                (
                    pk,
                    was,
                    signal.signal,
                    day.isoformat(),
                    db_moment(self.now),
                    json.dumps([reason.as_dict() for reason in signal.reasons]),
                )
            )
            was = signal.signal

    # -- proposed items ---------------------------------------------------------------------------

    def _propose(self, pk: int, deal: DealRow, signal: Signal, items: Iterable[Item]) -> None:
        if not signal.reasons and not items:
            return
        decided = action_rules.decide(signal.reasons, items, self.today)
        moment = db_moment(self.now)
        self._proposed += [
            (pk, text, deal.owner_id, due_on.isoformat(), rule, since.isoformat(), False,
             moment, moment)
            for rule, text, due_on, since in decided.proposed
        ]  # fmt: skip
        self._closed += decided.closed
        self._moved += decided.moved

    # -- writing --------------------------------------------------------------------------------

    def _save(self) -> None:
        bulk_write.insert(Opportunity, ("id", "deal_id", *COLUMNS), self._new)
        bulk_write.update(Opportunity, COLUMNS, self._changed)
        bulk_write.insert(
            PhaseChange,
            ("opportunity_id", "from_phase", "to_phase", "happened_on", "learnt_at", "milestone",
             "why", "author_id"),
            self._phases,
        )  # fmt: skip
        bulk_write.insert(
            SignalChange,
            ("opportunity_id", "from_signal", "to_signal", "happened_on", "learnt_at", "reasons"),
            self._signals,
        )
        bulk_write.insert(
            ActionItem,
            ("opportunity_id", "text", "owner_id", "due_on", "rule", "reason_since",
             "closed_by_rule", "created_at", "updated_at"),
            self._proposed,
        )  # fmt: skip
        if self._closed:
            ActionItem.objects.filter(pk__in=self._closed, done_at__isnull=True).update(
                done_at=self.now, closed_by_rule=True, updated_at=self.now
            )
        for pk, since in self._moved:
            ActionItem.objects.filter(pk=pk).update(reason_since=since, updated_at=self.now)
        self._pipeline.write()
        self._tracker.write()


def contribution_of(deal: DealRow) -> Contribution | None:
    """What the deal adds to the roll-ups; nothing if it is deleted or was never really read."""
    if not deal.is_live:
        return None
    return Contribution(
        deal.stage,
        deal.territory or "",
        deal.service_line or "",
        deal.owner_id or 0,
        deal.closing_date if deal.stage in CLOSED else None,
        deal.amount_sgd_minor,
        deal.weighted_sgd_minor,
        deal.amount_minor is not None,
    )


def _columns(counted: Contribution) -> tuple:
    closed_on = counted.closed_on.isoformat() if counted.closed_on else None
    return (True, *counted[:4], closed_on, *counted[5:])


def _tracked(
    counted: Contribution | None, new: Standing, highest: int, is_unknown: bool
) -> Tracked | None:
    if counted is None or is_unknown:
        return None
    cycle = new.cycle_days if new.outcome != phases.LOST else None
    return Tracked(
        (
            new.outcome,
            new.current_phase,
            highest,
            new.health_signal,
            new.is_overdue,
            new.is_recognised,
        ),
        counted.territory,
        counted.service_line,
        counted.owner_id,
        counted.sgd_minor,
        counted.weighted_minor,
        counted.has_amount,
        (cycle, new.phase1_days, new.phase2_days, new.phase3_days, new.phase4_days),
    )


def _why(by: str, deal: DealRow) -> str:
    return f"Stage {deal.crm_stage}" if by == BY_STAGE else title_of(by)


def _is_same(old: tuple, new: tuple) -> bool:
    """Nothing but the day differs; a day that has not come yet is taken back."""
    (*was, was_as_of), (*now, as_of) = old, new
    return (
        was == now and (was_as_of is None) == (as_of is None) and (was_as_of or "") <= (as_of or "")
    )


def _as_written(values: tuple) -> list[Any]:
    row = list(values)
    for at in _JSON:
        row[at] = json.dumps(row[at]) if row[at] else "[]"
    return row


def _stored(deal_pks: list[int]) -> dict[int, Old]:
    """By deal."""
    found = {}
    for pk, deal_id, reason, on, *values in Opportunity.objects.filter(
        deal_id__in=deal_pks
    ).values_list("pk", "deal_id", "blocked_reason", "blocked_on", *COLUMNS):
        for at in _DAYS:
            if values[at] is not None:
                values[at] = values[at].isoformat()
        found[deal_id] = Old(pk, Said(reason, on), tuple(values))
    return found


def _items(opportunity_pks: list[int]) -> dict[int, list[Item]]:
    """What rules proposed before, by opportunity."""
    found: dict[int, list[Item]] = defaultdict(list)
    rows = ActionItem.objects.filter(opportunity__in=opportunity_pks).exclude(rule="")
    for opportunity_id, pk, rule, since, done_at, by_rule in rows.order_by("id").values_list(
        "opportunity_id", "pk", "rule", "reason_since", "done_at", "closed_by_rule"
    ):
        is_ticked = done_at is not None and not by_rule
        found[opportunity_id].append(Item(pk, rule, since, done_at is None, is_ticked))
    return found
