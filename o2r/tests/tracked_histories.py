"""Made-up histories with milestones, blocks and deletions, and a count of them by hand."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from typing import Any

from django.utils import timezone

from crm.models import Deal
from crm.sync.metadata import business_day
from o2r import recompute
from o2r.facts import facts_of
from o2r.gather import Rulebook
from o2r.models import DayCount, Milestone, Opportunity, TrackerCell, TrackerMargin
from o2r.tests import tracker_by_hand as by_hand
from o2r.tests.histories import History

DATES = ("Proposal_Date", "PO_Date", "Kickoff_Date", "Signoff_Date", "Invoice_Date",
         "Payment_Date", "Revenue_Date")  # fmt: skip


def today() -> date:
    return business_day(timezone.now())


class DatedHistory(History):
    """Pages of deals with milestones, mostly in order."""

    def some_deal(self, zoho_id: int) -> Any:
        record = super().some_deal(zoho_id)
        rng = self.rng
        at = rng.randint(20, 200)
        for name in DATES[: rng.randint(0, len(DATES))]:
            if rng.random() < 0.85:
                record[name] = (today() - timedelta(days=at)).isoformat()
            at -= rng.randint(-3, 45)
        return record


class TrackedHistory(DatedHistory):
    """Recomputed after each page; some opportunities get blocked. Remembers the furthest phase of
    each, as somebody would who looked after every step."""

    def __init__(self, seed: int, size: int = 60) -> None:
        super().__init__(seed, size)
        self.furthest: dict[int, int] = {}

    def step(self) -> None:
        super().step()
        recompute.catch_up()
        if self.rng.random() < 0.5:
            self.block()
        self.look()

    def block(self) -> None:
        """Somebody says that a milestone, or the whole, is blocked; or that it is not any more."""
        now = timezone.now()
        opportunity = self.rng.choice(list(Opportunity.objects.order_by("pk")))
        if self.rng.random() < 0.5:
            is_blocked = opportunity.blocked_on is None
            opportunity.blocked_on = today() if is_blocked else None
            opportunity.blocked_reason = "Legal" if is_blocked else ""
            opportunity.save(update_fields=["blocked_on", "blocked_reason"])
        else:
            Milestone.objects.update_or_create(
                opportunity=opportunity, key="po",
                defaults={"status": "blocked", "blocked_reason": "Legal", "blocked_on": today(),
                          "recorded_at": now},
            )  # fmt: skip
        recompute.refresh([opportunity.pk], now=now)

    def look(self) -> None:
        for pk, facts in facts_by_deal(Deal.objects.filter(is_stub=False)).items():
            reached, _ = by_hand.phase(facts, today())
            self.furthest[pk] = max(self.furthest.get(pk, 1), reached)


def facts_by_deal(deals: Any) -> dict[int, Any]:
    pks = dict(Opportunity.objects.filter(deal__in=deals).values_list("pk", "deal"))
    return {pks[pk]: facts for pk, facts in facts_of(pks).items()}


def counted_by_hand(deals: list[Deal], furthest: dict[int, int]) -> dict[str, Any]:
    """Every figure of the tracker from the deals themselves, sentence by sentence of RULES 4."""
    rules, day, all_facts = Rulebook.load().thresholds, today(), facts_by_deal(Deal.objects.live())
    active, recognised, cycles = [], 0, []
    stays = defaultdict(list)
    overdue = risk = (0, 0)
    phases: dict[str, Any] = {f"phase{n}": (0, 0) for n in (1, 2, 3, 4)}
    signals: dict[str, Any] = dict.fromkeys(("green", "yellow", "red", "blocked"), (0, 0))
    along: dict[str, dict[str, Any]] = {"territory": {}, "service_line": {}, "owner": {}}
    reached = dict.fromkeys(phases, 0)
    went_on = dict.fromkeys(phases, 0)

    def add(before: tuple[int, int], deal: Deal) -> tuple[int, int]:
        return before[0] + 1, before[1] + (deal.amount_sgd_minor or 0)

    for deal in deals:
        facts = all_facts[deal.pk]
        outcome = by_hand.outcome(facts, day)
        if by_hand.overdue(facts, day, rules):
            overdue = add(overdue, deal)
        for phase, days in by_hand.stays(facts, day).items():
            stays[f"phase{phase}"].append(days)
        is_recognised = by_hand.is_fact(facts, "revenue", day)
        if is_recognised and outcome != "lost":
            recognised += 1
            if by_hand.cycle(facts, day) is not None:
                cycles.append(by_hand.cycle(facts, day))
        for phase in (1, 2, 3, 4):
            if furthest[deal.pk] >= phase:
                reached[f"phase{phase}"] += 1
                is_next = furthest[deal.pk] > phase if phase < 4 else is_recognised
                went_on[f"phase{phase}"] += is_next
        if outcome != "active":
            continue
        active.append(deal)
        phase = f"phase{by_hand.phase(facts, day)[0]}"
        signal = by_hand.signal(facts, day, rules)
        phases[phase] = add(phases[phase], deal)
        signals[signal] = add(signals[signal], deal)
        if signal in ("red", "blocked"):
            risk = add(risk, deal)
        for name, key in (
            ("territory", deal.territory or "-"),
            ("service_line", deal.service_line or "-"),
            ("owner", str(deal.owner_id or "-")),
        ):
            along[name][key] = add(along[name].get(key, (0, 0)), deal)
    return {
        "total": (len(active), sum(d.amount_sgd_minor or 0 for d in active)),
        "weighted": sum(d.weighted_sgd_minor or 0 for d in active),
        "no_amount": sum(d.amount_sgd_minor is None and d.amount_minor is None for d in active),
        "no_rate": sum(d.amount_sgd_minor is None and d.amount_minor is not None for d in active),
        "phases": phases,
        "signals": signals,
        **along,
        "risk": risk,
        "overdue": overdue,
        "cycle": (len(cycles), recognised - len(cycles), by_hand.average(cycles),
                  by_hand.median(cycles)),
        "stays": {f"phase{n}": (len(stays[f"phase{n}"]), by_hand.average(stays[f"phase{n}"]),
                                by_hand.median(stays[f"phase{n}"])) for n in (1, 2, 3, 4)},
        "conversion": {phase: (reached[phase], went_on[phase]) for phase in phases},
    }  # fmt: skip


Sums = dict[tuple, tuple[int, ...]]


def grouped_cells() -> tuple[Sums, Sums, dict[tuple, dict[str, int]]]:
    """Cells, margins and day counts from the stored opportunities and their deals."""
    cells: Any = defaultdict(lambda: [0] * 5)
    margins: Any = defaultdict(lambda: [0] * 5)
    days: Any = defaultdict(lambda: defaultdict(int))
    live = Opportunity.objects.filter(deal__in=Deal.objects.live()).select_related("deal")
    for o in live:
        d = o.deal
        standing = (o.outcome, o.current_phase, o.highest_phase, o.health_signal, o.is_overdue,
                    o.is_recognised)  # fmt: skip
        along = [
            ("all", ""),
            ("territory", d.territory or ""),
            ("service_line", d.service_line or ""),
            ("owner", str(d.owner_id or 0)),
        ]
        held = [cells[(d.territory or "", d.service_line or "", d.owner_id or 0, *standing)]]
        held += [margins[(*each, *standing)] for each in along]
        for sums in held:
            sums[0] += 1
            sums[1] += d.amount_sgd_minor or 0
            sums[2] += d.weighted_sgd_minor or 0
            if d.amount_sgd_minor is None:
                sums[3 if d.amount_minor is None else 4] += 1
        took = {f"phase{n}": getattr(o, f"phase{n}_days") for n in (1, 2, 3, 4)}
        if o.outcome != "lost":
            took["cycle"] = o.cycle_days
        for kind, n in took.items():
            for each in along:
                if n is not None:
                    days[(*each, kind)][str(n)] += 1
    return (
        {key: tuple(values) for key, values in cells.items()},
        {key: tuple(values) for key, values in margins.items()},
        {key: dict(values) for key, values in days.items()},
    )


def kept_cells() -> tuple[Sums, Sums, dict[tuple, dict[str, int]]]:
    def rows(model: Any, *keys: str) -> Sums:
        standing = ("outcome", "phase", "highest_phase", "signal", "is_overdue", "is_recognised")
        sums = ("count", "sgd_minor", "weighted_minor", "no_amount", "no_rate")
        found = {}
        for row in model.objects.values_list(*keys, *standing, *sums):
            if any(row[-5:]):
                found[row[:-5]] = row[-5:]
        return found

    return (
        rows(TrackerCell, "territory", "service_line", "owner_id"),
        rows(TrackerMargin, "dimension", "value"),
        {
            (row.dimension, row.value, row.kind): row.counts
            for row in DayCount.objects.all()
            if row.counts
        },
    )


def assert_tracker_true() -> None:
    assert kept_cells() == grouped_cells()
