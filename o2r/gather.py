"""Reads the facts of many opportunities in a constant number of queries: deals, milestones, events.

Decides which column or row tells which fact; what follows from them is `phases.py` and
`health_signals.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from crm.models import ChangeEvent, CrmStage, Deal
from crm.writeback.local import LOCAL
from o2r.facts import Block, Facts
from o2r.health_signals import DEFAULTS, Threshold
from o2r.milestones import BLOCKED, MAPPED
from o2r.models import Milestone, Opportunity, SignalRule, TrackerSettings
from o2r.phases import PHASE_OF_FACT
from o2r.written import zone

WON, WON_PHASE = "won", 3


class DealRow(NamedTuple):
    """What is read of a deal: for its facts, and for what it adds to the roll-ups."""

    pk: int
    change_seq: int
    deleted_at: datetime | None
    is_stub: bool
    stage: str
    territory: str | None
    service_line: str | None
    owner_id: int | None
    closing_date: date | None
    amount_sgd_minor: int | None
    weighted_sgd_minor: int | None
    amount_minor: int | None
    stage_type: str
    crm_stage: str | None
    crm_created_at: datetime | None
    crm_modified_at: datetime | None
    first_seen_at: datetime
    proposal_date: date | None
    sow_date: date | None
    po_date: date | None
    kickoff_date: date | None
    signoff_date: date | None
    invoice_date: date | None
    payment_date: date | None
    revenue_date: date | None

    @property
    def is_live(self) -> bool:
        return self.deleted_at is None and not self.is_stub


_DATES = [(DealRow._fields.index(column), key) for key, column in MAPPED.items()]


def deal_rows(deals: Any) -> list[DealRow]:
    """One query of a selection of deals."""
    return list(map(DealRow._make, deals.values_list(*DealRow._fields)))


class Said(NamedTuple):
    """A person's block of the opportunity itself."""

    reason: str
    on: date | None


@dataclass
class Rulebook:
    """What ops have set, read once a batch."""

    thresholds: dict[str, Threshold]
    least: dict[str, int]  # by every name of a stage that says something of the phase
    sow_names: frozenset[str] = frozenset()
    zone: ZoneInfo = field(default_factory=lambda: zone(settings.BUSINESS_TIME_ZONE))

    @classmethod
    def load(cls) -> Rulebook:
        thresholds = dict(DEFAULTS)
        for key, is_on, yellow, red in SignalRule.objects.values_list(
            "key", "is_on", "yellow_days", "red_days"
        ):
            if key in thresholds:
                thresholds[key] = Threshold(is_on, yellow, red)
        least: dict[str, int] = {}
        sow_names: set[str] = set()
        for name, (phase, is_sow) in _stage_names().items():
            if phase is not None:
                least[name] = phase
            if is_sow:
                sow_names.add(name)
        return cls(thresholds, least, frozenset(sow_names))

    def least_phase(self, crm_stage: str | None, stage_type: str) -> int:
        usual = WON_PHASE if stage_type == WON else 0
        return self.least.get(crm_stage or "", usual) if self.least else usual

    def day(self, moment: datetime) -> date:
        return moment.astimezone(self.zone).date()


def _stage_names() -> dict[str, tuple[int | None, bool]]:
    """Least phase, and whether it is the SOW stage, by each name that a stage goes by: that of one
    in use wins, then the name it is shown by."""
    is_sow = Exists(TrackerSettings.objects.filter(sow_stage=OuterRef("pk")))
    rows = list(
        CrmStage.objects.order_by("sequence", "id").values_list(
            "display_name", "actual_name", "former_names", "in_use", "least_phase__phase", is_sow
        )
    )
    known: dict[str, tuple[int | None, bool]] = {}
    for some in ([r for r in rows if r[3]], [r for r in rows if not r[3]]):
        for names_of in (lambda row: row[:1], lambda row: row[1:2], lambda row: row[2]):
            for row in some:
                for name in names_of(row):
                    known.setdefault(name, row[4:])
    return known


def facts_of_opportunities(opportunity_pks: Iterable[int]) -> dict[int, Facts]:
    """By primary key of the opportunity."""
    said = {
        deal_id: (pk, Said(reason, on))
        for pk, deal_id, reason, on in Opportunity.objects.filter(
            pk__in=list(opportunity_pks)
        ).values_list("pk", "deal_id", "blocked_reason", "blocked_on")
    }
    deals = deal_rows(Deal.objects.filter(pk__in=list(said)))
    found = facts_of_deals(deals, {pk: block for pk, (_, block) in said.items()}, Rulebook.load())
    return {said[deal_pk][0]: facts for deal_pk, facts in found.items()}


def facts_of_deals(
    deals: Sequence[DealRow], blocks: Mapping[int, Said], book: Rulebook
) -> dict[int, Facts]:
    """By primary key of the deal; `blocks` are those of the opportunities that exist already."""
    milestones = _milestones([deal.pk for deal in deals]) if blocks else {}
    found = {
        deal.pk: _facts(deal, blocks.get(deal.pk), milestones.get(deal.pk, ()), book)
        for deal in deals
    }
    _add_stage_days(deals, found, book)
    _add_last_changes(deals, found, book)
    return {pk: Facts(**given) for pk, given in found.items()}


class _Row(NamedTuple):
    key: str
    completed_on: date | None
    target_on: date | None
    status: str
    blocked_reason: str
    blocked_on: date | None
    recorded_at: datetime


def _milestones(deal_pks: list[int]) -> dict[int, list[_Row]]:
    rows = defaultdict(list)
    for deal_id, *row in (
        Milestone.objects.filter(opportunity__deal__in=deal_pks)
        .order_by("id")
        .values_list("opportunity__deal_id", *_Row._fields)
    ):
        rows[deal_id].append(_Row._make(row))
    return rows


def _facts(
    deal: DealRow, said: Said | None, rows: Iterable[_Row], book: Rulebook
) -> dict[str, Any]:
    dates = {key: deal[at] for at, key in _DATES if deal[at] is not None}
    given: dict[str, Any] = {
        "dates": dates,
        "first_seen_on": book.day(deal.first_seen_at),
        "created_on": book.day(deal.crm_created_at) if deal.crm_created_at else None,
        "stage_type": deal.stage_type,
        "least_phase": book.least_phase(deal.crm_stage, deal.stage_type),
        "closing_date": deal.closing_date,
        "is_deleted": not deal.is_live,
    }
    blocked = []
    if said is not None and said.on is not None:
        blocked.append(Block("", said.reason, said.on))
    targets = {}
    for row in rows:
        if row.completed_on is not None and row.key not in dates:
            dates[row.key] = row.completed_on
        if row.target_on is not None:
            targets[row.key] = row.target_on
        if row.status == BLOCKED:
            on = row.blocked_on or book.day(row.recorded_at)
            blocked.append(Block(row.key, row.blocked_reason, on))
    if blocked:
        given["blocked"] = tuple(blocked)
    if targets:
        given["targets"] = targets
    return given


# -- what the events tell ------------------------------------------------------------------------


def _add_stage_days(
    deals: Sequence[DealRow], found: dict[int, dict[str, Any]], book: Rulebook
) -> None:
    """Since when it is in its stage, and when it came into the SOW stage: one query, of those for
    which something follows from it."""
    asks_sow = {
        deal.pk for deal in deals if book.sow_names and "sow" not in found[deal.pk]["dates"]
    }
    asks_stage = {deal.pk for deal in deals if _needs_stage_day(found[deal.pk], book)}
    if not asks_sow and not asks_stage:
        return
    events = ChangeEvent.objects.filter(
        module="Deals",
        record_id__in=asks_sow | asks_stage,
        kind=ChangeEvent.CHANGED,
        field="crm_stage",
    ).order_by("id")
    for pk, new, changed_at, learnt_at in events.values_list(
        "record_id", "new", "changed_at", "learnt_at"
    ):
        day = book.day(changed_at or learnt_at)
        if pk in asks_stage:
            found[pk]["stage_since"] = day
        if pk in asks_sow and new and json.loads(new) in book.sow_names:
            found[pk].setdefault("sow_estimated_on", day)


def _needs_stage_day(given: Mapping[str, Any], book: Rulebook) -> bool:
    if given["stage_type"] == WON and book.thresholds["won_no_po"].is_on:
        return True
    known = given["dates"].items()
    # Surely facts: what lies after that may be a plan, and leave the stage to decide for now.
    facts = (PHASE_OF_FACT.get(key, 1) for key, on in known if on <= given["first_seen_on"])
    return given["least_phase"] > max(facts, default=1)


def _add_last_changes(
    deals: Sequence[DealRow], found: dict[int, dict[str, Any]], book: Rulebook
) -> None:
    """The CRM's own time, or that of what people did here; only where a rule asks for it."""
    if not book.thresholds["unchanged"].is_on:
        return
    newest: dict[int, datetime] = {
        deal.pk: deal.crm_modified_at or deal.first_seen_at
        for deal in deals
        if deal.stage_type == "open"
    }
    here = ChangeEvent.objects.filter(
        Q(author__isnull=False) | Q(source=LOCAL), module="Deals", record_id__in=list(newest)
    ).values_list("record_id", "learnt_at")
    recorded = Milestone.objects.filter(opportunity__deal__in=list(newest)).values_list(
        "opportunity__deal_id", "recorded_at"
    )
    for pk, at in (*here, *recorded):
        newest[pk] = max(newest[pk], at)
    for pk, at in newest.items():
        found[pk]["last_change_on"] = book.day(at)
